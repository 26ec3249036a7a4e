"""Pairs to annotation tools and back: what people said is read as preferences, each record once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cai_ray.artifacts.storage import Storage
from cai_ray.cli import app
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.annotated import VERDICTS
from cai_ray.prompt_layouts.pairs import JUDGED, ParsedPair
from cai_ray.prompt_layouts.readings import read_by
from cai_ray.prompt_layouts.records import Fields
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import PREFERENCE
from cai_ray.stages.annotation import chosen_pairs, write
from cai_ray.stages.preferences.comparisons import PairOptions, comparisons, training_pair
from tests.finished_stages import finished, spec_of
from tests.label_artifacts import label

TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Human: says a user\n\nAssistant: he said"},
    {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": "Go on."},
]


def labels() -> list[dict[str, Any]]:
    return [label(k) | ({"messages": TURNS} if k == 3 else {}) | {"chosen_is_a": k % 2 == 0} for k in range(8)]


def annotated(tool: str, records: list[dict[str, Any]], verdicts: list[list[str]]) -> list[dict[str, Any]]:
    """The tool's export after people have said `verdicts` of each record, in that tool's words and form."""
    for number, (record, said) in enumerate(zip(records, verdicts, strict=True)):
        if tool == "label_studio":
            record |= {"id": number, "predictions": [], "project": 1, "annotations": []}
            for who, verdict in enumerate(said):
                value = {"selected": {"a": "left", "b": "right"}.get(verdict)}
                result = {"id": "x", "from_name": "preference", "to_name": "answer1,answer2", "type": "pairwise"}
                skipped = verdict == "tie"
                results = [] if skipped else [result | {"value": value}]
                record["annotations"].append({"completed_by": who, "was_cancelled": skipped, "result": results})
        else:
            answers = [{"value": verdict, "user_id": f"user {who}"} for who, verdict in enumerate(said)]
            record |= {"responses": {"preference": answers} if answers else {}, "_server_id": str(number)}
    return records


@pytest.mark.parametrize(("tool", "file"), [("label_studio", "tasks.json"), ("argilla", "records.json")])
def test_there_and_back(tmp_path: Path, tool: Any, file: str) -> None:
    pairs = finished(spec_of(tmp_path / "labels", "label_comparisons", PAIR_IDS), PREFERENCE, labels())
    chosen = chosen_pairs(pairs, None, seed=1)
    assert [row["pair_id"] for row in chosen_pairs(pairs, 3, seed=1)] == [row["pair_id"] for row in chosen[:3]]
    write(tool, chosen, Storage(str(tmp_path / tool)))
    records = json.loads((tmp_path / tool / file).read_text())
    assert not [text for text in ("prob_chosen", "chosen_is_a") if text in json.dumps(records)]  # nobody is swayed
    verdicts = [["a"], ["b"], ["a", "a", "b"], ["a", "b"], [], ["tie"], ["b", "b"], ["a", "tie"]]
    export = tmp_path / f"{tool}-export.json"
    export.write_text(json.dumps(annotated(tool, records, verdicts)))

    options = PairOptions.model_validate({"preferences": [{"path": str(export), "name": "people"}], "eval_fraction": 0})
    ends: list[Any] = []
    for found in comparisons(options, (), seed=1):
        try:
            ends.append(training_pair(found, options, lambda messages, answer: ([1], [2]), 100, seed=1))
        except DropRow as drop:
            ends.append(drop.reason)
    assert len(ends) == 8
    for number, prob, favours_a in ((0, 1.0, True), (1, 1.0, False), (2, 2 / 3, True), (6, 1.0, False)):
        row, pair = ends[number], chosen[number]
        assert row["label_source"] == "human" and row["prob_chosen"] == pytest.approx(prob)
        assert row["prompt"] == pair["messages"] and row["pair_id"] == f"people:{number}"
        better = pair["chosen"] if pair["chosen_is_a"] == favours_a else pair["rejected"]
        assert row["chosen"][0]["content"] == better
    nobody = DropReason.UNJUDGED
    is_skipped = tool == "label_studio"  # where a tie is a task that was skipped
    assert [ends[k] for k in (3, 4, 5)] == [DropReason.TIE, nobody, nobody if is_skipped else DropReason.TIE]
    assert ends[7]["prob_chosen"] == (1.0 if is_skipped else 0.75)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"data": [], "annotations": []}, DropReason.MALFORMED),
        ({"data": {}, "annotations": None}, DropReason.MALFORMED),
        ({"data": {}, "annotations": [None]}, DropReason.MALFORMED),
        ({"data": {}, "annotations": [{"result": [{"value": "left"}]}]}, DropReason.MALFORMED),
        ({"data": {}, "annotations": [{"result": [{"value": {"selected": "up"}}]}]}, DropReason.MALFORMED),
        ({"data": {}, "annotations": [{"result": [{"value": {"text": ["words"]}}]}]}, DropReason.UNJUDGED),
        ({"data": {}, "annotations": [{"result": [{"value": {"selected": "left"}}]}]}, DropReason.MALFORMED),
        ({"fields": [], "responses": {}}, DropReason.MALFORMED),
        ({"fields": {}, "responses": {"preference": [{"value": "maybe"}]}}, DropReason.MALFORMED),
        ({"fields": {}, "responses": {"preference": "a"}}, DropReason.MALFORMED),
        ({"fields": {}, "responses": {"preference": [{"value": None}]}}, DropReason.UNJUDGED),
        ({"fields": {}, "responses": {"one": [], "other": []}}, DropReason.UNJUDGED),
        (
            {
                "fields": {"prompt": 3, "response_a": "x", "response_b": "y"},
                "responses": {"q": [{"value": "b"}]},
            },
            DropReason.NOT_TEXT,
        ),
    ],
)
def test_bad_records_end_once(tmp_path: Path, record: dict[str, Any], reason: DropReason) -> None:
    good = (
        {"data": {"prompt": "Hi", "answer1": "x", "answer2": "y"}, "annotations": [_chose(["Right"])]}
        if "data" in record
        else {"fields": {"prompt": "Hi", "response_a": "x", "response_b": "y"}, "responses": {"q": [{"value": "B"}]}}
    )
    file = tmp_path / "export.json"
    file.write_text(json.dumps([record, good, 7]))
    found = [one.reason if isinstance(one, DropRow) else one for _, one in read_by(*_auto(file))]
    assert found == [reason, ParsedPair([{"role": "user", "content": "Hi"}], "y", "x"), DropReason.MALFORMED]


def _chose(choices: list[str]) -> dict[str, Any]:
    return {"result": [{"type": "choices", "value": {"choices": choices}}]}


def _auto(file: Path) -> Any:
    return str(file), "auto", None, JUDGED, "auto", {}


@given(st.lists(st.sampled_from(list(VERDICTS)), max_size=6))
def test_the_share_is_that_of_the_verdicts(said: list[str]) -> None:
    fields = {"prompt": "Hi", "response_a": "x", "response_b": "y"}
    record = {"fields": fields, "responses": {"q": [{"value": verdict} for verdict in said]}}
    try:
        found = JUDGED["argilla"].parse(Fields(record, {"fields": "fields", "responses": "responses"}))
    except DropRow as drop:
        assert drop.reason == DropReason.UNJUDGED and not said
        return
    counts = Counter(VERDICTS[verdict] for verdict in said)
    share = (counts[1.0] + counts[0.5] / 2) / len(said)
    assert found.prob_chosen == pytest.approx(max(share, 1 - share))
    assert found.chosen == ("x" if share >= 0.5 else "y")


def test_the_command(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: run\noutput: {tmp_path}\nsft: {{}}\npairs: {{}}\nlabels: {{}}\n")
    none_yet = CliRunner().invoke(app, ["annotate", str(recipe), str(tmp_path / "new")])
    assert none_yet.exit_code == 2 and "has no pairs yet" in none_yet.output
    finished(spec_of(tmp_path / "run" / "label_comparisons", "label_comparisons", PAIR_IDS), PREFERENCE, labels())
    made = CliRunner().invoke(app, ["annotate", str(recipe), str(tmp_path / "new"), "--rows", "5"])
    assert made.exit_code == 0, made.output
    assert len(json.loads((tmp_path / "new" / "tasks.json").read_text())) == 5
    again = CliRunner().invoke(app, ["annotate", str(recipe), str(tmp_path / "new"), "--tool", "argilla"])
    assert again.exit_code == 2 and "is not empty" in again.output
    assert CliRunner().invoke(app, ["annotate", str(recipe), "x", "--tool", "excel"]).exit_code == 2


def test_a_full_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not empty"):
        write("argilla", labels(), Storage(str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["records.json"]
