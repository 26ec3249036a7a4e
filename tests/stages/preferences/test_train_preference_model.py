"""The preference model's config, card and summary; pairs written and read back. Training itself: tests/cluster."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cai_ray.artifacts.artifact import Artifact, OpenStage, open_stage
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.preference_model import PreferenceModelSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.config import ModelConfig
from cai_ray.errors import ConfigError
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import EVAL_SCORE, EVAL_SCORES
from cai_ray.stages.pair_files import PairFiles
from cai_ray.stages.preferences.comparisons import PairOptions
from cai_ray.stages.preferences.pair_sources import HelpfulPairsConfig
from cai_ray.stages.preferences.preference_model_summary import (
    source_scores,
    summarise,
    table,
)
from cai_ray.stages.preferences.train_preference_model import Config, model_card
from cai_ray.stages.preferences.training_pairs import WrittenPairs, write_pairs
from tests.finished_stages import spec_of
from tests.label_artifacts import STAGE, context, label
from tests.screen import check_fits


def letters(messages: list[dict[str, str]], answer: str) -> tuple[list[int], list[int]]:
    return [ord(letter) % 128 for letter in messages[-1]["content"]], [ord(letter) % 128 for letter in answer]


def opened(folder: Path, rows: list[dict[str, Any]]) -> tuple[OpenStage, Artifact]:
    """A stage folder to fill, and the labels to fill it from."""
    where = context(folder, "no-model", "train", rows)
    stage = open_stage(spec_of(where.folder("train"), "train", PAIR_IDS))
    assert isinstance(stage, OpenStage)
    return stage, where.artifact(STAGE)


def written(folder: Path, num_labels: int, options: PairOptions) -> WrittenPairs:
    stage, source = opened(folder, [label(k) for k in range(num_labels)])
    return write_pairs(stage, options, source, letters, 4096, seed=1)


def test_pairs_are_written_once_and_read_back_by_weight(tmp_path: Path) -> None:
    options = PairOptions(ai_weight=1.5, helpful_pairs=(HelpfulPairsConfig(num_pairs=50, weight=0.5),))
    pairs = written(tmp_path, 80, options)
    once, evaluation = pairs.files.pairs("train"), pairs.files.pairs("eval")
    train = once.take(pa.array(pairs.files.order(once)))
    assert (train.num_rows, evaluation.num_rows) == (pairs.num_train, pairs.num_eval)
    assert len(pairs.input_ids) == 130
    seen: dict[str, int] = {}
    for row in train.select(["pair_id", "label_source"]).to_pylist():
        seen[row["pair_id"]] = seen.get(row["pair_id"], 0) + 1
    assert set(seen.values()) == {1, 2}
    assert 1.3 < train["label_source"].to_pylist().count("ai") / sum(":" not in pair_id for pair_id in seen) < 1.7
    assert len(set(evaluation["pair_id"].to_pylist())) == evaluation.num_rows
    assert not set(seen) & set(evaluation["pair_id"].to_pylist())


def test_a_second_attempt_writes_the_same(tmp_path: Path) -> None:
    stage, source = opened(tmp_path, [label(k) for k in range(40)])
    first = write_pairs(stage, PairOptions(), source, letters, 4096, seed=1)
    again = open_stage(stage.spec)
    assert isinstance(again, OpenStage) and len(again.parts) == 1
    second = write_pairs(again, PairOptions(), source, letters, 4096, seed=1)
    assert first.files == second.files and sorted(first.input_ids) == sorted(second.input_ids)
    assert again.commit(second.input_ids).manifest.rows_out == 40


def test_targets(tmp_path: Path) -> None:
    soft = written(tmp_path / "soft", 20, PairOptions()).files
    hard = written(tmp_path / "hard", 20, PairOptions(targets="hard")).files
    pairs = soft.pairs("train")
    assert soft.targets(pairs) == pairs["prob_chosen"].to_pylist() != hard.targets(pairs)
    assert set(hard.targets(pairs)) == {1.0}


def test_data_sets_for_both_trainers(tmp_path: Path) -> None:
    files = written(tmp_path, 20, PairOptions()).files
    whole, apart = files.whole("train"), files.completions("train")
    assert whole is not None and apart is not None
    assert set(whole.column_names) == {"chosen_ids", "rejected_ids", "prob_chosen"}
    assert apart[0]["prompt_ids"] == files.pairs("train")["prompt_tokens"][0].as_py()
    evaluated = files.whole("eval")
    assert evaluated is not None and len(evaluated) == files.pairs("eval").num_rows > 3
    few = replace(files, eval_pairs=3).completions("eval")
    assert few is not None and len(few) == 3
    assert written(tmp_path / "all", 20, PairOptions(eval_fraction=0)).num_eval == 5  # split test is never trained on


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    stage, source = opened(tmp_path, [label(0), label(4)])  # split test
    with pytest.raises(ConfigError, match=r"of 2 comparisons 2 are for evaluation and none is left"):
        write_pairs(stage, PairOptions(), source, letters, 4096, seed=1)


def row(margin: float, prob: float, prompt: str, source: str = "ai") -> dict[str, Any]:
    return {
        "pair_id": f"{prompt}/{margin}",
        "prompt_id": prompt,
        "label_source": source,
        "prob_chosen": prob,
        "score_chosen": margin + 1,
        "score_rejected": 1.0,
    }


def test_scores_of_a_source_by_hand() -> None:
    found = source_scores([row(2.0, 1.0, "a"), row(-1.0, 0.6, "b"), row(0.0, 0.9, "c"), row(800.0, 1.0, "d")])
    assert found is not None
    assert found.num_pairs == 4 and found.accuracy.value == 0.5  # a tie is no hit
    probs, targets = [0.880797, 0.731059, 0.5, 1.0], [1.0, 0.4, 0.9, 1.0]
    expected = sum((p - t) ** 2 for p, t in zip(probs, targets, strict=True)) / 4
    assert found.calibration.brier == pytest.approx(expected, abs=1e-5)
    assert found.calibration.bins[0].low == 0.5
    assert source_scores([]) is None


SCORES = {
    "scored_token": "<end>",
    "system_role": "native",
    "score_mean": 0.0,
    "score_std": 1.5,
    "score_offset": -0.25,
    "score_noise": 0.01,
    "num_answers": 40,
}


def test_summary_and_table(tmp_path: Path) -> None:
    stage, source = opened(tmp_path, [label(k) for k in range(20)])
    stage.plan = stage.plan.model_copy(update={"config": {"targets": "soft"}})
    pairs = write_pairs(stage, PairOptions(), source, letters, 4096, seed=1)
    artifact = stage.commit(pairs.input_ids)
    scores = [row(1.0, 0.8, "a"), row(-1.0, 0.8, "b"), row(2.0, 1.0, "c", "human")]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(scores, EVAL_SCORE), sink)
    artifact.folder.write(EVAL_SCORES, sink.getvalue())
    artifact.folder.write("model/config.json", json.dumps({"cai_ray": SCORES}).encode())
    summary = summary_of(artifact, PreferenceModelSummary, summarise)
    assert summary.scores.model_dump() == SCORES and summary.targets == "soft"
    assert summary.sources["ai"].accuracy.value == 0.5
    assert summary.sources["human"].num_pairs == 1
    assert summary == summary_of(artifact, PreferenceModelSummary, summarise)
    shown = table(summary)
    assert shown is not None and shown.row_count == 2
    check_fits(shown)
    assert table(summary.model_copy(update={"sources": {}})) is None


def test_config_and_card() -> None:
    config = Config()
    assert (config.model, config.targets, config.keep) == ("sl_cai", "soft", "last")
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Config.model_validate({"epochs": 3})
    files = PairFiles(Storage("nowhere"), (), 0, True, 10)
    card = model_card(
        config, ModelConfig(path="/models/some-policy"), WrittenPairs(files, pa.array([]), 12, 3), "<end>"
    )
    assert card.startswith("---\n") and "`some-policy`" in card and "`<end>`" in card and "/models" not in card
