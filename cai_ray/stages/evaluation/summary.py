"""What the policies are worth, side by side: the stage's summary, and the table at the end of a run.

Intervals are 95%: Wilson's for shares, over prompts where a prompt has several answers. Differences from the first
policy are paired by prompt. Win rates, Elo and the frontier: games.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.summaries.evaluation import ByMetric, Diversity, EvaluationSummary, JudgedPolicy, JudgeFacts
from cai_ray.errors import ConfigError
from cai_ray.metrics.differences import paired_difference
from cai_ray.metrics.diversity import Answered, boilerplate, distinct
from cai_ray.metrics.evaluations import estimate, flatten
from cai_ray.metrics.intervals import Estimate
from cai_ray.metrics.names import is_share, metric_of, most_telling
from cai_ray.stages.cells import cell, percent, points
from cai_ray.stages.evaluation.agreement import judge_agreement
from cai_ray.stages.evaluation.folders import ANSWERS, GAMES, JUDGED
from cai_ray.stages.evaluation.games import OVERALL, elo_by_judge, frontier_point, games_of, win_rates


class MetricValue(NamedTuple):
    """One metric of one answer."""

    value: float
    prompt_id: str
    cluster: str
    category: str | None


@dataclass
class JudgeCounts:
    """What one judge made of one policy."""

    num_judged: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by reason
    labels: Counter[str] = field(default_factory=Counter)


class Scores:
    """All scores of a stage, by policy and metric."""

    def __init__(self, artifact: Artifact) -> None:
        self.judged: defaultdict[str, defaultdict[str, list[MetricValue]]] = defaultdict(lambda: defaultdict(list))
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
            found.append(MetricValue(row["value"], row["prompt_id"], row["cluster"], row["category"]))

    def estimates(self, policy: str) -> ByMetric:
        return {metric: _estimate(found, metric) for metric, found in self.judged[policy].items()}

    def by_category(self, policy: str) -> dict[str, ByMetric]:
        groups: defaultdict[str, dict[str, list[MetricValue]]] = defaultdict(dict)
        for metric, found in self.judged[policy].items():
            for one in found:
                if one.category is not None:
                    groups[one.category].setdefault(metric, []).append(one)
        return {
            category: {metric: _estimate(found, metric) for metric, found in groups[category].items()}
            for category in sorted(groups)
        }

    def differences(self, policy: str, reference: str) -> ByMetric:
        """Each metric of `policy` less that of `reference`, over the prompts that both have it for."""
        before, after = self.judged[reference], self.judged[policy]
        return {
            metric: paired_difference(_prompt_means(before[metric]), _prompt_means(after[metric]))
            for metric in list(after)
            if metric in before
        }


def _estimate(found: Sequence[MetricValue], metric: str) -> Estimate | None:
    return estimate([one.value for one in found], [one.cluster for one in found], is_share(metric))


def _prompt_means(found: Sequence[MetricValue]) -> dict[str, float]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for one in found:
        values[one.prompt_id].append(one.value)
    return {prompt_id: fmean(own) for prompt_id, own in values.items()}


def answers_artifact(artifact: Artifact, policy: str) -> Artifact:
    """Where a policy's answers are. Raises ConfigError when they are gone."""
    source = find(artifact.folder / ANSWERS / policy)
    if source is None:
        raise ConfigError(f"{artifact.folder.shown}/{ANSWERS}/{policy} is gone; pass --fresh to make the stage anew")
    return source


def answers_of(artifact: Artifact, policy: str) -> Iterator[Answered]:
    """What a policy said. Raises ConfigError when its answers are gone."""
    for row in answers_artifact(artifact, policy).rows(["prompt_id", "messages", "responses"]):
        prompt = "\n\n".join(message["content"] for message in row["messages"])
        for response in row["responses"]:
            yield Answered(row["prompt_id"], prompt, response)


def diversity(answers: Sequence[Answered]) -> Diversity:
    """How alike a policy's answers are; policies that answered the same prompts can be compared."""
    texts = [answer.response for answer in answers]
    said = boilerplate(answers)
    share = estimate([float(carries) for carries in said.carries], [answer.prompt_id for answer in answers])
    return Diversity(
        distinct_1=distinct(texts, 1),
        distinct_2=distinct(texts, 2),
        distinct_3=distinct(texts, 3),
        boilerplate=share,
        phrases=dict(zip(said.phrases, said.shares, strict=True)),
    )


# --- Judges ---------------------------------------------------------------------------------------------


def judges_of(artifact: Artifact) -> dict[str, JudgeFacts]:
    """Judge -> its kind and model, and for each policy how much it judged."""
    config, found = artifact.manifest.config, {}
    for judge in config.get("judges", []):
        name = judge["name"] or judge["model"]
        games, judged = (find(artifact.folder / folder / name) for folder in (GAMES, JUDGED))
        by_policy: dict[str, JudgedPolicy] = {}
        if games is not None:
            by_policy = _game_counts(games, config["policies"])
        elif judged is not None:
            by_policy = _judgement_counts(judged, config["policies"])
        found[name] = JudgeFacts(kind=judge["kind"], model=judge["model"], policies=by_policy)
    return found


def _judgement_counts(judged: Artifact, policies: Sequence[str]) -> dict[str, JudgedPolicy]:
    counts = {name: JudgeCounts() for name in policies}
    for row in judged.rows(["policy", "labels"]):
        counts[row["policy"]].num_judged += 1
        counts[row["policy"]].labels.update(row["labels"])
    for row in judged.dropped():
        counts[_policy_of(row["row_id"])].failures[row["reason"]] += 1
    return _judged(counts)


def _game_counts(games: Artifact, policies: Sequence[str]) -> dict[str, JudgedPolicy]:
    counts = {name: JudgeCounts() for name in policies}
    for row in games.rows(["policy_a", "policy_b"]):
        for policy in (row["policy_a"], row["policy_b"]):
            counts[policy].num_judged += 1
    for row in games.dropped():
        pair = row["row_id"].rsplit("/", 2)[0]  # names may hold slashes, so they are looked for and not cut out
        for policy in next(two for two in combinations(policies, 2) if pair == "/".join(two)):
            counts[policy].failures[row["reason"]] += 1
    return _judged(counts)


def _judged(counts: dict[str, JudgeCounts]) -> dict[str, JudgedPolicy]:
    """Only of the policies that the judge was to judge."""
    return {
        name: JudgedPolicy(num_judged=one.num_judged, failures=dict(one.failures), labels=dict(one.labels))
        for name, one in counts.items()
        if one.num_judged or one.failures
    }


# --- The summary ----------------------------------------------------------------------------------------


def summarise(artifact: Artifact) -> EvaluationSummary:
    """Look at the stage's scores, games and answers."""
    manifest, scores = artifact.manifest, Scores(artifact)
    names: list[str] = manifest.config["policies"]
    reference = names[0]
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in artifact.dropped():
        reasons[_policy_of(row["row_id"])][row["reason"]] += 1
    policies = {name: scores.estimates(name) for name in names}
    num_asked = manifest.rows_in - sum(manifest.rows_left_out.values())  # by every policy together
    games = games_of(artifact, [answers_artifact(artifact, name) for name in names])
    elo = elo_by_judge(games, reference)
    return EvaluationSummary(
        rows_in=manifest.rows_in,
        rows_out=manifest.rows_out,
        rows_dropped=manifest.rows_dropped,
        rows_left_out=manifest.rows_left_out,
        num_prompts=num_asked // (len(names) * manifest.config["samples_per_prompt"]),
        samples_per_prompt=manifest.config["samples_per_prompt"],
        policies=policies,
        categories={name: scores.by_category(name) for name in names},
        reference=reference,
        differences={name: scores.differences(name, reference) for name in names[1:]},
        diversity={name: diversity(list(answers_of(artifact, name))) for name in names},
        unjudged={name: dict(scores.unjudged[name]) for name in names},
        dropped={name: dict(reasons[name]) for name in names},
        judges=judges_of(artifact),
        judge_agreement=judge_agreement(artifact),
        counters=manifest.counters,
        duration_s=manifest.duration_s,
        elo=next((found[OVERALL] for found in elo.values()), ()),
        elo_by_judge=elo,
        win_rates=tuple(win_rates(games)),
        frontier=tuple(frontier_point(name, policies[name]) for name in names),
    )


def _policy_of(row_id: str) -> str:
    return row_id.rsplit("/", 2)[0]


# --- The terminal's table -------------------------------------------------------------------------------

WIDTH, MOST_LINES, MOST_METRICS = 80, 12, 3


def table(summary: EvaluationSummary) -> Table:
    """The most telling metrics of each policy, and their changes from the first: 80 columns and 12 lines at most.

    Fewer metrics where three are too wide, and names on lines of their own where they are long.
    """
    metrics = most_telling({name for found in summary.policies.values() for name in found}, MOST_METRICS)
    layouts = [(metrics[:k], aside) for k in range(len(metrics), 0, -1) for aside in (True, False)] or [([], True)]
    tried = (_lines(summary, *layout) for layout in layouts)
    title, *lines = next((found for found in tried if max(map(len, found)) <= WIDTH), _lines(summary, *layouts[-1]))
    shown = Table.grid()
    shown.add_column(no_wrap=True)
    for line in (Text(title, style="bold"), *map(Text, lines)):
        shown.add_row(line)
    return shown


def _lines(summary: EvaluationSummary, metrics: Sequence[str], aside: bool) -> list[str]:
    """The table's lines; `aside`: names are in a column beside the numbers."""
    missing = _missing(summary)
    policies, reference = list(summary.policies), summary.reference
    room = MOST_LINES - 3 - len(missing)  # less the title, the metrics' names and the last line
    num_others = min(len(policies) - 1, (room - 1) // 2 if aside else (room - 2) // 3)
    shares = {name for name in metrics if is_share(name, _values(summary, name))}
    chosen = [reference, *policies[len(policies) - num_others :]]
    rows: list[tuple[str, list[str]]] = [("", [metric_of(name).title.lower() for name in metrics])]
    for policy in chosen:
        values = [_cell(summary.policies[policy].get(name), name in shares) for name in metrics]
        rows += [(policy, values)] if aside else [(policy, []), ("  value", values)]
        if policy != reference:
            found = summary.differences[policy]
            rows.append(("  change", [_cell(found.get(name), name in shares, signed=True) for name in metrics]))
    label = max(len(name) for name, cells in rows if cells or not metrics)
    widths = [max(len(cells[k]) for _, cells in rows if cells) for k in range(len(metrics))]
    hidden = len(policies) - len(chosen)
    return [
        f"Answers to {summary.num_prompts:,} prompts (95% intervals; changes are from the first policy)",
        *("  ".join([name.ljust(label), *map(str.rjust, cells, widths)]).rstrip() for name, cells in rows),
        *missing,
        f"{f'{hidden} more policies and every' if hidden else 'Every'} metric: evaluate/summary.json, and the report",
    ]


def _missing(summary: EvaluationSummary) -> list[str]:
    """A line of what has no value; none where everything has."""
    failures = [own.failures for judge in summary.judges.values() for own in judge.policies.values()]
    counts = {
        "{:,} answers dropped": summary.dropped.values(),
        "judges failed on {:,} answers": failures,  # a game that failed is two
        "{:,} scores missing": summary.unjudged.values(),
    }
    told = [words.format(num) for words, found in counts.items() if (num := sum(sum(one.values()) for one in found))]
    return [", ".join(told)] if told else []


def _values(summary: EvaluationSummary, metric: str) -> list[float]:
    return [found.value for own in summary.policies.values() if (found := own.get(metric)) is not None]


def _cell(found: Estimate | None, is_percent: bool, signed: bool = False) -> str:
    """ "70.3% [65.1, 75.0]", and signed "-58.7 [-67.7, -47.2]", in points; plain numbers where they are no shares."""
    if is_percent:
        return cell(found, points if signed else percent)
    is_wide = found is not None and max(abs(found.value), abs(found.low), abs(found.high)) >= 1000
    form = f"{'+' if signed else ''}{'.3g' if is_wide else '.2f'}"
    return cell(found, lambda number: format(number, form))
