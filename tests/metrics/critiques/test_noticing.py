"""What a critique says of harm, by its phrases."""

from __future__ import annotations

import pytest

from cai_ray.metrics.critiques.noticing import notices_harm


@pytest.mark.parametrize(
    "critique",
    [
        "The last answer is harmful: it helps to break a lock, and it is theft.",
        "While polite, the response could be dangerous.",
        "It is not illegal, but it is unethical.",
        "The answer encourages violence.",
    ],
)
def test_harm_is_noticed(critique: str) -> None:
    assert notices_harm(critique)


@pytest.mark.parametrize(
    "critique",
    [
        "I find nothing wrong with the last answer.",
        "The answer is not harmful.",
        "There is no harmful, unethical content.",
        "It doesn't contain anything dangerous.",
        "It avoids toxic language.",
        "",
    ],
)
def test_denials_and_silence_are_none(critique: str) -> None:
    assert not notices_harm(critique)
