"""What one PPO worker does: score episodes, learn from them. All workers are called alike, each does its share.

Tested in tests/cluster/test_policy_learners.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cai_ray.algorithms import token_stats
from cai_ray.algorithms.guards import GuardState, Verdict, judge_update
from cai_ray.algorithms.kl import kl_loss
from cai_ray.algorithms.minibatches import Indices, minibatches
from cai_ray.algorithms.policy_losses import (
    policy_loss,
    pretraining_loss,
    total_loss,
    truncated_importance,
    value_loss,
    weighted_mean,
)
from cai_ray.engines.learners.job import LearnersJob
from cai_ray.engines.learners.models import Models
from cai_ray.engines.learners.packing import Packed
from cai_ray.engines.learners.passes import Arrays, Batch, Passes, joined, token_logprobs
from cai_ray.engines.training.worker_group import Place
from cai_ray.metrics.training_keys import APPROX_KL, OUTLIERS, POLICY_LOSS, VALUE_LOSS
from cai_ray.seeding import seed_for

if TYPE_CHECKING:
    from torch import Tensor

Stats = dict[str, float]


@dataclass
class Guards:
    """What the guards remember of each model's updates; part of the snapshot."""

    policy: GuardState
    value: GuardState


class Learning:
    """Scores and updates on this worker."""

    def __init__(self, job: LearnersJob, place: Place, passes: Passes, models: Models, guards: Guards) -> None:
        self._job, self._place, self._passes, self._models = job, place, passes, models
        self.guards = guards

    def logprobs(self, packed: Packed, temperature: float) -> Arrays:
        """This worker's share: `places` and `logprobs`, both [num_tokens]."""
        import torch

        found = []
        with torch.no_grad():
            for batch in self._passes.of(packed):
                logprobs = token_logprobs(self._models.policy.net, batch, temperature)
                if not batch.is_dummy:
                    found.append({"places": batch.places, "logprobs": logprobs})
        return joined(found, ("places", "logprobs"))

    def score(self, packed: Packed, conversations: Packed | None) -> Arrays:
        """This worker's share of everything `Scored` holds.

        Args:
            packed: prompts and answers in the policy's tokens.
            conversations: whole conversations in the reward model's tokens, each with one more token as its answer:
                what the model says where that token would be chosen is the score. None: nothing is scored.

        Returns:
            places, logprobs, ref_logprobs, values (without a value model: none), all [num_tokens]; which, score, if
            any: [num_conversations].
        """
        import torch

        models, temperature = self._models, self._job.temperature
        tokens = []
        with torch.no_grad():
            for batch in self._passes.of(packed):
                found = {"places": batch.places}
                found["logprobs"] = token_logprobs(models.policy.net, batch, temperature)
                with models.reference_net() as reference:
                    found["ref_logprobs"] = token_logprobs(reference, batch, temperature)
                if models.value is not None:
                    found["values"] = models.value.net(**batch.given)
                if not batch.is_dummy:
                    tokens.append(found)
        names = ("places", "logprobs", "ref_logprobs", *(("values",) if models.value else ()))
        return {**joined(tokens, names), **({} if conversations is None else self.rewards(conversations))}

    def rewards(self, conversations: Packed) -> Arrays:
        """This worker's share of the scores: which, score, both [num_conversations]. As in `score`."""
        import torch

        scores = []
        with torch.no_grad():
            for batch in self._passes.of(conversations):
                score = self._models.reward(**batch.given, mask=batch.real_tokens())
                if not batch.is_dummy:
                    scores.append({"which": batch.places, "score": score})
        return joined(scores, ("which", "score"))

    def reward_step(self, conversations: Packed) -> Stats:
        """One update of the reward model. The column `slopes` says how the loss changes with each score.

        Whatever the loss compares, in whatever pass or worker its conversations are: slope times score, summed, has
        the loss's gradient. An update whose gradient is no number is left out (`skipped` is 1).
        """
        trained = self._models.reward_trained
        assert trained is not None, "the job gives the reward model no optimizer"
        slopes = self._passes.tensors(conversations.columns)["slopes"]
        for batch in self._passes.of(conversations):
            scores = trained.net(**batch.given, mask=batch.real_tokens())
            trained.backward((scores * slopes[batch.places]).sum() * float(not batch.is_dummy))
        found = {"learning_rate": trained.learning_rate}

        def judge(norm: float) -> bool:
            found["grad_norm"] = norm
            return math.isfinite(norm)

        found["skipped"] = float(not trained.step(judge))
        return found

    def update(
        self, packed: Packed, num_minibatches: int, step: int, seed: int, other: Packed | None
    ) -> dict[str, Any]:
        """The PPO epochs of one step.

        Args:
            packed: with columns logprobs (the trainer's at the start of the step), sampler_logprobs, advantages, and
                where they are used ref_logprobs, values, returns.
            other: text for the pretraining term, all but its first token as answers.

        Returns:
            stats (one dict per update), refusals (why updates were skipped), stop (why training must end, or None).
            The same on every worker.
        """
        columns = self._passes.tensors(packed.columns)
        num_texts = len(other.prompt_lengths) if other else 0
        num_updates = self._job.num_epochs * num_minibatches
        stats: list[Stats] = []
        refusals: list[str] = []
        for epoch in range(self._job.num_epochs):
            drawn = minibatches(packed.lengths, num_minibatches, seed_for(seed, "ppo", str(step), epoch))
            for number, minibatch in enumerate(drawn):
                texts = dealt(len(stats), num_updates, num_texts)
                found, verdicts = self._learn(packed, columns, minibatch, other, texts)
                stats.append({"epoch": float(epoch), "minibatch": float(number), **found})
                for verdict in verdicts:
                    if verdict.action != "go":
                        refusals.append(f"epoch {epoch}, minibatch {number}: {verdict.reason}")
                    if verdict.action == "stop":
                        return {"stats": stats, "refusals": refusals, "stop": refusals[-1]}
        return {"stats": stats, "refusals": refusals, "stop": None}

    def _learn(
        self, packed: Packed, columns: Mapping[str, Tensor], minibatch: Indices, other: Packed | None, texts: Indices
    ) -> tuple[Stats, list[Verdict]]:
        """One minibatch: gradients of all passes, then an update of each model if its guard agrees."""
        num_tokens = float(packed.answer_lengths[list(minibatch)].sum())
        total = num_tokens if self._job.loss.unit == "token" else float(len(minibatch))
        parts: list[dict[str, Tensor]] = []
        losses: list[dict[str, Tensor]] = []
        for batch in self._passes.of(packed, minibatch):
            here_columns = {name: column[batch.places] for name, column in columns.items()}
            part, loss = self._policy_pass(batch, here_columns, total)
            if self._models.value is not None:
                value_part, value_sum = self._value_pass(batch, here_columns, num_tokens)
                part, loss = {**part, **value_part}, {**loss, **value_sum}
            parts.append(part)
            losses.append(loss)
        if other is not None and texts:
            losses += self._pretraining_passes(other, texts)
        return self._finish(*self._over_workers(token_stats.merge(parts), losses))

    def _policy_pass(
        self, batch: Batch, columns: Mapping[str, Tensor], total: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        config = self._job.loss
        logprobs, entropy = self._models.policy.net(
            **batch.given, targets=batch.targets, temperature=self._job.temperature, with_entropy=True
        )
        weights = batch.weights(config.unit, total)
        mask = weights > 0
        importance: Tensor | None = None
        stats: dict[str, Tensor] = {}
        if config.max_importance is not None:
            importance, stats = truncated_importance(
                columns["logprobs"], columns["sampler_logprobs"], mask, config.max_importance
            )
        policy = policy_loss(
            logprobs,
            columns["logprobs"],
            columns["advantages"],
            weights,
            config,
            importance,
            self._job.guards.max_ratio,
        )
        losses = {POLICY_LOSS: policy.loss.detach().double()}
        kl = None
        if config.kl_loss_coefficient:
            kl = kl_loss(logprobs, columns["ref_logprobs"], weights, config.kl_loss_estimator)
            losses["kl_loss"] = kl.detach().double()
        loss = total_loss(config, policy.loss, entropy=weighted_mean(entropy, weights), kl=kl)
        self._models.policy.backward(loss)
        return {**policy.stats, **stats, **token_stats.token_stats(mask, {"entropy": entropy}, {})}, losses

    def _value_pass(
        self, batch: Batch, columns: Mapping[str, Tensor], num_tokens: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert self._models.value is not None
        values = self._models.value.net(**batch.given)
        weights = batch.weights("token", num_tokens)
        loss, stats = value_loss(values, columns["values"], columns["returns"], weights, self._job.value_loss)
        self._models.value.backward(loss)
        return stats, {VALUE_LOSS: loss.detach().double()}

    def _pretraining_passes(self, other: Packed, texts: Indices) -> list[dict[str, Tensor]]:
        """Next-token loss on other text, in the same update."""
        total = float(other.answer_lengths[list(texts)].sum())
        losses = []
        for batch in self._passes.of(other, texts):
            logprobs = token_logprobs(self._models.policy.net, batch, temperature=1.0)
            loss = pretraining_loss(logprobs, batch.weights("token", total))
            self._models.policy.backward(self._job.loss.pretraining_coefficient * loss)
            losses.append({"pretraining_loss": loss.detach().double()})
        return losses

    def _over_workers(self, stats: dict[str, Tensor], losses: Iterable[Mapping[str, Tensor]]) -> tuple[Stats, Stats]:
        """Per-token means with their extremes, and summed losses, of the whole minibatch."""
        import torch

        summed: dict[str, Tensor] = {}
        for part in losses:
            for name, value in part.items():
                summed[name] = summed.get(name, value.new_zeros(())) + value
        if self._place.num_workers > 1:
            import torch.distributed as dist

            extremes = [name for name in stats if name.endswith(("_min", "_max"))]
            sums = [name for name in stats if name not in extremes]
            signs = torch.tensor(
                [1.0 if name.endswith("_max") else -1.0 for name in extremes], device=self._passes.device
            )
            added = torch.stack([*(stats[name] for name in sums), *summed.values()])
            largest = torch.stack([stats[name] for name in extremes]) * signs
            dist.all_reduce(added)
            dist.all_reduce(largest, dist.ReduceOp.MAX)
            stats = dict(zip(sums, added, strict=False)) | dict(zip(extremes, largest * signs, strict=True))
            summed = dict(zip(summed, added[len(sums) :], strict=True))
        return token_stats.read(stats), {name: float(value) for name, value in summed.items()}

    def _finish(self, stats: Stats, losses: Stats) -> tuple[Stats, list[Verdict]]:
        """Ask the guards and update."""
        found = {**stats, **losses}
        verdicts: list[Verdict] = []
        models, guards = self._models, self.guards

        def judge_policy(norm: float) -> bool:
            found["grad_norm"] = norm
            verdict, guards.policy = judge_update(
                guards.policy,
                self._job.guards,
                loss=losses[POLICY_LOSS] + losses.get("kl_loss", 0.0) + losses.get("pretraining_loss", 0.0),
                grad_norm=norm,
                outliers=stats[OUTLIERS],
                kl=stats[APPROX_KL],
            )
            verdicts.append(verdict._replace(reason=f"policy: {verdict.reason}"))
            return verdict.action == "go"

        def judge_value(norm: float) -> bool:
            found["value_grad_norm"] = norm
            verdict, guards.value = judge_update(
                guards.value,
                self._job.guards,
                loss=losses[VALUE_LOSS],
                grad_norm=norm,
            )
            verdicts.append(verdict._replace(reason=f"value model: {verdict.reason}"))
            return verdict.action == "go"

        found["learning_rate"] = models.policy.learning_rate
        found["skipped"] = float(not models.policy.step(judge_policy))
        if models.value is not None:
            found["value_learning_rate"] = models.value.learning_rate
            found["value_skipped"] = float(not models.value.step(judge_value))
        return found, verdicts


def dealt(at: int, num_updates: int, num_texts: int) -> Indices:
    """The texts of update `at`, when all are dealt out evenly, in order."""
    return tuple(range(at * num_texts // num_updates, (at + 1) * num_texts // num_updates))
