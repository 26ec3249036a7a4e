"""A direction taken out of the residual stream, or added to it, while a model runs; and the file that says so.

A folder with the file INTERVENTION is the run-time form of a model: its weights are unchanged, and our engines change
what they write (vLLM through `engines/backends/vllm_plugin.py`). Whoever reads such a folder without us sees the
unchanged model; its README says so.

Tested in tests/engines/models/residual/test_forms.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cai_ray.algorithms.directions import behind_gain
from cai_ray.engines.models.residual.stream import Stream, gain_of, stream_of
from cai_ray.errors import ConfigError

# JSON, because vLLM takes every file of safetensors in a folder for weights.
INTERVENTION = "cai_ray_intervention.json"


@dataclass(frozen=True, eq=False)
class Intervention:
    """What is done to the residual stream.

    Attributes:
        operation: "project": no module writes the direction any more; "add": the vector is added to the input of
            `layer` at every token; "weights": what the weight form does behind norms, where it is not exact.
        vector: float32 [d]; of length 1 for "project".
        layer: >= 1; for "add" alone.
        embeddings: for "project", whether it is taken out of the embeddings too.
    """

    operation: Literal["project", "add", "weights"]
    vector: np.ndarray
    layer: int = 0
    embeddings: bool = True


def write_intervention(folder: Path, intervention: Intervention) -> None:
    """Make the folder of a model a run-time form."""
    said = {**vars(intervention), "vector": np.asarray(intervention.vector, np.float32).tolist()}
    (folder / INTERVENTION).write_text(json.dumps(said) + "\n", encoding="utf-8")


def read_intervention(folder: str | Path) -> Intervention | None:
    """What a model's folder asks for; None where it is an ordinary one. Raises ConfigError for a file not ours."""
    file = Path(folder) / INTERVENTION
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return Intervention(**{**said, "vector": np.array(said["vector"], np.float32)})
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} does not say what to do with the residual stream: {error}; make it anew") from error


def refuse_intervention(folder: str | Path, why: str) -> None:
    """Raises ConfigError for a run-time form, where only the weights would be looked at."""
    if (Path(folder) / INTERVENTION).is_file():
        raise ConfigError(
            f"the model in {str(folder)!r} is a run-time form ({INTERVENTION}): its weights alone are those of the "
            f"unchanged model, and {why}; name a weight form"
        )


def attach(model: Any, intervention: Intervention) -> Callable[[], None]:
    """Have a loaded model (transformers' or vLLM's) do it from now on; what is returned ends it. Raises ConfigError."""
    stream = stream_of(model)
    if intervention.operation == "add":
        if not 1 <= intervention.layer < len(stream.layers):
            raise ConfigError(
                f"the intervention adds before layer {intervention.layer}, and the model has {len(stream.layers)} "
                "layers"
            )
        before = stream.layers[intervention.layer - 1]
        changed = [] if before is None else [(before.writers[1], _adding(intervention.vector))]
    elif intervention.operation == "weights" and not stream.is_direct:
        changed = [
            (projection, _projecting(*behind_gain(intervention.vector, gain_of(norm))))
            for layer in stream.layers
            if layer is not None and layer.norms is not None
            for projection, norm in zip(layer.projections, layer.norms, strict=True)
        ]
    else:
        project = _projecting(intervention.vector, intervention.vector)
        changed = [(module, project) for module in _projected(stream, intervention.embeddings)]
    handles = [module.register_forward_hook(_hook(change)) for module, change in changed]

    def end() -> None:
        for handle in handles:
            handle.remove()

    return end


def _projected(stream: Stream, embeddings: bool) -> list[Any]:
    writers = [writer for layer in stream.layers if layer is not None for writer in layer.writers]
    return [*([stream.embeddings] if embeddings and hasattr(stream.embeddings, "weight") else []), *writers]


Change = Callable[[Any], Any]  # what a module writes, float32 -> what is written in its place


def _adding(vector: Any) -> Change:
    ours = _tensor(vector)
    return lambda written: written + ours.to(written.device)


def _projecting(u: Any, v: Any) -> Change:
    """x - u (v.x)."""
    out, along = _tensor(u), _tensor(v)
    return lambda written: written - (written @ along.to(written.device))[..., None] * out.to(written.device)


def _tensor(vector: Any) -> Any:
    import torch

    return torch.from_numpy(np.array(vector, np.float32))


def _hook(change: Change) -> Callable[[Any, Any, Any], Any]:
    def changed(written: Any) -> Any:
        return change(written.float()).to(written.dtype)

    def hook(module: Any, given: Any, output: Any) -> Any:
        # vLLM's linear layers give their bias beside the output.
        return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

    return hook
