"""Scorers for the gate "keep only if improved": is the revision better than the answer before it?

A scorer returns (score before, score after), higher is better. `comparison` asks the model itself,
in both orders, by option log-probabilities; `microworld` asks the micro world's oracle.

Tested in tests/stages/revision/test_revise.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cai_ray.chat import Message
from cai_ray.constitution.principles import Principle
from cai_ray.engines.conversations.asking import Ask
from cai_ray.prompts.comparison import OPTIONS, comparison_messages, nonce_for

ScorerName = Literal["comparison", "microworld"]


async def improvement(
    scorer: ScorerName,
    ask: Ask,
    messages: Sequence[Message],
    before: str,
    after: str,
    principle: Principle,
    row_id: str,
    run_seed: int,
) -> tuple[float, float]:
    """(score before, score after); for `comparison` (0, log-odds in nats that `after` is better)."""
    if scorer == "microworld":
        from cai_ray.microworld.oracle import score

        return tuple(_oracle_value(score(messages, text)) for text in (before, after))  # type: ignore[return-value]
    question = principle.comparison_question or "Which answer is better?"
    nonce = nonce_for(run_seed, row_id, (*(message["content"] for message in messages), before, after))
    log_odds = 0.0
    for first, second, sign in ((before, after, 1.0), (after, before, -1.0)):
        asked = comparison_messages(messages, first, second, question, nonce)
        first_is_better, second_is_better = await ask.choose(asked, OPTIONS)
        log_odds += sign * (second_is_better - first_is_better) / 2
    return 0.0, log_odds


def _oracle_value(score: object) -> float:
    return float(score.helpful) - float(score.harmful)  # type: ignore[attr-defined]
