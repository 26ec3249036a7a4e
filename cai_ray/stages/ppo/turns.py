"""What the policy is asked in training: which prompts fit, and whose turn it is at each step.

Everything is addressed by the run's seed and the step's number, so there is no cursor to lose.

Tested in tests/stages/ppo/test_models.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from cai_ray.algorithms.episodes import EpisodeRequest
from cai_ray.artifacts.artifact import Artifact
from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow, dropped_row
from cai_ray.errors import ConfigError
from cai_ray.seeding import rng_for, seed_for
from cai_ray.stages.ppo.config import STAGE, Config
from cai_ray.stages.ppo.models import Models


class PolicyPrompt(NamedTuple):
    """A prompt as the policy reads it."""

    prompt_id: str
    messages: list[Message]
    token_ids: tuple[int, ...]
    kind: str  # as the Prompt row says
    category: str | None

    @property
    def text(self) -> str:
        """All that an answer could copy from."""
        return "\n\n".join(message["content"] for message in self.messages)


@dataclass(frozen=True)
class Turns:
    """Who is asked when. A pass takes every prompt once, in an order of its own; then the next pass begins."""

    prompts: Sequence[PolicyPrompt]
    per_step: int
    samples: int
    seed: int  # of the run

    def wanted(self, step: int) -> list[tuple[str, int]]:
        """(prompt_id, sample_index) of the answers at `step` (from 1): [per_step * samples], a prompt's side by side.

        Over the run no pair comes twice, also where a step reaches into the next pass.
        """
        found = []
        for position in range((step - 1) * self.per_step, step * self.per_step):
            number, place = divmod(position, len(self.prompts))
            prompt = self.prompts[self._order(number)[place]]
            found += [(prompt.prompt_id, k) for k in range(number * self.samples, (number + 1) * self.samples)]
        return found

    def requests(self, step: int) -> list[EpisodeRequest]:
        """The same as the engines are asked, each with a seed of its own."""
        return [
            EpisodeRequest(
                prompt_id, k, self.prompt(prompt_id).token_ids, seed_for(self.seed, STAGE, f"{step}/{prompt_id}", k)
            )
            for prompt_id, k in self.wanted(step)
        ]

    def kept(self, step: int, num: int) -> list[int]:
        """Which of a step's requests are kept as rows: at most `num` positions, drawn, in order."""
        total = self.per_step * self.samples
        return sorted(rng_for(self.seed, STAGE, str(step), "kept").sample(range(total), min(num, total)))

    def prompt(self, prompt_id: str) -> PolicyPrompt:
        return self._by_id[prompt_id]

    @cached_property
    def _by_id(self) -> dict[str, PolicyPrompt]:
        return {prompt.prompt_id: prompt for prompt in self.prompts}

    @cached_property
    def _orders(self) -> dict[int, list[int]]:
        return {}

    def _order(self, number: int) -> list[int]:
        if number not in self._orders:
            order = list(range(len(self.prompts)))
            rng_for(self.seed, STAGE, str(number), "order").shuffle(order)
            self._orders[number] = order
        return self._orders[number]


class Chosen(NamedTuple):
    """What is there to ask."""

    prompts: list[PolicyPrompt]
    dropped: list[dict[str, Any]]  # rows of DROPPED


def choose(source: Artifact, models: Models, config: Config) -> Chosen:
    """The prompts of split "train", in the order of their ids; those that leave no room for an answer are dropped."""
    most = config.sampling.max_tokens
    budget = min(config.max_prompt_tokens or models.policy_context, models.policy_context - most)
    scored_budget = math.inf if models.scored_context is None else models.scored_context - most
    prompts, dropped = [], []
    columns = ["prompt_id", "messages", "kind", "category", "split"]
    for row in sorted(source.rows(columns), key=lambda row: str(row["prompt_id"])):
        if row["split"] != "train":
            continue
        tokens = tuple(models.prompt_ids(row["messages"]))
        if len(tokens) > budget:
            detail = f"the prompt has {len(tokens)} tokens, and its budget is {budget}"
            dropped.append(dropped_row(row["prompt_id"], STAGE, DropRow(DropReason.TOO_LONG, detail)))
        elif (num := models.scored_length(row["messages"])) > scored_budget:
            detail = f"the prompt has {num} tokens to the preference model, and its budget is {scored_budget:.0f}"
            dropped.append(dropped_row(row["prompt_id"], STAGE, DropRow(DropReason.TOO_LONG, detail)))
        else:
            prompts.append(
                PolicyPrompt(row["prompt_id"], row["messages"], tokens, row["kind"], row["category"]),
            )
    return Chosen(prompts, dropped)


def check_enough(chosen: Chosen, source: Artifact, config: Config) -> None:
    """Raises ConfigError when nothing, or too little, is left to ask."""
    num_dropped, total = len(chosen.dropped), len(chosen.dropped) + len(chosen.prompts)
    if not total:
        raise ConfigError(
            f'{source.folder.shown} holds no prompt of split "train" to learn from; lower its test_fraction'
        )
    if num_dropped > config.max_dropped_fraction * total or num_dropped == total:
        raise ConfigError(
            f"{num_dropped} of {total} prompts do not fit ({chosen.dropped[0]['row_id']}: "
            f"{chosen.dropped[0]['detail']}), more than ppo.max_dropped_fraction={config.max_dropped_fraction:g} "
            "allows; lower ppo.sampling.max_tokens, raise ppo.max_prompt_tokens, or leave long prompts out"
        )
