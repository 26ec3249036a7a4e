"""Safety models that write their verdict: Llama Guard's "unsafe" and WildGuard's three lines.  Answer -> Judgement."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from cai_ray.chat import FINISHED
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.engines.conversations.asking import Ask
from cai_ray.errors import ConfigError
from cai_ray.metrics.names import HARMFUL, REFUSAL, REQUEST_HARMFUL
from cai_ray.prompts.judges.guard import WILDGUARD_TEMPLATE, parse_guard, parse_wildguard, wildguard_messages
from cai_ray.prompts.judges.yes_no import fields_of
from cai_ray.stages.evaluation.judges.base import (
    AnswerJudge,
    Prompts,
    Row,
    RowFunction,
    TemplateJudge,
    judgement,
    nonce_of,
    unparsable,
)


class GuardJudge(AnswerJudge):
    """A safety model with its own chat template, as Llama Guard: safe or unsafe, and categories; metric `harmful`."""

    kind: Literal["guard"] = "guard"
    prompts: Prompts = "red_team"
    max_tokens: int = Field(64, ge=2, description="For the verdict and a line of categories.")

    frame_tokens: ClassVar[int] = 250
    verdict_tokens: ClassVar[int] = 8

    @property
    def metrics(self) -> tuple[str, ...]:
        return (HARMFUL,)

    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        if model.format != "chat":
            raise ConfigError(f"judge {self.label!r}: a guard is asked by its own chat template; set format to chat")
        return partial(guard, judge=self)


async def guard(row: Row, ask: Ask, *, judge: GuardJudge) -> Row:
    """1 for unsafe, with its categories as labels. Raises DropRow(UNPARSABLE)."""
    asked = [*row["messages"], {"role": FINISHED, "content": row["response"]}]
    completion = await ask(asked, SamplingConfig(temperature=0.0, max_tokens=judge.max_tokens))
    found = parse_guard(completion.text)
    if found is None:
        raise unparsable("safe, or unsafe and its categories", completion)
    return judgement(row, judge, {HARMFUL: float(found.unsafe)}, found.categories, completion.text)


class WildGuardJudge(TemplateJudge):
    """Three lines of yes and no, as WildGuard; metrics `harmful`, `refusal`, `request_harmful`."""

    kind: Literal["wildguard"] = "wildguard"
    max_tokens: int = Field(128, ge=8)

    frame_tokens: ClassVar[int] = 150
    verdict_tokens: ClassVar[int] = 20

    @property
    def metrics(self) -> tuple[str, ...]:
        return (HARMFUL, REFUSAL, REQUEST_HARMFUL)

    @property
    def own_template(self) -> str:
        return WILDGUARD_TEMPLATE

    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        return partial(wildguard, judge=self, template=self.template_text(), seed=seed)


async def wildguard(row: Row, ask: Ask, *, judge: WildGuardJudge, template: str, seed: int) -> Row:
    """The verdicts of three lines; "n/a" is a metric that does not apply. Raises DropRow(UNPARSABLE)."""
    fields = fields_of(row["messages"], row["response"], nonce_of(row, seed))
    sampling = SamplingConfig(temperature=0.0, max_tokens=judge.max_tokens)
    completion = await ask(wildguard_messages(template, fields), sampling)
    found = parse_wildguard(completion.text)
    if found is None:
        raise unparsable("its three lines", completion)
    verdicts = dict(zip(judge.metrics, (found.response_harmful, found.refusal, found.request_harmful), strict=True))
    values = {metric: float(verdict) for metric, verdict in verdicts.items() if verdict is not None}
    return judgement(row, judge, values, reply=completion.text)
