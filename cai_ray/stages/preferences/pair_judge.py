"""A feedback model's readings of one pair: which questions it is asked, and how each reply is read.

By log-probabilities: one scored token, or with chain of thought one per sample of reasoning. Sampled: several replies
in words, each read or not read, never guessed; their share stands for the probability.

Tested in tests/stages/preferences/test_label_comparisons.py.
"""

from __future__ import annotations

import math
from typing import Any

from cai_ray.chat import Message
from cai_ray.constitution.draw import draw
from cai_ray.constitution.principles import Constitution, FewShotComparison, Principle
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.conversations.asking import Ask
from cai_ray.metrics.intervals import verdict_share
from cai_ray.prompts.comparison import (
    OPTIONS,
    Form,
    comparison_messages,
    cot_answer_messages,
    cot_stop_strings,
    document_stop_strings,
    nonce_for,
    parse_verdict,
    prob_a_from_logprobs,
)
from cai_ray.rows import ROW_ID
from cai_ray.seeding import rng_for
from cai_ray.stages.preferences.labels_config import Config

STAGE = "label_comparisons"  # also the address of every draw


def questions(row_id: str, config: Config, constitution: Constitution, seed: int) -> list[tuple[Principle, bool]]:
    """(principle, swapped) of every question about a pair, in the order in which they are asked.

    All principles of one order come first: they share the conversation and the answers as their prefix. The draws
    depend on seed and pair alone, and the first principles of a larger ensemble are those of a smaller one.
    """
    drawn = draw(
        constitution,
        config.principles,
        run_seed=seed,
        row_id=row_id,
        num_rounds=config.principles_per_pair,
        stage=STAGE,
        use="comparison",
    )
    if config.orders == "random":
        return [(p, rng_for(seed, STAGE, row_id, f"order/{k}").random() < 0.5) for k, p in enumerate(drawn)]
    return [(p, swapped) for swapped in ((False, True) if config.orders == "both" else (False,)) for p in drawn]


class PairJudge:
    """Puts questions about one pair to the model. One request at a time: the other rows fill the batch."""

    def __init__(
        self,
        row: dict[str, Any],
        ask: Ask,
        config: Config,
        form: Form,
        few_shot: list[FewShotComparison],
        seed: int,
    ) -> None:
        self._ask, self._config, self._form, self._few_shot = ask, config, form, few_shot
        self._conversation: list[Message] = row["messages"]
        self._answers: tuple[str, str] = (row["response_a"], row["response_b"])
        judged = [*(message["content"] for message in self._conversation), *self._answers]
        self._nonce = nonce_for(seed, row[ROW_ID], judged) if config.delimiters == "nonce" else None

    async def read(self, principle: Principle, swapped: bool) -> list[dict[str, Any]]:
        """The readings of one question, one per sample of reasoning; of the type COMPARISON."""
        first, second = self._answers[::-1] if swapped else self._answers
        asked = comparison_messages(
            self._conversation,
            first,
            second,
            principle.comparison_question or "",
            self._nonce,
            self._few_shot,
            think=self._config.chain_of_thought > 0,
            form=self._form,
        )
        if self._config.reading == "sampled":
            return [await self._sampled(asked, principle, swapped)]
        if not self._config.chain_of_thought:
            return [await self._verdict(asked, principle, swapped, None)]
        found = []
        for _ in range(self._config.chain_of_thought):
            reasoning = await self._think(asked)
            answered = cot_answer_messages(asked, reasoning, self._form)
            found.append(await self._verdict(answered, principle, swapped, reasoning))
        return found

    async def _sampled(self, asked: list[Message], principle: Principle, swapped: bool) -> dict[str, Any]:
        """The share of sampled verdicts, as far as each can be read. Raises DropRow where none can."""
        # A chat is asked without the beginning of its answer, which many servers cannot go on from.
        question = asked if self._form == "transcript" else asked[:-1]
        sampling = self._config.sampled_by
        if self._form == "transcript":
            sampling = sampling.model_copy(update={"stop": (*sampling.stop, *document_stop_strings())})
        replies = [await self._ask(question, sampling) for _ in range(self._config.verdicts)]
        verdicts = [found for reply in replies if (found := parse_verdict(reply.text)) is not None]
        if not verdicts:
            cut_off = sum(reply.finish_reason == "length" for reply in replies)
            raise DropRow(
                DropReason.UNPARSABLE,
                f"principle {principle.id}: none of {len(replies)} replies settles on A or B, {cut_off} were cut off",
            )
        share = sum((verdict == "A") != swapped for verdict in verdicts) / len(verdicts)
        prob = verdict_share(share, len(verdicts)).prob
        return _comparison(
            principle, swapped, prob, logprobs=(math.log(prob), math.log(1 - prob)), num_verdicts=len(verdicts)
        )

    async def _think(self, asked: list[Message]) -> str:
        sampling = self._config.cot_sampling
        stop = (*sampling.stop, *cot_stop_strings(self._form))
        completion = await self._ask(asked, sampling.model_copy(update={"stop": stop}))
        if completion.finish_reason == "length" and self._config.truncated == "drop":
            raise DropRow(
                DropReason.TRUNCATED,
                f"reasoning was cut off at cot_sampling.max_tokens={sampling.max_tokens} or at the end of the context",
            )
        return completion.text.strip()

    async def _verdict(
        self, asked: list[Message], principle: Principle, swapped: bool, rationale: str | None
    ) -> dict[str, Any]:
        logprobs = await self._ask.choose(asked, OPTIONS)
        logprob_a, logprob_b = logprobs[::-1] if swapped else logprobs
        try:
            prob_a = prob_a_from_logprobs(logprob_a, logprob_b)
        except ValueError as error:
            raise DropRow(DropReason.NO_LOGPROBS, f"principle {principle.id}: {error}") from error
        return _comparison(principle, swapped, prob_a, (logprob_a, logprob_b), rationale)


def _comparison(
    principle: Principle,
    swapped: bool,
    prob_a: float,
    logprobs: tuple[float, float],
    rationale: str | None = None,
    num_verdicts: int | None = None,
) -> dict[str, Any]:
    """Of the type COMPARISON."""
    return {
        "principle_id": principle.id,
        "swapped": swapped,
        "logprob_a": logprobs[0],
        "logprob_b": logprobs[1],
        "prob_a": prob_a,
        "rationale": rationale,
        "judge": None,
        "num_verdicts": num_verdicts,
    }
