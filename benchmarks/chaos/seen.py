"""Inside vLLM's own process: a line in a file for each request that joins its batch; repetitions are counted there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

FILE = "CAI_RAY_CHAOS_SEEN"  # environment variable: where the lines go
PROCESSOR = "benchmarks.chaos.seen:SeenRequests"


def __getattr__(name: str) -> Any:
    """SeenRequests, defined when the engine asks for it: its base class needs vLLM."""
    if name == "SeenRequests":
        return _seen_requests()
    raise AttributeError(name)


def _seen_requests() -> type:
    import torch
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

    class SeenRequests(LogitsProcessor):
        """Changes no logits."""

        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            self._path, self._model = os.environ[FILE], vllm_config.model_config.model

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            return logits

        def is_argmax_invariant(self) -> bool:
            return True

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            added = batch_update.added if batch_update else ()
            keys = [_key(self._model, prompt_ids, params) for _, params, prompt_ids, _ in added]
            if keys:
                with Path(self._path).open("a") as lines:
                    lines.write("".join(f"{key}\n" for key in keys))

    return SeenRequests


def _key(model: str, prompt_ids: list[int] | None, params: Any) -> str:
    """The same for the same model, prompt and seed."""
    return hashlib.sha256(json.dumps([model, prompt_ids, params.seed]).encode()).hexdigest()[:24]
