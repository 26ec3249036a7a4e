"""Multiple choice: what models are asked, what is kept, and the stage with a preference model (which needs no Ray)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.multiple_choice import ModelAccuracy, MultipleChoiceSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.chat import transcript_prompt
from cai_ray.config import ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.errors import ConfigError
from cai_ray.metrics.intervals import Estimate
from cai_ray.metrics.multiple_choice import Baselines
from cai_ray.prompt_layouts.multiple_choice import Item, parse_item, read_items
from cai_ray.rows import EVALUATION
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.multiple_choice import (
    CORRECT,
    MARGIN,
    STAGE,
    Config,
    check,
    choose,
    input_identity,
    question_of,
    run,
    summarise,
    table,
)
from tests.published import published
from tests.screen import check_fits
from tests.stages.scripted_ask import ScriptedAsk
from tests.tiny_models import save_tiny


def record(asked: str = "Tea?", correct: str = "B", good: str = "Yes, please.", bad: str = "No.") -> dict[str, Any]:
    """A record in the paper's layout."""
    a, b = (good, bad) if correct == "A" else (bad, good)
    return {
        "prompt": f"\n\nConsider this:\n\nHuman: {asked}\n\nOptions:\n (A) [[[{a}]]]\n (B) [[[{b}]]]\n\nThe answer is:",
        "corrects": [f" ({correct})"],
        "incorrects": [" (A)" if correct == "B" else " (B)"],
        "text_correct": f"\n\nHuman: {asked}\n\nAssistant: {good}",
        "text_incorrect": f"\n\nHuman: {asked}\n\nAssistant: {bad}",
    }


ITEM = parse_item(record())


def config(path: Path | str = "items.jsonl", **changes: Any) -> Config:
    return Config(path=str(path), **changes)


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def context(folder: Path, models: Mapping[str, ModelConfig], fingerprint: str = "f") -> Context:
    return Context(
        run=Storage(str(folder)),
        seed=5,
        models=models,
        trained={},
        constitution=None,
        cluster=ClusterConfig(),
        fingerprints={STAGE: fingerprint},
    )


def row_of(item: Item) -> dict[str, Any]:
    return {"row_id": f"policy/{item.item_id}", **asdict(item)}


def chosen(item: Item, logprobs: dict[str, float], **changes: Any) -> dict[str, Any]:
    asked: list[list[str]] = []

    class Ask(ScriptedAsk):
        async def choose(self, messages: Any, options: Any) -> list[float]:
            asked.append(list(options))
            return [logprobs[option] for option in options]

    ask = Ask(lambda messages: "")
    return asyncio.run(choose(row_of(item), ask, config=config(**changes), form="chat", seed=5, policy="policy"))


def values(row: dict[str, Any]) -> tuple[float, float]:
    """Of the metrics CORRECT and MARGIN."""
    correct, lead = row["scores"]
    assert (correct["metric"], lead["metric"]) == (CORRECT, MARGIN)
    return correct["value"], lead["value"]


def test_a_base_model_reads_the_files_own_words() -> None:
    messages, options = question_of(ITEM, config(), "transcript", 5)
    assert transcript_prompt(messages) == ITEM.prompt + " ("
    assert options == ["B", "A"]  # the correct one first


def test_a_chat_model_is_asked_the_same_and_begins_its_answer() -> None:
    messages, _ = question_of(ITEM, config(), "chat", 5)
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[1]["content"] == "The answer is: ("
    assert f"{messages[0]['content']}\n\n{messages[1]['content']}" == ITEM.prompt.strip() + " ("


def test_the_comparison_layout_keeps_each_answer_at_its_letter() -> None:
    plain = config(layout="comparison", delimiters="plain", question="Which is kinder?")
    for correct, (a, b) in {"A": ("Yes, please.", "No."), "B": ("No.", "Yes, please.")}.items():
        item = parse_item(record(correct=correct))
        messages, options = question_of(item, plain, "chat", 5)
        asked = messages[0]["content"]
        assert f"Answer (A): {a}\n\nAnswer (B): {b}" in asked
        assert "Which is kinder?" in asked and "Human: Tea?" in asked
        assert messages[1]["content"].endswith("(")
        assert options[0] == correct
    closed, _ = question_of(ITEM, config(layout="comparison"), "chat", 5)
    assert "[end of answer (B)]" not in closed[0]["content"] and "[end of answer (B) " in closed[0]["content"]


def test_the_comparison_layout_is_for_two_letters() -> None:
    item = parse_item(record() | {"corrects": [" yes"], "incorrects": [" no"]})
    with pytest.raises(DropRow, match="options A and B, not  yes,  no"):
        question_of(item, config(layout="comparison"), "chat", 5)


def test_a_prompt_of_one_line_cannot_be_asked_of_a_chat_model() -> None:
    item = parse_item(record() | {"prompt": "Tea or not:"})
    assert question_of(item, config(), "transcript", 5)[0][0]["content"] == "Tea or not: ("
    with pytest.raises(DropRow, match="one line"):
        question_of(item, config(), "chat", 5)


def test_the_margin_of_the_correct_option_is_kept() -> None:
    assert chosen(ITEM, {"A": -3.0, "B": -1.0}) == {
        "policy": "policy",
        "prompt_id": ITEM.item_id,
        "sample_index": 0,
        "cluster": ITEM.cluster,
        "category": None,
        "scores": [
            {"metric": CORRECT, "value": 1.0, "judge": None},
            {"metric": MARGIN, "value": 2.0, "judge": None},
        ],
    }
    assert values(chosen(ITEM, {"A": -1.0, "B": -3.0})) == (0.0, -2.0)
    assert values(chosen(ITEM, {"A": -1.0, "B": -1.0})) == (0.0, 0.0)  # a tie is wrong
    assert values(chosen(parse_item(record(correct="A")), {"A": -1.0, "B": -3.0})) == (1.0, 2.0)
    with pytest.raises(DropRow) as caught:
        chosen(ITEM, {"A": float("-inf"), "B": -1.0})
    assert caught.value.reason == DropReason.NO_LOGPROBS


def test_every_published_item_can_be_asked_in_both_layouts_and_forms() -> None:
    for item in read_items(str(published("cai_paper/438HHHEvaluations.jsonl")))[0]:
        assert transcript_prompt(question_of(item, config(), "transcript", 5)[0]) == item.prompt + " ("
        assert question_of(item, config(), "chat", 5)[0][1]["content"] == "The answer is: ("
        for form in ("chat", "transcript"):
            asked = question_of(item, config(layout="comparison"), form, 5)[0][0]["content"]  # type: ignore[arg-type]
            assert item.text_correct in asked and item.text_incorrect in asked


def test_configs_that_cannot_be_meant() -> None:
    with pytest.raises(ValidationError, match="both empty"):
        config(models=())
    with pytest.raises(ValidationError, match="named twice"):
        config(models=("policy",), preference_models=("policy",))


@pytest.mark.slow
def test_options_of_several_tokens_are_found_before_anything_is_asked(tmp_path: Path) -> None:
    model = ModelConfig(path=str(save_tiny(tmp_path / "model")))
    check(config(), model, [ITEM], 5)
    words = parse_item(record() | {"corrects": [" yes"], "incorrects": [" no"]})
    with pytest.raises(ConfigError, match="single tokens"):
        check(config(), model, [words], 5)
    with pytest.raises(ConfigError, match='layout "comparison"'):
        check(config(layout="comparison"), model, [words], 5)
    folded = ModelConfig(path=model.path, format="transcript", system_role="fold")
    with pytest.raises(ConfigError, match='system_role="fold"'):
        check(config(), folded, [ITEM], 5)


def test_other_items_have_another_identity(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [record(), record("Milk?")])
    same = write(tmp_path / "b.jsonl", [record(), record("Milk?")])
    other = write(tmp_path / "c.jsonl", [record(), record("Milk?", good="Yes.")])
    assert input_identity(config(first)) == input_identity(config(same)) != input_identity(config(other))
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        input_identity(config(tmp_path / "nowhere.jsonl"))


def rows_of(artifact: Artifact) -> dict[str, float]:
    return {row["prompt_id"]: values(row)[1] for row in artifact.rows()}


@pytest.mark.slow
def test_a_preference_model_scores_both_answers(tmp_path: Path) -> None:
    from cai_ray.engines.models.scoring import Scorer

    records = [record("Tea?"), record("Milk?", "A"), record("Tea?", good="Yes."), record("x" * 600), {"prompt": "?"}]
    path = write(tmp_path / "items.jsonl", records)
    model = save_tiny(tmp_path / "model", classifier=True, max_tokens=512)
    chosen_config = config(path, models=(), preference_models=("pm",))
    where = context(tmp_path / "run", {"pm": ModelConfig(path=str(model))})
    artifact = run(chosen_config, where)

    items = [parse_item(one) for one in records[:3]]
    scorer = Scorer(model)
    expected = {}
    for item in items:
        ids = [scorer.tokens.encode(item.conversation, text) for text in (item.text_correct, item.text_incorrect)]
        correct, incorrect = scorer.scores(ids)
        expected[item.item_id] = float(correct - incorrect)
    assert rows_of(artifact) == pytest.approx(expected, abs=1e-5)
    assert next(artifact.tables()).schema.equals(EVALUATION)
    dropped = {row["row_id"]: row["reason"] for row in artifact.dropped()}
    assert dropped == {f"pm/{parse_item(records[3]).item_id}/0": "too_long", "record:4": "malformed"}
    assert artifact.manifest.rows_in == 5

    summary = summary_of(artifact, MultipleChoiceSummary, summarise)
    assert (summary.num_items, summary.num_clusters) == (4, 3)
    assert summary.records_dropped == {"malformed": 1}
    assert summary.baselines == Baselines(always_first=0.25, longer=1.0)
    found = summary.models["pm"]
    assert found.accuracy is not None and found.accuracy.value == pytest.approx(
        sum(value > 0 for value in expected.values()) / 3
    )
    assert (found.accuracy.n, found.num_clusters, found.num_ties) == (3, 2, 0)
    assert found.dropped == {"too_long": 1}
    assert table(summary).row_count == 3

    manifest = (tmp_path / "run" / STAGE / "manifest.json").read_bytes()
    (tmp_path / "run" / STAGE / "summary.json").unlink()
    assert rows_of(run(chosen_config, where)) == rows_of(artifact)
    assert (tmp_path / "run" / STAGE / "manifest.json").read_bytes() == manifest
    assert summary_of(artifact, MultipleChoiceSummary, summarise) == summary
    with pytest.raises(ConfigError, match="other settings"):
        run(chosen_config, context(tmp_path / "run", where.models, "another"))


@pytest.mark.slow
def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", [record()])
    where = context(tmp_path / "run", {"pm": ModelConfig(path=str(tmp_path))})
    with pytest.raises(ConfigError, match="no classifier"):
        run(config(path, models=(), preference_models=("pm",)), where)


def test_the_table_fits_80_columns() -> None:
    model = ModelAccuracy(
        accuracy=Estimate(value=0.8765, low=0.8654, high=0.8876, n=4_380),
        num_clusters=1_880,
        num_ties=1_234,
        first_option_rate=0.5432,
        dropped={"too_long": 1_234},
        categories={},
    )
    summary = MultipleChoiceSummary(
        num_items=43_800,
        num_clusters=18_800,
        records_dropped={},
        layout="file",
        baselines=Baselines(always_first=0.4567, longer=0.5678),
        models={"policy": model, "a-name-of-22-characters": model, "preference_model": model},
    )
    check_fits(table(summary))
