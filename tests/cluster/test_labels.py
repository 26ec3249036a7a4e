"""Pairs and labels on real Ray: with vLLM and the micro model, and with scripted engines where rows are to fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.labels import LabelSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.config import EngineConfig, ModelConfig, SamplingConfig, ScalingConfig
from cai_ray.constitution.source import load, resolve
from cai_ray.dropped import DropReason
from cai_ray.engines.backends.scripted import Script, ScriptedBackend
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.errors import ConfigError
from cai_ray.stages import sampled_responses
from cai_ray.stages.context import Context
from cai_ray.stages.inputs import load_prompts
from cai_ray.stages.preferences import label_comparisons, sample_pairs
from cai_ray.stages.preferences.label_summary import summarise
from cai_ray.stages.preferences.labels_config import JudgeConfig
from tests import answering

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]
SMALL = ScalingConfig(rows_per_task=8, rows_per_part=16)
THREE_ANSWERS = sample_pairs.Config(
    samples_per_prompt=3,
    strategy="all",
    temperatures=(1.0, 1.5),
    sampling=SamplingConfig(max_tokens=48),
    scaling=SMALL,
)
MICRO = EngineConfig(max_num_seqs=64, max_num_batched_tokens=4096, kv_cache_gib=1.0)


def context_of(folder: Path, model: Path, **engine: Any) -> Context:
    """A run whose policy and feedback model are both the micro model."""
    weights = ModelConfig(path=str(model), engine=MICRO.model_copy(update=engine))
    stages = (load_prompts.STAGE, sample_pairs.STAGE, label_comparisons.STAGE)
    return Context(
        run=Storage(str(folder)),
        seed=5,
        models={"sl_cai": weights, "feedback": weights},
        trained={},
        constitution=load(resolve("microworld")),
        cluster=ClusterConfig(),
        fingerprints={stage: f"{stage} of {folder.name}" for stage in stages},
    )


def prompts_of(context: Context, num_prompts: int) -> Artifact:
    return load_prompts.run(load_prompts.Config(num_prompts=num_prompts, harmful_fraction=1.0), context)


def check_adds_up(artifact: Artifact, ids: Sequence[str], key: str = "pair_id") -> None:
    """Every id exactly once, out or dropped."""
    out = [row[key] for row in artifact.rows([key])]
    assert sorted(out + [row["row_id"] for row in artifact.dropped()]) == sorted(ids)


def use_script(monkeypatch: pytest.MonkeyPatch, stage: Any, script: Script) -> None:
    monkeypatch.setattr(stage, "backend_factory", lambda model: partial(ScriptedBackend, script))


def test_the_micro_model_answers_and_labels(micro_model: Path, tmp_path: Path) -> None:
    context = context_of(tmp_path / "run", micro_model)
    prompts = prompts_of(context, 96)
    pairs = sample_pairs.run(THREE_ANSWERS, context, load_prompts.STAGE)
    ids = [f"{row['prompt_id']}/{i}-{j}" for row in prompts.rows(["prompt_id"]) for i, j in ((0, 1), (0, 2), (1, 2))]
    check_adds_up(pairs, ids)
    assert pairs.manifest.rows_out > 200
    assert pairs.manifest.counters["num_cached_tokens"] > 0
    assert pairs.manifest.inputs == {load_prompts.STAGE: prompts.manifest.fingerprint}
    assert {row["temperature_a"] for row in pairs.rows(["temperature_a"])} == {1.0, 1.5}
    assert sample_pairs.run(THREE_ANSWERS, context, load_prompts.STAGE).manifest == pairs.manifest, (
        "a finished stage is a no-op"
    )

    labels = label_comparisons.Config(principles_per_pair=3, delimiters="plain", scaling=SMALL)
    labelled = label_comparisons.run(labels, context, sample_pairs.STAGE)
    check_adds_up(labelled, [row["pair_id"] for row in pairs.rows(["pair_id"])])
    assert labelled.manifest.rows_out == pairs.manifest.rows_out
    for row in labelled.rows():
        assert len(row["comparisons"]) == 6 and row["label_source"] == "ai"
        assert len({reading["principle_id"] for reading in row["comparisons"]}) == 3
        mean = sum(reading["prob_a"] for reading in row["comparisons"]) / 6
        assert max(mean, 1 - mean) == pytest.approx(row["prob_chosen"])

    counters = labelled.manifest.counters  # of three principles in an order, two share what is before the question
    assert counters["num_cached_tokens"] > 0.4 * counters["num_prompt_tokens"]
    assert counters["num_requests"] == counters["num_readings"] == 6 * labelled.manifest.rows_out
    summary = summary_of(labelled, LabelSummary, summarise)
    agreement = summary.oracle["label"].agreement
    assert agreement is not None and agreement.n > 20 and agreement.value > 0.5  # chance; this model compares poorly
    assert set(summary.oracle) == {"one reading", "both orders", "all principles", "all readings", "label"}

    thoughtful = context_of(tmp_path / "run", micro_model)
    (tmp_path / "run" / "label_comparisons").rename(tmp_path / "plain labels")
    cot = label_comparisons.Config(
        chain_of_thought=2, delimiters="plain", cot_sampling=SamplingConfig(max_tokens=48), scaling=SMALL
    )
    reasoned = label_comparisons.run(cot, thoughtful, sample_pairs.STAGE)
    check_adds_up(reasoned, [row["pair_id"] for row in pairs.rows(["pair_id"])])
    assert reasoned.manifest.num_dropped < 0.1 * reasoned.manifest.rows_in
    thoughts = [reading["rationale"] for row in reasoned.rows() for reading in row["comparisons"]]
    assert len(thoughts) == 4 * reasoned.manifest.rows_out
    assert sum("Answer (" in thought for thought in thoughts) > 0.9 * len(thoughts)
    assert all(0.5 < row["prob_chosen"] <= 0.6 for row in reasoned.rows(["prob_chosen"]))


def test_each_sample_has_a_seed_of_its_own_on_any_cluster(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_script(monkeypatch, sampled_responses, answering.answer_by_seed)
    found = []
    for num_engines in (1, 2):
        context = context_of(tmp_path / str(num_engines), micro_model)
        prompts_of(context, 24)
        scaling = ScalingConfig(min_engines=num_engines, max_engines=num_engines, rows_per_task=5 * num_engines)
        config = sample_pairs.Config(samples_per_prompt=4, strategy="random", num_pairs=2, scaling=scaling)
        pairs = sample_pairs.run(config, context, load_prompts.STAGE)
        assert pairs.manifest.rows_out == 48
        found.append({row["pair_id"]: row for row in pairs.rows()})
    assert found[0] == found[1]
    samples = Artifact(Storage(str(tmp_path / "1")) / sample_pairs.STAGE / sample_pairs.SAMPLES)
    assert all(len(set(row["responses"])) == 4 for row in samples.rows(["responses"]))


def test_lost_samples_and_identical_answers_are_counted_as_pairs(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_script(monkeypatch, sampled_responses, answering.sleepy_twins)
    context = context_of(tmp_path / "run", micro_model, row_time_limit_s=4.0)
    fates = [answering.fate(row["prompt_id"]) for row in prompts_of(context, 40).rows(["prompt_id"])]
    config = sample_pairs.Config(samples_per_prompt=3, strategy="all", scaling=SMALL)
    pairs = sample_pairs.run(config, context, load_prompts.STAGE)
    dropped = {"identical": 3 * fates.count(1), "timeout": 3 * fates.count(0)}
    assert pairs.manifest.rows_dropped == dropped
    assert pairs.manifest.rows_in == 120 == pairs.manifest.rows_out + sum(dropped.values())


def test_ties_are_dropped_and_no_pair_left_is_told(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_script(monkeypatch, sampled_responses, answering.answer_by_seed)
    use_script(monkeypatch, label_comparisons, answering.undecided)
    context = context_of(tmp_path / "run", micro_model)
    prompts_of(context, 16)
    pairs = sample_pairs.run(sample_pairs.Config(scaling=SMALL), context, load_prompts.STAGE)
    labelled = label_comparisons.run(label_comparisons.Config(scaling=SMALL), context, sample_pairs.STAGE)
    assert labelled.manifest.rows_dropped == {str(DropReason.TIE): 16}
    check_adds_up(labelled, [row["pair_id"] for row in pairs.rows(["pair_id"])])
    assert summary_of(labelled, LabelSummary, summarise).rows_dropped == {"tie": 16}

    empty = context_of(tmp_path / "empty", micro_model)
    use_script(monkeypatch, sampled_responses, answering.always_the_same)
    prompts_of(empty, 8)
    assert sample_pairs.run(sample_pairs.Config(scaling=SMALL), empty, load_prompts.STAGE).manifest.rows_out == 0
    with pytest.raises(ConfigError, match="holds no pair to label"):
        label_comparisons.run(label_comparisons.Config(), empty, sample_pairs.STAGE)
    assert json.loads((tmp_path / "empty/sample_pairs/manifest.json").read_text())["rows_dropped"] == {"identical": 8}


@pytest.mark.long
def test_sampled_verdicts_are_worth_nearly_as_much_as_log_probabilities(micro_model: Path, tmp_path: Path) -> None:
    """Eight verdicts in words, as of a server that gives no log-probabilities; and a panel of two."""
    context = context_of(tmp_path / "run", micro_model)
    prompts_of(context, 192)
    sample_pairs.run(THREE_ANSWERS, context, load_prompts.STAGE)
    panel = (JudgeConfig(model="feedback"), JudgeConfig(model="sl_cai", weight=2.0))
    wanted = {
        "logprob": {},
        "sampled": {"reading": "sampled", "verdicts": 8},
        "panel": {"reading": "sampled", "verdicts": 2, "models": panel, "verdict_sampling": {"temperature": 1.3}},
    }
    oracle = {}
    for name, changes in wanted.items():
        config = label_comparisons.Config.model_validate({"delimiters": "plain", "scaling": SMALL, **changes})
        own = replace(context, run=Storage(str(tmp_path / name)))
        shutil.copytree(tmp_path / "run" / sample_pairs.STAGE, tmp_path / name / sample_pairs.STAGE)
        labels = label_comparisons.run(config, own, sample_pairs.STAGE)
        check_adds_up(labels, [row["pair_id"] for row in context.artifact(sample_pairs.STAGE).rows(["pair_id"])])
        oracle[name] = summary_of(labels, LabelSummary, summarise).oracle
    agreement = {name: found["label"].agreement for name, found in oracle.items()}
    assert agreement["sampled"].value >= 0.95 * agreement["logprob"].value
    assert {"judge feedback", "judge sl_cai", "label"} == set(oracle["panel"])
