"""The summaries as models: files of an older commit mean what they meant, and every field says what it is.

`of_1fc51c6/` holds what the stages wrote at that commit, before summaries were models: in its own tests, by scripted
models, and by tiny ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from cai_ray.artifacts.summaries import (
    evaluation,
    labels,
    multiple_choice,
    ppo,
    preference_model,
    revision,
    rounds,
)
from cai_ray.artifacts.summaries.summary import Summary

OLDER = Path(__file__).parent / "of_1fc51c6"
KINDS: dict[str, type[Summary]] = {
    "revise": revision.RevisionSummary,
    "label_comparisons": labels.LabelSummary,
    "train_preference_model": preference_model.PreferenceModelSummary,
    "score_rounds": rounds.RoundsSummary,
    "train_ppo": ppo.PpoSummary,
    "multiple_choice": multiple_choice.MultipleChoiceSummary,
    "evaluate": evaluation.EvaluationSummary,
}


def kind_of(file: Path) -> type[Summary]:
    return next(kind for stage, kind in KINDS.items() if file.stem.startswith(stage))


@pytest.mark.parametrize("file", sorted(OLDER.glob("*.json")), ids=lambda file: file.stem)
def test_an_older_summary_is_read_and_would_be_written_the_same(file: Path) -> None:
    text = file.read_text()
    found = kind_of(file).model_validate_json(text)
    assert json.dumps(found.model_dump(exclude_defaults=True), indent=2) == text


def test_every_stage_has_an_older_summary() -> None:
    assert {kind_of(file) for file in OLDER.glob("*.json")} == set(KINDS.values())


def test_what_an_older_summary_says_is_where_the_models_say() -> None:
    revised = revision.RevisionSummary.model_validate_json((OLDER / "revise.json").read_text())
    assert revised.harmful_rate is not None and [one.value for one in revised.harmful_rate] == [1.0, 1.0, 0.0]
    elsewhere = revision.RevisionSummary.model_validate_json((OLDER / "revise_elsewhere.json").read_text())
    assert elsewhere.harmful_rate is None and elsewhere.rows_dropped == {"too_long": 1}
    scored = rounds.RoundsSummary.model_validate_json((OLDER / "score_rounds.json").read_text())
    harmful = [one.metrics["harmful"] for one in scored.rounds]
    assert [one.value for one in harmful if one] == [1.0, 1.0, 0.0] and [one.round for one in scored.changes] == [1, 2]
    trained = ppo.PpoSummary.model_validate_json((OLDER / "train_ppo_refreshed.json").read_text())
    assert [one.figures["refresh_labelled"] for one in trained.refreshes] == [9, 9]
    judged = evaluation.EvaluationSummary.model_validate_json((OLDER / "evaluate_judges.json").read_text())
    assert judged.win_rates[0].rate.value == 1.0 and judged.judges["pairs"].policies["policy"].num_judged == 4


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_another_stage_s_summary_is_refused(kind: type[Summary]) -> None:
    for file in OLDER.glob("*.json"):
        if kind_of(file) is not kind:
            with pytest.raises(ValidationError):
                kind.model_validate_json(file.read_text())


def own_models() -> Iterator[type[BaseModel]]:
    for module in (evaluation, labels, multiple_choice, ppo, preference_model, revision, rounds):
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, BaseModel) and found.__module__ == module.__name__:
                yield found


@pytest.mark.parametrize("kind", list(own_models()), ids=lambda kind: kind.__name__)
def test_every_field_says_what_it_is(kind: type[BaseModel]) -> None:
    own = {name for parent in kind.__mro__ for name in vars(parent).get("__annotations__", {})}
    inherited = {name for parent in kind.__mro__[1:] if parent.__module__.startswith("cai_ray.metrics")
                 for name in vars(parent).get("__annotations__", {})}  # fmt: skip
    for name, field in kind.model_fields.items():
        assert name in inherited or (name in own and field.description), f"{kind.__name__}.{name}"
