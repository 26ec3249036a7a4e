"""Publishing: a run's rows and models on a server that speaks the hub's API, and read back by `datasets`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # of this process; the commands below are given a hub of their own

import pyarrow.parquet as pq
import pytest
import yaml

from cai_ray.artifacts.storage import Storage
from cai_ray.pipeline.recipe import load, written
from cai_ray.pipeline.run import write_report
from cai_ray.publishing.data_sets import Origins, write
from cai_ray.publishing.sources import front_matter, licences_of
from cai_ray.row_ids import EXAMPLE_IDS, PAIR_IDS, PROMPT_IDS, REVISION_IDS
from cai_ray.rows import PREFERENCE, PROMPT, REVISION, SFT_EXAMPLE
from tests.finished_stages import finished, spec_of
from tests.publishing.hub_server import TOKEN, Hub, hub_serving

SOURCES = {"open": "MIT", "closed": "CC BY-ND 4.0", "riddle": None}
SERVER = {"base_url": "http://user:pw@private.example/v1", "model": "m", "api_key_env": "KEY"}


def prompt(number: int, source: str) -> dict[str, Any]:
    return {
        "prompt_id": f"{source}{number}",
        "messages": [{"role": "user", "content": f"Request {number}?"}],
        "kind": "red_team",
        "source": source,
        "source_row": f"{source}:{number}",
        "category": None,
        "split": "test" if number % 4 == 0 else "train",
        "license": SOURCES.get(source),
    }


def revision(row: dict[str, Any]) -> dict[str, Any]:
    rounds = [{"principle_id": "kind", "critique": "Unkind.", "revision": "Please.", "flags": []}]
    tokens = {"num_neutralised": 0, "num_prompt_tokens": 9, "num_cached_tokens": 0, "num_output_tokens": 3}
    carried = {key: value for key, value in row.items() if key != "source_row"}
    said = {"initial_response": "No.", "initial_flags": [], "revisions": rounds, "finish_reasons": ["stop"] * 3}
    return carried | {"sample_index": 0, "thinking": None} | said | tokens


def example(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "example_id": f"{row['prompt_id']}/0/0",
        "prompt_id": row["prompt_id"],
        "messages": [*row["messages"], {"role": "assistant", "content": "Please."}],
        "source": "revised",
        "revision_index": 0,
        "weight": 1.0,
        "split": "eval" if row["split"] == "test" else "train",
    }


def preference(row: dict[str, Any]) -> dict[str, Any]:
    reading = {"principle_id": "kind", "swapped": False, "logprob_a": -0.1, "logprob_b": -2.4, "prob_a": 0.9}
    kept = {key: row[key] for key in ("prompt_id", "messages", "kind", "category", "split")}
    tokens = {"num_prompt_tokens": 9, "num_cached_tokens": 0, "num_output_tokens": 1}
    label = {"chosen_is_a": True, "prob_chosen": 0.9, "order_flip_rate": None, "label_source": "ai"}
    answers = {"pair_id": f"{row['prompt_id']}/0-1", "chosen": "Please.", "rejected": "No."}
    return {**kept, **answers, **label, "comparisons": [reading | {"rationale": None}], "flags": [], **tokens}


def a_run(folder: Path, *sources: str, num: int = 6) -> Path:
    """A finished run, as far as its files go: rows of these sources, a model, a report; its recipe."""
    prompts = [{"path": f"{name}.jsonl", "license": SOURCES[name]} for name in sources]
    for name in sources:
        (folder / f"{name}.jsonl").write_text("")
    recipe: dict[str, Any] = {
        "name": "run",
        "output": str(folder / "out"),
        "models": {"policy": {"path": "microworld"}, "feedback": {"endpoint": SERVER}},
        "prompts": {"sources": prompts},
        "revise": {"num_revisions": 1},
        "sft": {},
        "pairs": {},
        "labels": {},
        "report": {},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run = folder / "out" / "run"
    rows = [prompt(k, name) for name in sources for k in range(num)]
    finished(spec_of(run / "load_prompts", "load_prompts", PROMPT_IDS), PROMPT, rows[:4], rows[4:])
    finished(spec_of(run / "revise", "revise", REVISION_IDS), REVISION, [revision(row) for row in rows])
    spec = spec_of(run / "train_sft", "train_sft", EXAMPLE_IDS)
    finished(spec, SFT_EXAMPLE, [example(row) for row in rows])
    labels = spec_of(run / "label_comparisons", "label_comparisons", PAIR_IDS)
    finished(labels, PREFERENCE, [preference(row) for row in rows])
    files = {
        "model.safetensors": os.urandom(5000),
        "config.json": b"{}",
        "README.md": b"---\ntags: [sft]\n---\n# SL-CAI\n",
    }
    for name, content in files.items():
        (run / "train_sft" / "model").mkdir(exist_ok=True)
        (run / "train_sft" / "model" / name).write_bytes(content)
    manifest = json.loads((run / "train_sft" / "manifest.json").read_text())
    records = [{"name": f"model/{n}", "num_rows": 0, "size_bytes": len(c), "sha256": ""} for n, c in files.items()]
    (run / "train_sft" / "manifest.json").write_text(json.dumps(manifest | {"model_files": records}))
    Storage(str(run)).write("recipe.json", load(path).model_dump_json().encode())
    write_report(load(path), None)
    return path


def start(hub: Hub, recipe: Path, *arguments: str, token: str | None = TOKEN, to: str = "hf://lab/set") -> Any:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(hub.folder / "home")}
    environment |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "cai_ray.cli", "publish", str(recipe), to, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def publish(hub: Hub, recipe: Path, *arguments: str, code: int = 0, **more: Any) -> str:
    """What the command said; the token is nowhere in it."""
    process = start(hub, recipe, *arguments, **more)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == code, said
    assert TOKEN not in said
    return " ".join(said.split())


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_serving(tmp_path / "hub") as found:
        yield found


@pytest.mark.slow
def test_a_run_is_read_back_and_a_second_push_sends_nothing(tmp_path: Path, hub: Hub) -> None:
    from datasets import load_dataset

    recipe = a_run(tmp_path, "open")
    said = publish(hub, recipe, "--private")
    assert f"Published: {hub.url}/datasets/lab/set" in said and f"Published: {hub.url}/lab/set-sl_cai" in said
    assert hub.repos == {"datasets/lab/set": True, "models/lab/set-sl_cai": True}
    pushed = hub.folder / "datasets" / "lab" / "set"
    cache = str(tmp_path / "cache")
    for name, num_train in (("prompts", 4), ("revisions", 4), ("sft", 4), ("preferences", 4), ("comparisons", 4)):
        read = load_dataset(str(pushed), name, cache_dir=cache)
        assert {split: len(rows) for split, rows in read.items()} == {"train": num_train, "test": 2}
    by_default = load_dataset(str(pushed), cache_dir=cache, split="train")
    assert by_default[0]["chosen"] == [{"role": "assistant", "content": "Please."}]
    head, text = front_matter((pushed / "README.md").read_text())
    assert head["license"] == "mit" and [one["config_name"] for one in head["configs"] if one.get("default")]
    for told in ("| open | 24 | MIT |", "- **", "num_revisions: 1", "## Rows", "| revise | finished |"):
        assert told in text
    assert "private.example" not in text and "api_key_env" not in text and str(tmp_path / "out") not in text
    model = hub.folder / "models" / "lab" / "set-sl_cai"
    assert sorted(path.name for path in model.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    head, text = front_matter((model / "README.md").read_text())
    assert head == {"tags": ["sft"], "license": "apache-2.0", "datasets": ["lab/set"]} and "# SL-CAI" in text
    publish(hub, recipe, "--private")
    assert set(hub.uploads.values()) == {1} and len(hub.commits) == 2


@pytest.mark.slow
def test_an_interrupted_push_goes_on(tmp_path: Path, hub: Hub) -> None:
    recipe = a_run(tmp_path, "open")
    hub.hang_from = 2
    process = start(hub, recipe)
    assert hub.hung.wait(60)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in process.communicate(timeout=60)[0] and process.returncode == 75
    assert len(hub.uploads) == 2 and not hub.commits
    hub.hang_from = None
    publish(hub, recipe)
    assert set(hub.uploads.values()) == {1} and len(hub.uploads) == 11 and len(hub.commits) == 2


@pytest.mark.slow
def test_rows_that_may_not_be_published(tmp_path: Path, hub: Hub) -> None:
    recipe = a_run(tmp_path, "open", "closed", "riddle")
    said = publish(hub, recipe, code=2)
    assert "24 rows of 'closed', under CC BY-ND 4.0" in said and "say it with --license riddle=LICENCE" in said
    assert not hub.repos
    publish(hub, recipe, "--license", "riddle=odc-by", "--leave-out", "closed", "--only", "data")
    pushed = hub.folder / "datasets" / "lab" / "set"
    for kind in ("prompts", "revisions", "sft", "preferences", "comparisons"):
        tables = [pq.read_table(path) for path in sorted((pushed / kind).glob("*.parquet"))]
        ids = [str(next(iter(row.values()))) for table in tables for row in table.to_pylist()]
        assert len(ids) == 12 and not [one for one in ids if "closed" in one]
    assert front_matter((pushed / "README.md").read_text())[0]["license"] == ["mit", "odc-by"]
    publish(hub, recipe, "--license", "riddle=mit", "--allow-license", "cc-by-nd-4.0", "--only", "data")
    assert "| closed | 24 | CC BY-ND 4.0 |" in (pushed / "README.md").read_text()
    assert "is no source of this run" in publish(hub, recipe, "--leave-out", "clsed", code=2)


@pytest.mark.slow
def test_what_stands_in_the_way_is_told(tmp_path: Path, hub: Hub) -> None:
    recipe = a_run(tmp_path, "open")
    assert "no token for the hub: set HF_TOKEN" in publish(hub, recipe, code=2, token=None)
    assert "does not take the token" in publish(hub, recipe, code=2, token="hf_wrong")
    told = publish(hub, recipe, code=2, to="hf://nobody/set")
    assert "no user or organisation 'nobody'" in told and "HTTP 403" in told
    assert "write hf://org/name" in publish(hub, recipe, code=2, to="lab/set")
    assert "the hub does not answer" in publish(Hub(hub.folder, url="http://127.0.0.1:9"), recipe, code=75)
    hub.repos["datasets/lab/set"] = False
    assert "is there already and public" in publish(hub, recipe, "--private", code=2)
    (tmp_path / "out" / "run" / "report" / "report.md").unlink()
    assert "has no report yet" in publish(hub, recipe, code=2)


def test_licences_come_from_recipe_card_and_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {"org/set": "cc-by-4.0", "org/none": None}
    monkeypatch.setattr("cai_ray.publishing.sources.licence_on_hub", lambda repo, kind: cards[repo])
    sources = [
        {"path": "a.jsonl", "license": "MIT"},
        {"path": "hf://org/set:default:train"},
        {"path": "hf://org/none"},
        {"path": "microworld"},
    ]
    path = tmp_path / "recipe.yaml"
    more = {"revise": {}, "expand": {"num_new": 3}, "sft": {"examples": [{"path": "own.jsonl"}]}}
    path.write_text(yaml.safe_dump({"name": "r", "prompts": {"sources": sources}, **more}))
    recipe = written(path)
    found = licences_of(recipe, {})
    assert found == {
        "a": "MIT",
        "org/set": "cc-by-4.0",
        "org/none": None,
        "microworld": "apache-2.0",
        "own": None,
        "expanded": None,
    }
    told = licences_of(recipe, {"org/none": "odbl", "own": "mit"})
    assert (told["own"], told["expanded"]) == ("mit", "MIT + cc-by-4.0 + odbl + apache-2.0")


def test_rows_of_your_own_sets_are_known_by_their_ids(tmp_path: Path) -> None:
    rows = [preference(prompt(0, "open")), preference(prompt(1, "open")) | {"pair_id": "mine:v2:17", "prompt_id": "x"}]
    artifacts = {
        "load_prompts": finished(spec_of(tmp_path / "p", "load_prompts", PROMPT_IDS), PROMPT, [prompt(0, "open")]),
        "label_comparisons": finished(spec_of(tmp_path / "l", "label_comparisons", PAIR_IDS), PREFERENCE, rows),
    }
    origins = Origins(artifacts)
    assert origins.counted(artifacts) == {"open": 2, "mine:v2": 1}  # a prompt and a pair, and a pair
    (prompts, preferences, comparisons) = write(artifacts, origins, {"mine:v2"}, tmp_path / "out")
    assert [one.kind.name for one in (prompts, preferences, comparisons)] == ["prompts", "preferences", "comparisons"]
    assert preferences.num_rows == {"test": 1} and comparisons.num_rows == {"test": 1}
    assert origins.counted({"label_comparisons": artifacts["label_comparisons"]}) == {"open": 1, "mine:v2": 1}
    no_prompts = Origins({"label_comparisons": artifacts["label_comparisons"]})
    assert set(no_prompts.counted(artifacts)) >= {"mine:v2"}
