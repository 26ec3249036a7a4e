"""Names of a manifest's counters that one module writes and another reads; a stage may count more than these.

Tested in tests/stages/report/test_stages.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

REQUESTS = "num_requests"  # to engines and endpoints
PROMPT_TOKENS = "num_prompt_tokens"
CACHED_TOKENS = "num_cached_tokens"  # of these, served by the prefix cache
OUTPUT_TOKENS = "num_output_tokens"
MICRODOLLARS = "microdollars"  # that requests cost, by the price of their server
ENGINE_STARTS = "engine_starts"  # the first of each actor, and every restart
ASKED_AGAIN = "asked_again"  # rows that waited for a slow engine and were asked of another one as well
TRAINED_TOKENS = "num_tokens"  # of all examples that are learned or measured on
EPISODES = "num_episodes"  # answers that PPO sampled
JUDGE_TOKENS = "num_judge_tokens"  # read and written by the judge that PPO's reward comes from
JUDGE_CACHED_TOKENS = "num_judge_cached_tokens"
_FLAG = "flag."
_LOGPROB = "logprob."


def flag_counter(name: str) -> str:
    """The counter of a flag: of rows that carry it and are kept all the same."""
    return f"{_FLAG}{name}"


def logprob_counters(what: str, logprobs: Sequence[float], is_low: bool) -> dict[str, int]:
    """Of one measured text: `what` it is ("answer", "critique 1", "revision 1"), and its tokens' log-probabilities.

    Counters are whole and grow: thousandths of a nat of surprise, which is minus the log-probability.
    """
    found = {"texts": 1, "tokens": len(logprobs), "millinats": round(-1000 * sum(logprobs)), "low": int(is_low)}
    return {f"{_LOGPROB}{what}.{name}": count for name, count in found.items()}


def logprobs_of(counters: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """What -> texts, tokens, millinats, low (texts below the line that the stage draws); of `logprob_counters`."""
    found: dict[str, dict[str, int]] = {}
    for name, count in counters.items():
        if name.startswith(_LOGPROB):
            what, _, part = name.removeprefix(_LOGPROB).rpartition(".")
            found.setdefault(what, {})[part] = count
    return found


def flags(counters: Mapping[str, int]) -> dict[str, int]:
    """Flag -> rows that carry it, >= 1."""
    return {name.removeprefix(_FLAG): num for name, num in counters.items() if name.startswith(_FLAG) and num}
