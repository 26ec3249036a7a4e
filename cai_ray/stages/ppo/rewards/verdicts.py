"""What a feedback model is asked about an answer, or two answers to one prompt, and how one verdict is made of it.

These are row coroutines of a conversation engine. A reply that cannot be read drops the row, with its reason: a verdict
is never made up.

Tested in tests/stages/ppo/rewards/test_verdicts.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pyarrow as pa

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.constitution.draw import check_choice, draw
from cai_ray.constitution.principles import Constitution, Principle, Use
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.option_check import check_options, is_one_token
from cai_ray.engines.conversations.asking import Ask
from cai_ray.errors import ConfigError
from cai_ray.prompts.comparison import OPTIONS, Form, comparison_messages
from cai_ray.prompts.reward import (
    DIGITS,
    HIGHEST,
    YES_NO,
    expected_rating,
    rating_messages,
    rubric_messages,
    share_of_first,
)
from cai_ray.rows import ROW_ID
from cai_ray.stages.ppo.pretraining import STAGE
from cai_ray.stages.ppo.rewards.config import ConstitutionReward, Reading

VERDICT = pa.schema([pa.field("verdict", pa.float64(), nullable=False)])  # in [0, 1]
USES: dict[Reading, Use] = {"rating": "comparison", "rubric": "rubric", "pairwise": "comparison"}
UNLISTED = -math.inf  # of an option that a server does not name among the likeliest tokens
WORTH_ASKING = 1e-3  # a "1" of at least this share of all ratings may be the beginning of "10"


async def verdict(
    row: dict[str, Any], ask: Ask, *, config: ConstitutionReward, constitution: Constitution, form: Form, seed: int,
    is_two_tokens: bool,
) -> dict[str, Any]:  # fmt: skip
    """One verdict, of the schema VERDICT: of the answer, or that the first of two is better.

    Args:
        row: ROW_ID, messages, answers (one, or two), nonce.
        is_two_tokens: "10" is known to be two tokens of the judge's.

    Raises DropRow: NO_LOGPROBS, UNPARSABLE, and whatever the engine has against a request. One principle that gets no
    verdict ends the row, because a mean over the others would favour what is easily judged.
    """
    drawn, vetoes = principles_of(row[ROW_ID], config, constitution, seed)
    match config.reading:
        case "rating":
            found = fmean([await _rating(row, ask, principle, form, is_two_tokens) for principle in drawn])
        case "rubric":
            found = weighted(
                [(principle, await _yes(row, ask, principle, form)) for principle in drawn],
                [await _yes(row, ask, principle, form) for principle in vetoes],
            )
        case "pairwise":
            orders = (False, True)  # all principles of one order share the conversation and the answers
            found = fmean([await _first(row, ask, p, swapped, form) for swapped in orders for p in drawn])
    return {"verdict": found}


def principles_of(
    row_id: str, config: ConstitutionReward, constitution: Constitution, seed: int
) -> tuple[list[Principle], list[Principle]]:
    """The principles drawn, and in a rubric those that are always asked because they are a veto."""
    ordinary, vetoes = parted(config, constitution)
    if ordinary is None:
        return [], vetoes
    drawn = draw(
        ordinary,
        config.principles,
        run_seed=seed,
        row_id=row_id,
        num_rounds=config.principles_per_answer,
        stage=f"{STAGE} reward",
        use=USES[config.reading],
    )
    return drawn, vetoes


def parted(config: ConstitutionReward, constitution: Constitution) -> tuple[Constitution | None, list[Principle]]:
    """What principles are drawn from (None: from nothing, a rubric may be all vetoes), and the vetoes.

    Raises ConstitutionError for an unknown id.
    """
    named = constitution.only(config.principle_ids) if config.principle_ids else constitution
    if config.reading != "rubric":
        return named, []
    vetoes = [principle for principle in named.serving("rubric") if principle.veto]
    others = [principle.id for principle in named.principles if principle not in vetoes]
    if vetoes and not any(principle.serves("rubric") for principle in named.principles if principle not in vetoes):
        return None, vetoes
    return named.only(others), vetoes


def weighted(verdicts: Sequence[tuple[Principle, float]], vetoes: Sequence[float]) -> float:
    """P(yes) averaged by the principles' weights (1 without any), times P(yes) of each veto."""
    mean = fmean([prob for _, prob in verdicts], [principle.weight for principle, _ in verdicts]) if verdicts else 1.0
    return mean * math.prod(vetoes)


async def _rating(row: dict[str, Any], ask: Ask, principle: Principle, form: Form, is_two_tokens: bool) -> float:
    asked = rating_messages(row["messages"], row["answers"][0], principle, row["nonce"], form)
    options = DIGITS if is_two_tokens else (*DIGITS, HIGHEST)
    found = await ask.choose(asked, options, unlisted=UNLISTED)
    digits, ten = found[: len(DIGITS)], UNLISTED if is_two_tokens else found[-1]
    zero = UNLISTED
    if ten == UNLISTED and math.exp(digits[0]) >= WORTH_ASKING * sum(map(math.exp, digits)):
        begun: list[Message] = [*asked[:-1], {**asked[-1], "content": f"{asked[-1]['content']}1"}]
        zero, _ = await ask.choose(begun, ("0", ")"), unlisted=UNLISTED)
    return _read(expected_rating(digits, ten, zero), principle)


async def _yes(row: dict[str, Any], ask: Ask, principle: Principle, form: Form) -> float:
    asked = rubric_messages(row["messages"], row["answers"][0], principle, row["nonce"], form)
    yes, no = await ask.choose(asked, YES_NO, unlisted=UNLISTED)
    return _read(share_of_first(yes, no), principle)


async def _first(row: dict[str, Any], ask: Ask, principle: Principle, swapped: bool, form: Form) -> float:
    """P(the row's first answer is the better one)."""
    one, other = row["answers"][::-1] if swapped else row["answers"]
    question = principle.comparison_question or ""
    asked = comparison_messages(row["messages"], one, other, question, row["nonce"], form=form)
    shown_first, shown_second = await ask.choose(asked, OPTIONS, unlisted=UNLISTED)
    share = _read(share_of_first(shown_first, shown_second), principle)
    return 1 - share if swapped else share


def _read(found: float | None, principle: Principle) -> float:
    if found is None:
        raise DropRow(DropReason.UNPARSABLE, f"principle {principle.id}: the judge is unlikely to name any option")
    return found


def check(config: ConstitutionReward, model: ModelConfig, constitution: Constitution) -> bool:
    """Raise ConfigError or ConstitutionError where every answer would go unread. Whether "10" is two tokens.

    Loads the judge's tokenizer, or asks its endpoint once.
    """
    ordinary, _ = parted(config, constitution)
    if ordinary is not None:
        check_choice(ordinary, config.principles, config.principles_per_answer, USES[config.reading])
    if model.format == "transcript" and model.system_role in ("fold", "drop"):
        raise ConfigError(
            f'system_role="{model.system_role}" would change a base model\'s question, which is one unlabelled text; '
            f'set system_role of model {config.model!r} to "auto"'
        )
    hello: list[Message] = [{"role": "user", "content": "Hello!"}]
    kind = Principle(id="kind", comparison_question="Which is kinder?")
    if config.reading == "pairwise":
        sample = comparison_messages(hello, "Hello!", "Go away.", "Which is kinder?", form=model.format)
        check_options(model, OPTIONS, sample)
        return False
    messages = rating_messages if config.reading == "rating" else rubric_messages
    sample = messages(hello, "Hello!", kind, "00000000", model.format)
    check_options(model, DIGITS if config.reading == "rating" else YES_NO, sample)
    return config.reading == "rating" and model.endpoint is None and not is_one_token(model, HIGHEST, sample)
