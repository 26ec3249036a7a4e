"""Runs to report on, made without a model: real artifacts and real summaries of scripted answers."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cai_ray.artifacts.artifact import Artifact, open_stage
from cai_ray.artifacts.parts import write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries import summary as summary_file
from cai_ray.artifacts.summaries.evaluation import EvaluationSummary
from cai_ray.artifacts.summaries.labels import LabelSummary, OracleSummary, PrincipleSummary
from cai_ray.artifacts.summaries.preference_model import PreferenceModelSummary, ScoreFacts
from cai_ray.artifacts.summaries.revision import RevisionSummary
from cai_ray.chat import Message
from cai_ray.dropped import DROPPED, DropReason, DropRow
from cai_ray.metrics.intervals import Estimate
from cai_ray.microworld.language import comply, refuse
from cai_ray.microworld.oracle import parse_request
from cai_ray.row_ids import RESPONSES_IDS, RowIds
from cai_ray.rows import EVAL_SCORE, EVAL_SCORES, REVISION, SFT_EXAMPLE
from cai_ray.stages.evaluation import evaluate
from cai_ray.stages.evaluation import summary as evaluate_summary
from cai_ray.stages.preferences.preference_model_summary import source_scores
from cai_ray.stages.revision import summary as revise_summary
from tests.finished_stages import finished, spec_of
from tests.label_artifacts import context as write_labels
from tests.label_artifacts import label
from tests.stages.evaluation.evaluate_runs import Scripted, microworld_prompts, prompt, write_prompts

STAGES = (
    "load_prompts", "revise", "train_sft", "label_comparisons", "train_preference_model", "train_ppo", "evaluate",
)  # fmt: skip
HARMFUL_SHARES = {"policy": 0.95, "sl_cai": 0.4, "rl_cai": 0.05}
HOSTILE = (
    "</script><script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 1">',
    "<!--<script>window.pwned = 1;//",
    '"><svg onload=window.pwned=1><a href="javascript:window.pwned=1">click</a>',
    "<style>*{display:none}</style><meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "{{ 7 * 7 }}{% raw %}{% endraw %}${7 * 7}",
    "abc\u202edcba\u2066x\u2069 \x1b[2J\x07\x00 \u2028 \U000e0041\U000e0042 \ufeff",
    "=HYPERLINK(1) | `code` **bold** [link](javascript:alert(1)) <b>html</b>",
    "A" * 5_000,
    "Z\u0337\u0322\u031b" * 40,
)


def dialogue(row: dict[str, Any], rng: random.Random, hostile: bool) -> dict[str, Any]:
    """A row of the schema REVISION: two rounds, the second of which mends a harmful answer."""
    task = parse_request(row["messages"][-1]["content"])
    bad = rng.choice(HOSTILE) if hostile or task is None else comply(rng, task)
    good = rng.choice(HOSTILE) if hostile or task is None else refuse(rng, task) if task.harmful else comply(rng, task)
    rounds = [
        {"principle_id": "theft", "critique": f"The last answer: {bad[:200]}", "revision": bad, "flags": ["no_op"]},
        {"principle_id": "harmless", "critique": None, "revision": good, "flags": []},
    ]
    copied = {name: row[name] for name in ("prompt_id", "kind", "source", "category", "split", "license", "messages")}
    return {
        **copied,
        "sample_index": 0,
        "initial_response": bad,
        "initial_flags": [],
        "revisions": rounds,
        "thinking": None,
        "finish_reasons": ["stop"] * 4,
        "num_neutralised": 0,
        "num_prompt_tokens": 40,
        "num_cached_tokens": 20,
        "num_output_tokens": 60,
    }


def commit(
    run: Storage, stage: str, rows: Sequence[dict[str, Any]], schema: pa.Schema, key: str, **counters: int
) -> Artifact:
    """A finished stage with these rows, perhaps none, and with these counters even then."""
    opened = open_stage(spec_of(run / stage, stage, RowIds((key,)), f"{stage}-fingerprint"))
    assert not isinstance(opened, Artifact)
    ids = [row[key] for row in rows]
    write_part(opened.folder, pa.Table.from_pylist(list(rows), schema), DROPPED.empty_table(), ids, counters)
    return opened.commit(pa.array(ids, pa.string()))


def write_revise(run: Storage, prompts: Sequence[dict[str, Any]], hostile: bool = False) -> Artifact:
    """Every prompt revised but the last, which was dropped."""
    rng = random.Random(1)
    rows = [dialogue(row, rng, hostile) for row in prompts[:-1]]
    too_long = DropRow(DropReason.TOO_LONG, HOSTILE[0] if hostile else "2,000 tokens do not fit")
    artifact = finished(
        spec_of(run / "revise", "revise", RESPONSES_IDS, "r"),
        REVISION,
        rows,
        dropped={prompts[-1]["prompt_id"]: too_long},
        counters={"num_prompt_tokens": 4_000, "num_cached_tokens": 2_000, "num_output_tokens": 6_000, "flag.no_op": 9},
    )
    summary_file.summary_of(artifact, RevisionSummary, revise_summary.summarise)
    return artifact


def answering(harmful_share: float, hostile: bool) -> Any:
    """A policy that helps with harmful requests in this share of its answers; it loses one answer of many."""

    def answer(prompt_id: str, messages: Sequence[Message], seed: int) -> str:
        rng = random.Random(f"{seed}/{prompt_id}")
        if rng.random() < 0.02:
            raise DropRow(DropReason.TIMEOUT, "600 s")
        task = parse_request(messages[-1]["content"])
        if task is None or (hostile and rng.random() < 0.3):
            return rng.choice(HOSTILE)
        return comply(rng, task) if not task.harmful or rng.random() < harmful_share else refuse(rng, task)

    return answer


def write_training(run: Storage, stage: str, num_steps: int = 40) -> None:
    """metrics.jsonl as a training stage leaves it: a step done twice, a NaN, a line cut short."""
    rng = random.Random(stage)
    lines: list[dict[str, Any]] = [{"attempt": 1, "elapsed_s": 0.5, "event": "worker 0 was lost <b>"}]
    for step in [1, 2, 3, *range(2, num_steps + 1)]:
        noise = rng.random() / 5
        values: dict[str, Any] = {"loss": 1 / step + noise, "examples_per_s": 50.0}
        if stage == "train_ppo":
            values = {"score": step / 20 + noise, "kl": step / 8, "entropy": 2 - step / 50, "clip_fraction": noise}
            values |= {
                "length": 30 - step / 4,
                "length_max": 60,
                "refusal_rate": 0.3 + noise,
                "evasive_rate": noise / 2,
            }
            values |= {"boilerplate_rate": noise, "truncated": 0.0, "policy_loss": -noise, "value_loss": float("nan")}
        lines.append({"attempt": 1, "elapsed_s": float(step), "step": step, "num_steps": num_steps, **values})
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"attempt": 2, "step": 4'
    run.path()
    (run / stage).write("metrics.jsonl", text.encode())


def write_preference_model(run: Storage, num_pairs: int = 80) -> None:
    rng = random.Random(2)
    rows = [
        {
            "pair_id": f"pair-{k}",
            "prompt_id": f"prompt-{k % 30}",
            "label_source": "ai",
            "prob_chosen": 0.5 + rng.random() / 2,
            "score_chosen": rng.gauss(0.8, 1),
            "score_rejected": rng.gauss(-0.8, 1),
        }
        for k in range(num_pairs)
    ]
    stage = "train_preference_model"
    commit(run, stage, rows, EVAL_SCORE, "pair_id", num_tokens=9_000)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, EVAL_SCORE), sink)
    (run / stage).write(EVAL_SCORES, sink.getvalue())
    found = source_scores(rows)
    assert found is not None
    scores = ScoreFacts(
        scored_token="<end>",
        system_role="native",
        score_mean=0.0,
        score_std=1.2,
        score_offset=-0.1,
        score_noise=0.01,
        num_answers=400,
    )
    summary = PreferenceModelSummary(
        rows_in=num_pairs,
        rows_out=num_pairs,
        rows_dropped={},
        targets="soft",
        sources={"ai": found},
        scores=scores,
        duration_s=1.0,
    )
    summary_file.write(run / stage, summary)


def write_run(folder: Path, monkeypatch: pytest.MonkeyPatch, num_prompts: int = 60, hostile: bool = False) -> Storage:
    """A finished run of every stage that the report shows; `hostile`: models and people wrote HOSTILE texts."""
    run = Storage(str(folder))
    prompts = microworld_prompts(num_prompts)
    if hostile:
        prompts += [prompt([{"role": "user", "content": text}], category=text[:60]) for text in HOSTILE]
    title = HOSTILE[0] if hostile else "example"
    recipe = {"name": title, "seed": 11, "constitution": "microworld", "models": {"policy": {"path": title}}}
    folder.mkdir(parents=True, exist_ok=True)
    run.write("recipe.json", json.dumps(recipe).encode())
    write_prompts(folder, prompts)
    write_revise(run, prompts, hostile)
    for stage in ("train_sft", "train_ppo"):
        write_training(run, stage)
        commit(run, stage, [], SFT_EXAMPLE, "example_id", num_tokens=5_000)
    write_labels(folder, "model", "train_preference_model", [label(k) for k in range(60)])
    labels = Artifact(run / "label_comparisons")
    write_preference_model(run)
    write_training(run, "train_preference_model")
    scripted = Scripted(
        monkeypatch, folder, {name: answering(share, hostile) for name, share in HARMFUL_SHARES.items()}
    )
    evaluated = scripted.run(evaluate.Config(policies=tuple(HARMFUL_SHARES), scorers=("microworld",)))
    summary_file.summary_of(evaluated, EvaluationSummary, evaluate_summary.summarise)
    summary_file.write(run / "label_comparisons", _labels(labels))
    return run


def _labels(artifact: Artifact) -> LabelSummary:
    """What label_summary writes, for labels without readings."""
    estimate = Estimate(value=0.1, low=0.05, high=0.2, n=60)
    agreement = Estimate(value=0.9, low=0.8, high=0.95, n=60)
    principle = PrincipleSummary(
        principle_id="harmless",
        num_pairs=60,
        order_flip_rate=None,
        extremity=None,
        position_bias=None,
        label_agreement=estimate,
        oracle_agreement=None,
    )
    return LabelSummary(
        rows_in=artifact.manifest.rows_in,
        rows_out=artifact.manifest.rows_out,
        rows_dropped={},
        order_flip_rate=estimate,
        extremity=estimate,
        position_bias=estimate.model_copy(update={"low": -0.1}),
        principle_agreement=None,
        principles=(principle,),
        oracle={
            "label": OracleSummary(
                num_decided=60, agreement=agreement, brier=None, overconfidence=None, calibration=None
            )
        },
        counters={},
        duration_s=1.0,
    )
