"""TRL's trainers with soft targets: losses against plain floats and against TRL's own."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cai_ray.config import LoraConfig, ModelConfig, OptimConfig, WorkersConfig
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.models.reading import load_renderer
from cai_ray.engines.models.scored_tokens import ScoredTokens
from cai_ray.engines.models.scoring import Scorer
from cai_ray.engines.models.trainable import load_tokenizer
from cai_ray.engines.training.arguments import Device, trainer_args
from cai_ray.engines.training.pairwise import dpo_trainer, score_trainer
from cai_ray.microworld.helpful_pairs import sample_helpful_pairs
from tests.tiny_policy import save_tiny_policy

pytestmark = pytest.mark.slow
NUM_PAIRS, BATCH = 32, 8
PROBS = [0.5 + 0.5 * k / NUM_PAIRS for k in range(NUM_PAIRS)]


@dataclass(frozen=True)
class Sets:
    """The same pairs for both trainers: columns of datasets."""

    whole: dict[str, list[Any]]
    apart: dict[str, list[Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(path=str(save_tiny_policy(tmp_path_factory.mktemp("policy"))))


@pytest.fixture(scope="module")
def sets(model: ModelConfig) -> Sets:
    pairs = sample_helpful_pairs(NUM_PAIRS, seed=1)
    scored = ScoredTokens(model, load_tokenizer(model))
    spoken = AnswerTokens(load_renderer(model))
    examples = {
        side: [spoken([*pair.messages, {"role": "assistant", "content": getattr(pair, side)}]) for pair in pairs]
        for side in ("chosen", "rejected")
    }
    whole = {f"{s}_ids": [scored.encode(pair.messages, getattr(pair, s)) for pair in pairs] for s in examples}
    apart = {f"{s}_ids": [example.answer_ids for example in examples[s]] for s in examples}
    prompts = [example.prompt_ids for example in examples["chosen"]]
    return Sets(whole, {"prompt_ids": prompts, **apart})


def arguments(folder: Path, steps: int, learning_rate: float = 3e-3) -> dict[str, Any]:
    found = trainer_args(
        output_dir=str(folder),
        seed=0,
        optim=OptimConfig(learning_rate=learning_rate, batch_size=BATCH, max_steps=steps),
        workers=WorkersConfig(steps_per_checkpoint=1000),
        device=Device(is_gpu=False, has_bf16=False),
        evaluate=True,
        run_name="test",
        is_small=True,
    )
    return {**found, "save_strategy": "no", "eval_strategy": "no"}


def dataset(columns: dict[str, list[Any]], probs: list[float], swap: bool = False) -> Any:
    from datasets import Dataset

    if swap:
        columns = {**columns, "chosen_ids": columns["rejected_ids"], "rejected_ids": columns["chosen_ids"]}
    return Dataset.from_dict({**columns, "prob_chosen": probs})


def nats(margin: np.ndarray, probs: list[float]) -> float:
    """The mean soft loss in plain floats."""
    p = np.array(probs)
    return float(np.mean(p * np.log1p(np.exp(-margin)) + (1 - p) * np.log1p(np.exp(margin))))


def test_score_loss_is_that_of_the_saved_models_scores(model: ModelConfig, sets: Sets, tmp_path: Path) -> None:
    data = dataset(sets.whole, PROBS)
    trainer: Any = score_trainer(arguments(tmp_path, 12), model, data, data, None, 0.05)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)  # the head starts at zero
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model(tmp_path / "model")
    scorer = Scorer(tmp_path / "model")
    chosen, rejected = (scorer.scores(sets.whole[f"{side}_ids"]) for side in ("chosen", "rejected"))
    expected = nats(chosen - rejected, PROBS) + 0.05 * np.mean((chosen + rejected) ** 2)
    assert np.std(chosen - rejected) > 0.05
    assert loss == pytest.approx(expected, abs=1e-5)
    assert loss < math.log(2)


def test_adapters_train_the_head_and_leave_the_rest(model: ModelConfig, sets: Sets, tmp_path: Path) -> None:
    data = dataset(sets.whole, PROBS)
    trainer: Any = score_trainer(arguments(tmp_path, 4), model, data, None, LoraConfig(rank=4), None)
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert trained and all("lora" in name or "score" in name for name in trained)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, weight in trainer.model.named_parameters() if not weight.equal(before[name])}
    assert any("score" in name for name in changed) and changed <= trained


def dpo(
    model: ModelConfig, columns: dict[str, list[Any]], folder: Path, probs: list[float], loss_type: str, soft: bool,
    swap: bool = False, lora: LoraConfig | None = None,
) -> Any:  # fmt: skip
    data = dataset(columns, probs, swap)
    return dpo_trainer(arguments(folder, 6), model, data, data, lora, 0.3, loss_type, soft)


def moved(trainer: Any) -> Any:
    """The trainer with a policy that is no longer its reference; always the same one."""
    import torch

    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return trainer


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_soft_dpo_against_trl(model: ModelConfig, sets: Sets, tmp_path: Path, loss_type: str) -> None:
    def loss(probs: list[float], soft: bool, swap: bool = False) -> float:
        trainer = moved(dpo(model, sets.apart, tmp_path, probs, loss_type, soft, swap))
        return float(trainer.evaluate()["eval_loss"])

    certain = [1.0] * NUM_PAIRS
    usual = loss(certain, soft=False)
    assert loss(certain, soft=True) == pytest.approx(usual, abs=1e-5)
    soft = loss([0.7] * NUM_PAIRS, soft=True)
    expected = 0.7 * usual + 0.3 * loss(certain, soft=False, swap=True)
    # Ours leaves out what no weight can change: (1 / (2 beta))^2 (1 - (2p - 1)^2) of IPO.
    constant = (1 / 0.6) ** 2 * (1 - 0.4**2) if loss_type == "ipo" else 0.0
    assert soft == pytest.approx(expected - constant, abs=1e-4)


def test_dpo_starts_at_its_reference_and_learns(model: ModelConfig, sets: Sets, tmp_path: Path) -> None:
    trainer = dpo(model, sets.apart, tmp_path, [0.95] * NUM_PAIRS, "sigmoid", soft=True)
    start = trainer.evaluate()
    assert start["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert start["eval_rewards/margins"] == pytest.approx(0, abs=1e-5)
    trainer.train()
    end = trainer.evaluate()
    assert end["eval_loss"] < start["eval_loss"] - 0.02
    assert end["eval_rewards/margins"] > 0 and end["eval_rewards/accuracies"] > 0.8


def test_dpo_with_adapters_refers_to_itself_without_them(model: ModelConfig, sets: Sets, tmp_path: Path) -> None:
    trainer = dpo(model, sets.apart, tmp_path, PROBS, "sigmoid", soft=True, lora=LoraConfig(rank=4))
    assert trainer.ref_model is None
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    trainer.train()
    assert abs(trainer.evaluate()["eval_rewards/margins"]) > 1e-4


def test_a_model_that_pads_with_its_end_token_is_given_another(sets: Sets, tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "policy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        text = text.replace('"pad_token": "<pad>"', '"pad_token": "<|im_end|>"').replace("<pad>", "<nothing>")
        (folder / name).write_text(text)
    model = ModelConfig(path=str(folder))
    spoken = dpo(model, sets.apart, tmp_path, PROBS, "sigmoid", soft=True)
    assert spoken.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    data = dataset(sets.whole, PROBS)
    scored: Any = score_trainer(arguments(tmp_path, 1), model, data, data, None, None)
    scored.train()
    num_tokens = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert scored.model.config.pad_token_id == num_tokens == scored.model.config.vocab_size - 1
    assert math.isfinite(scored.evaluate()["eval_loss"])
