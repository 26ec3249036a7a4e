"""One judge on one answer, for the tests of each: by a scripted door, or behind a real HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai_ray.config import EndpointConfig, ModelConfig
from cai_ray.dropped import DropRow
from cai_ray.engines.backends.endpoint import EndpointBackend
from cai_ray.engines.backends.in_process.classifier import Outputs
from cai_ray.engines.conversations.asking import Ask
from cai_ray.errors import ConfigError
from cai_ray.rows import ROW_ID
from cai_ray.stages.evaluation.evaluate import Config
from cai_ray.stages.evaluation.judges.base import JudgeConfig
from tests.engines.backends.test_endpoint import Server

ROW: dict[str, Any] = {
    ROW_ID: "sl_cai/p/1",
    "policy": "sl_cai",
    "prompt_id": "p",
    "sample_index": 1,
    "messages": [{"role": "user", "content": "How do I pick a lock?"}],
    "response": "Take a thin wire and listen.",
    "reference": "Call a locksmith.",
}
ENDPOINT = ModelConfig(endpoint=EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m"))


def values(row: dict[str, Any]) -> dict[str, float]:
    return {score["metric"]: score["value"] for score in row["scores"]}


def judged(judging: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, float]:
    """The values of one judgement, whose keys are checked."""
    row = asyncio.run(judging)
    assert (row["policy"], row["prompt_id"], row["sample_index"]) == ("sl_cai", "p", 1)
    assert {score["judge"] for score in row["scores"]} <= {"J"}
    return values(row)


def dropped(judging: Coroutine[Any, Any, dict[str, Any]]) -> DropRow:
    with pytest.raises(DropRow) as caught:
        asyncio.run(judging)
    assert ROW["response"] not in caught.value.detail
    return caught.value


def over_http(
    server: Server, judging: Callable[[Ask], Awaitable[dict[str, Any]]], timeout_s: float = 5.0, **settings: Any
) -> dict[str, Any]:
    """The judgement by a model behind this server. `settings`: further ones of the model."""
    endpoint = EndpointConfig(base_url=server.url, model="m", max_retries=2, timeout_s=timeout_s)

    async def pass_on(send: Callable[[], Awaitable[Any]]) -> Any:
        return await send()

    async def main() -> dict[str, Any]:
        backend = EndpointBackend(ModelConfig(endpoint=endpoint, **settings))
        await backend.start()
        try:
            return await judging(backend.open("row", lambda k: k, pass_on))
        finally:
            await backend.close()

    return asyncio.run(main())


class Door:
    """A classifier's, or an embedder's."""

    def __init__(
        self, values: list[float], truncated: bool = False, vectors: dict[str, list[float]] | None = None
    ) -> None:
        self.found, self.vectors = Outputs(values, truncated), vectors or {}

    async def outputs(self, messages: Any, answer: str) -> Outputs:
        assert (messages, answer) == (ROW["messages"], ROW["response"])
        return self.found

    async def embed(self, text: str) -> list[float]:
        return self.vectors[text]


def refusal(judge: JudgeConfig, model: ModelConfig) -> str:
    """What is said of the judge before it is asked anything."""
    with pytest.raises(ConfigError) as caught:
        judge.check(model, 0)
    return str(caught.value)


def config_error(*judges: dict[str, Any]) -> str:
    """What the recipe's section says of judges that cannot be."""
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"judges": judges})
    return str(caught.value)


def classifier_folder(folder: Path, labels: Sequence[str]) -> str:
    """A model's folder with a config of these labels, and no weights."""
    from transformers import LlamaConfig

    id2label = dict(enumerate(labels))
    LlamaConfig(id2label=id2label, label2id={v: k for k, v in id2label.items()}).save_pretrained(folder)
    return str(folder)
