"""Rounds of revision scored by a preference model: a tiny one, in this process."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.rounds import RoundEstimates, RoundsSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.config import ModelConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.errors import ConfigError
from cai_ray.metrics.intervals import Estimate
from cai_ray.microworld.language import comply, refuse
from cai_ray.microworld.prompt_set import sample_prompts
from cai_ray.row_ids import REVISION_IDS, prompt_id_of
from cai_ray.rows import EVALUATION, REVISION
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.score_rounds import STAGE, Config, chosen_dialogues, run, summarise, table
from tests.finished_stages import finished, spec_of
from tests.screen import check_fits, on_screen
from tests.tiny_models import save_tiny

SOURCE = "revise"


def dialogue(messages: list[dict[str, str]], answers: list[str], kind: str = "red_team") -> dict[str, Any]:
    """A row of the schema REVISION."""
    rounds = [{"principle_id": "p", "critique": None, "revision": text, "flags": []} for text in answers[1:]]
    return {
        "prompt_id": prompt_id_of(messages, "test"),
        "sample_index": 0,
        "kind": kind,
        "source": "test",
        "category": None,
        "split": "train",
        "license": None,
        "messages": messages,
        "initial_response": answers[0],
        "initial_flags": [],
        "revisions": rounds,
        "thinking": None,
        "finish_reasons": ["stop"] * len(answers),
        "num_neutralised": 0,
        "num_prompt_tokens": 1,
        "num_cached_tokens": 0,
        "num_output_tokens": 1,
    }


def revised(folder: Path, rows: list[dict[str, Any]]) -> Artifact:
    return finished(spec_of(folder / SOURCE, SOURCE, REVISION_IDS, "r"), REVISION, rows)


def microworld_rows(num: int) -> list[dict[str, Any]]:
    """Helped with at first and once more, then declined where the request is harmful."""
    rows = []
    for k, request in enumerate(sample_prompts(num, seed=3)):
        rng, task = random.Random(k), request.task
        last = refuse(rng, task) if task.harmful else comply(rng, task)
        rows.append(dialogue(list(request.messages), [comply(rng, task), comply(rng, task), last]))
    return rows


def context(folder: Path, model: Path) -> Context:
    return Context(
        run=Storage(str(folder)),
        seed=3,
        models={"preference_model": ModelConfig(path=str(model))},
        trained={},
        constitution=None,
        cluster=ClusterConfig(),
        fingerprints={STAGE: "f"},
    )


def scores(artifact: Artifact, metric: str) -> dict[tuple[str, str], float]:
    return {
        (row["policy"], row["prompt_id"]): score["value"]
        for row in artifact.rows()
        for score in row["scores"]
        if score["metric"] == metric
    }


def values(rounds: Sequence[RoundEstimates], metric: str) -> list[float]:
    found = [one.metrics[metric] for one in rounds]
    return [one.value for one in found if one is not None]


@pytest.mark.slow
def test_every_answer_of_every_round_is_scored(tmp_path: Path) -> None:
    from cai_ray.engines.models.scoring import Scorer

    rows = microworld_rows(16)
    revised(tmp_path, rows)
    model = save_tiny(tmp_path / "model", classifier=True)
    artifact = run(Config(), context(tmp_path, model), SOURCE)
    expected = {}
    scorer = Scorer(model)
    for row in rows:
        texts = [row["initial_response"], *(one["revision"] for one in row["revisions"])]
        for k, text in enumerate(texts):
            expected[f"round_{k}", row["prompt_id"]] = scorer.score([(row["messages"], text)])[0]
    assert scores(artifact, "preference_score") == pytest.approx(expected, abs=1e-5)
    assert next(artifact.tables()).schema.equals(EVALUATION) and artifact.manifest.rows_in == 48
    summary = summary_of(artifact, RoundsSummary, summarise)
    assert (summary.num_dialogues, summary.judge) == (16, "preference_model")
    assert [one.round for one in summary.rounds] == [0, 1, 2]
    assert values(summary.rounds, "harmful") == [1.0, 1.0, 0.0]
    assert values(summary.rounds, "helpful") == [1.0, 1.0, 1.0]
    assert [one.round for one in summary.changes] == [1, 2] and values(summary.changes, "harmful") == [0.0, -1.0]
    mean = sum(value for (name, _), value in expected.items() if name == "round_2") / 16
    assert values(summary.rounds, "preference_score")[2] == pytest.approx(mean, abs=1e-5)
    assert "│ 2 " in on_screen(table(summary)) and "100%" in on_screen(table(summary))
    assert run(Config(), context(tmp_path, model), SOURCE).manifest == artifact.manifest  # a no-op


@pytest.mark.slow
def test_what_does_not_fit_is_dropped_and_other_prompts_get_scorers_of_text(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "How do I open this?"}]
    rows = [
        dialogue(asked, ["Sorry, I can't help with that.", "x" * 600]),
        dialogue([{"role": "user", "content": "Hi."}], ["Hello!"], kind="helpful"),  # never revised
    ]
    revised(tmp_path, rows)
    model = save_tiny(tmp_path / "model", classifier=True, max_tokens=256)
    artifact = run(Config(), context(tmp_path, model), SOURCE)
    assert [(row["row_id"], row["reason"]) for row in artifact.dropped()] == [
        (f"round_1/{rows[0]['prompt_id']}/0", "too_long")
    ]
    assert scores(artifact, "refusal") == {("round_0", rows[0]["prompt_id"]): 1.0}
    assert artifact.manifest.rows_in == 2 and len(summary_of(artifact, RoundsSummary, summarise).rounds) == 1


@pytest.mark.slow
def test_what_a_limit_leaves_out_is_counted(tmp_path: Path) -> None:
    revised(tmp_path, microworld_rows(12))
    manifest = run(Config(limit=5), context(tmp_path, save_tiny(tmp_path / "model", classifier=True)), SOURCE).manifest
    assert (manifest.rows_in, manifest.rows_out, manifest.rows_left_out) == (36, 15, {"limit": 21})


def test_a_limit_takes_the_same_dialogues_in_any_order(tmp_path: Path) -> None:
    rows = microworld_rows(12)
    forward = chosen_dialogues(revised(tmp_path / "a", rows), 5, run_seed=1)
    assert forward == chosen_dialogues(revised(tmp_path / "b", rows[::-1]), 5, run_seed=1)
    assert len(forward) == 5 != len(chosen_dialogues(revised(tmp_path / "c", rows), None, run_seed=1))


def test_answers_that_nobody_revised_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"revise\.num_revisions"):
        chosen_dialogues(revised(tmp_path, [dialogue([{"role": "user", "content": "Hi."}], ["Hello!"])]), None, 0)


def test_the_table_fits_80_columns() -> None:
    score = Estimate(value=-12.345, low=-12.456, high=-12.234, n=99_999)
    share = Estimate(value=0.1234, low=0.1222, high=0.1245, n=99_999)
    shares = dict.fromkeys(("harmful", "helpful", "evasive", "over_refusal", "preachy", "meta", "in_language"), share)
    rounds = tuple(RoundEstimates(round=k, preference_score=score, **shares) for k in range(17))
    summary = RoundsSummary(
        rows_in=1,
        rows_out=1,
        rows_dropped={},
        num_dialogues=99_999,
        judge="preference_model",
        rounds=rounds,
        changes=(),
        duration_s=1.0,
    )
    shown = table(summary)
    check_fits(shown)
    assert [str(column.header) for column in shown.columns][:2] == ["round", "preference score"]
    assert len(shown.columns) == 4 and shown.row_count == 17
