"""Names of a manifest's counters that one module writes and another reads; a stage may count more than these.

Tested in tests/stages/report/test_stages.py.
"""

from __future__ import annotations

from collections.abc import Mapping

REQUESTS = "num_requests"  # to engines and endpoints
PROMPT_TOKENS = "num_prompt_tokens"
CACHED_TOKENS = "num_cached_tokens"  # of these, served by the prefix cache
OUTPUT_TOKENS = "num_output_tokens"
ENGINE_STARTS = "engine_starts"  # the first of each actor, and every restart
TRAINED_TOKENS = "num_tokens"  # of all examples that are learned or measured on
EPISODES = "num_episodes"  # answers that PPO sampled
_FLAG = "flag."


def flag_counter(name: str) -> str:
    """The counter of a flag: of rows that carry it and are kept all the same."""
    return f"{_FLAG}{name}"


def flags(counters: Mapping[str, int]) -> dict[str, int]:
    """Flag -> rows that carry it, >= 1."""
    return {name.removeprefix(_FLAG): num for name, num in counters.items() if name.startswith(_FLAG) and num}
