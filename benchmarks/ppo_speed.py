"""Our PPO loop against TRL 1.12's experimental PPOTrainer: episodes per second in steady state, on the same machine.

Both get the same policy (a copy of it is the reference), the same small random preference model (the value model
starts from it), the same prompts, limits of length, episodes per step, minibatches and epochs, at float32. TRL has an
environment of its own with the same torch and transformers (`ppo_speed_environment`). Sides run in turn, each in
processes of its own on an otherwise idle machine. A rate is taken from the end of the last warm-up step to the end of
the last step but one (the last has no answers to sample ahead): sampling, scores, updates, weight sync and whatever
lies between count.

- `micro`: the micro model, 256 episodes of at most 48 tokens a step.
- `llama_30m`: a random Llama of 30 million parameters, answers of mixed length up to 256 tokens (`ppo_speed_work` says
  how a random model comes to end them). TRL pads every answer to the longest, and samples until that ends.

Sides, of which the Llama has the first two: `trl`; `ours`, strictly on-policy, where engines and learner have every
core when it is their turn; `on_policy` and `asynchronous`, where the engine has one core and the learner another, to
compare the two modes. The share of weight sync is that of `ours`; the proof that the weights arrived has its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import ppo_speed_work, results_file
from benchmarks.ppo_speed_environment import interpreter
from benchmarks.ppo_speed_ours import SIDES as OURS
from benchmarks.ppo_speed_ours import TOKENS_PER_PASS
from benchmarks.ppo_speed_work import CASES, Case
from cai_ray.artifacts.artifact import now

CLAIM = (
    "PPO makes >= 1.0x the episodes/s of TRL 1.12's PPOTrainer on the micro model and >= 1.3x on a 30M Llama with "
    "answers of mixed length; one step off-policy makes >= 1.15x of on-policy; weight sync takes <= 5%"
)
REPEATS = 3
TRL = "trl"
SIDES = ppo_speed_work.BOTH + ppo_speed_work.MODES
SYNCING = ("sync", "proof")
Run = dict[str, Any]


def run_one(side: str, work: Path) -> Run:
    """What one process measured."""
    if side == TRL:
        command = [str(interpreter()), str(Path(__file__).with_name("ppo_speed_trl.py")), str(work)]
    else:
        command = [sys.executable, "-m", "benchmarks.ppo_speed_ours", str(work), side]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: Run = json.loads(output.strip().splitlines()[-1])
    return found


def rate(run: Run, case: Case) -> float:
    """Episodes/s of the steps that count."""
    ends: list[float] = run["ends_s"][case.warm_up - 1 : -1]
    return (len(ends) - 1) * case.episodes / (ends[-1] - ends[0])


def share(run: Run, phase: str, case: Case) -> float:
    """Of the steps' time."""
    phase_s, step_s = (sum(counted(run["phases"][name], case)) for name in (f"{phase}_s", "step_s"))
    return phase_s / step_s


def counted(per_step: list[float], case: Case) -> list[float]:
    """Those of the steps that count."""
    return per_step[case.warm_up : -1]


def measure(case: Case, sides: tuple[str, ...], repeats: int, work: Path) -> dict[str, list[Run]]:
    """side -> its runs, in turn with the others'."""
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side in sides:
            run = run_one(side, work)
            runs[side].append(run)
            length = median(counted(run["lengths"], case))
            print(f"{case.name}, round {repeat + 1}: {side} {rate(run, case):.2f} episodes/s, {length:.1f} tokens")
            print(f"    {_times(run, case)}", flush=True)
    return runs


def _times(run: Run, case: Case) -> str:
    return ", ".join(f"{name} {median(counted(values, case)):.2f}" for name, values in run.get("phases", {}).items())


def figures_of(case: Case, runs: dict[str, list[Run]]) -> dict[str, Any]:
    """One entry per claim, and what it was taken from."""
    rates = {side: [rate(run, case) for run in own] for side, own in runs.items()}

    def ratio(side: str, other: str) -> dict[str, float]:
        return results_file.spread([a / b for a, b in zip(rates[side], rates[other], strict=True)])

    name = case.name
    figures: dict[str, Any] = {}
    if {"ours", TRL} <= runs.keys():
        figures[f"{name}_to_trl"] = ratio("ours", TRL) | {"target": f">= {case.target}"}
    if {"asynchronous", "on_policy"} <= runs.keys():
        figures[f"{name}_asynchronous_to_on_policy"] = ratio("asynchronous", "on_policy") | {"target": ">= 1.15"}
    if "ours" in runs:
        shares = {phase: results_file.spread([share(run, phase, case) for run in runs["ours"]]) for phase in SYNCING}
        figures[f"{name}_sync_share"] = shares["sync"] | {"target": "<= 0.05"}
        figures[f"{name}_proof_share"] = shares["proof"]
    lengths = {side: [median(counted(run["lengths"], case)) for run in own] for side, own in runs.items()}
    return figures | {
        name: {
            "episodes_per_s": {side: results_file.spread(values) for side, values in rates.items()},
            "mean_tokens": {side: results_file.spread(values) for side, values in lengths.items()},
            "seconds_per_step": {
                side: {
                    phase: round(median(value for run in own for value in counted(run["phases"][phase], case)), 3)
                    for phase in own[0]["phases"]
                }
                for side, own in runs.items()
                if side in OURS
            },
            "case": case._asdict(),
            "measured_at": now(),
        }
    }


def keep(figures: dict[str, Any]) -> None:
    """Into results/ppo_speed.json, beside the figures of cases that were measured before."""
    path = results_file.RESULTS / "ppo_speed.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    known = {name: value for name, value in before.items() if name.startswith(tuple(CASES))}
    ours = {"sides": OURS, "tokens_per_pass": TOKENS_PER_PASS}
    results_file.write("ppo_speed", CLAIM, {**known, **figures, "ours": ours}, [ppo_speed_work.SEED])


def main() -> None:
    parser = argparse.ArgumentParser(description="Everything, into results/ppo_speed.json.")
    parser.add_argument("--case", choices=list(CASES), action="append", help="only this one")
    parser.add_argument("--side", choices=SIDES, action="append", help="only this one: a trial, nothing is written")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="fewer than three: a trial, nothing is written")
    parser.add_argument("--steps", type=int, help="per run, of which the first and last do not count: a trial")
    given = parser.parse_args()
    is_trial = given.side is not None or given.steps is not None or given.repeats < REPEATS
    for name in given.case or CASES:
        case = CASES[name] if given.steps is None else CASES[name]._replace(steps=given.steps, warm_up=1)
        if case.steps < case.warm_up + 2:
            parser.error(f"--steps {case.steps}: at least {case.warm_up + 2}, because the first and last do not count")
        with tempfile.TemporaryDirectory() as scratch:
            work = ppo_speed_work.make(case, Path(scratch))
            figures = figures_of(case, measure(case, tuple(given.side or case.sides), given.repeats, work))
        print(json.dumps(figures, indent=2), flush=True)
        if not is_trial:
            keep(figures)


if __name__ == "__main__":
    main()
