"""Exports: what is in them, that stock `datasets` reads them and that stock TRL trainers train on them unchanged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cai_ray.row_ids import RowIds
from tests.finished_stages import finished, spec_of

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: nothing here needs a network

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError
from cai_ray.rows import PREFERENCE, SFT_EXAMPLE
from cai_ray.stages.exports import Export, export_comparisons, export_preferences, export_sft, preference_rows, sft_rows
from tests.tiny_models import byte_tokenizer, save_tiny


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def example(k: int, split: str = "train") -> dict[str, Any]:
    before = [user("Hi."), assistant("Hello.")] if k % 2 else []
    return {
        "example_id": f"p{k}/0/{'helpful' if k % 3 == 0 else 0}",
        "prompt_id": f"p{k}",
        "messages": [*before, user(f"Request {k}?"), assistant(f"Answer {k}.")],
        "source": "helpful" if k % 3 == 0 else "revised",
        "revision_index": None if k % 3 == 0 else 0,
        "weight": 0.5 + k,
        "split": split,
    }


def reading(principle: str, swapped: bool, prob_a: float) -> dict[str, Any]:
    return {
        "principle_id": principle,
        "swapped": swapped,
        "logprob_a": -0.5,
        "logprob_b": -1.5,
        "prob_a": prob_a,
        "rationale": "A is kinder." if swapped else None,
        "judge": None,
        "num_verdicts": None,
    }


def preference(k: int, split: str = "train", source: str = "ai") -> dict[str, Any]:
    return {
        "pair_id": f"p{k}/0-1",
        "prompt_id": f"p{k}",
        "messages": [user(f"Request {k}?")],
        "kind": "red_team",
        "category": None,
        "split": split,
        "chosen": f"I would rather not, {k}.",
        "rejected": f"Sure, {k}.",
        "chosen_is_a": k % 2 == 0,
        "prob_chosen": 0.75,
        "order_flip_rate": 0.0,
        "label_source": source,
        "comparisons": [reading("kind", False, 0.7), reading("legal", True, 0.8)] if source == "ai" else [],
        "num_prompt_tokens": 10,
        "num_cached_tokens": 0,
        "num_output_tokens": 2,
    }


def stored(
    folder: Path, rows: list[list[dict[str, Any]]], schema: pa.Schema, key: str, fingerprint: str = "f"
) -> Artifact:
    """A finished stage with one file per list of rows."""
    return finished(spec_of(folder, "stage", RowIds((key,)), fingerprint), schema, *rows)


@pytest.fixture
def examples(tmp_path: Path) -> Artifact:
    rows = [[example(0), example(1, "eval")], [example(2), example(3), example(4)]]
    return stored(tmp_path / "train_sft", rows, SFT_EXAMPLE, "example_id")


@pytest.fixture
def preferences(tmp_path: Path) -> Artifact:
    rows = [[preference(k) for k in range(4)], [preference(4, "test"), preference(5, source="human")]]
    return stored(tmp_path / "labels", rows, PREFERENCE, "pair_id")


def load(folder: Path, cache: Path) -> Any:
    from datasets import load_dataset

    return load_dataset("parquet", data_dir=str(folder), cache_dir=str(cache))


def test_sft_rows_are_parted_at_the_last_answer() -> None:
    rows = sft_rows(pa.Table.from_pylist([example(0), example(1)], SFT_EXAMPLE)).to_pylist()
    assert rows[0]["prompt"] == [user("Request 0?")]
    assert rows[1]["prompt"] == [user("Hi."), assistant("Hello."), user("Request 1?")]
    for k, row in enumerate(rows):
        assert row["completion"] == [assistant(f"Answer {k}.")]
        assert row["messages"] == row["prompt"] + row["completion"] == example(k)["messages"]
        assert (row["weight"], row["revision_index"]) == (0.5 + k, None if k == 0 else 0)


def test_a_slice_of_a_table_exports_its_own_rows() -> None:
    table = pa.Table.from_pylist([example(k) for k in range(5)], SFT_EXAMPLE)
    assert sft_rows(table.slice(2, 2)).to_pylist() == sft_rows(table).to_pylist()[2:4]
    pairs = pa.Table.from_pylist([preference(k) for k in range(5)], PREFERENCE)
    assert preference_rows(pairs.slice(3)).to_pylist() == preference_rows(pairs).to_pylist()[3:]


def test_datasets_reads_sft_examples(examples: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "exports" / "sft"
    assert export_sft(examples, Storage(str(folder))).num_rows == {"train": 4, "test": 1}
    data = load(folder, tmp_path / "cache")
    assert {split: sorted(rows["example_id"]) for split, rows in data.items()} == {
        "train": ["p0/0/helpful", "p2/0/0", "p3/0/helpful", "p4/0/0"],
        "test": ["p1/0/0"],
    }
    [row] = data["test"]
    assert row["messages"] == example(1)["messages"]
    assert "split" not in row


def test_datasets_reads_preferences_by_folder_and_by_files(preferences: Artifact, tmp_path: Path) -> None:
    from datasets import load_dataset

    folder = tmp_path / "exports" / "preferences"
    assert export_preferences(preferences, Storage(str(folder))).num_rows == {"train": 5, "test": 1}
    data = load(folder, tmp_path / "cache")
    assert (data["train"].num_rows, data["test"].num_rows) == (5, 1)
    [row] = data["test"]
    assert row == {
        "pair_id": "p4/0-1",
        "prompt": [user("Request 4?")],
        "chosen": [assistant("I would rather not, 4.")],
        "rejected": [assistant("Sure, 4.")],
        "prob_chosen": 0.75,
        "order_flip_rate": 0.0,
        "label_source": "ai",
        "kind": "red_team",
        "category": None,
    }
    assert set(data["train"]["label_source"]) == {"ai", "human"}
    files = {split: f"{folder}/{split}/part-*.parquet" for split in ("train", "test")}
    named = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: rows.to_list() for split, rows in named.items()} == {s: rows.to_list() for s, rows in data.items()}
    plain = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert plain["train"].to_list() == data["train"].to_list()


def test_comparisons_are_one_row_per_reading(preferences: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "exports" / "comparisons"
    assert export_comparisons(preferences, Storage(str(folder))).num_rows == {"train": 8, "test": 2}
    rows = load(folder, tmp_path / "cache")["test"].to_list()
    expected = [
        {"pair_id": "p4/0-1", **reading("kind", False, 0.7)},
        {"pair_id": "p4/0-1", **reading("legal", True, 0.8)},
    ]
    assert rows == expected


def test_an_export_is_made_once_and_anew_for_other_rows(preferences: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "exports" / "preferences"
    first = export_preferences(preferences, Storage(str(folder)))
    file = folder / "train" / "part-00000.parquet"
    stamp = file.stat().st_mtime_ns
    assert export_preferences(preferences, Storage(str(folder))) == first
    assert file.stat().st_mtime_ns == stamp
    other = stored(tmp_path / "other", [[preference(9)]], PREFERENCE, "pair_id", fingerprint="g")
    assert export_preferences(other, Storage(str(folder))).num_rows == {"train": 1}
    assert not (folder / "test").exists()
    assert [path.name for path in (folder / "train").iterdir()] == ["part-00000.parquet"]
    assert pq.read_table(file)["pair_id"].to_pylist() == ["p9/0-1"]


def test_case_08_another_attempt_with_the_same_fingerprint_is_exported_anew(
    preferences: Artifact, tmp_path: Path
) -> None:
    folder = tmp_path / "exports" / "preferences"
    first = export_preferences(preferences, Storage(str(folder)))
    preferences.folder.delete_folder()
    again = stored(tmp_path / "labels", [[preference(9)]], PREFERENCE, "pair_id")
    assert again.manifest.fingerprint == first.fingerprint
    second = export_preferences(again, Storage(str(folder)))
    assert (first.num_rows, second.num_rows) == ({"train": 5, "test": 1}, {"train": 1})
    assert second.made_from == again.version != first.made_from
    assert pq.read_table(folder / "train" / "part-00000.parquet")["pair_id"].to_pylist() == ["p9/0-1"]


def test_an_interrupted_export_is_made_anew(preferences: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "exports" / "preferences"
    first = export_preferences(preferences, Storage(str(folder)))
    (folder / "manifest.json").unlink()
    (folder / "train" / "part-00001.parquet").unlink()
    (folder / "train" / "part-00007.parquet").write_bytes(b"left over")
    assert export_preferences(preferences, Storage(str(folder))) == first
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    assert Export.model_validate_json((folder / "manifest.json").read_bytes()) == first


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    human = stored(tmp_path / "human", [[preference(0, source="human")]], PREFERENCE, "pair_id")
    with pytest.raises(ConfigError, match="no row for the export 'comparisons'"):
        export_comparisons(human, Storage(str(tmp_path / "exports")))
    assert not (tmp_path / "exports" / "manifest.json").exists()


# --- Stock trainers -------------------------------------------------------------------------------------

ONE_STEP: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}


def trained(trainer: Any) -> dict[str, Any]:
    """Train; the logged metrics of the first step. Something must have moved."""
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 1
    assert any(not weight.equal(before[name]) for name, weight in trainer.model.named_parameters())
    metrics: dict[str, Any] = trainer.state.log_history[0]
    return metrics


@pytest.mark.slow
def test_a_stock_reward_trainer_takes_a_step(preferences: Artifact, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    export_preferences(preferences, Storage(str(tmp_path / "exports")))
    data = load(tmp_path / "exports", tmp_path / "cache")
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(save_tiny(tmp_path / "model", classifier=True)),
        args=RewardConfig(output_dir=str(tmp_path / "out"), **ONE_STEP),
        train_dataset=data["train"],
        eval_dataset=data["test"],
        processing_class=byte_tokenizer(),
    )
    assert trained(trainer)["loss"] == pytest.approx(0.69, abs=0.1)
    assert trainer.train_dataset.num_rows == 5


@pytest.mark.slow
def test_a_stock_dpo_trainer_takes_a_step(preferences: Artifact, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    export_preferences(preferences, Storage(str(tmp_path / "exports")))
    data = load(tmp_path / "exports", tmp_path / "cache")
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path / "model")),
        args=DPOConfig(output_dir=str(tmp_path / "out"), **ONE_STEP),
        train_dataset=data["train"],
        eval_dataset=data["test"],
        processing_class=byte_tokenizer(),
    )
    assert trained(trainer)["loss"] == pytest.approx(0.693, abs=0.01)  # policy and reference are still the same


@pytest.mark.slow
def test_a_stock_sft_trainer_takes_a_step_and_learns_answers_only(examples: Artifact, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    export_sft(examples, Storage(str(tmp_path / "exports")))
    data = load(tmp_path / "exports", tmp_path / "cache")
    tokenizer = byte_tokenizer()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path / "model")),
        args=SFTConfig(output_dir=str(tmp_path / "out"), **ONE_STEP),
        train_dataset=data["train"],
        eval_dataset=data["test"],
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    learned = {tokenizer.decode([token for token in row if token != -100]) for row in batch["labels"].tolist()}
    assert learned == {f"Answer {k}.<|im_end|>\n" for k in (0, 2, 3, 4)}
    trained(trainer)
