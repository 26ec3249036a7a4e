"""The learner is the sampler: shown once, on a few answers, after the model is loaded and before its first step.

What a training stage loads must compute what the model's engine computes, or it teaches a policy by another one's
probabilities: an attention without its soft cap is 0.7 nats per token away and raises nothing. There are two
comparisons, and each stage makes the best that costs no engine of its own:

- Where a stage of the run had an engine sample from the same weights (`engines/conversations/sampled.py`; SFT from the
  policy's answers in `revise`, the preference model and DPO from the answers of `sample_pairs`), the engine's
  log-probabilities of its own tokens are the reference. A preference model has no output layer any more: its body
  is read through the one of the model that it starts from.
- Where none did (answers of an endpoint, runs from before there was a proof), the learner's fast attention is compared
  with transformers' plain one (`eager`) on the stage's own answers. That shows that the attention computes what the
  config says, and no more: both sides are one program.

PPO has its engines up, and asks them (`stages/ppo/machines.py`).

Tested in tests/field/test_19_learner_is_sampler.py and tests/engines/training/test_proof.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cai_ray.algorithms.logprobs import token_logprobs
from cai_ray.artifacts.storage import shown
from cai_ray.config import ModelConfig, ProofConfig
from cai_ray.engines.conversations.sampled import Sampled
from cai_ray.engines.models.agreement import HALF_PRECISION_TOLERANCE, TOLERANCE, is_exact, largest_gap
from cai_ray.engines.models.files import weights_folder
from cai_ray.engines.models.reading import read_config
from cai_ray.engines.models.trainable import output_scaled
from cai_ray.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer

    from cai_ray.artifacts.metrics_file import MetricsFile
    from cai_ray.engines.training.arguments import Device

EAGER = "eager"


@dataclass(frozen=True)
class Proof:
    """What is compared. Travels to the workers: everything in it pickles.

    Attributes:
        section: of the recipe, where `proof` is set.
        model: what both sides hold before training.
        answers: of the engine where `sampled_in` names a stage; else the stage's own, without log-probabilities.
        sampled_in: the stage whose engine sampled them; "": none.
    """

    section: str
    config: ProofConfig
    model: ModelConfig
    answers: tuple[Sampled, ...]
    sampled_in: str


def proof_callback(proof: Proof, trainer: Trainer, device: Device, metrics: MetricsFile | None) -> Any:
    """A TrainerCallback that proves before the first step, when the model is spread over its workers and on its device.

    All workers take part: under ZeRO-3 each has a share of every weight. Raises ConfigError from within `train()`.
    """
    from transformers import TrainerCallback

    class ProofCallback(TrainerCallback):  # type: ignore[misc]  # untyped here
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step:  # resumed: these weights have learned, and were proven before they did
                return
            wrapped: Any = trainer.model_wrapped
            told = prove(proof, wrapped, trainer.model, device)
            if metrics is not None and told:
                metrics.event(told)

    return ProofCallback()


def prove(proof: Proof, wrapped: Any, inner: Any, device: Device) -> str:
    """Compare; what was found, for a person, "" where there is nothing to compare. Raises ConfigError for a gap.

    Args:
        wrapped: what is called: `inner` itself, or DeepSpeed's or DDP's module around it.
        inner: a causal language model or a sequence classifier of transformers, adapters or not.
    """
    base = inner.get_base_model() if hasattr(inner, "peft_config") else inner
    attention: str = base.config._attn_implementation
    if not proof.answers or (not proof.sampled_in and attention == EAGER):
        return ""
    head = output_layer(proof.model) if hasattr(base, "score") else None
    if hasattr(base, "score") and head is None:
        return ""
    vocabulary = read_config(proof.model).get_text_config().vocab_size
    exact = not device.has_bf16 and is_exact(proof.model, device.is_gpu)
    was_training = wrapped.training
    wrapped.eval()
    try:
        found = [_answer_logprobs(wrapped, base, head, vocabulary, one, device) for one in proof.answers]
        if proof.sampled_in:
            expected = [one.logprobs for one in proof.answers]
        else:
            with _plain_attention(base, attention):
                expected = [_answer_logprobs(wrapped, base, head, vocabulary, one, device) for one in proof.answers]
    finally:
        wrapped.train(was_training)
    return judged(
        proof.section,
        found,
        expected,
        proof.config.tolerance or (TOLERANCE if exact else HALF_PRECISION_TOLERANCE),
        learner=f"{type(base).__name__} of {shown(proof.model.path)!r} with attention {attention!r}",
        other=f"the engine that sampled them in {proof.sampled_in}" if proof.sampled_in else "plain (eager) attention",
    )


def judged(
    section: str,
    found: Sequence[Sequence[float]],
    expected: Sequence[Sequence[float]],
    tolerance: float,
    learner: str,
    other: str,
) -> str:
    """The comparison in a sentence. Raises ConfigError when the mean gap is over the tolerance, or no number.

    The mean over all tokens, because half precision puts single unlikely tokens far apart.

    Args:
        found, expected: log-probabilities of the learner and of the other side, [num_answers][num_tokens], nats.
        tolerance: nats per token.
        learner, other: what computed `found`, and what `expected`.
    """
    gaps = [abs(a - b) for ours, theirs in zip(found, expected, strict=True) for a, b in zip(ours, theirs, strict=True)]
    mean, worst = fmean(gaps), largest_gap(found, expected)
    on = f"{len(gaps)} tokens of {len(found)} answers"
    if mean <= tolerance:  # false of NaN
        return f"the learner agrees with {other}: {mean:.2g} nats per token apart on {on}"
    raise ConfigError(
        f"{section}: the learner does not compute what {other} computes. On {on} their log-probabilities are "
        f"{mean:.4f} nats per token apart, more than {tolerance:g}; the worst, token {worst.token} of answer "
        f"{worst.sequence}: {worst.found:.4f} and {worst.expected:.4f}. The learner is {learner}. Take out of the "
        "model's settings what makes its engine sample by other numbers (quantization or hf_overrides in engine.extra, "
        f"a dtype of half precision), or choose another model; to train all the same, write {section}: "
        f"{{proof: {{tolerance: {mean * 2:.2g}}}}} or {section}: {{proof: off}}"
    )


@contextmanager
def _plain_attention(base: Any, usual: str) -> Iterator[None]:
    base.set_attn_implementation(EAGER)
    try:
        yield
    finally:
        base.set_attn_implementation(usual)


def _answer_logprobs(
    wrapped: Any, base: Any, head: tuple[Tensor, Tensor | None] | None, vocabulary: int, one: Sampled, device: Device
) -> tuple[float, ...]:
    """[num_answer_tokens] nats. Rows that were added for padding are no tokens to an engine, and left out."""
    import torch

    place = next(base.parameters()).device
    ids = torch.tensor([[*one.prompt_ids, *one.answer_ids]], device=place)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    targets = torch.tensor(one.answer_ids, device=place)
    with torch.no_grad(), torch.autocast(place.type, torch.bfloat16, enabled=device.has_bf16):
        if head is None:
            logits = wrapped(**given).logits[0]
        else:
            hidden = wrapped(**given, output_hidden_states=True).hidden_states[-1][0]
            logits = hidden @ head[0].to(place, hidden.dtype).T
            logits = output_scaled(base, logits if head[1] is None else logits + head[1].to(place, hidden.dtype))
        before = logits[len(one.prompt_ids) - 1 : -1, :vocabulary]
        return tuple(token_logprobs(before, targets).tolist())


def output_layer(model: ModelConfig) -> tuple[Tensor, Tensor | None] | None:
    """Weight [vocabulary, hidden] and bias of a language model's last layer, read without the rest of it.

    None where its files hold none under the names that transformers has for it. No model is built to learn the names:
    under ZeRO-3 transformers would shard it.
    """
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    config = read_config(model)
    known = AutoModelForCausalLM._model_mapping.get(type(config), None)
    tied = getattr(known, "_tied_weights_keys", None)  # output layer -> embeddings, for tied and untied alike
    names: dict[str, str] = tied if isinstance(tied, dict) and tied else {"lm_head.weight": "model.embed_tokens.weight"}
    weights = [*names, *(names.values() if config.tie_word_embeddings else ())]
    biases = [name.removesuffix("weight") + "bias" for name in names]
    found: dict[str, Tensor] = {}
    for path in sorted(_files(model).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            held = set(file.keys())
            found |= {name: file.get_tensor(name) for name in (*weights, *biases) if name in held}
    weight = next((found[name] for name in weights if name in found), None)
    return None if weight is None else (weight, next((found[name] for name in biases if name in found), None))


def _files(model: ModelConfig) -> Path:
    folder = Path(weights_folder(model.path))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model.path, revision=model.revision, local_files_only=True))  # it was just loaded
