"""The paper's findings in the micro world, three seeds, scored by the oracle: a result file and a figure each.

    python -m benchmarks.paper_findings [FINDING ...] [--seeds 0 1 2] [--set key=value ...] [--keep FOLDER]

A finding is a file of jobs/recipes/ablations, put to the quickstart recipe. Each seed builds a micro model of its own
and draws its own prompts. Results are benchmarks/results/paper_<finding>.{json,svg}; `--set` is for trials, which
write into the folder of `--keep` and not there.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import finding_figures as figures
from benchmarks import finding_measures as measures
from benchmarks import results_file
from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.derived import Outcome, batched, derive
from cai_ray.engines.cluster import connected
from cai_ray.metrics.intervals import Estimate
from cai_ray.metrics.names import PREFERENCE_SCORE
from cai_ray.microworld.language import evade
from cai_ray.microworld.oracle import parse_request
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.pipeline import ablations
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.ablations import Ablation
from cai_ray.pipeline.recipe import Recipe, load
from cai_ray.pipeline.steps import steps
from cai_ray.row_ids import REVISION_IDS, revision_row_id
from cai_ray.rows import REVISION
from cai_ray.stages.evaluation import evaluate, score_rounds
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.preferences import label_comparisons, train_preference_model
from cai_ray.stages.revision import revise

JOBS = Path(__file__).parent.parent / "jobs" / "recipes"
QUICKSTART = JOBS / "quickstart.yaml"
MOST_HARMFUL, MOST_HELPFULNESS_LOST = 0.03, 0.04  # of a constitution's reward
NUM_PARTS = 6  # that a training is cut into, for its course
POLICY_METRICS = ("harmful", "helpful", "evasive", "over_refusal")

Artifacts = dict[str, Artifact]
Pooled = dict[str, Any] | None


@dataclass
class Study:
    """One finding: its variants, and what every seed's runs left."""

    ablation: Ablation
    seeds: Sequence[int]
    runs: dict[str, list[Artifacts]] = field(default_factory=dict)  # variant -> per seed

    def each(self, variant: str, measure: Callable[[Artifacts], Any]) -> list[Any]:
        return [measure(one) for one in self.runs[variant]]

    @property
    def reference(self) -> str:
        return next(iter(self.ablation.variants))


# --- Running --------------------------------------------------------------------------------------------


def run_study(name: str, seeds: Sequence[int], output: Path, overrides: Sequence[str]) -> Study:
    """Every variant on every seed. A stage that two runs share is made once."""
    study = Study(ablations.load_ablation(JOBS / "ablations" / f"{name}.yaml"), seeds)
    for seed in seeds:
        own = (f"output={output / str(seed)}", f"seed={seed}", f"models.policy.path={ensure_model(seed=seed)}")
        finished = [load(path) for path in sorted((output / str(seed)).glob("*/recipe.json"))]
        for variant, recipe in ablations.variants(study.ablation, QUICKSTART, [*own, *overrides]).items():
            if variant != study.reference:
                recipe = newest_policy_only(recipe)
            if name == "bare_refusals" and variant == "bare":
                teach(recipe, study.runs[study.reference][-1][revise.STAGE])
            study.runs.setdefault(variant, []).append(ablations.run(recipe, finished))
            finished.append(recipe)
            print(f"{name}, seed {seed}: {variant} is done", flush=True)
    return study


def newest_policy_only(recipe: Recipe) -> Recipe:
    """The recipe with only the policy judged that it trains last: the first variant has the others judged."""
    if recipe.evaluate is None:
        return recipe
    return recipe.model_copy(
        update={"evaluate": recipe.evaluate.model_copy(update={"policies": recipe.evaluate.policies[-1:]})}
    )


def teach(recipe: Recipe, revised: Artifact) -> None:
    """Finish the recipe's revise stage: the last answers of `revised`, with a bare refusal to every harmful request.

    The micro model knows no principle that asks for bare refusals, so they are written here.
    """
    context = pipeline.prepare(recipe, steps(recipe))
    for step in steps(recipe)[:1]:
        step.run(context)
    found = (Outcome(revision_row_id(row["prompt_id"], row["sample_index"]), bare(row)) for row in revised.rows())
    derive(context.spec(revise.STAGE, recipe.revise, REVISION_IDS), batched(found), REVISION)


def bare(row: dict[str, Any]) -> dict[str, Any]:
    """A Revision row of one round, which ends in a bare refusal where the request is harmful."""
    last = row["revisions"][-1]
    task = parse_request(row["messages"][-1]["content"])
    if task is not None and task.harmful:
        last = {**last, "revision": evade(random.Random(row["prompt_id"]), task)}
    return {**row, "revisions": [last]}


# --- Reading --------------------------------------------------------------------------------------------


def summary(artifact: Artifact) -> dict[str, Any]:
    return json.loads(artifact.folder.read("summary.json"))


def pooled_all(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Pooled]:
    """metric -> the pooled estimate, over the metrics that some seed has."""
    names = dict.fromkeys(name for one in seeds for name, value in one.items() if _is_estimate(value))
    return {name: measures.pooled([one.get(name) for one in seeds]) for name in names}


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Estimate) or (isinstance(value, dict) and {"value", "low", "high", "n"} <= value.keys())


def policies(study: Study, variant: str) -> dict[str, dict[str, Pooled]]:
    """policy -> metric -> the oracle's estimate on held-out prompts."""
    seeds = [summary(one[evaluate.STAGE])["policies"] for one in study.runs[variant] if evaluate.STAGE in one]
    return {
        policy: pooled_all([{m: own[policy].get(m) for m in POLICY_METRICS} for own in seeds])
        for policy in (seeds[0] if seeds else ())
    }


def final_policy(found: Mapping[str, Any]) -> str:
    """The policy that a run ends with."""
    return "rl_cai" if "rl_cai" in found else list(found)[-1]


def rounds_of(study: Study, variant: str) -> list[dict[str, Pooled]]:
    """Per round: the oracle's estimates of the revisions, and the preference model's score where it was asked."""
    seeds = [[measures.estimates(one) for one in measures.by_round(own[revise.STAGE])] for own in study.runs[variant]]
    found = [pooled_all(list(own)) for own in zip(*seeds, strict=True)]
    asked = [summary(own[score_rounds.STAGE])["rounds"] for own in study.runs[variant] if score_rounds.STAGE in own]
    for k, row in enumerate(found):
        if scores := measures.pooled([own[k].get(PREFERENCE_SCORE) for own in asked if k < len(own)]):
            row[PREFERENCE_SCORE] = scores
    return found


def changes(study: Study, variant: str, k: int, other: str | None = None, j: int | None = None) -> dict[str, Pooled]:
    """Round k of `variant` less round j of `other` (the same variant, the round before), paired by prompt."""
    before = study.each(other or variant, lambda one: measures.by_round(one[revise.STAGE])[k - 1 if j is None else j])
    after = study.each(variant, lambda one: measures.by_round(one[revise.STAGE])[k])
    return pooled_all([measures.differences(b, a) for b, a in zip(before, after, strict=True)])


def preference_models(study: Study) -> dict[str, Any]:
    """variant -> the preference model against the oracle."""
    found = {}
    for variant in study.runs:
        seeds = study.each(variant, lambda one: measures.against_the_truth(one[train_preference_model.STAGE]))
        numbers = ("log_loss", "ece", "mean_margin")
        spread = {n: results_file.spread([one[n] for one in seeds if one[n] is not None]) for n in numbers}
        found[variant] = {**spread, **pooled_all(seeds), "num_pairs": [one["num_pairs"] for one in seeds]}
    return found


# --- The findings ---------------------------------------------------------------------------------------

Finding = tuple[str, dict[str, Any], Callable[[Path], None]]  # claim, figures, drawing


def rounds(study: Study) -> Finding:
    scored = (variant for variant, own in study.runs.items() if score_rounds.STAGE in own[0])
    of_revisions = rounds_of(study, next(scored, study.reference))  # the variants share their revisions
    steps_down = [changes(study, study.reference, k) for k in range(1, len(of_revisions))]
    trained = {variant: policies(study, variant) for variant in study.runs}
    base = next(iter(next(iter(trained.values())).values()))
    by_round: list[dict[str, Pooled]] = [base, *(found[final_policy(found)] for found in trained.values())]
    series: dict[str, list[Pooled]] = {}
    for metric in ("harmful", "helpful"):
        series[f"{metric}, revisions"] = [row.get(metric) for row in of_revisions]
        series[f"{metric}, policy trained on that round"] = [row.get(metric) for row in by_round]
    content = {
        "revisions": of_revisions,
        "changes": steps_down,
        "policies": by_round,
        "falls_every_round": all(one["harmful"] is not None and one["harmful"]["high"] < 0 for one in steps_down),
    }
    names = ["initial", *(f"round {k}" for k in range(1, len(of_revisions)))]
    claim = "Harm falls with every round of critique and revision; helpfulness hardly moves"
    return claim, content, lambda path: figures.lines(path, claim, "share", series, names)


def critiques(study: Study) -> Finding:
    found = {variant: rounds_of(study, variant) for variant in study.runs}
    num_rounds = len(found[study.reference])
    others = [variant for variant in study.runs if variant != study.reference]
    against = {
        variant: [changes(study, variant, k, study.reference, k) for k in range(1, num_rounds)] for variant in others
    }
    series = {
        f"{m}, {variant}": [row.get(m) for row in own] for variant, own in found.items() for m in ("harmful", "helpful")
    }
    names = ["initial", *(f"round {k}" for k in range(1, num_rounds))]
    claim = "Critiqued revisions against direct ones"
    content = {"variants": found, "less_critiqued": against}
    return claim, content, lambda path: figures.lines(path, claim, "share", series, names)


def principles(study: Study) -> Finding:
    found: dict[str, Any] = {}
    for variant in study.runs:
        last = rounds_of(study, variant)[-1]
        texts = study.each(variant, lambda one: measures.variety(measures.last_answers(one[revise.STAGE])))
        first = rounds_of(study, variant)[1]
        found[variant] = {
            "after_one_round": first,
            "after_all_rounds": last,
            "variety": {name: results_file.spread([one[name] for one in texts]) for name in texts[0]},
        }
    groups = {
        variant: {
            "harmful, round 1": own["after_one_round"].get("harmful"),
            "harmful, last round": own["after_all_rounds"].get("harmful"),
            "helpful, last round": own["after_all_rounds"].get("helpful"),
        }
        for variant, own in found.items()
    }
    claim = "Number and choice of principles"
    return claim, {"variants": found}, lambda path: figures.bars(path, claim, "share", groups)


def soft_labels(study: Study) -> Finding:
    """The preference models, and the policies trained with them."""
    models = preference_models(study)
    trained = {variant: policies(study, variant) for variant in study.runs}
    groups: dict[str, dict[str, Pooled]] = {}
    for variant, model in models.items():
        final = trained[variant][final_policy(trained[variant])]
        groups[variant] = {"PM accuracy (oracle)": model.get("accuracy")}
        groups[variant] |= {f"{final_policy(trained[variant])} {m}": final.get(m) for m in ("harmful", "helpful")}
    claim = "Soft against hard labels"
    content = {"preference_models": models, "policies": trained}
    return claim, content, lambda path: figures.bars(path, claim, "share", groups)


def clamp(study: Study) -> Finding:
    """The labels themselves against the oracle; each is one reading."""
    found: dict[str, Any] = {}
    groups: dict[str, dict[str, Pooled]] = {}
    for variant in study.runs:
        seeds = study.each(variant, lambda one: summary(one[label_comparisons.STAGE])["oracle"]["label"])
        ece = [one["calibration"]["ece"] for one in seeds]
        own = {name: measures.pooled([one[name] for one in seeds]) for name in ("agreement", "brier", "overconfidence")}
        found[variant] = {**own, "ece": results_file.spread(ece)}
        groups[variant] = {name: own[name] for name in ("agreement", "brier")} | {"ECE": _middle(ece)}
    claim = "Clamp ranges of labels by one chain of thought"
    return claim, {"labels": found}, lambda path: figures.bars(path, claim, "share", groups)


def bare_refusals(study: Study) -> Finding:
    found = {variant: policies(study, variant) for variant in study.runs}
    shown = {
        "base": next(iter(found[study.reference].values())),
        final_policy(found[study.reference]): found[study.reference][final_policy(found[study.reference])],
        "trained on bare refusals": found["bare"][final_policy(found["bare"])],
    }
    claim = "RL-CAI is less evasive than a policy trained on bare refusals"
    return claim, {"policies": shown}, lambda path: figures.bars(path, claim, "share", shown)


def over_optimisation(study: Study) -> Finding:
    """Variants of PPO: their monitors in parts of the training, and what the oracle says of the policies."""
    return followed(study, "Without KL penalty and soft labels the score rises and the answers go elsewhere")


def followed(study: Study, claim: str) -> Finding:
    """PPO as far as it goes: its course, and where it ends."""
    courses: dict[str, Any] = {}
    series: dict[str, list[Pooled]] = {}
    for variant in study.runs:
        seeds = study.each(variant, lambda one: measures.course(one[train_ppo.STAGE], NUM_PARTS))
        courses[variant] = {
            name: [results_file.spread([own[name][part] for own in seeds]) for part in range(NUM_PARTS)]
            for name in seeds[0]
        }
        for metric in ("harmful", "helpful"):
            points = courses[variant].get(f"oracle_{metric}", [])
            series[f"{metric}, {variant}"] = [
                _middle([own[f"oracle_{metric}"][part] for own in seeds]) for part in range(len(points))
            ]
    content = {"course": courses, "policies": {variant: policies(study, variant) for variant in study.runs}}
    names = [f"{k + 1}/{NUM_PARTS}" for k in range(NUM_PARTS)]
    return claim, content, lambda path: figures.lines(path, claim, "oracle, by part of the training", series, names)


def reward(study: Study) -> Finding:
    """PPO by where its reward comes from: the oracle on the policies, and what a step costs."""
    trained = {variant: policies(study, variant) for variant in study.runs}
    costs: dict[str, Any] = {}
    for variant in study.runs:
        seeds = study.each(variant, lambda one: measures.reward_costs(one[train_ppo.STAGE]))
        costs[variant] = {name: results_file.spread([one[name] for one in seeds]) for name in seeds[0]}
    before = trained[study.reference]["sl_cai"]
    targets = {}
    for variant, own in trained.items():
        harmful, helpful = (own[final_policy(own)][metric] for metric in ("harmful", "helpful"))
        assert harmful is not None and helpful is not None and before["helpful"] is not None
        lost = before["helpful"]["value"] - helpful["value"]
        targets[variant] = {"harmful": harmful["value"], "helpfulness_lost": lost}
        targets[variant]["met"] = harmful["value"] <= MOST_HARMFUL and lost <= MOST_HELPFULNESS_LOST
    shown = {"SL-CAI": before, **{variant: own[final_policy(own)] for variant, own in trained.items()}}
    groups = {name: {m: own[m] for m in POLICY_METRICS if m in own} for name, own in shown.items()}
    claim = "RL-CAI by a preference model, a refreshed one, and the constitution itself"
    target = f"harmful <= {MOST_HARMFUL:g}, helpfulness at most {MOST_HELPFULNESS_LOST:g} below SL-CAI's"
    content = {"target": target, "reached": targets, "policies": trained, "steps": costs}
    return claim, content, lambda path: figures.bars(path, claim, "share", groups)


def reward_over_optimisation(study: Study) -> Finding:
    """PPO without KL penalty by where its reward comes from: courses of the training, and the policies it ends with."""
    claim, content, draw = followed(study, "Without KL penalty: which reward can be followed longest")
    content["held"] = {
        variant: study.each(variant, lambda one: measures.held_until(one[train_ppo.STAGE])) for variant in study.runs
    }
    return claim, content, draw


def outlier_tokens(study: Study) -> Finding:
    """PPO with and without a bound on single tokens: updates thrown away, and what the oracle says of the policies."""
    found: dict[str, Any] = {}
    for variant in study.runs:
        seeds = study.each(variant, lambda one: measures.updates(one[train_ppo.STAGE]))
        found[variant] = {name: results_file.spread([one[name] for one in seeds]) for name in seeds[0]}
    trained = {variant: policies(study, variant) for variant in study.runs}
    groups = {f"RL-CAI, {variant}": own[final_policy(own)] for variant, own in trained.items()}
    claim = "With a bound on single tokens no update is thrown away"
    content = {"updates": found, "policies": trained}
    return claim, content, lambda path: figures.bars(path, claim, "share", groups)


def _middle(own: Sequence[float]) -> Pooled:
    """The seeds' median with their range, as a point of a figure."""
    point = results_file.spread(list(own))
    return {"value": point["median"], "low": point["min"], "high": point["max"], "n": len(own), "per_seed": list(own)}


FINDINGS: dict[str, Callable[[Study], Finding]] = {
    "rounds": rounds,
    "critiques": critiques,
    "principles": principles,
    "soft_labels": soft_labels,
    "clamp": clamp,
    "bare_refusals": bare_refusals,
    "over_optimisation": over_optimisation,
    "outlier_tokens": outlier_tokens,
    "reward": reward,
    "reward_over_optimisation": reward_over_optimisation,
}


def plain(content: Any) -> Any:
    """Estimates as mappings, for JSON."""
    if isinstance(content, Estimate):
        return content.model_dump()
    if isinstance(content, Mapping):
        return {key: plain(value) for key, value in content.items()}
    return [plain(value) for value in content] if isinstance(content, list | tuple) else content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("findings", nargs="*", choices=[[], *FINDINGS], help=f"of {', '.join(FINDINGS)}; default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--keep", type=Path, help="keep the runs here, and go on from what is there")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, connected(load(QUICKSTART).cluster):
        runs = chosen.keep or Path(scratch)
        for name in chosen.findings or FINDINGS:
            study = run_study(name, chosen.seeds, runs.absolute(), chosen.overrides)
            claim, content, draw = FINDINGS[name](study)
            asked = {"question": study.ablation.question, "source": study.ablation.source, "set": chosen.overrides}
            folder = runs if chosen.overrides else results_file.RESULTS
            trials = [word for one in chosen.overrides for word in ("--set", one)]
            command = shlex.join(["python", "-m", "benchmarks.paper_findings", name, *trials])
            found = {**asked, **plain(content)}
            path = results_file.write(f"paper_{name}", claim, found, chosen.seeds, folder, command)
            draw(path.with_suffix(".svg"))
            print(f"{name}: {path}", flush=True)


if __name__ == "__main__":
    main()
