"""A new kind of judge is two files, its own and its test: a dummy is added to a copy of the package, and judges there.

The copy is compared with the package afterwards, so the count of places is what it took.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.stages.evaluation.judges import KINDS
from tests.package_copy import copy_with, passing_there

JUDGE, TEST = "cai_ray/stages/evaluation/judges/loudness.py", "tests/stages/evaluation/judges/test_loudness.py"
FILES = {
    JUDGE: '''
"""How loud is an answer, from 0 to 1, by a model's own word.  Answer -> Judgement."""

from functools import partial
from typing import Literal

from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.stages.evaluation.judges.base import AnswerJudge, Row, RowFunction, judgement, unparsable


class LoudnessJudge(AnswerJudge):
    """Loudness."""

    kind: Literal["loudness"] = "loudness"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loud",)

    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        return partial(listen, judge=self)


async def listen(row: Row, ask, *, judge: LoudnessJudge) -> Row:
    completion = await ask([{"role": "user", "content": f"Loud? {row['response']}"}], SamplingConfig(temperature=0.0))
    if not completion.text.replace(".", "").isdigit():
        raise unparsable("a number", completion)
    return judgement(row, judge, {"loud": float(completion.text)})
''',
    TEST: '''
"""A run with it: in the recipe, its schema, the plan, the rows, the summary."""

from pathlib import Path

import pytest

from cai_ray.pipeline.recipe import Recipe
from cai_ray.planning.devices import hardware
from cai_ray.planning.plan import plan
from cai_ray.stages.evaluation.summary import summarise
from tests.stages.evaluation.evaluate_runs import PROMPTS, Judged, config, write_prompts
from tests.planning.test_plan import recipe, stages

LOUD = {"kind": "loudness", "model": "judge", "name": "ear"}


def test_it_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    scripted = Judged(monkeypatch, tmp_path, lambda row_id, messages, seed: "0.25")
    summary = summarise(scripted.run(config(LOUD)))
    assert summary.policies["policy"]["loud"].value == 0.25
    assert summary.judges["ear"].policies["sl_cai"].num_judged == len(PROMPTS)


def test_a_recipe_names_it_and_it_is_planned(tmp_path: Path) -> None:
    assert "LoudnessJudge" in Recipe.model_json_schema()["$defs"]
    llama = {"path": "meta-llama/Llama-3.1-8B-Instruct"}
    sections = {"prompts": {"path": "microworld", "num_prompts": 100}, "models": {"policy": llama, "judge": llama}}

    def requests(*judges: dict[str, str]) -> float:
        asked = {"split": "all", "policies": ["policy"], "judges": list(judges)}
        made = plan(recipe(tmp_path, **sections, evaluate=asked), hardware("1xH100"))
        return stages(made)["evaluate"].used.requests

    assert requests(LOUD) == pytest.approx(2 * requests())
''',
}


def test_the_kinds_stand_in_the_order_of_their_files() -> None:
    files = [kind.__module__ for kind in KINDS]
    assert files == sorted(files)
    assert {"classifier", "guard", "pairwise", "rating", "yes_no"} <= {kind.kind_name() for kind in KINDS}


@pytest.mark.slow
def test_a_judge_is_two_files(tmp_path: Path) -> None:
    assert copy_with(tmp_path, FILES, {}) == {JUDGE, TEST}
    assert "2 passed" in passing_there(tmp_path, TEST)
