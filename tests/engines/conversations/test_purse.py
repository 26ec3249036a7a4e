"""What an engine counts of its conversations, open and closed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cai_ray.artifacts.allowance import Allowance, Spent
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Price
from cai_ray.engines.conversations.asking import Completion, Usage
from cai_ray.engines.conversations.purse import Purse

ANSWER = Completion("a", "stop", num_prompt_tokens=100, num_cached_tokens=60, num_output_tokens=10)


def purse(folder: Path, tokens: int | None, price: Price | None = None) -> Purse:
    limits = {"tokens": "limits.tokens=300"}
    return Purse(Allowance(Storage(str(folder)), Spent(), tokens, None, None, limits), price, "k")


def test_open_conversations_count_as_they_are_answered(tmp_path: Path) -> None:
    ours, usage = purse(tmp_path, 300), Usage()
    with ours.conversation(usage):
        for _ in range(2):
            usage.add(ANSWER)
            assert ours.why_empty() is None
        usage.add(ANSWER)
        assert "limits.tokens=300 is reached" in str(ours.why_empty())
    assert ours.why_empty() is not None, "what was spent stays spent"


def test_a_conversation_that_fails_was_paid_for(tmp_path: Path) -> None:
    ours, usage = purse(tmp_path, 100), Usage()
    with pytest.raises(ValueError, match="this row"), ours.conversation(usage):
        usage.add(ANSWER)
        raise ValueError("this row")
    assert ours.why_empty() is not None


def test_prices(tmp_path: Path) -> None:
    usage = Usage()
    usage.add(ANSWER)
    assert purse(tmp_path, None).cost(usage) is None
    assert purse(tmp_path, None, Price(prompt=2.5, output=10)).cost(usage) == 350
    assert purse(tmp_path, None, Price(prompt=2.5, cached=0.5, output=10)).cost(usage) == 40 * 2.5 + 60 * 0.5 + 100
    assert Purse(None, None, "").why_empty() is None


def test_engines_that_get_a_copy_are_told_apart(tmp_path: Path) -> None:
    ours = purse(tmp_path, 300)
    assert len({one._name for one in (ours, *(pickle.loads(pickle.dumps(ours)) for _ in range(2)))}) == 3
