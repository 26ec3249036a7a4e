"""A new stage is five files: its own and its test, the recipe's field, a line in the list of steps, what plans it.

A dummy is added to a copy of the package and runs there, from the recipe to its table and its plan.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.package_copy import copy_with, passing_there

STAGE, TEST = "cai_ray/stages/inputs/count_words.py", "tests/stages/inputs/test_count_words.py"
FILES = {
    STAGE: '''
"""How many words has a prompt?  Prompt -> word count."""

from collections.abc import Iterator

import pyarrow as pa
from pydantic import Field
from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.derived import Outcome, batched, derive
from cai_ray.config import StageConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.row_ids import RESPONSES_IDS
from cai_ray.stages.context import Context
from cai_ray.stages.step import Step

STAGE = "count_words"
WORDS = pa.schema([("prompt_id", pa.string()), ("num_words", pa.int64())])


class Config(StageConfig):
    """The recipe's section `count_words`."""

    max_words: int = Field(100, ge=1, description="Longer prompts are dropped.")


def outcomes(source: Artifact, config: Config) -> Iterator[Outcome]:
    for row in source.rows(["prompt_id", "messages"]):
        num = len(row["messages"][-1]["content"].split())
        counted = {"prompt_id": row["prompt_id"], "num_words": num}
        fits = num <= config.max_words
        yield Outcome(row["prompt_id"], counted if fits else DropRow(DropReason.TOO_LONG, f"{num} words"))


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    source = context.artifact(source_stage)
    return derive(context.spec(STAGE, config, RESPONSES_IDS, source), batched(outcomes(source, config)), WORDS)


def table(artifact: Artifact) -> Table:
    return Table(title=f"{sum(row['num_words'] for row in artifact.rows())} words")


def step(config: Config, source_stage: str) -> Step:
    return Step(
        STAGE, config, lambda context: run(config, context, source_stage), reads=(source_stage,), summary=table
    )
''',
    TEST: '''
"""A run with it: in the recipe, its steps, its fingerprint, the rows, the table, the status, the plan."""

from pathlib import Path

import pytest

from cai_ray.errors import ConfigError
from cai_ray.pipeline.run import run
from cai_ray.pipeline.status import status
from cai_ray.pipeline.steps import select, steps
from cai_ray.planning.devices import hardware
from cai_ray.planning.plan import plan
from tests.planning import test_plan
from tests.small_recipes import fields, recipe


def test_it_runs(tmp_path: Path) -> None:
    made = recipe(fields(tmp_path), count_words={})
    assert [step.stage for step in steps(made)] == ["load_prompts", "revise", "count_words"]
    for name in ("load_prompts", "count_words"):
        (outcome,) = run(made, select(steps(made), only=name))
    assert [row["num_words"] for row in outcome.artifact.rows()] == [6]
    assert outcome.table.title == "6 words"
    assert status(made)[-1].state == "finished"
    with pytest.raises(ConfigError, match="max_words: 100 -> 3"):
        longer = recipe(fields(tmp_path), count_words={"max_words": 3})
        run(longer, select(steps(longer), only="count_words"))


def test_it_is_planned(tmp_path: Path) -> None:
    llama = {"path": "meta-llama/Llama-3.1-8B-Instruct"}
    sections = {"prompts": {"path": "microworld", "num_prompts": 100}, "models": {"policy": llama}}
    made = plan(test_plan.recipe(tmp_path, **sections, count_words={}), hardware("1xH100"))
    assert test_plan.stages(made)["count_words"].rows_out == 0
''',
}
EDITS = {
    "cai_ray/pipeline/recipe.py": {
        "from cai_ray.stages.inputs.expand_prompts import": "from cai_ray.stages.inputs.count_words import Config as "
        "CountWordsConfig\nfrom cai_ray.stages.inputs.expand_prompts import",
        "    report: ReportConfig": '    count_words: CountWordsConfig | None = Field(None, description="Count.")\n'
        "    report: ReportConfig",
    },
    "cai_ray/pipeline/steps.py": {
        "import expand_prompts, load_prompts": "import count_words, expand_prompts, load_prompts",
        "    write_report.STAGE:": '    count_words.STAGE: "count_words",\n    write_report.STAGE:',
        "        evaluate.step(": "        count_words.step(recipe.count_words, prompts)\n"
        "        if recipe.count_words\n        else None,\n        evaluate.step(",
    },
    "cai_ray/planning/planners.py": {
        "from cai_ray.stages.report": "from cai_ray.stages.inputs import count_words\nfrom cai_ray.stages.report",
        "    write_report.STAGE:": "    count_words.STAGE: plan_nothing,\n    write_report.STAGE:",
    },
}


@pytest.mark.slow
def test_a_stage_is_five_files(tmp_path: Path) -> None:
    assert copy_with(tmp_path, FILES, EDITS) == {*FILES, *EDITS}
    assert len(FILES) + len(EDITS) == 5
    said = passing_there(tmp_path, TEST, "tests/test_floors.py", "tests/pipeline/test_steps.py")
    assert "failed" not in said
