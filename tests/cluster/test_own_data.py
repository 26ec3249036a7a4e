"""The five recipes that begin with data or models of one's own, each from the command to its end on small files."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cai_ray.artifacts.artifact import Artifact, Manifest
from cai_ray.artifacts.storage import Storage
from cai_ray.chat import messages_to_transcript
from cai_ray.cli import app
from cai_ray.microworld.language import answer, sample_request
from tests.field.server import serving
from tests.policy_jobs import save_reward_model
from tests.tiny_policy import save_tiny_policy

pytestmark = pytest.mark.slow
ENGINE = {"max_num_seqs": 16, "max_num_batched_tokens": 2048, "kv_cache_gib": 0.25}
OPTIM = {"learning_rate": 1e-3, "batch_size": 8, "epochs": 1}
WORKERS = {"threads": 1, "steps_per_checkpoint": 50}


def pairs(num: int, seed: int = 0) -> list[tuple[list[dict[str, str]], str, str]]:
    """(prompt, a refusal, compliance) of the micro world."""
    rng = random.Random(seed)
    requests = [sample_request(rng, harmful=True, split="train") for _ in range(num)]
    return [(list(one.messages), answer(rng, one.task, "refuse"), answer(rng, one.task, "comply")) for one in requests]


def write(file: Path, records: Sequence[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records).encode()
    file.write_bytes(gzip.compress(lines) if file.suffix == ".gz" else lines)


def run(name: str, **settings: Any) -> Storage:
    """`cai-ray run NAME` in the working directory, with these settings; the run's folder."""
    given = {"output": "runs", **settings}
    sets = [word for key, value in given.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    done = CliRunner().invoke(app, ["run", name, *sets], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (Path("runs") / name / "report" / "report.html").is_file()
    return Storage(str(Path("runs") / name))


def manifest(run: Storage, stage: str) -> Manifest:
    return Artifact(run / stage).manifest


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_labels_only(ray_session: None, tmp_path: Path) -> None:
    records = [{"prompt": asked, "response_a": no, "response_b": yes} for asked, no, yes in pairs(12)]
    same = {"prompt": "Q", "response_a": "the same", "response_b": "the  same"}
    write(tmp_path / "data" / "pairs.jsonl", [*records, "{broken", same, records[0]])
    with serving() as server:
        endpoint = {"endpoint": {"base_url": server.url, "model": "m"}}
        made = run(
            "labels-only",
            models={"feedback": endpoint},
            **{"labels.orders": "stored", "labels.max_dropped_fraction": 0.5},
        )
    loaded = manifest(made, "load_pairs")
    assert (loaded.rows_in, loaded.rows_out) == (15, 12)
    assert loaded.rows_dropped == {"duplicate": 1, "identical": 1, "malformed": 1}
    assert manifest(made, "label_comparisons").rows_out == 12
    labels = list(Artifact(made / "label_comparisons").rows())
    assert {row["pair_id"] for row in labels} == {f"pairs:{k}" for k in range(12)}
    assert {row["chosen"] for row in labels} <= {text for _, *texts in pairs(12) for text in texts}
    assert 0 < sum(row["chosen"] == no for row, (_, no, _) in zip(labels, pairs(12), strict=True)) < 12, "A is drawn"


def test_preference_model_only(ray_session: None, tmp_path: Path) -> None:
    policy = save_tiny_policy(tmp_path / "policy")
    for number, name in enumerate(("harmless-base/train", "helpful-base/train", "harmless-base/test")):
        records = [
            {
                side: messages_to_transcript([*asked, {"role": "assistant", "content": text}])
                for side, text in (("chosen", no), ("rejected", yes))
            }
            for asked, no, yes in pairs(24, seed=number)
        ]
        write(tmp_path / "data" / "hh-rlhf" / f"{name}.jsonl.gz", records)
    rated = [
        {"prompt": asked[0]["content"], "response": text, "helpfulness": number}
        for asked, no, yes in pairs(6, seed=9)
        for text, number in ((no, 4), (yes, 1))
    ]
    write(tmp_path / "data" / "hh-rlhf" / "helpful-base" / "test.jsonl.gz", rated)
    made = run(
        "preference-model-only",
        models={"policy": {"path": str(policy)}},
        **{"preference_model.optim": OPTIM, "preference_model.workers": WORKERS, "preference_model.max_length": None},
    )
    trained = manifest(made, "train_preference_model")
    assert (
        trained.rows_in == 78
        and not trained.rows_dropped
        and "model/config.json" in {file.name for file in trained.model_files}
    )
    rows = list(Artifact(made / "train_preference_model").rows())
    assert {row["pair_id"] for row in rows} >= {"harmless:23", "helpful_test:0", "helpful_test:10"}
    assert {row["split"] for row in rows if row["pair_id"].startswith("helpful_test")} == {"eval"}
    assert not (Path("runs") / "preference-model-only" / "load_prompts").exists()


@pytest.mark.long
def test_dpo_on_own_pairs(ray_session: None, tmp_path: Path) -> None:
    policy = save_tiny_policy(tmp_path / "policy")
    told = [{"messages": [*asked, {"role": "assistant", "content": no}]} for asked, no, _ in pairs(24)]
    write(tmp_path / "data" / "examples.jsonl", [*told, told[0], {"messages": told[1]["messages"][:-1]}])
    preferred = [{"prompt": asked[0]["content"], "chosen": no, "rejected": yes} for asked, no, yes in pairs(24, seed=1)]
    write(tmp_path / "data" / "preferences.jsonl", preferred)
    made = run(
        "dpo-own-pairs",
        models={"policy": {"path": str(policy)}},
        **{
            f"{stage}.{key}": value
            for stage in ("sft", "dpo")
            for key, value in (("optim", OPTIM), ("workers", WORKERS))
        },
        **{"sft.max_length": None, "dpo.max_length": None},
    )
    taught = manifest(made, "train_sft")
    assert (taught.rows_in, taught.rows_out, taught.rows_dropped) == (26, 24, {"duplicate": 1, "malformed": 1})
    assert {row["source"] for row in Artifact(made / "train_sft").rows()} == {"own"}
    assert manifest(made, "train_dpo").rows_out == 24
    card = (Path("runs") / "dpo-own-pairs" / "train_sft" / "model" / "README.md").read_text()
    assert "on the examples of examples" in card


@pytest.mark.long
def test_ppo_from_a_policy_and_a_reward_model(ray_session: None, micro_model: Path, tmp_path: Path) -> None:
    reward = save_reward_model(micro_model, tmp_path / "reward")
    write(tmp_path / "data" / "prompts.jsonl", [{"prompt": asked[0]["content"]} for asked, *_ in pairs(20)])
    made = run(
        "ppo-from-hub",
        models={"policy": {"path": str(micro_model), "engine": ENGINE}, "reward": {"path": str(reward)}},
        **{
            "ppo.prompts": {"path": "data/prompts.jsonl"},
            "ppo.num_steps": 2,
            "ppo.prompts_per_step": 8,
            "ppo.sampling": {"max_tokens": 16},
            "ppo.optim": {"learning_rate": 1e-4, "batch_size": 8, "epochs": 1},
            "ppo.workers": {"threads": 1},
        },
    )
    loaded = manifest(made, "load_ppo_prompts")
    assert loaded.stage == "load_ppo_prompts" and loaded.rows_in == 20 and loaded.rows_out + loaded.num_dropped == 20
    trained = manifest(made, "train_ppo")
    assert trained.rows_out == 16 and "model/config.json" in {file.name for file in trained.model_files}


def test_two_models_are_evaluated(ray_session: None, micro_model: Path, tmp_path: Path) -> None:
    write(tmp_path / "data" / "prompts.jsonl", [{"prompt": asked[0]["content"]} for asked, *_ in pairs(12)])
    model = {"path": str(micro_model), "engine": ENGINE}
    other = {"path": str(save_tiny_policy(tmp_path / "other")), "engine": ENGINE}
    made = run("evaluate-two", models={"policy": model, "other": other}, **{"evaluate.sampling": {"max_tokens": 24}})
    rows = list(Artifact(made / "evaluate").rows())
    num = manifest(made, "load_prompts").rows_out
    assert sorted({row["policy"] for row in rows}) == ["other", "policy"] and len(rows) == 2 * num
    assert not (Path("runs") / "evaluate-two" / "revise").exists()
