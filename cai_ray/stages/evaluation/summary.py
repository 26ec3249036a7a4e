"""What the policies are worth, side by side: `<run>/evaluate/summary.json` and the table at the end of a run.

Intervals are 95%: Wilson's for shares, over prompts where a prompt has several answers. Differences from the first
policy are paired by prompt. Win rates, Elo and the frontier: games.py.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.errors import ConfigError
from cai_ray.metrics.differences import paired_difference
from cai_ray.metrics.diversity import Answered, boilerplate, distinct
from cai_ray.metrics.evaluations import estimate, flatten
from cai_ray.metrics.intervals import Estimate
from cai_ray.stages.evaluation.failures import add_failures, failures
from cai_ray.stages.evaluation.folders import ANSWERS
from cai_ray.stages.evaluation.games import add_rows, compared, games_of
from cai_ray.stages.evaluation.scorers import in_order, is_share

SUMMARY = "summary.json"
DISTINCT_NS = (1, 2, 3)


class Judged(NamedTuple):
    """One metric of one answer."""

    value: float
    prompt_id: str
    cluster: str
    category: str | None


class Scores:
    """All scores of a stage, by policy and metric."""

    def __init__(self, artifact: Artifact) -> None:
        self.judged: defaultdict[str, defaultdict[str, list[Judged]]] = defaultdict(lambda: defaultdict(list))
        self.unjudged: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for table in artifact.tables():
            for row in flatten(table).to_pylist():
                self._add(row)

    def _add(self, row: dict[str, Any]) -> None:
        policy, metric = row["policy"], row["metric"]
        found = self.judged[policy][metric]  # made even when nothing can be judged, so that the metric is shown
        if row["value"] is None:
            self.unjudged[policy][metric] += 1
        else:
            found.append(Judged(row["value"], row["prompt_id"], row["cluster"], row["category"]))

    def estimates(self, policy: str) -> dict[str, Estimate | None]:
        return {metric: _estimate(found) for metric, found in self.judged[policy].items()}

    def by_category(self, policy: str) -> dict[str, dict[str, Estimate | None]]:
        groups: defaultdict[str, dict[str, list[Judged]]] = defaultdict(dict)
        for metric, found in self.judged[policy].items():
            for one in found:
                if one.category is not None:
                    groups[one.category].setdefault(metric, []).append(one)
        return {
            category: {metric: _estimate(found) for metric, found in groups[category].items()}
            for category in sorted(groups)
        }

    def differences(self, policy: str, reference: str) -> dict[str, Estimate | None]:
        """Each metric of `policy` less that of `reference`, over the prompts that both have it for."""
        before, after = self.judged[reference], self.judged[policy]
        return {
            metric: paired_difference(_prompt_means(before[metric]), _prompt_means(after[metric]))
            for metric in list(after)
            if metric in before
        }


def _estimate(found: Sequence[Judged]) -> Estimate | None:
    return estimate([one.value for one in found], [one.cluster for one in found])


def _prompt_means(found: Sequence[Judged]) -> dict[str, float]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for one in found:
        values[one.prompt_id].append(one.value)
    return {prompt_id: fmean(own) for prompt_id, own in values.items()}


def answers_artifact(artifact: Artifact, policy: str) -> Artifact:
    """Where a policy's answers are. Raises ConfigError when they are gone."""
    source = find(artifact.folder / ANSWERS / policy)
    if source is None:
        raise ConfigError(f"{artifact.folder.location}/{ANSWERS}/{policy} is gone; pass --fresh to make the stage anew")
    return source


def answers_of(artifact: Artifact, policy: str) -> Iterator[Answered]:
    """What a policy said. Raises ConfigError when its answers are gone."""
    for row in answers_artifact(artifact, policy).rows(["prompt_id", "messages", "responses"]):
        prompt = "\n\n".join(message["content"] for message in row["messages"])
        for response in row["responses"]:
            yield Answered(row["prompt_id"], prompt, response)


def diversity(answers: Sequence[Answered]) -> dict[str, Any]:
    """How alike a policy's answers are; policies that answered the same prompts can be compared."""
    texts = [answer.response for answer in answers]
    said = boilerplate(answers)
    share = estimate([float(carries) for carries in said.carries], [answer.prompt_id for answer in answers])
    return {
        **{f"distinct_{n}": distinct(texts, n) for n in DISTINCT_NS},
        "boilerplate": _plain(share),  # share of the answers that carry one of the phrases
        "phrases": dict(zip(said.phrases, said.shares, strict=True)),  # phrase -> share of the prompts
    }


def summarise(artifact: Artifact) -> dict[str, Any]:
    """Look at the stage's scores, write `summary.json` beside its manifest and return it."""
    manifest, scores = artifact.manifest, Scores(artifact)
    policies: list[str] = manifest.config["policies"]
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in artifact.dropped():
        reasons[_policy_of(row["row_id"])][row["reason"]] += 1
    num_answers = len(policies) * manifest.config["samples_per_prompt"]
    summary = {
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "rows_dropped": manifest.rows_dropped,
        "num_prompts": manifest.rows_in // num_answers,
        "samples_per_prompt": manifest.config["samples_per_prompt"],
        "policies": {name: _all_plain(scores.estimates(name)) for name in policies},
        "categories": {
            name: {category: _all_plain(found) for category, found in scores.by_category(name).items()}
            for name in policies
        },
        "reference": policies[0],
        "differences": {name: _all_plain(scores.differences(name, policies[0])) for name in policies[1:]},
        "diversity": {name: diversity(list(answers_of(artifact, name))) for name in policies},
        "unjudged": {name: dict(scores.unjudged[name]) for name in policies},
        "dropped": {name: dict(reasons[name]) for name in policies},
        "judges": failures(artifact),
        "counters": manifest.counters,
        "duration_s": manifest.duration_s,
    }
    games = games_of(artifact, [answers_artifact(artifact, name) for name in policies])
    summary |= compared(games, summary)
    artifact.folder.write(SUMMARY, json.dumps(summary, indent=2).encode())
    return summary


def _policy_of(row_id: str) -> str:
    return row_id.rsplit("/", 2)[0]


def _plain(found: Estimate | None) -> dict[str, Any] | None:
    return found.model_dump() if found else None


def _all_plain(found: dict[str, Estimate | None]) -> dict[str, dict[str, Any] | None]:
    return {metric: _plain(one) for metric, one in found.items()}


def read_summary(artifact: Artifact) -> dict[str, Any]:
    """The summary, written now if a crash came between the manifest and it."""
    return artifact.written(SUMMARY, summarise)


def table(summary: dict[str, Any]) -> Table:
    """The policies side by side, for the terminal."""
    policies, reference = summary["policies"], summary["reference"]
    shown = Table(title=f"Answers to {summary['num_prompts']} prompts (95% intervals)")
    shown.add_column("metric")
    for name in policies:
        shown.add_column(name, justify="right")
    for name in summary["differences"]:
        shown.add_column(f"{name} - {reference}", justify="right")
    for metric in in_order({metric for found in policies.values() for metric in found}):
        shown.add_row(
            metric,
            *(_cell(found.get(metric), is_share(metric)) for found in policies.values()),
            *(_cell(found.get(metric), is_share(metric), signed=True) for found in summary["differences"].values()),
        )
    shown.add_row("boilerplate", *(_cell(found["boilerplate"]) for found in summary["diversity"].values()))
    for title, key in (("not judged", "unjudged"), ("dropped", "dropped")):
        counts = [sum(found.values()) for found in summary[key].values()]
        if any(counts):
            shown.add_row(title, *map(str, counts))
    add_failures(shown, summary)
    add_rows(shown, summary)
    return shown


def _cell(found: dict[str, float] | None, share: bool = True, signed: bool = False) -> str:
    """ "-70.3% [-75.0%, -65.1%]"; plain numbers where they are no shares."""
    if found is None:
        return "-"
    sign = "+" if signed else ""
    kind = ".1%" if share and found["low"] >= -1 and found["high"] <= 1 else ".3g"
    value, low, high = (format(found[key], f"{sign}{kind}") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
