"""TRL's RewardTrainer and DPOTrainer on pairs whose target is a probability.

Both take data sets of token ids, so that what was counted and checked before training is what is trained on, and
nothing is cut or left out silently. The soft target is the column TARGET.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cai_ray.algorithms.losses import SoftDpoLoss, centring_penalty, pairwise_loss, soft_dpo_loss
from cai_ray.config import LoraConfig, ModelConfig
from cai_ray.engines.models.trainable import (
    load_causal_lm,
    load_tokenizer,
    load_trainable,
    peft_config,
    zero_head,
)
from cai_ray.engines.training.arguments import TrainerArgs

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.reward_trainer import RewardTrainer

TARGET = "prob_chosen"


class WithTargets:
    """A collator that carries the targets past TRL's own collator into the batch, [num_pairs]."""

    def __init__(self, collator: Any) -> None:
        self._collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        batch: dict[str, Any] = self._collator(examples)
        return {**batch, TARGET: torch.tensor([example[TARGET] for example in examples], dtype=torch.float32)}


def score_trainer(
    arguments: TrainerArgs,
    model: ModelConfig,
    train: Dataset,
    evaluation: Dataset | None,
    lora: LoraConfig | None,
    centring: float | None,
) -> Trainer:
    """A RewardTrainer with the soft-target loss, ready to train `model` with a new score head.

    The head starts at zero: every score is 0, every loss log 2, the same on every worker.

    Args:
        arguments: of `engines.training`.
        train, evaluation: columns chosen_ids, rejected_ids (whole conversations) and TARGET in [0, 1].
        centring: coefficient of `centring_penalty`, TRL's `center_rewards_coefficient`; None for none.
    """
    from trl.trainer.reward_config import RewardConfig

    # First: under ZeRO-3 the model is then sharded while it is loaded. No length limit: it would drop pairs silently.
    config = RewardConfig(**arguments, max_length=None, center_rewards_coefficient=centring)
    tokenizer = load_tokenizer(model)
    classifier = load_trainable(model, tokenizer)
    zero_head(classifier.score.weight)
    trainer: Any = _score_trainer_class()(
        model=classifier,
        args=config,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        peft_config=peft_config(lora, "SEQ_CLS"),
    )
    trainer.data_collator = WithTargets(trainer.data_collator)
    return trainer


def _score_trainer_class() -> type[RewardTrainer]:
    from trl.trainer.reward_trainer import RewardTrainer

    class ScoreTrainer(RewardTrainer):
        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = ["chosen_ids", "rejected_ids", TARGET]

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            plain = {name: value for name, value in inputs.items() if name != TARGET}
            # TRL's own loss is for hard targets and goes unused; its metrics and forward pass serve.
            _, outputs = super().compute_loss(model, plain, return_outputs=True)  # type: ignore[no-untyped-call]
            chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
            loss = pairwise_loss(chosen - rejected, inputs[TARGET]).mean()
            if self.args.center_rewards_coefficient is not None:
                loss = loss + self.args.center_rewards_coefficient * centring_penalty(chosen, rejected).mean()
            return (loss, outputs) if return_outputs else loss

    return ScoreTrainer


def dpo_trainer(
    arguments: TrainerArgs,
    model: ModelConfig,
    train: Dataset,
    evaluation: Dataset | None,
    lora: LoraConfig | None,
    beta: float,
    loss_type: str,
    is_soft: bool,
) -> Trainer:
    """A DPOTrainer, ready to train `model` against its own frozen copy (with `lora`: itself, adapters off).

    Args:
        train, evaluation: columns prompt_ids, chosen_ids, rejected_ids (answers only) and TARGET in [0, 1].
        beta: > 0; see `soft_dpo_loss`.
        loss_type: one of TRL's; with `is_soft` a SoftDpoLoss.
        is_soft: use TARGET. False: TRL's own loss, every `chosen` is simply better.
    """
    from trl.trainer.dpo_config import DPOConfig

    # No length limit: answers would be cut silently. Losses only: TRL would run the model again for its logits.
    config = DPOConfig(**arguments, max_length=None, beta=beta, loss_type=[loss_type], prediction_loss_only=True)
    tokenizer = load_tokenizer(model)
    trainer: Any = (_soft_dpo_trainer_class() if is_soft else _dpo_trainer_class())(
        model=load_causal_lm(model, tokenizer),
        # TRL would load it without room for a new padding token.
        ref_model=None if lora else load_causal_lm(model, tokenizer),
        args=config,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        peft_config=peft_config(lora),
    )
    if is_soft:
        trainer.data_collator = WithTargets(trainer.data_collator)
    return trainer


def _dpo_trainer_class() -> type[DPOTrainer]:
    from trl.trainer.dpo_trainer import DPOTrainer

    class TokenDPOTrainer(DPOTrainer):
        """Stock DPO on token ids."""

        def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
            return dataset  # TRL would tokenise text

    return TokenDPOTrainer


def _soft_dpo_trainer_class() -> type[DPOTrainer]:
    class SoftDPOTrainer(_dpo_trainer_class()):  # type: ignore[misc]
        """The expected DPO loss over soft labels."""

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = ["prompt_ids", "chosen_ids", "rejected_ids", TARGET]

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            plain = {name: value for name, value in inputs.items() if name != TARGET}
            mask = plain["completion_mask"]
            outputs = model(
                input_ids=plain["input_ids"],
                attention_mask=plain["attention_mask"],
                labels=plain["input_ids"].masked_fill(mask == 0, -100),
                use_cache=False,
                fused_lm_head=True,  # log-probabilities of the labels, without all logits in memory
            )
            policy = outputs.log_probs.sum(dim=1).chunk(2)
            reference = self.compute_ref_log_probs(self.model if self.ref_model is None else self.ref_model, plain)
            ratios = [ours - theirs for ours, theirs in zip(policy, reference, strict=True)]
            loss_type: SoftDpoLoss = self.loss_types[0]
            if loss_type == "ipo":  # per token, as TRL's is: a sum grows with the answer's length
                lengths = mask.sum(dim=1).clamp(min=1).chunk(2)
                delta = ratios[0] / lengths[0] - ratios[1] / lengths[1]
            else:
                delta = ratios[0] - ratios[1]
            loss = soft_dpo_loss(delta, inputs[TARGET], self.beta, loss_type).mean()
            self._count(self.beta * ratios[0].detach(), self.beta * ratios[1].detach())
            return (loss, outputs) if return_outputs else loss

        def _count(self, chosen: Any, rejected: Any) -> None:
            """TRL's names for the implied rewards, beta x log ratio."""
            seen = self._metrics["train" if self.model.training else "eval"]
            for name, values in (
                ("rewards/chosen", chosen),
                ("rewards/rejected", rejected),
                ("rewards/margins", chosen - rejected),
                ("rewards/accuracies", (chosen > rejected).float()),
            ):
                seen[name].append(self.accelerator.gather(values).mean().item())

    return SoftDPOTrainer
