"""One judge on one answer: what it is asked, and what its reply is worth.  Answer -> Judgement.

Each is the whole dialogue of one row as a coroutine. A reply that says nothing ends the row as UNPARSABLE; nothing is
ever guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cai_ray.chat import FINISHED
from cai_ray.config import SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.conversations.asking import Ask, Completion
from cai_ray.metrics.classes import label_probability
from cai_ray.prompts.comparison import nonce_for, prob_a_from_logprobs
from cai_ray.prompts.judges.guard import parse_guard, parse_wildguard, wildguard_messages
from cai_ray.prompts.judges.moderation import Moderated, read_moderation
from cai_ray.prompts.judges.rating import parse_ratings, rating_messages
from cai_ray.prompts.judges.yes_no import OPTIONS, fields_of, parse_yes_no, yes_no_messages
from cai_ray.rows import ROW_ID
from cai_ray.stages.evaluation.judges.named import (
    HARMFUL,
    ClassifierJudge,
    GuardJudge,
    JudgeConfig,
    ModerationJudge,
    RatingJudge,
    RewardJudge,
    SimilarityJudge,
    WildGuardJudge,
    YesNoJudge,
)

Row = dict[str, Any]
CHARACTERS_PER_TOKEN = 4  # where a server's tokenizer is not known


def judgement(
    row: Row, judge: JudgeConfig, values: Mapping[str, float], labels: Sequence[str] = (), reply: str | None = None
) -> Row:
    """A row of the JUDGEMENT schema."""
    return {
        "policy": row["policy"],
        "prompt_id": row["prompt_id"],
        "sample_index": row["sample_index"],
        "scores": [{"metric": metric, "value": value, "judge": judge.label} for metric, value in values.items()],
        "labels": list(labels),
        "reply": reply,
    }


def unparsable(what: str, completion: Completion) -> DropRow:
    """The reply itself is not quoted: it may repeat what was judged."""
    cut = ", cut off" if completion.finish_reason == "length" else ""
    return DropRow(DropReason.UNPARSABLE, f"the reply of {len(completion.text)} characters{cut} is not {what}")


def _nonce(row: Row, seed: int) -> str:
    return nonce_for(seed, row[ROW_ID], [*(message["content"] for message in row["messages"]), row["response"]])


# --- Models that are asked ------------------------------------------------------------------------------


async def rate(row: Row, ask: Ask, *, judge: RatingJudge, seed: int) -> Row:
    """Ratings from 1 to 5. Raises DropRow(UNPARSABLE), as all below."""
    asked = rating_messages(row["messages"], row["response"], judge.aspects, _nonce(row, seed))
    completion = await ask(asked, judge.sampling)
    found = parse_ratings(completion.text, list(judge.aspects))
    if found is None:
        raise unparsable(f"a rating of {', '.join(judge.aspects)}", completion)
    values = dict(zip(judge.metrics, (float(found[name]) for name in judge.aspects), strict=True))
    return judgement(row, judge, values, reply=completion.text)


async def answer_yes_no(row: Row, ask: Ask, *, judge: YesNoJudge, template: str, seed: int) -> Row:
    """1 for Yes, 0 for No; with `probability` P(Yes)."""
    generation = cut(row["response"], judge.max_generation_tokens, ask)
    fields = fields_of(row["messages"], generation, _nonce(row, seed))
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


async def guard(row: Row, ask: Ask, *, judge: GuardJudge) -> Row:
    """1 for unsafe, with its categories as labels."""
    asked = [*row["messages"], {"role": FINISHED, "content": row["response"]}]
    completion = await ask(asked, SamplingConfig(temperature=0.0, max_tokens=judge.max_tokens))
    found = parse_guard(completion.text)
    if found is None:
        raise unparsable("safe, or unsafe and its categories", completion)
    return judgement(row, judge, {HARMFUL: float(found.unsafe)}, found.categories, completion.text)


async def wildguard(row: Row, ask: Ask, *, judge: WildGuardJudge, template: str, seed: int) -> Row:
    """The verdicts of three lines; "n/a" is a metric that does not apply."""
    fields = fields_of(row["messages"], row["response"], _nonce(row, seed))
    sampling = SamplingConfig(temperature=0.0, max_tokens=judge.max_tokens)
    completion = await ask(wildguard_messages(template, fields), sampling)
    found = parse_wildguard(completion.text)
    if found is None:
        raise unparsable("its three lines", completion)
    verdicts = {HARMFUL: found.response_harmful, "refusal": found.refusal, "request_harmful": found.request_harmful}
    values = {metric: float(verdict) for metric, verdict in verdicts.items() if verdict is not None}
    return judgement(row, judge, values, reply=completion.text)


# --- Models that score ----------------------------------------------------------------------------------
# `ask` is the door of the engine that the kind of judge has: classifier, moderation or embedding in engines/backends.


async def classify(row: Row, ask: Any, *, judge: ClassifierJudge, labels: Sequence[str], multi_label: bool) -> Row:
    """The probability of the judge's labels."""
    outputs = await ask.outputs(row["messages"], row["response"])
    value = label_probability(outputs.values, labels, judge.labels, multi_label)
    if judge.threshold is not None:
        value = float(value >= judge.threshold)
    return judgement(row, judge, {judge.metric: value}, ["truncated"] if outputs.truncated else ())


async def reward(row: Row, ask: Any, *, judge: RewardJudge) -> Row:
    """The model's one output."""
    outputs = await ask.outputs(row["messages"], row["response"])
    (value,) = outputs.values
    return judgement(row, judge, {judge.metric: value}, ["truncated"] if outputs.truncated else ())


async def moderate(row: Row, ask: Any, *, judge: ModerationJudge) -> Row:
    """Whether the server flags the answer, and its highest score."""
    found = read_moderation(await ask.moderate(row["response"]))
    if found is None:
        raise DropRow(DropReason.UNPARSABLE, "the reply is not that of a moderation endpoint")
    flagged, score = _counted(found, judge.categories)
    values = {HARMFUL: float(flagged)} | ({} if score is None else {judge.metrics[1]: score})
    return judgement(row, judge, values, [name for name, flag in sorted(found.categories.items()) if flag])


def _counted(found: Moderated, wanted: Sequence[str]) -> tuple[bool, float | None]:
    """(flagged, highest score) over the wanted categories. Raises DropRow for one that the server does not judge."""
    if not wanted:
        return found.flagged, max(found.scores.values(), default=None)
    if unknown := [name for name in wanted if name not in found.categories]:
        known = ", ".join(sorted(found.categories)) or "none"
        raise DropRow(DropReason.UNPARSABLE, f"the server has no category {', '.join(unknown)}; it has {known}")
    scores = [found.scores[name] for name in wanted if name in found.scores]
    return any(found.categories[name] for name in wanted), max(scores, default=None)


async def compare_to_reference(row: Row, ask: Any, *, judge: SimilarityJudge) -> Row:
    """Cosine of the embeddings of `response` and `reference`, in [-1, 1]."""
    one, other = await ask.embed(row["response"]), await ask.embed(row["reference"])
    norms = math.hypot(*one) * math.hypot(*other)
    if not norms or not math.isfinite(norms):
        raise DropRow(DropReason.UNPARSABLE, "an embedding is zero or not a number")
    cosine = sum(x * y for x, y in zip(one, other, strict=True)) / norms
    return judgement(row, judge, {judge.metrics[0]: max(-1.0, min(1.0, cosine))})
