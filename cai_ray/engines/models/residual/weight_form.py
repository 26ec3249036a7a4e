"""A direction taken out of the weights themselves, so that any engine runs the result.

Tested in tests/engines/models/residual/test_forms.py.
"""

from __future__ import annotations

from typing import Any

from cai_ray.algorithms.directions import behind_gain, orthogonalised, sheared, without
from cai_ray.engines.models.residual.stream import gain_of, stream_of


def take_out(model: Any, direction: Any, embeddings: bool) -> bool:
    """Change a transformers model in place; whether the result is exact.

    Exact: it writes to the residual stream what `attach` lets through, to rounding. Behind norms (Gemma 2 and 3) the
    direction is gone as exactly, but the rest of each write is longer (`behind_gain`), and the embeddings stay.
    Tied embeddings are untied: what is read out keeps its weights, as in the run-time form.

    Args:
        direction: unit vector [d].
        embeddings: whether it is taken out of the embeddings too.

    Raises ConfigError for an architecture without the modules.
    """
    import torch

    stream = stream_of(model)
    r = torch.as_tensor(direction, dtype=torch.float64)
    with torch.no_grad():
        for layer in stream.layers:
            assert layer is not None  # transformers holds them all
            for k, projection in enumerate(layer.projections):
                norm = layer.norms[k] if layer.norms else None
                u, v = (r, r) if norm is None else map(torch.as_tensor, behind_gain(direction, gain_of(norm)))
                for parameter in (projection.weight, projection.bias):
                    if parameter is not None:
                        columns = parameter.double().cpu().reshape(len(r), -1)
                        out = orthogonalised(columns, r) if norm is None else sheared(columns, u, v)
                        parameter.copy_(out.reshape(parameter.shape))
        if embeddings and stream.is_direct:
            _untie(model)
            stream.embeddings.weight.copy_(without(stream.embeddings.weight.double().cpu(), r))
    return stream.is_direct


def _untie(model: Any) -> None:
    import torch

    config = model.config.get_text_config()
    if not config.tie_word_embeddings:
        return
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    config.tie_word_embeddings = model.config.tie_word_embeddings = False
    model._tied_weights_keys = None  # or else they would be saved as one
