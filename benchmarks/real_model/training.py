"""Fine-tuning, DPO and preference model on human data: our stages against stock TRL, same settings, three seeds.

Conversations of people are split once, by conversation. The sides train in turn, each in a process of its own, on the
same files; held-out figures of both are computed in one way. Both sides learn one example per pass, eight per update:
ours by itself on a CPU, TRL because it is told to. What that is worth is measured by `padded`, TRL with eight per pass;
what Ray's idle processes cost on the same cores by `beside_ray`, TRL while they are there.
Training 135M parameters takes two cores about six seconds per 1,000 tokens, which is why the sets are small; `--scale`
makes them larger.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Self

import psutil
import pyarrow.parquet as pq

from benchmarks import results_file
from benchmarks.idle_ray import idle_ray
from benchmarks.real_model.held_out import answer_logprobs
from benchmarks.real_model.peers import BATCH, BETA, CENTRING, LEARNING_RATES, MAX_LENGTH
from benchmarks.real_model.recipe_run import CONVERSATIONS, finished_run, there
from benchmarks.real_model.weights import model_folder
from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.engines.models.files import cache_root
from cai_ray.metrics.calibration import pair_calibration, sigmoid
from cai_ray.metrics.intervals import clustered_rate
from cai_ray.prompt_layouts.pairs import PAIRS, ParsedPair
from cai_ray.prompt_layouts.readings import read_by
from cai_ray.row_ids import text_key
from cai_ray.rows import EVAL_SCORES

SEEDS = (0, 1, 2)
SIZES = {"sft": (96, 64), "preference_model": (80, 80), "dpo": (64, 64)}  # rows to learn from, and held out
LONGEST = 1_400  # characters of conversation and answer: under MAX_LENGTH tokens, so that neither side cuts or drops
FIRST = 2  # steps before are warm-up
SPLIT = 0
STAGES = {"sft": "train_sft", "preference_model": "train_preference_model", "dpo": "train_dpo"}
TARGET_SPEED = 0.95
SIDES = ("ours", "trl")
PER_PASS = 1  # of both
OTHERS = {"sft": ("padded", "beside_ray")}  # one run of each


# --- The data -------------------------------------------------------------------------------------------


def write_files(folder: Path, kind: str, scale: float) -> None:
    """train.jsonl and test.jsonl: prompt, chosen and rejected as messages; no conversation is in both."""
    found = read_by(there(CONVERSATIONS), "auto", None, PAIRS, "auto", {})
    pairs = [pair for _, pair in found if isinstance(pair, ParsedPair) and _is_short(pair)]
    conversations: dict[bytes, ParsedPair] = {}
    for pair in pairs:
        conversations.setdefault(text_key(pair.messages[:1]), pair)  # by how it opens
    drawn = sorted(conversations.values(), key=lambda pair: json.dumps([pair.messages, pair.chosen]))
    random.Random(SPLIT).shuffle(drawn)
    num_train, num_test = (max(BATCH, round(size * scale)) for size in SIZES[kind])
    splits = {"test": drawn[:num_test], "train": drawn[num_test : num_test + num_train]}
    folder.mkdir(parents=True, exist_ok=True)
    for split, own in splits.items():
        lines = [json.dumps(_record(pair)) for pair in own]
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _is_short(pair: ParsedPair) -> bool:
    texts = [pair.chosen, pair.rejected]
    asked = sum(len(message["content"]) for message in pair.messages)
    return all(text.strip() for text in texts) and texts[0] != texts[1] and asked + max(map(len, texts)) <= LONGEST


def _record(pair: ParsedPair) -> dict[str, Any]:
    answers = {"chosen": pair.chosen, "rejected": pair.rejected}
    said = {side: [{"role": "assistant", "content": text}] for side, text in answers.items()}
    return {"prompt": [dict(message) for message in pair.messages], **said}


def held_out_rows(files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (files / "test.jsonl").read_text(encoding="utf-8").splitlines()]


# --- The sides ------------------------------------------------------------------------------------------


class PeakMemory:
    """The most memory that one process had among those that this one started, bytes; looks twice a second."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    self.num_bytes = max(self.num_bytes, process.memory_info().rss)
                except psutil.Error:
                    continue  # it has ended


def section(kind: str, files: Path) -> dict[str, Any]:
    """The recipe's sections of our side."""
    sets = [
        {"path": str(files / f"{split}.jsonl"), "name": split, "split": split, "columns": {}}
        for split in ("train", "test")
    ]
    own: dict[str, Any] = {
        "model": "policy",
        "max_length": MAX_LENGTH,
        "eval_fraction": 0.0,
        "optim": {"learning_rate": LEARNING_RATES[kind], "batch_size": BATCH, "epochs": 1},
        "workers": {"steps_per_checkpoint": 1_000},
        "proof": {"sequences": 0},  # nothing was sampled
    }
    if kind == "sft":
        columns = {"prompt": "prompt", "completion": "chosen"}
        return {
            "sft": {**own, "examples": [{**one, "columns": columns, "layout": "prompt_completion"} for one in sets]}
        }
    own["preferences"] = sets
    return {kind: own | ({"beta": BETA} if kind == "dpo" else {"center_rewards_coefficient": CENTRING})}


def ours(kind: str, seed: int, files: Path) -> tuple[dict[str, Any], Path]:
    """What one run gave, and the folder of its model."""
    run = finished_run(f"training-{kind}", section(kind, files), seed=seed)
    stage = run / STAGES[kind]
    steps = [line for line in parse_metrics(read_metrics(stage)) if "num_tokens" in line]
    found: dict[str, Any] = {"seen": [(line["elapsed_s"], line["num_tokens"]) for line in steps]}
    if kind == "preference_model":
        scores = pq.read_table(stage.path(EVAL_SCORES)).to_pydict()
        found["margins"] = [a - b for a, b in zip(scores["score_chosen"], scores["score_rejected"], strict=True)]
    return found, Path(stage.path("model"))


def files_of(kind: str, scale: float) -> Path:
    """The folder of train.jsonl and test.jsonl, written now."""
    folder = cache_root() / "benchmarks" / "real_model" / f"{kind}-{scale:g}"
    write_files(folder, kind, scale)
    return folder


def model_of(kind: str, scale: float) -> str:
    """The folder of our model of seed 0, trained now where it is not."""
    return str(ours(kind, 0, files_of(kind, scale))[1])


def trl(kind: str, seed: int, files: Path, out: Path, per_pass: int) -> tuple[dict[str, Any], Path]:
    given = [kind, str(seed), str(files), str(out), str(per_pass)]
    command = [sys.executable, "-m", "benchmarks.real_model.peers", *given]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(told.strip().splitlines()[-1]), out


def one_run(side: str, kind: str, seed: int, files: Path) -> dict[str, Any]:
    """Figures of one training: `ours`, `trl`, `padded` or `beside_ray`."""
    with tempfile.TemporaryDirectory() as scratch:
        with PeakMemory() as memory:
            if side == "ours":
                found, model = ours(kind, seed, files)
            else:
                with idle_ray() if side == "beside_ray" else nullcontext():
                    found, model = trl(kind, seed, files, Path(scratch), BATCH if side == "padded" else PER_PASS)
        seen = found["seen"][FIRST - 1 :]
        figures = {
            "tokens_per_s": (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]),
            "peak_gib": memory.num_bytes / 2**30,
        }
        if kind == "preference_model":
            return figures | of_margins(found["margins"])
        if kind == "sft":
            return figures | {
                "held_out_nats": mean_nats(answer_logprobs(str(model), held_out_rows(files), ("chosen",)))
            }
        return figures | of_dpo(str(model), files)


# --- The figures ----------------------------------------------------------------------------------------


def of_margins(margins: Sequence[float]) -> dict[str, Any]:
    """Of a preference model on held-out pairs."""
    right = [margin > 0 for margin in margins]
    calibrated = pair_calibration([sigmoid(margin) for margin in margins], [1.0] * len(margins))
    return {
        "accuracy": results_file.rounded(clustered_rate(right, [str(k) for k in range(len(right))])),
        "loss": -sum(math.log(max(1e-12, sigmoid(margin))) for margin in margins) / len(margins),
        "ece": calibrated.ece if calibrated else None,
        "brier": calibrated.brier if calibrated else None,
    }


def mean_nats(found: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Per answer token."""
    return -sum(one[0][0] for one in found) / sum(one[0][1] for one in found)


def of_dpo(model: str, files: Path) -> dict[str, Any]:
    """The loss that DPO minimises, on held-out pairs, and how often its implied reward ranks them as people did."""
    policy = answer_logprobs(model, held_out_rows(files), ("chosen", "rejected"))
    margins = [
        BETA * ((own[0][0] - base[0][0]) - (own[1][0] - base[1][0]))
        for own, base in zip(policy, reference(files), strict=True)
    ]
    return of_margins(margins)


@cache
def reference(files: Path) -> list[list[tuple[float, int]]]:
    """What every DPO is held against, computed once."""
    return answer_logprobs(model_folder(), held_out_rows(files), ("chosen", "rejected"))


def compared(kind: str, runs: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """`runs`: side -> seed -> figures."""
    measure = {"sft": "held_out_nats", "preference_model": "loss", "dpo": "loss"}[kind]
    ratios = [runs["ours"][seed]["tokens_per_s"] / runs["trl"][seed]["tokens_per_s"] for seed in runs["ours"]]
    found: dict[str, Any] = {"ours_to_trl": results_file.spread(ratios) | {"target": TARGET_SPEED}}
    for side, own in runs.items():
        names = [name for name, value in next(iter(own.values())).items() if isinstance(value, float)]
        found[side] = {name: results_file.spread([one[name] for one in own.values()]) for name in names}
    between = [runs["ours"][seed][measure] - runs["trl"][seed][measure] for seed in runs["ours"]]
    found[f"{measure}_ours_less_trl"] = results_file.spread(between)
    return found


def run(scale: float, folder: Path, kind: str) -> None:
    """`scale`: of the numbers of rows."""
    name = f"real_{kind}"
    files = files_of(kind, scale)
    done = folder / f"{name}.json"
    before = json.loads(done.read_text()) if done.is_file() else {}
    runs: dict[str, dict[str, dict[str, Any]]] = before.get("runs", {}) if before.get("scale") == scale else {}
    for seed in SEEDS:
        for side in (*SIDES, *(OTHERS.get(kind, ()) if seed == SEEDS[-1] else ())):
            if str(seed) in runs.get(side, {}):
                continue  # a run that was ended goes on
            runs.setdefault(side, {})[str(seed)] = one_run(side, kind, seed, files)
            print(kind, seed, side, runs[side][str(seed)], flush=True)
            is_whole = all(len(runs.get(one, {})) == len(SEEDS) for one in SIDES)
            figures = {
                "scale": scale,
                "rows": {split: sum(1 for _ in (files / f"{split}.jsonl").open()) for split in ("train", "test")},
                "settings": {"batch_size": BATCH, "max_length": MAX_LENGTH, "learning_rate": LEARNING_RATES[kind]},
                "runs": runs,
                **(compared(kind, runs) if is_whole else {}),
            }
            claim = f"{kind} of SmolLM2-135M-Instruct on human data: ours as good and as fast as stock TRL"
            results_file.write(name, claim, figures, SEEDS, folder, f"python -m benchmarks.real_model {kind}")
