"""How far several judges of the same thing are of one mind, over the answers that all of them have judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.summaries.evaluation import JudgeAgreement, Parted, TwoRaters
from cai_ray.metrics.agreement import krippendorff_alpha
from cai_ray.metrics.intervals import clustered_mean, clustered_rate
from cai_ray.metrics.names import SCORE
from cai_ray.row_ids import EVALUATION_IDS
from cai_ray.stages.evaluation.folders import JUDGED

MOST_PARTED = 20  # answers that are named
Answer = tuple[str, str, int]  # policy, prompt_id, sample_index


def judge_agreement(artifact: Artifact) -> tuple[JudgeAgreement, ...]:
    """Of each metric that two judges or more give, as the judges call it; by name."""
    judged: defaultdict[str, dict[str, dict[Answer, float]]] = defaultdict(dict)
    for judge in artifact.manifest.config.get("judges", []):
        name = judge["name"] or judge["model"]
        own = find(artifact.folder / JUDGED / name)
        for row in own.rows([*EVALUATION_IDS.columns, "scores"]) if own is not None else ():
            answer = (row["policy"], row["prompt_id"], row["sample_index"])
            for score in row["scores"]:
                judged[score["metric"]].setdefault(name, {})[answer] = score["value"]
    return tuple(_agreement(metric, by_judge) for metric, by_judge in sorted(judged.items()) if len(by_judge) > 1)


def _agreement(metric: str, judged: Mapping[str, Mapping[Answer, float]]) -> JudgeAgreement:
    names = list(judged)
    answers = sorted(set.intersection(*(set(one) for one in judged.values())))
    values = [[judged[name][answer] for name in names] for answer in answers]
    prompts = [prompt_id for _, prompt_id, _ in answers]
    far = 1.0 if SCORE in metric else 0.5  # ratings more than a point apart; shares on two sides of a half
    parts = [max(own) - min(own) for own in values]
    widest = sorted(
        (-part, answer, own) for part, answer, own in zip(parts, answers, values, strict=True) if part > far
    )
    return JudgeAgreement(
        metric=metric,
        num_answers=len(answers),
        alpha=krippendorff_alpha(values, "interval"),
        parted=clustered_rate([part > far for part in parts], prompts),
        pairwise=tuple(_two(names, i, j, values, prompts) for i, j in combinations(range(len(names)), 2)),
        parted_most=tuple(
            Parted(
                policy=answer[0], prompt_id=answer[1], sample_index=answer[2], values=dict(zip(names, own, strict=True))
            )
            for _, answer, own in widest[:MOST_PARTED]
        ),
    )


def _two(names: Sequence[str], i: int, j: int, values: Sequence[Sequence[float]], prompts: Sequence[str]) -> TwoRaters:
    return TwoRaters(
        first=names[i],
        second=names[j],
        alpha=krippendorff_alpha([[own[i], own[j]] for own in values], "interval"),
        same=clustered_rate([own[i] == own[j] for own in values], prompts),
        difference=clustered_mean([own[j] - own[i] for own in values], prompts),
    )
