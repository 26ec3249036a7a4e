"""A few hundred inputs made wrong by chance; `python -m benchmarks.bad_inputs` tries ten thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bad_inputs import KINDS, run, tried, tried_by_command
from cai_ray.constitution.principles import ConstitutionError
from cai_ray.constitution.source import parse
from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import apply_overrides, load


def test_no_bad_input_is_a_bug_and_no_record_is_in_two_counts_or_in_none() -> None:
    outcomes, faults = run(400, by_command=0)
    assert faults == []
    assert set(outcomes) == set(KINDS)
    for kind, found in outcomes.items():
        assert sum(found.values()) == 100
        assert found["accepted"] > 5 and len(found) >= 2, f"{kind}: the inputs are all good or all bad: {found}"


def test_an_input_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    once, again = ([tried(kind, number, tmp_path) for kind in KINDS for number in range(5)] for _ in range(2))
    assert once == again


def test_by_the_command(tmp_path: Path) -> None:
    outcomes = {tried_by_command(kind, 1, tmp_path) for kind in ("recipe", "constitution")}
    assert {fault for _, fault in outcomes} == {None}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name: "\\ud800"', "half a character"),
        ("name: &a [*a]", "not plain data"),
        ("2026-11-27: x", "not plain data"),
        ("name: 2026-13-45", "is not YAML"),
        ("name: " + "[" * 5000, "is not YAML"),
        ("seed: " + "9" * 5000, "is not YAML"),
    ],
)
def test_yaml_that_no_recipe_can_be_made_of(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load(file)
    key, _, value = text.partition(": ")
    if key != "2026-11-27":
        with pytest.raises(ConfigError, match=told):
            apply_overrides({}, [f"{key}={value}"])


def test_a_constitution_nested_without_end() -> None:
    with pytest.raises(ConstitutionError, match="nested deeper"):
        parse("name: " + "[" * 5000)
