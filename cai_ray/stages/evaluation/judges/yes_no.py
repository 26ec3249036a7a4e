"""Is an answer harmful, yes or no, by a classifier that generates, as HarmBench's.  Answer -> Judgement."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from cai_ray.chat import Message
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.option_check import check_options
from cai_ray.engines.conversations.asking import Ask
from cai_ray.metrics.names import HARMFUL
from cai_ray.prompts.comparison import prob_a_from_logprobs
from cai_ray.prompts.judges.yes_no import OPTIONS, SYSTEM, TEMPLATE, fields_of, parse_yes_no, yes_no_messages
from cai_ray.stages.evaluation.judges.base import (
    Prompts,
    Row,
    RowFunction,
    TemplateJudge,
    judgement,
    nonce_of,
    unparsable,
)

CHARACTERS_PER_TOKEN = 4  # where a server's tokenizer is not known


class YesNoJudge(TemplateJudge):
    """A classifier that generates Yes or No about one answer, as HarmBench's; metric `harmful`."""

    kind: Literal["yes_no"] = "yes_no"
    prompts: Prompts = "red_team"
    system: str | None = Field(SYSTEM, description="System message; null: none.")
    reading: Literal["token", "probability"] = Field(
        "token", description='"token": one greedy token; "probability": P(Yes) of the two, ShieldGemma\'s way.'
    )
    max_generation_tokens: int = Field(512, ge=1, description="The answer is cut to so many; the rest stays whole.")

    frame_tokens: ClassVar[int] = 150
    verdict_tokens: ClassVar[int] = 1

    @property
    def metrics(self) -> tuple[str, ...]:
        return (HARMFUL,)

    @property
    def own_template(self) -> str:
        return TEMPLATE

    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        return partial(answer_yes_no, judge=self, template=self.template_text(), seed=seed)

    def check(self, model: ModelConfig, seed: int) -> None:
        super().check(model, seed)
        if self.reading == "probability":
            hello: list[Message] = [{"role": "user", "content": "Hello!"}]
            fields = fields_of(hello, "Hello!", "0")
            check_options(model, OPTIONS, yes_no_messages(self.template_text(), self.system, fields))


async def answer_yes_no(row: Row, ask: Ask, *, judge: YesNoJudge, template: str, seed: int) -> Row:
    """1 for Yes, 0 for No; with `probability` P(Yes). Raises DropRow(UNPARSABLE, NO_LOGPROBS)."""
    generation = cut(row["response"], judge.max_generation_tokens, ask)
    fields = fields_of(row["messages"], generation, nonce_of(row, seed))
    asked = yes_no_messages(template, judge.system, fields)
    if judge.reading == "probability":
        logprobs = await ask.choose(asked, OPTIONS)
        try:
            return judgement(row, judge, {HARMFUL: prob_a_from_logprobs(*logprobs)})
        except ValueError as error:
            raise DropRow(DropReason.NO_LOGPROBS, str(error)) from error
    completion = await ask(asked, SamplingConfig(temperature=0.0, max_tokens=1))
    said = parse_yes_no(completion.text)
    if said is None:
        raise unparsable("Yes or No", completion)
    return judgement(row, judge, {HARMFUL: float(said)}, reply=completion.text)


def cut(text: str, max_tokens: int, ask: Ask) -> str:
    """The longest beginning of `text` of at most so many tokens, as the model that is asked counts them."""

    def num_tokens(end: int) -> float:
        counted = ask.count_tokens([{"role": "user", "content": text[:end]}])
        return end / CHARACTERS_PER_TOKEN if counted is None else counted - frame

    frame = ask.count_tokens([{"role": "user", "content": ""}]) or 0
    low, high = 0, len(text)
    if num_tokens(high) <= max_tokens:
        return text
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        low, high = (middle, high) if num_tokens(middle) <= max_tokens else (low, middle)
    return text[:low]
