"""One model that learns: gradients summed over passes and workers, an update only when it is allowed.

With DeepSpeed or, on one CPU worker that offloads nothing, without. The gradient's norm is known in the middle of
DeepSpeed's own step, so that is where the question is put: the optimizer asks before it changes anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_ray.config import OptimConfig, WorkersConfig
from cai_ray.engines.training.arguments import SCHEDULES, Device, deepspeed_config

if TYPE_CHECKING:
    from torch import Tensor

Judge = Callable[[float], bool]  # gradient norm before clipping (nan: not a number) -> may the update happen
STATE = "state"  # DeepSpeed's tag


def deepspeed_settings(workers: WorkersConfig, device: Device, optim: OptimConfig) -> dict[str, Any] | None:
    """DeepSpeed's whole JSON; None where it has nothing to do (`trainer_args.deepspeed_config`).

    bfloat16 models need ZeRO for their float32 masters: zero_stage 0 is then 1. Without ZeRO, DeepSpeed clips before
    the norm can be seen, so there `Trained` clips.
    """
    settings = deepspeed_config(workers, device)
    if settings is None:
        return None
    zero = settings["zero_optimization"]
    if device.has_bf16:
        zero = {**zero, "stage": max(zero["stage"], 1)}
    return {
        **settings,
        # `overlap_comm` cannot be had with a number of passes that changes from update to update.
        "zero_optimization": {**zero, "overlap_comm": False},
        "managed_gradient_accumulation": False,
        "bf16": {"enabled": device.has_bf16},
        "train_batch_size": workers.num_workers,  # counts nothing here
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.max_grad_norm if zero["stage"] else 0.0,
        "steps_per_print": 2**31,
    }


class Trained:
    """A module with its optimizer and schedule, on its device.

    Attributes:
        net: what is called: the module, or DeepSpeed's engine around it.
        module: the module itself.
    """

    def __init__(
        self, module: Any, optim: OptimConfig, workers: WorkersConfig, device: Device, total_updates: int
    ) -> None:
        from transformers import get_scheduler

        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.net = self.module = module
        self._engine: Any = None
        self._num_workers = workers.num_workers
        self._max_norm = optim.max_grad_norm
        settings = deepspeed_settings(workers, device, optim)
        self._optimizer = _optimizer_class()(
            parameters, lr=optim.learning_rate, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
        )
        if settings is not None:
            import deepspeed  # type: ignore[import-untyped]

            self._engine, *_ = deepspeed.initialize(
                model=module, model_parameters=parameters, optimizer=self._optimizer, config=settings
            )
            self.net = self._engine
        self._norm = self._engine_norm if settings and settings["gradient_clipping"] else self._clipped_norm
        self._schedule = get_scheduler(
            SCHEDULES[optim.schedule], self._optimizer, optim.warmup_steps, num_training_steps=total_updates
        )

    @property
    def learning_rate(self) -> float:
        """Of the coming update."""
        return float(self._schedule.get_last_lr()[0])

    def backward(self, loss: Tensor) -> None:
        """Add one pass's gradient. Losses of all passes and workers add up to the minibatch's."""
        if self._engine is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._engine.backward(loss * self._num_workers)  # which averages over workers

    def step(self, judge: Judge) -> bool:
        """Update, unless `judge` forbids it; whether it did. The gradient is gone afterwards.

        `judge` is called once, on every worker with the same number, and must decide alike.
        """
        self._optimizer.ask(lambda: judge(self._norm()))
        if self._engine is None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        else:
            self._engine.step()
        allowed: bool | None = self._optimizer.answer()
        if allowed is None:  # DeepSpeed itself found the gradient to be no number
            judge(math.nan)
            return False
        if allowed:
            self._schedule.step()
        return allowed

    def _clipped_norm(self) -> float:
        from torch.nn.utils import clip_grad_norm_

        return float(clip_grad_norm_(self.module.parameters(), self._max_norm))

    def _engine_norm(self) -> float:
        norm = float(self._engine.optimizer._global_grad_norm)
        return norm if norm >= 0 else math.nan  # -1 is DeepSpeed's word for it

    def save(self, folder: Path) -> None:
        """All workers call it. Weights that learn, optimizer, schedule."""
        import torch

        if self._engine is not None:
            self._engine.save_checkpoint(
                str(folder),
                tag=STATE,
                client_state={"schedule": self._schedule.state_dict()},
                save_latest=False,
                exclude_frozen_parameters=self._has_frozen(),
            )
            return
        folder.mkdir(parents=True, exist_ok=True)
        learned = {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}
        states = {
            "weights": learned,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        torch.save(states, folder / f"{STATE}.pt")

    def load(self, folder: Path) -> None:
        """All workers call it, with models freshly built."""
        import torch

        if self._engine is not None:
            _, saved = self._engine.load_checkpoint(str(folder), tag=STATE, load_module_strict=not self._has_frozen())
            self._schedule.load_state_dict(saved["schedule"])
            return
        states: Mapping[str, Any] = torch.load(folder / f"{STATE}.pt", weights_only=True)
        learned = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, value in states["weights"].items():
                learned[name].copy_(value)
        self._optimizer.load_state_dict(states["optimizer"])
        self._schedule.load_state_dict(states["schedule"])

    def _has_frozen(self) -> bool:
        return not all(parameter.requires_grad for parameter in self.module.parameters())

    def close(self) -> None:
        """Let go of memory and hooks."""
        if self._engine is not None:
            self._engine.destroy()


@cache
def _optimizer_class() -> Any:
    """Made on first use, because torch is not imported with this module."""
    import torch

    class AskingAdamW(torch.optim.AdamW):
        """AdamW that does nothing unless it was told whom to ask, and then what it is told."""

        _question: Callable[[], bool] | None = None
        _answer: bool | None = None

        def ask(self, question: Callable[[], bool]) -> None:
            """For the coming update."""
            self._question, self._answer = question, None

        def answer(self) -> bool | None:
            """What was answered, None when nobody asked; the next update needs another question."""
            answer, self._question, self._answer = self._answer, None, None
            return answer

        def step(self, closure: Any = None) -> Any:
            # DeepSpeed calls it once for every group of an update, and once with zeros when it starts.
            if self._answer is None and self._question is not None:
                self._answer = self._question()
            return super().step(closure) if self._answer else None

    return AskingAdamW
