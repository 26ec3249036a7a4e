"""This worker's forward passes, as tensors on its device; what they give, as arrays again.

Tested in tests/engines/learners/test_reward.py and tests/cluster/test_policy_learners.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cai_ray.algorithms.minibatches import Indices
from cai_ray.algorithms.policy_losses import LossUnit, loss_weights
from cai_ray.engines.learners.job import LearnersConfig
from cai_ray.engines.learners.packing import Packed, cut, shares
from cai_ray.engines.training.worker_group import Place

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """A Pass as tensors on the device."""

    given: dict[str, Tensor]  # input_ids, rows, before, as the nets want them
    targets: Tensor
    places: Tensor
    answer_lengths: Tensor
    is_dummy: bool

    def weights(self, unit: LossUnit, total: float) -> Tensor:
        """[num_tokens] of `loss_weights`; all zero for a dummy."""
        import torch

        lengths = self.answer_lengths
        mask = torch.arange(int(lengths.max()), device=lengths.device)[None] < lengths[:, None]
        weights = loss_weights(mask, unit, total)[mask]
        return torch.zeros_like(weights) if self.is_dummy else weights

    def real_tokens(self) -> Tensor:
        """[num_sequences, length], which tokens are those of a conversation: up to the one that is scored."""
        import torch

        input_ids, before = self.given["input_ids"], self.given["before"]
        return (torch.arange(input_ids.shape[1], device=input_ids.device)[None] <= before[:, None]).long()


class Passes:
    """Deals sequences to the workers alike on each of them."""

    def __init__(self, workers: LearnersConfig, place: Place, device: torch.device) -> None:
        self._place, self.device = place, device
        self._most_tokens = workers.pass_tokens(self.device.type == "cuda")

    def of(self, packed: Packed, chosen: Indices | None = None) -> Iterator[Batch]:
        """This worker's passes over the chosen sequences (None: all)."""
        lengths = packed.lengths
        chosen = tuple(range(len(lengths))) if chosen is None else chosen
        for share in self.shares(chosen, lengths):
            found = cut(packed, share, dummy=chosen[0])
            names = ("input_ids", "rows", "before", "targets", "places", "answer_lengths")
            tensors = self.tensors({name: getattr(found, name) for name in names})
            given = {name: tensors.pop(name) for name in ("input_ids", "rows", "before")}
            yield Batch(given=given, is_dummy=found.is_dummy, **tensors)

    def shares(self, chosen: Indices, lengths: Sequence[int]) -> Sequence[Indices]:
        """Which sequences go together into each pass: those of similar length, so that little is padding."""
        return shares(chosen, lengths, self._place.num_workers, self._most_tokens)[self._place.rank]

    def tensors(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        import torch

        # What comes out of Ray's object store is read-only, which torch warns of.
        return {
            name: torch.from_numpy(array if array.flags.writeable else array.copy()).to(self.device)
            for name, array in arrays.items()
        }


def token_logprobs(net: Any, batch: Batch, temperature: float) -> Tensor:
    """[num_tokens], nats."""
    found: Tensor = net(**batch.given, targets=batch.targets, temperature=temperature, with_entropy=False)[0]
    return found


def joined(parts: list[dict[str, Tensor]], names: Iterable[str]) -> Arrays:
    """One array per name; empty ones when this worker had nothing to do."""
    if not parts:
        return {name: np.zeros(0, np.float32) for name in names}
    return {name: np.concatenate([part[name].cpu().numpy() for part in parts]) for name in names}
