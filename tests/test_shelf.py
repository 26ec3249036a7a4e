"""What is called by name, and what is a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray import shelf


def test_everything_that_comes_along_is_there_by_name() -> None:
    assert {"harmlessness", "microworld"} <= set(shelf.available("constitution"))
    assert {"quickstart", "llama-3.1-8b"} <= set(shelf.available("recipe"))
    assert {"critiques", "clamp"} <= set(shelf.available("ablation"))
    assert not set(shelf.available("recipe")) & set(shelf.available("ablation")), "copy takes either by its name"


def test_a_name_is_a_path_only_where_it_looks_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [shelf.is_path(name) for name in ("a.yaml", "a/b", "./a", "runs/x/recipe.json")] == [True] * 4
    assert not shelf.is_path("llama-3.1-8b")
    Path("quickstart").mkdir()
    assert not shelf.is_path("quickstart"), "a folder is no recipe"
    Path("mine").touch()
    assert shelf.is_path("mine")


def test_advice_names_the_nearest_and_all() -> None:
    assert shelf.advice("recipe", "quikstart").startswith("did you mean quickstart? there are: dpo-own-pairs, ")
    assert shelf.advice("recipe", "elsewhere/quickstart.yaml").startswith("did you mean quickstart?")
    assert shelf.advice("constitution", "zzz").startswith("there are: bare-refusals, ")
