"""The draw of the study's prompts, on small files of HarmBench's layout."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pandas
import pytest

from benchmarks import study_prompts

NUM = 20


def behaviours(num: int = NUM) -> pandas.DataFrame:
    """Of two categories by turns, and some that need a context."""
    rows = [
        {
            "Behavior": f"Describe tree {k}",
            "FunctionalCategory": "standard" if k < 2 * num else "contextual",
            "SemanticCategory": ("oaks", "beeches")[k % 2],
            "Tags": "",
            "ContextString": "",
            "BehaviorID": f"tree_{k:02}",
        }
        for k in range(2 * num + 6)
    ]
    return pandas.DataFrame(rows)


def test_fifteen_of_each_category_by_its_own_draw_with_seed_42() -> None:
    found = study_prompts.drawn(behaviours())
    assert list(found["SemanticCategory"]) == ["beeches"] * 15 + ["oaks"] * 15
    beeches = [f"tree_{k:02}" for k in range(1, 2 * NUM, 2)]
    # numpy's legacy generator, which pandas draws with: the first 15 of a permutation.
    import numpy as np

    places = np.random.RandomState(42).choice(NUM, 15, replace=False)
    assert list(found["BehaviorID"][:15]) == [beeches[place] for place in places]


def test_too_few_of_a_category_is_said() -> None:
    with pytest.raises(ValueError, match="fewer than 15 standard behaviours in oaks, beeches"):
        study_prompts.drawn(behaviours(14))


def test_the_package_s_shuffled_files_are_put_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = behaviours().sample(frac=1, random_state=1)  # as the file of all has them
    order = list(whole[whole["FunctionalCategory"] == "standard"]["BehaviorID"])
    monkeypatch.setattr(study_prompts, "ORDER", tuple(order.index(one) for one in sorted(order)))
    wheel = tmp_path / "package.whl"
    shuffled = whole.sample(frac=1, random_state=2)
    with zipfile.ZipFile(wheel, "w") as made:
        for name, part in zip(study_prompts.MEMBERS, (shuffled[:9], shuffled[9:]), strict=True):
            made.writestr(name, part.to_csv(index=False))
    found = study_prompts.packaged(wheel)
    assert list(found["BehaviorID"]) == order
    assert list(study_prompts.drawn(found)["BehaviorID"]) == list(study_prompts.drawn(whole)["BehaviorID"])


def test_the_order_is_of_200_behaviours() -> None:
    assert sorted(study_prompts.ORDER) == list(range(200))


def test_a_file_of_one_s_own_is_drawn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behaviours().to_csv(tmp_path / "own.csv", index=False)
    monkeypatch.setattr(sys, "argv", ["study_prompts", str(tmp_path / "90.csv"), str(tmp_path / "own.csv")])
    study_prompts.main()
    made = pandas.read_csv(tmp_path / "90.csv", keep_default_na=False)
    assert list(made.columns) == list(behaviours().columns) and len(made) == 30
