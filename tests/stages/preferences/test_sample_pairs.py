"""Samples and pairs without Ray: what is asked, which samples meet, who is A, what is dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cai_ray.artifacts.artifact import Artifact
from cai_ray.config import SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.row_ids import PAIR_IDS, RESPONSES_IDS, pair_id_of
from cai_ray.rows import PAIR, PROMPT, RESPONSES
from cai_ray.stages.preferences.sample_pairs import (
    STAGE,
    Config,
    is_swapped,
    make_pair,
    outcomes,
    pair_indices,
    sampling_of,
    unasked,
    unit_ids,
)
from cai_ray.stages.sampled_responses import expand_units
from tests.finished_stages import finished, spec_of

PROMPT_ROW: dict[str, Any] = {
    "prompt_id": "p",
    "messages": [{"role": "user", "content": "How do I bake bread?"}],
    "kind": "red_team",
    "source": "test",
    "source_row": "test:0",
    "category": "baking",
    "split": "test",
    "license": None,
}


def responses(prompt_id: str = "p", texts: Sequence[str] = ("one", "two", "three"), **changes: Any) -> dict[str, Any]:
    row = {name: PROMPT_ROW[name] for name in ("messages", "kind", "category", "split")} | {
        "prompt_id": prompt_id,
        "responses": list(texts),
        "temperatures": [0.1 * k for k in range(len(texts))],
        "policy": "sl_cai",
        "finish_reasons": ["stop"] * len(texts),
        "num_prompt_tokens": 1,
        "num_cached_tokens": 1,
        "num_output_tokens": 1,
    }
    return row | changes


# ---- sampling


def test_samples_follow_the_temperatures_in_turn() -> None:
    config = Config(model="dpo", samples_per_prompt=5, temperatures=(0.7, 1.0), sampling=SamplingConfig(max_tokens=9))
    wanted = sampling_of(config)
    assert wanted.temperatures == (0.7, 1.0, 0.7, 1.0, 0.7)
    assert (wanted.stage, wanted.policy, wanted.sampling.max_tokens) == (STAGE, "dpo", 9)


def test_only_prompts_of_the_chosen_kinds_are_answered() -> None:
    rows = [{**PROMPT_ROW, "prompt_id": kind, "kind": kind} for kind in ("red_team", "helpful")]
    prompts = pa.Table.from_pylist(rows, PROMPT)
    assert expand_units(prompts, wanted=sampling_of(Config()))["row_id"].to_pylist() == ["red_team"]
    both = expand_units(prompts, wanted=sampling_of(Config(kinds=("red_team", "helpful"))))
    assert both["row_id"].to_pylist() == ["red_team", "helpful"]


# ---- pairing


def test_strategies() -> None:
    assert pair_indices(Config(samples_per_prompt=4), "p", 0) == [(0, 1)]
    assert pair_indices(Config(samples_per_prompt=3, strategy="all"), "p", 0) == [(0, 1), (0, 2), (1, 2)]
    config = Config(samples_per_prompt=4, strategy="random", num_pairs=2)
    drawn = {prompt_id: tuple(pair_indices(config, prompt_id, 0)) for prompt_id in map(str, range(600))}
    assert all(len(set(pairs)) == 2 and pairs == tuple(sorted(pairs)) for pairs in drawn.values())
    counts = Counter(pair for pairs in drawn.values() for pair in pairs)
    assert len(counts) == 6 and all(150 < count < 250 for count in counts.values())  # 200 each
    assert pair_indices(config, "7", 0) == list(drawn["7"])
    assert any(pair_indices(config, prompt_id, 1) != list(drawn[prompt_id]) for prompt_id in drawn)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strategy": "random", "num_pairs": 2}, "2 samples make 1 different pairs"),
        ({"num_pairs": 2}, 'num_pairs is for strategy "random"'),
        ({"temperatures": (1.0, 9.0)}, "holds 9.0"),
        ({"temperatures": ()}, "at least 1"),
        ({"samples_per_prompt": 1}, "greater than or equal to 2"),
        ({"kinds": ()}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Config(**settings)


def test_who_is_a_tells_nothing_of_index_or_temperature() -> None:
    """Of every (i, j), the later sample is A half of the time: 2,000 prompts, chi-square over six cells."""
    from scipy.stats import chisquare

    config = Config(samples_per_prompt=4, strategy="all")
    counts = Counter(
        (i, j, is_swapped(pair_id_of(f"prompt{number}", i, j), 5))
        for number in range(2000)
        for i, j in pair_indices(config, f"prompt{number}", 5)
    )
    assert len(counts) == 12
    assert chisquare(list(counts.values())).pvalue > 0.01


@given(st.text(), st.lists(st.floats(0, 5), min_size=2, max_size=2), st.integers(0, 2**31 - 1))
def test_who_is_a_depends_on_the_pair_alone(prompt_id: str, temperatures: list[float], seed: int) -> None:
    row = responses(prompt_id, ["first", "second"], temperatures=temperatures)
    pair = make_pair(row, (0, 1), Config(), seed)
    swapped = is_swapped(pair["pair_id"], seed)
    assert (pair["response_a"], pair["response_b"]) == (("second", "first") if swapped else ("first", "second"))
    assert (pair["temperature_a"], pair["temperature_b"]) == tuple(temperatures[::-1] if swapped else temperatures)


def test_a_pair_fits_its_schema() -> None:
    pair = make_pair(responses(), (0, 2), Config(), 0)
    table = pa.Table.from_pylist([pair], PAIR)
    assert PAIR_IDS(table).to_pylist() == ["p/0-2"]
    assert {pair["response_a"], pair["response_b"]} == {"one", "three"}


def dropped(texts: Sequence[str], **settings: Any) -> DropReason:
    reasons = ["stop", "length"]
    with pytest.raises(DropRow) as drop:
        make_pair(responses("p", texts, finish_reasons=reasons), (0, 1), Config(**settings), 0)
    return drop.value.reason


def test_a_pair_that_cannot_be_compared_is_dropped_with_its_reason() -> None:
    assert dropped(["the same", " the  same\n"]) == DropReason.IDENTICAL
    assert dropped(["one", " \n"]) == DropReason.EMPTY_RESPONSE
    assert dropped(["one", "two"], truncated="drop") == DropReason.TRUNCATED


# ---- the artifact


def samples_of(folder: Path, rows: list[dict[str, Any]], gone: dict[str, DropReason]) -> Artifact:
    lost = {prompt_id: DropRow(reason, "why", 2) for prompt_id, reason in gone.items()}
    return finished(spec_of(folder, STAGE, RESPONSES_IDS), RESPONSES, rows, dropped=lost)


def test_every_pair_of_every_prompt_has_one_end(tmp_path: Path) -> None:
    config = Config(samples_per_prompt=3, strategy="all")
    rows = [
        responses("fine"),
        responses("twins", ["one", "two", "one"]),
        responses("cut", finish_reasons=["length", "stop", "length"]),
    ]
    samples = samples_of(tmp_path / "samples", rows, {"late": DropReason.TIMEOUT})
    ends = {end.row_id: end for end in outcomes(samples, config, 0)}
    assert len(ends) == 4 * 3
    reasons = {row_id: (end.drop.reason, end.drop.attempts) for row_id, end in ends.items() if end.drop}
    assert reasons == {"twins/0-2": ("identical", 1)} | {f"late/{p}": ("timeout", 2) for p in ("0-1", "0-2", "1-2")}
    assert sum(end.counters["flag.truncated"] for end in ends.values()) == 4

    prompts = [{**PROMPT_ROW, "prompt_id": name} for name in ("fine", "twins", "cut", "late")]
    source = finished(spec_of(tmp_path / "prompts", STAGE, RESPONSES_IDS), PROMPT, prompts)
    assert sorted(unit_ids(source, config, 0)) == sorted(ends)
    with pytest.raises(ConfigError, match="no prompt of kind helpful"):
        unit_ids(source, Config(kinds=("helpful",)), 0)


def test_prompts_of_other_kinds_are_left_out_pair_by_pair(tmp_path: Path) -> None:
    config = Config(samples_per_prompt=3, strategy="all")
    prompts = [{**PROMPT_ROW, "prompt_id": "asked"}, {**PROMPT_ROW, "prompt_id": "other", "kind": "helpful"}]
    source = finished(spec_of(tmp_path, STAGE, RESPONSES_IDS), PROMPT, prompts)
    found = {one.row_id: one.drop.reason for one in unasked(source, config, 0) if one.drop}
    assert found == dict.fromkeys(("other/0-1", "other/0-2", "other/1-2"), "kind")
    assert not found.keys() & set(unit_ids(source, config, 0))
