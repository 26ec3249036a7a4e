"""Judges on real Ray: the micro model compares in both orders, and classifiers made on the spot score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.engines.models.scoring import Scorer
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import build
from cai_ray.pipeline.steps import steps
from cai_ray.stages.evaluation.folders import GAMES
from cai_ray.stages.evaluation.summary import summarise
from tests.tiny_models import save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.usefixtures("ray_session")]
ENGINE = {"max_num_seqs": 32, "max_num_batched_tokens": 2048, "kv_cache_gib": 1.0}
SMALL = {"rows_per_task": 4, "rows_per_part": 8}


def classifier(folder: Path, **config: Any) -> str:
    """A random classifier without a chat template, as most are."""
    save_tiny(folder, classifier=True)
    (folder / "chat_template.jinja").unlink()
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | config))
    return str(folder)


def noisy(model: Path, folder: Path) -> str:
    """The model with a little noise in its output layer: other words, and much the same sense."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = loaded.get_output_embeddings().weight
        weight.add_(0.05 * weight.std() * torch.randn(weight.shape, generator=noise))
    loaded.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


def evaluated(tmp_path: Path, micro_model: Path) -> Artifact:
    """Two policies that are nearly one model, so that whoever wins does so by chance."""
    micro = {"path": str(micro_model), "engine": ENGINE}
    labels = {"id2label": {"0": "dull"}, "problem_type": "multi_label_classification"}
    recipe = build(
        {
            "name": "run",
            "output": str(tmp_path),
            "models": {
                "policy": micro,
                "other": {**micro, "path": noisy(micro_model, tmp_path / "other")},
                "rewards": {"path": str(save_tiny(tmp_path / "rewards", classifier=True, max_tokens=4096))},
                "dullness": {"path": classifier(tmp_path / "dullness", **labels)},
            },
            "prompts": {"path": "microworld", "num_prompts": 16, "test_fraction": 0.5},
            "evaluate": {
                "policies": ["policy", "other"],
                "sampling": {"max_tokens": 64, "temperature": 0.7},
                "scaling": SMALL,
                "judges": [
                    {"kind": "reward", "model": "rewards", "scaling": SMALL},
                    {"kind": "classifier", "model": "dullness", "labels": ["dull"], "metric": "dull", "prompts": "all"},
                    {"kind": "guard", "model": "policy", "name": "guard", "max_tokens": 4},
                    {
                        "kind": "pairwise",
                        "model": "policy",
                        "name": "pairs",
                        "delimiters": "plain",  # the text that the micro model knows
                        "question": "Which answer is less harmful?",
                        "scaling": SMALL,
                    },
                ],
            },
        },
        "test",
    )
    chosen = [step for step in steps(recipe) if step.stage in ("load_prompts", "evaluate")]
    return pipeline.run(recipe, chosen)[-1].artifact


def test_judges_of_every_engine(micro_model: Path, tmp_path: Path) -> None:
    artifact = evaluated(tmp_path, micro_model)
    summary = summarise(artifact)
    rows = list(artifact.rows())
    num_answers = len(rows)
    left_out = sum(artifact.manifest.rows_left_out.values())
    assert num_answers == artifact.manifest.rows_in - left_out and num_answers % 2 == 0

    # Rewards are those of stock transformers, answer by answer.
    scored = {
        (row["policy"], row["prompt_id"]): {score["metric"]: score["value"] for score in row["scores"]} for row in rows
    }
    scorer = Scorer(tmp_path / "rewards")
    for policy in ("policy", "other"):
        answers = find(artifact.folder / "answers" / policy)
        assert answers is not None
        for row in answers.rows():
            text = scorer.tokens.tokenizer.apply_chat_template(
                [*row["messages"], {"role": "assistant", "content": row["responses"][0]}], tokenize=False
            )
            ids = scorer.tokens.tokenizer.encode(text, add_special_tokens=False)
            value = scored[policy, row["prompt_id"]]["preference_score"]
            assert value == pytest.approx(scorer.scores([ids])[0], abs=1e-4)
    assert all(0 < values["dull"] < 1 for values in scored.values())
    assert summary.judges["rewards"].policies["other"].num_judged == num_answers // 2

    # The micro model is no guard: what it says is counted and not believed.
    for policy, found in summary.judges["guard"].policies.items():
        assert found.num_judged + sum(found.failures.values()) == sum(
            "harmful.guard" in values for (name, _), values in scored.items() if name == policy
        )
        assert set(found.failures) <= {"unparsable"} and found.failures

    games = find(artifact.folder / GAMES / "pairs")
    assert games is not None and games.manifest.rows_out == num_answers // 2
    probs = [row["prob_a"] for row in games.rows()]
    assert all(0 <= prob <= 1 for prob in probs) and len(set(probs)) > 1
    assert games.manifest.counters["num_requests"] == 2 * sum(prob != 0.5 for prob in probs)
