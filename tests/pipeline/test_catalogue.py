"""A line on everything that comes along, and copies to edit."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray import shelf
from cai_ray.errors import ConfigError
from cai_ray.pipeline.catalogue import ablation_lines, copy, recipe_lines
from cai_ray.pipeline.recipe import load


def test_every_recipe_has_a_line() -> None:
    lines = {line.name: line for line in recipe_lines()}
    assert set(lines) == set(shelf.available("recipe"))
    assert (lines["quickstart"].models, lines["quickstart"].prompts, lines["quickstart"].rounds) == (
        ("microworld",),
        "640",
        4,
    )
    assert lines["hh_rlhf"].prompts == "all" and lines["llama-3.1-8b"].prompts == "58,961"
    assert len(lines["llama-3.1-8b"].models) == 2
    for line in lines.values():
        assert line.what.endswith(".") and len(line.what) < 120, line.what


def test_every_ablation_has_a_line() -> None:
    lines = ablation_lines()
    assert [line.name for line in lines] == sorted(shelf.available("ablation"))
    assert all(line.question.endswith("?") and len(line.variants) > 1 for line in lines)


def test_a_copy_is_the_same_recipe_and_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert copy("quickstart") == Path("quickstart.yaml")
    made = load("quickstart.yaml")
    assert made.model_copy(update={"folder": ""}) == load("quickstart").model_copy(update={"folder": ""})
    (tmp_path / "deep").mkdir()
    assert copy("quickstart", Path("deep")) == Path("deep/quickstart.yaml")
    assert copy("critiques", Path("mine.yaml")).read_bytes() == shelf.available("ablation")["critiques"].read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        copy("llama-3.1-8b", Path("quickstart.yaml"))
    assert load("quickstart.yaml") == made
    with pytest.raises(ConfigError, match="did you mean quickstart"):
        copy("quikstart")
    with pytest.raises(ConfigError, match="cannot be written"):
        copy("quickstart", Path("no/folder/x.yaml"))
