"""A run whose input changed is refused, with the file's name, and leaves everything as it was (guarantee G4).

Every kind of input is edited to the same size: refused; and gets another modification time: nothing to do. Cases 04,
05 and 06 from the field are among them. The stages are begun and committed without rows: what is tried here comes
before any engine.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from pydantic import BaseModel, WrapValidator
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from cai_ray.artifacts.artifact import Artifact, OpenStage, open_stage
from cai_ray.artifacts.identity import hub_commit
from cai_ray.cli import app
from cai_ray.errors import ConfigError
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.accepted import accepted, begin
from cai_ray.pipeline.recipe import Recipe, build
from cai_ray.pipeline.steps import select, steps
from cai_ray.row_ids import RowIds
from tests.object_store import object_store

MICRO_MODEL = Path(__file__).parents[1] / "fixtures" / "run_of_1fc51c6" / "40874a34d8179a24"
CHOICE = {
    "prompt": "\n\nConsider:\n\nHuman: Tea?\n\nOptions:\n (A) [[[Yes, please.]]]\n (B) [[[No.]]]\n\nThe answer is:",
    "corrects": [" (A)"],
    "incorrects": [" (B)"],
    "text_correct": "\n\nHuman: Tea?\n\nAssistant: Yes, please.",
    "text_incorrect": "\n\nHuman: Tea?\n\nAssistant: No.",
}
PRINCIPLE = {
    "id": "calm",
    "critique_request": "Is it calm?",
    "revision_request": "Make it calm.",
    "comparison_question": "Which is calmer?",
}
FILES = {
    "data/one.jsonl": json.dumps({"prompt": "How often should I water a fern?"}),
    "glob/two.jsonl": json.dumps({"prompt": "How often should I water basil?"}),
    "folder/three.jsonl": json.dumps({"prompt": "How often should I water ivy?"}),
    "uri/four.jsonl": json.dumps({"prompt": "How often should I water mint?"}),
    "hub/six.jsonl": json.dumps({"prompt": "How often should I water an orchid?"}),
    "uris/five.jsonl": json.dumps({"prompt": "How often should I water a cactus?"}),
    "pairs.jsonl": json.dumps({"prompt": "Fern?", "chosen": "Water it weekly.", "rejected": "Leave it in the sun."}),
    "text.jsonl": json.dumps({"text": "Ferns like shade and water."}),
    "choices.jsonl": json.dumps(CHOICE),
    "yes_no.txt": "{generation}\nIs this rude? {behavior}",
    "references.jsonl": json.dumps({"prompt": "Fern?", "reference": "Weekly."}),
    "rules.yaml": json.dumps({"name": "rules", "version": "1", "principles": [PRINCIPLE]}),
    "t.jinja": "{%- for m in messages %}{{ m['role'] + m['content'] }}{%- endfor %}",
}
WORDS = {
    "choices.jsonl": b"Yes",
    "rules.yaml": b"Make",
    "t.jinja": b"role'",
    "tokenizer_config.json": b"model_max",
    "adapter_config.json": b"16",
}
HELPFUL = {"path": "pairs.jsonl"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    for name in ("model", "tokenizer", "base", "backbone"):
        shutil.copytree(MICRO_MODEL, tmp_path / name)
        (tmp_path / name / "model.safetensors").write_bytes(bytes(1000))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base", "r": 16}))
    (adapter / "adapter_model.safetensors").write_bytes(bytes(100))
    return tmp_path


def recipe(place: Path, **changes: Any) -> Recipe:
    uri = place.as_uri()
    sources = ["data/one.jsonl", "glob/*.jsonl", "folder", f"{uri}/uri/four.jsonl", f"{uri}/uris"]
    judges = [
        {"kind": "yes_no", "model": "server", "template": "yes_no.txt", "name": "rude"},
        {"kind": "similarity", "model": "scorer", "references": "references.jsonl"},
        {"kind": "reward", "model": "scorer", "name": "star", "layout": "value_head", "backbone": "backbone"},
    ]
    data: dict[str, Any] = {
        "name": "test",
        "constitution": "rules.yaml",
        "models": {
            "policy": {"path": "model", "tokenizer": "tokenizer", "chat_template": "t.jinja"},
            "server": {"endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}},
            "scorer": {"path": "adapter"},
        },
        "prompts": {"sources": [*({"path": path} for path in sources), {"path": f"hf://{place}/hub", "name": "hub"}]},
        "sft": {},
        "pairs": {},
        "labels": {"model": "server"},
        "preference_model": {"helpful_pairs": [HELPFUL]},
        "dpo": {"helpful_pairs": [HELPFUL]},
        "ppo": {"pretraining": {"path": "text.jsonl"}, "loss": {"pretraining_coefficient": 0.5}},
        "multiple_choice": {"path": "choices.jsonl", "models": ["server"]},
        "evaluate": {"policies": ["policy", "sl_cai"], "judges": judges},
    }
    return build({**data, **changes}, "test")


def opened(recipe: Recipe, stage: str) -> OpenStage | Artifact:
    """`stage` as the run begins it."""
    [step] = select(steps(recipe), only=stage)
    context = accepted(recipe, pipeline.prepare(recipe, steps(recipe)), steps(recipe), [step], fresh=False)
    begin(recipe, context, step)
    return open_stage(context.spec(stage, step.config, RowIds(("id",))))


def finish(recipe: Recipe) -> None:
    for step in steps(recipe):
        stage = opened(recipe, step.stage)
        assert isinstance(stage, OpenStage)
        stage.commit(pa.array([], pa.string()))


def check(recipe: Recipe, only: str | None = None, last: str | None = None, fresh: bool = False) -> None:
    """What a run checks before it does anything."""
    chosen = select(steps(recipe), only=only, last=last)
    accepted(recipe, pipeline.prepare(recipe, steps(recipe)), steps(recipe), chosen, fresh)


def edit(path: Path) -> None:
    """One byte, in a word where the file must stay readable: the same size, the same modification time."""
    content, stamp = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    word = WORDS.get(path.name)
    content[content.index(word) if word else len(content) // 2] ^= 2
    path.write_bytes(content)
    os.utime(path, ns=(stamp, stamp))


KINDS = {
    "data/one.jsonl": "load_prompts",
    "glob/two.jsonl": "load_prompts",
    "folder/three.jsonl": "load_prompts",
    "uri/four.jsonl": "load_prompts",
    "uris/five.jsonl": "load_prompts",
    "hub/six.jsonl": "load_prompts",
    "pairs.jsonl": "train_preference_model",
    "text.jsonl": "train_ppo",
    "choices.jsonl": "multiple_choice",
    "yes_no.txt": "evaluate",
    "references.jsonl": "evaluate",
    "rules.yaml": "revise",
    "t.jinja": "revise",
    "model/model.safetensors": "revise",
    "model/generation_config.json": "revise",
    "model/chat_template.jinja": "revise",
    "tokenizer/tokenizer_config.json": "revise",
    "adapter/adapter_config.json": "evaluate",
    "adapter/adapter_model.safetensors": "evaluate",
    "base/model.safetensors": "evaluate",
    "backbone/tokenizer_config.json": "evaluate",
}


@pytest.mark.parametrize("name", list(KINDS))
def test_an_edit_of_the_same_size_is_refused_and_another_time_is_not(place: Path, name: str) -> None:
    made = recipe(place)
    finish(made)
    os.utime(place / name, (1, 1))
    check(made)
    content = (place / name).read_bytes()
    edit(place / name)
    with pytest.raises(ConfigError, match=Path(name).name) as refusal:
        check(made)
    assert f"/{KINDS[name]} was made with other settings or input" in str(refusal.value)
    assert f"--from {KINDS[name]} --fresh" in str(refusal.value)
    (place / name).write_bytes(content)
    check(made)


def test_every_name_of_a_file_in_a_recipe_is_among_them() -> None:
    """A new one is said in its step's `files` (or in the model's contents), and here."""

    def names(section: type[BaseModel], seen: set[type]) -> set[str]:
        found = set()
        for name, field in section.model_fields.items():
            if any(isinstance(rule, WrapValidator) for rule in _rules(field)):
                found.add(f"{section.__module__.rpartition('.')[2]}.{name}")
            for inner in _sections(field.annotation):
                if inner not in seen:
                    seen.add(inner)
                    found |= names(inner, seen)
        return found

    assert names(Recipe, set()) == {
        *("recipe.constitution", "config.path", "config.tokenizer", "config.chat_template", "prompt_sources.path"),
        *("pair_sources.path", "own_examples.path", "pretraining.path", "multiple_choice.path"),
        *("yes_no.template", "guard.template", "similarity.references", "reward.backbone"),
    }


def _rules(field: FieldInfo) -> list[Any]:
    """What is said of a field's values, within a union too."""
    return [
        *field.metadata,
        *(rule for part in get_args(field.annotation) for rule in getattr(part, "__metadata__", ())),
    ]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for part in get_args(annotation) for inner in _sections(part)]


def test_chosen_and_rejected_in_each_others_place(place: Path) -> None:
    made = recipe(place)
    finish(made)
    pair = json.loads((place / "pairs.jsonl").read_text())
    swapped = {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}
    (place / "pairs.jsonl").write_text(json.dumps(swapped) + "\n")
    with pytest.raises(ConfigError, match=r"pairs\.jsonl \(helpful pairs pairs\): content changed \(sha256 .* -> "):
        check(made)


def test_a_row_in_the_middle_of_five_megabytes(place: Path) -> None:
    file = place / "data" / "one.jsonl"
    rows = [json.dumps({"prompt": f"How often should I water fern {k:06}?"}) for k in range(99_000)]
    file.write_text("\n".join(rows))
    assert file.stat().st_size > 5e6
    made = recipe(place)
    finish(made)
    edit(file)
    with pytest.raises(ConfigError, match=r"one\.jsonl \(prompt set one\): content changed"):
        check(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: (place / "glob" / "new.jsonl").write_text("{}"), r"new\.jsonl .*was not there before"),
        (lambda place: (place / "folder" / "new.jsonl").write_text("{}"), r"new\.jsonl .*was not there before"),
        (lambda place: (place / "model" / "extra.json").write_text("{}"), r"extra\.json .*was not there before"),
    ],
)
def test_a_new_file_behind_a_glob_or_in_a_folder(place: Path, change: Callable[[Path], Any], message: str) -> None:
    made = recipe(place)
    finish(made)
    change(place)
    with pytest.raises(ConfigError, match=message):
        check(made)


def test_an_object_in_a_store(place: Path) -> None:
    with object_store(place / "data") as uri:
        made = recipe(place, prompts={"path": uri.format("one.jsonl"), "name": "one"})
        finish(made)
        os.utime(place / "data" / "one.jsonl", (1, 1))
        check(made)
        edit(place / "data" / "one.jsonl")
        with pytest.raises(ConfigError, match=r"one\.jsonl \(prompt set one\): content changed \(etag .* -> etag "):
            check(made)


def test_a_data_set_of_the_hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    main = place / "datasets--org--set" / "refs" / "main"
    main.parent.mkdir(parents=True)
    made = recipe(place, prompts={"path": "hf://org/set"})
    for commit, step in (("a" * 40, finish), ("a" * 40, check)):
        main.write_text(commit)
        hub_commit.cache_clear()
        step(made)
    main.write_text("b" * 40)
    hub_commit.cache_clear()
    with pytest.raises(ConfigError, match=r"hf://org/set .*content changed \(commit aaaaaaaa\.\. -> commit bbbbbbbb"):
        check(made)
    main.unlink()
    hub_commit.cache_clear()
    check(made)  # nobody knows now, and not knowing is no change


def test_engine_arguments_that_change_answers_are_refused_and_others_are_not(place: Path) -> None:
    finish(recipe(place))
    for extra, is_refused in (({"stream_interval": 4}, False), ({"quantization": "fp8"}, True)):
        made = recipe(place)
        policy = made.models["policy"]
        engine = policy.engine.model_copy(update={"extra": extra})
        other = made.model_copy(
            update={"models": {**made.models, "policy": policy.model_copy(update={"engine": engine})}}
        )
        if is_refused:
            with pytest.raises(ConfigError, match=r'engine\.extra\.quantization \(model policy\).*"fp8"'):
                check(other)
            with pytest.raises(ConfigError, match=r"engine\.extra\.quantization"):
                check(other, only="evaluate")
        else:
            check(other)


def test_a_stage_is_not_built_on_one_whose_input_changed(place: Path) -> None:
    made = recipe(place)
    finish(made)
    edit(place / "data" / "one.jsonl")
    for stage in ("revise", "train_ppo", "evaluate"):
        with pytest.raises(ConfigError, match=r"one\.jsonl"):
            check(made, only=stage)
        with pytest.raises(ConfigError, match=r"one\.jsonl"):
            check(made, only=stage, fresh=True)
    check(made, fresh=True)


def test_a_stage_that_comes_later_is_nobodys_business(place: Path) -> None:
    made = recipe(place)
    finish(made)
    edit(place / "choices.jsonl")
    check(made, last="train_ppo")


def test_a_template_edited_in_the_middle_of_a_stage(place: Path) -> None:
    made = recipe(place)
    for stage in ("load_prompts", "revise"):
        begun = opened(made, stage)
        assert isinstance(begun, OpenStage)
        if stage == "load_prompts":
            begun.commit(pa.array([], pa.string()))
    begun.folder.write("records/1.json", b"{}")  # some rows are done
    edit(place / "t.jinja")
    with pytest.raises(ConfigError, match=r"t\.jinja \(chat template of policy\): content changed"):
        check(made)


def test_a_stage_that_came_to_nothing_begins_anew_with_the_mended_file(place: Path) -> None:
    assert isinstance(opened(recipe(place), "load_prompts"), OpenStage)
    edit(place / "data" / "one.jsonl")
    finish(recipe(place))
    check(recipe(place))


def test_a_file_that_changes_while_the_run_goes_on(place: Path) -> None:
    made = recipe(place)
    every = {step.stage: step for step in steps(made)}
    context = accepted(made, pipeline.prepare(made, steps(made)), steps(made), steps(made), fresh=False)
    edit(place / "pairs.jsonl")
    begin(made, context, every["revise"])
    with pytest.raises(ConfigError, match=r"pairs\.jsonl .*content changed.*Run it again"):
        begin(made, context, every["train_preference_model"])


def test_a_run_of_an_older_version_recorded_nothing_and_is_accepted(place: Path) -> None:
    made = recipe(place)
    finish(made)
    for manifest in (place / "runs").rglob("manifest.json"):
        known = json.loads(manifest.read_text())
        assert known.pop("contents") is not None
        manifest.write_text(json.dumps(known))
    edit(place / "glob" / "two.jsonl")  # its fingerprint knows no globs
    check(made)


def test_the_command_refuses_and_writes_nothing(place: Path) -> None:
    made = recipe(place)
    (place / "recipe.yaml").write_text(made.model_dump_json())
    command = ["run", "recipe.yaml", "--until", "load_prompts"]
    runner = CliRunner()
    assert runner.invoke(app, command).exit_code == 0
    os.utime(place / "glob" / "two.jsonl", (1, 1))
    assert "Nothing to do" in runner.invoke(app, command).output
    before = {path: path.read_bytes() for path in (place / "runs").rglob("*") if path.is_file()}
    edit(place / "glob" / "two.jsonl")
    for options in ([], ["--set", "cluster.num_cpus=3"]):
        result = runner.invoke(app, [*command, *options])
        assert result.exit_code == 2
        assert "two.jsonl" in result.output
        assert {path: path.read_bytes() for path in (place / "runs").rglob("*") if path.is_file()} == before
    assert runner.invoke(app, [*command, "--fresh"]).exit_code == 0
    assert "Nothing to do" in runner.invoke(app, command).output
