"""Which of two policies' answers is better, asked in both orders.  Match -> Game."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cai_ray.artifacts.artifact import Artifact
from cai_ray.chat import Message
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.option_check import check_options
from cai_ray.engines.conversations.asking import Ask
from cai_ray.prompts.comparison import OPTIONS, Form, comparison_messages, nonce_for, prob_a_from_logprobs
from cai_ray.prompts.judges.pairwise import QUESTION, parse_prob_a, verdict_messages
from cai_ray.rows import ROW_ID
from cai_ray.stages.evaluation.judges.base import JudgeConfig, Row, RowFunction, unparsable


class PairwiseJudge(JudgeConfig):
    """Which of two policies' answers is better, asked in both orders; makes games, not scores."""

    kind: Literal["pairwise"] = "pairwise"
    reading: Literal["logprobs", "text"] = Field(
        "logprobs",
        description='"logprobs": of (A) and (B), one token; "text": [[A]], [[B]] or [[C]] after an explanation.',
    )
    question: str = Field(QUESTION, min_length=1)
    pairs: Literal["all", "reference"] = Field(
        "all", description='"reference": every policy against the first one only.'
    )
    delimiters: Literal["nonce", "plain"] = Field(
        "nonce", description='Of the reading "logprobs", as in `labels`; the reading "text" has a nonce always.'
    )
    sampling: SamplingConfig = Field(
        SamplingConfig(temperature=0.0, max_tokens=512), description='Of the reading "text".'
    )

    frame_tokens: ClassVar[int] = 150
    verdict_tokens: ClassVar[int] = 1
    answers_per_question: ClassVar[int] = 2

    @property
    def reasoning(self) -> SamplingConfig | None:
        return self.sampling if self.reading == "text" else None

    def questions_per_answer(self, num_policies: int) -> float:
        """Each pair of policies in both orders, shared between the two."""
        pairs = num_policies - 1 if self.pairs == "reference" else num_policies * (num_policies - 1) / 2
        return 2 * pairs / num_policies

    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        return partial(play, judge=self, form=model.format, seed=seed)

    def units(self, answers: Mapping[str, Artifact]) -> Callable[[pa.Table], pa.Table]:
        return partial(match_units, judge=self, reference=next(iter(answers)))

    def check(self, model: ModelConfig, seed: int) -> None:
        super().check(model, seed)
        if self.reading == "logprobs":
            hello: list[Message] = [{"role": "user", "content": "Hello!"}]
            asked = comparison_messages(hello, "Hello!", "Go away.", self.question, form=model.format)
            check_options(model, OPTIONS, asked)


def match_units(rows: pa.Table, *, judge: PairwiseJudge, reference: str) -> pa.Table:
    """Match rows -> units of work: those that this judge is to see."""
    units = rows if judge.prompts == "all" else rows.filter(pc.equal(rows["kind"], judge.prompts))
    if judge.pairs == "reference":
        units = units.filter(pc.equal(units["policy_a"], reference))
    return units.append_column(ROW_ID, units["match_id"])


async def play(row: Row, ask: Ask, *, judge: PairwiseJudge, form: Form, seed: int) -> Row:
    """Both orders of one match; a row of the GAME schema. Raises DropRow when either order has no verdict.

    Two answers that are the same text are a tie without being asked about.
    """
    answers = (row["response_a"], row["response_b"])
    readings = [0.5]
    if answers[0] != answers[1]:
        judged = [*(message["content"] for message in row["messages"]), *answers]
        nonce = nonce_for(seed, row[ROW_ID], judged)
        first = await _prob_first(row["messages"], *answers, ask, judge, form, nonce)
        second = await _prob_first(row["messages"], *answers[::-1], ask, judge, form, nonce)
        readings = [first, 1 - second]
    return {
        **{name: row[name] for name in ("policy_a", "policy_b", "prompt_id", "sample_index", "category")},
        "cluster": row["prompt_id"],
        "prob_a": sum(readings) / len(readings),
        "flipped": (readings[0] - 0.5) * (readings[-1] - 0.5) < 0,
        "judge": judge.label,
    }


async def _prob_first(
    messages: Sequence[Message], first: str, second: str, ask: Ask, judge: PairwiseJudge, form: Form, nonce: str
) -> float:
    """P(the answer shown first is better) in [0, 1]. Raises DropRow(UNPARSABLE, NO_LOGPROBS)."""
    if judge.reading == "text":
        completion = await ask(verdict_messages(messages, first, second, judge.question, nonce), judge.sampling)
        prob = parse_prob_a(completion.text)
        if prob is None:
            raise unparsable("a verdict such as [[A]]", completion)
        return prob
    own_nonce = nonce if judge.delimiters == "nonce" else None
    asked = comparison_messages(messages, first, second, judge.question, own_nonce, form=form)
    try:
        return prob_a_from_logprobs(*await ask.choose(asked, OPTIONS))
    except ValueError as error:
        raise DropRow(DropReason.NO_LOGPROBS, str(error)) from error
