"""The report's numbers for programs (`report.json`) and for reading in a pull request (`report.md`).

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from cai_ray.metrics.intervals import Estimate
from cai_ray.metrics.names import metric_of
from cai_ray.stages.report.facts import Facts
from cai_ray.stages.report.policies import NO_HARM_JUDGED, PolicyFacts, headline, interval, key_of, shown, title_of
from cai_ray.stages.report.preferences import LabelFacts
from cai_ray.stages.report.rounds import RoundFacts
from cai_ray.stages.report.text import in_markdown

# --- report.json ----------------------------------------------------------------------------------------


def as_json(facts: Facts) -> dict[str, Any]:
    """All numbers. `policies.<name>.<metric>` is {value, low, high, n}, or null where nothing could be judged."""
    plain: dict[str, Any] = to_jsonable_python(_numbers(facts))
    return plain


def _numbers(facts: Facts) -> dict[str, Any]:
    found = facts.policies
    return {
        "name": facts.name,
        "seed": facts.seed,
        "stages": {
            stage.stage: {
                "state": stage.state,
                "rows_in": stage.rows_in,
                "rows_out": stage.rows_out,
                "rows_dropped": stage.dropped,
                "rows_left_out": stage.left_out,
                "flagged": stage.flagged,
                "duration_s": stage.duration_s,
                "attempts": stage.attempts,
                "num_prompt_tokens": stage.prompt_tokens,
                "num_cached_tokens": stage.cached_tokens,
                "num_output_tokens": stage.output_tokens,
                "dollars": stage.dollars,
            }
            for stage in facts.stages
        },
        "duration_s": facts.duration_s,
        "cost": facts.cost,
        "reference": key_of(found.reference) if found else None,
        "policies": {key_of(policy): found.numbers[policy] for policy in found.policies} if found else {},
        "differences": {key_of(policy): metrics for policy, metrics in found.differences.items()} if found else {},
        "categories": {key_of(policy): metrics for policy, metrics in found.categories.items()} if found else {},
        "unjudged": {key_of(policy): counts for policy, counts in found.unjudged.items()} if found else {},
        "elo": [_renamed(row, "policy") for row in found.elo] if found else [],
        "win_rates": [_renamed(row, "policy", "reference") for row in found.win_rates] if found else [],
        "frontier": [_renamed(row, "policy") for row in found.frontier] if found else [],
        "judge_agreement": list(found.judge_agreement) if found else [],
        "rounds": {**facts.rounds.shares, "preference_score": facts.rounds.scores} if facts.rounds else {},
        "logprobs": facts.rounds.logprobs if facts.rounds else {},
        "labels": _labels(facts.labels) if facts.labels else {},
        "preference_model": {
            one.source: {"num_pairs": one.num_pairs, "accuracy": one.accuracy, "ece": one.ece, "brier": one.brier}
            for one in facts.preference_model
        },
        "training": {one.stage: {"num_steps": one.num_steps, **one.last} for one in facts.training},
        "problems": facts.problems,
    }


def _labels(facts: LabelFacts) -> dict[str, Any]:
    return {"num_pairs": facts.num_pairs, **{words: one.found for words, one in facts.estimates.items()}}


def _renamed(row: BaseModel, *names: str) -> BaseModel:
    """The same row with these policies as the report calls them."""
    return row.model_copy(update={name: key_of(getattr(row, name)) for name in names})


# --- report.md ------------------------------------------------------------------------------------------


def as_markdown(facts: Facts) -> str:
    """The same numbers as tables."""
    parts = [f"# {in_markdown(facts.title)}"]
    if facts.policies:
        parts += _policies(facts.policies)
    if facts.rounds and (facts.rounds.shares or facts.rounds.logprobs):
        parts += ["## Revision rounds", _rounds(facts.rounds)]
    if facts.labels:
        rows = [
            [in_markdown(words), _cell(one.found, True, one.least)] for words, one in facts.labels.estimates.items()
        ]
        parts += ["## Labels", _table(["of", f"{facts.labels.num_pairs:,} pairs"], rows)]
    if facts.preference_model:
        rows = [
            [one.source, f"{one.num_pairs:,}", _cell(one.accuracy, True), f"{one.ece:.3f}", f"{one.brier:.3f}"]
            for one in facts.preference_model
        ]
        parts += ["## Preference model", _table(["labels", "pairs", "accuracy", "ECE", "Brier"], rows)]
    for one in facts.training:
        rows = [[in_markdown(name), f"{value:.4g}"] for name, value in one.last.items()]
        parts += [f"## {one.title}, step {one.num_steps}", _table(["metric", "last value"], rows)]
    parts += ["## Rows", _stages(facts)]
    if facts.problems:
        parts += ["## Problems", "\n".join(f"- {in_markdown(problem)}" for problem in facts.problems)]
    return "\n\n".join(parts) + "\n"


def _policies(facts: PolicyFacts) -> list[str]:
    names = [in_markdown(title_of(policy)) for policy in facts.policies]
    rows = [
        [
            in_markdown(metric_of(metric).title),
            *(_cell(facts.numbers[p].get(metric), facts.shares(metric)) for p in facts.policies),
        ]
        for metric in facts.metrics
    ]
    claims = [
        f"- {claim.metric.title}: {claim.before} to {claim.after}, {claim.change} ({claim.verdict})"
        for claim in headline(facts, facts.final)
    ]
    said = [] if facts.harm_is_judged else [NO_HARM_JUDGED]
    parts = ["## Result", *said, *(["\n".join(claims)] if claims else []), _table(["metric", *names], rows)]
    if facts.elo:
        elo = [
            [in_markdown(title_of(one.policy)), f"{one.rating:+.0f} [{one.low:+.0f}, {one.high:+.0f}]"]
            for one in facts.elo
        ]
        parts += ["## Elo", _table(["policy", "rating"], elo)]
    if facts.judge_agreement:
        rows = [
            [
                in_markdown(f"{one.metric}: {two.first}, {two.second}"),
                _alpha(two.alpha),
                _cell(two.same, True),
                _alpha(one.alpha),
                _cell(one.parted, True),
            ]
            for one in facts.judge_agreement
            for two in one.pairwise
        ]
        head = ["two judges", "alpha", "same value", "alpha of all", "all far apart"]
        parts += ["## Judges' agreement", _table(head, rows)]
    return parts


def _alpha(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _rounds(facts: RoundFacts) -> str:
    names = list(facts.shares)
    kinds = facts.kinds
    rows = [
        [
            "initial" if k == 0 else f"revision {k}",
            *(_cell(facts.share(name, k), True) for name in names),
            *(facts.told(kind, k) for kind in kinds),
        ]
        for k in range(facts.num_rounds + 1)
    ]
    return _table(["answer", *names, *kinds.values()], rows)


def _stages(facts: Facts) -> str:
    rows = [
        [
            stage.stage,
            stage.state,
            f"{stage.rows_in:,}",
            f"{stage.rows_out:,}",
            *(
                ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) or "0"
                for counts in (stage.dropped, stage.left_out)
            ),
            f"{stage.duration_s:,.1f}",
            f"{stage.output_tokens:,}",
        ]
        for stage in facts.stages
    ]
    head = ["stage", "state", "rows in", "rows out", "dropped", "left out", "seconds", "output tokens"]
    return _table([*head], [[in_markdown(cell) for cell in row] for row in rows])


def _cell(found: Estimate | None, as_share: bool, least: float = 0.0) -> str:
    return "-" if found is None else f"{shown(found.value, as_share)} {interval(found, as_share, least=least)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
