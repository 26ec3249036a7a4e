"""Ablations: the files that come along, what a variant is, and which finished stages it takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from cai_ray.artifacts import lease
from cai_ray.artifacts.artifact import Artifact, find, open_stage
from cai_ray.artifacts.parts import write_part
from cai_ray.dropped import DROPPED
from cai_ray.errors import ConfigError, RunIsTaken
from cai_ray.pipeline import ablations
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.ablations import Ablation, load_ablation, take_over, variants
from cai_ray.pipeline.recipe import Recipe, load
from cai_ray.pipeline.steps import steps
from cai_ray.row_ids import RowIds
from tests.finished_stages import spec_of

RECIPES = Path(__file__).parents[2] / "jobs" / "recipes"
FILES = sorted((RECIPES / "ablations").glob("*.yaml"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A recipe of prompts, revisions, SFT and evaluation."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "How do I paint a chair?"}\n')
    data: dict[str, Any] = {
        "name": "base",
        "output": str(tmp_path / "runs"),
        "models": {"policy": {"endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}}},
        "prompts": {"path": str(prompts)},
        "sft": {},
        "evaluate": {"policies": ["policy", "sl_cai"]},
    }
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def ablation(**changes: Any) -> Ablation:
    return Ablation.model_validate(
        {"name": "n", "question": "?", "source": "here", "variants": {"a": [], "b": []}, **changes}
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_that_come_along_are_read(path: Path) -> None:
    found = load_ablation(path)
    assert found.name == path.stem and len(found.variants) > 1 and found.question.endswith("?")
    assert set(found.sections) <= {*ablations.OPTIONAL, "ppo"}


def test_variants_are_runs_of_their_own_without_what_does_not_matter(base: Path) -> None:
    found = variants(
        ablation(variants={"four": ["revise.num_revisions=4"], "two": ["revise.num_revisions=2"]}), base, ["seed=7"]
    )
    assert [recipe.name for recipe in found.values()] == ["base-n-four", "base-n-two"]
    assert [recipe.revise.num_revisions for recipe in found.values()] == [4, 2]
    assert all(recipe.seed == 7 and recipe.sft is None and recipe.evaluate is None for recipe in found.values())
    assert all(recipe.constitution == "microworld" for recipe in found.values())


def test_only_policies_that_a_variant_has_are_evaluated(base: Path) -> None:
    made = variants(ablation(sections=["sft", "evaluate"], variants={"with": [], "without": ["sft=null"]}), base)
    assert made["with"].evaluate is not None and made["with"].evaluate.policies == ("policy", "sl_cai")
    assert made["without"].evaluate is not None and made["without"].evaluate.policies == ("policy",)


def finish(recipe: Recipe, stage: str) -> Artifact:
    """Make a stage look finished, with a file beside its rows."""
    context = pipeline.prepare(recipe, steps(recipe))
    folder = context.folder(stage)
    opened = open_stage(spec_of(folder, stage, RowIds(("id",)), context.fingerprints[stage]))
    assert not isinstance(opened, Artifact)
    write_part(folder, pa.table({"id": ["x"]}), DROPPED.empty_table(), ["x"])
    folder.write("model/deep/weights.bin", b"weights")
    return opened.commit(pa.array(["x"]))


def test_a_stage_that_would_come_out_the_same_is_taken_over(base: Path) -> None:
    asked = ablation(variants={"soft": ["revise.num_revisions=2"], "same": ["revise.num_revisions=2"], "other": []})
    made = variants(asked, base)
    finished = finish(made["soft"], "revise")
    assert take_over(made["other"], made["soft"]) == []
    assert take_over(made["same"], made["soft"]) == ["revise"]
    taken = find(pipeline.folder_of(made["same"]) / "revise")
    assert taken is not None and taken.manifest == finished.manifest
    assert list(taken.rows()) == [{"id": "x"}] and taken.folder.read("model/deep/weights.bin") == b"weights"
    assert take_over(made["same"], made["soft"]) == []  # it has it


def test_nothing_is_copied_into_a_run_that_somebody_works_on(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    asked = ablation(variants={"soft": ["revise.num_revisions=2"], "same": ["revise.num_revisions=2"]})
    made = variants(asked, base)
    finish(made["soft"], "revise")
    with lease.held(pipeline.folder_of(made["same"])), pytest.raises(RunIsTaken, match="somebody works there"):
        take_over(made["same"], made["soft"])
    assert find(pipeline.folder_of(made["same"]) / "revise") is None
    assert take_over(made["same"], made["soft"]) == ["revise"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name: [", "cannot be used"),
        ("name: n\nquestion: q\nsource: s\nvariants: {}", "at least 1"),
        ("name: n\nquestion: q\nsource: s\nvariants: {a/b: []}", "names a folder"),
        ("name: n\nquestion: q\nsource: s\nvariant: {a: []}", "variant"),
    ],
)
def test_files_that_are_none(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        load_ablation(path)
    with pytest.raises(ConfigError, match="cannot be used"):
        load_ablation(tmp_path / "nowhere.yaml")


def test_the_quickstart_can_be_put_to_questions_about_its_revisions() -> None:
    for name in ("critiques", "principles", "rounds"):
        made = variants(load_ablation(RECIPES / "ablations" / f"{name}.yaml"), RECIPES / "quickstart.yaml")
        assert all(
            recipe.name.startswith(f"{load(RECIPES / 'quickstart.yaml').name}-{name}-") for recipe in made.values()
        )
