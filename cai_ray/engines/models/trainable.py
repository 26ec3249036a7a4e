"""Models for training: load weights and tokenizer, adapters, and turn a checkpoint into a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cai_ray.config import LoraConfig, ModelConfig
from cai_ray.engines.models.reading import attention_of, load_renderer, read, read_config
from cai_ray.engines.models.residual.intervention import refuse_intervention
from cai_ray.engines.models.setup.adapters import make_savable

Task = Literal["CAUSAL_LM", "SEQ_CLS"]
PAD_TOKEN = "<|pad|>"


def local_path(model: ModelConfig) -> ModelConfig:
    """The model with a relative folder made absolute: a worker's working directory is another one."""
    folder = Path(model.path).expanduser()
    return model.model_copy(update={"path": str(folder.absolute())}) if folder.is_dir() else model


def load_tokenizer(model: ModelConfig) -> Any:
    """The model's tokenizer, padding right with a token that ends no turn, and with the recipe's chat template.

    A tokenizer without such a padding token gets one of its reserved tokens, or else a new one, for which
    `load_causal_lm` and `load_trainable` make room. Raises ConfigError when there is no tokenizer.
    """
    renderer = load_renderer(model)
    tokenizer = renderer.tokenizer
    if renderer.chat_template is not None:
        tokenizer.chat_template = renderer.chat_template
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        # Padding with the end token teaches a model never to stop: where it should, its label would be masked.
        tokenizer.add_special_tokens({"pad_token": _spare_token(tokenizer)})
    return tokenizer


def _spare_token(tokenizer: Any) -> str:
    """A special token that no text contains: one the vocabulary keeps in reserve, else a new one."""
    used = {tokenizer.eos_token, tokenizer.bos_token}
    reserved = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and any(word in token.content.lower() for word in ("pad", "reserved", "unused"))
    ]
    return next((token for token in reserved if token not in used), PAD_TOKEN)


def load_causal_lm(model: ModelConfig, tokenizer: Any) -> Any:
    """The policy's weights in float32, ready to train (training precision is the Trainer's business).

    Raises ConfigError when there is no model at `model.path`.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, model, tokenizer)


def load_trainable(model: ModelConfig, tokenizer: Any, num_labels: int = 1) -> Any:
    """The same weights under a new score head, as AutoModelForSequenceClassification; raises as above."""
    from transformers import AutoModelForSequenceClassification

    return _load(AutoModelForSequenceClassification, model, tokenizer, num_labels=num_labels)


def zero_head(weight: Any) -> None:
    """A score head that scores everything 0, also when ZeRO-3 has sharded it; all workers take part."""
    import torch

    if not hasattr(weight, "ds_id"):
        torch.nn.init.zeros_(weight)
        return
    import deepspeed  # type: ignore[import-untyped]

    with deepspeed.zero.GatheredParameters([weight], modifier_rank=0):
        torch.nn.init.zeros_(weight)


def _load(auto_class: Any, model: ModelConfig, tokenizer: Any, **options: Any) -> Any:
    import torch

    refuse_intervention(model.path, "training would go on from those")
    attention = attention_of(read_config(model))
    loaded = read(auto_class, model, "model", dtype=torch.float32, attn_implementation=attention, **options)
    if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
        loaded.resize_token_embeddings(len(tokenizer))
    make_savable(loaded)
    loaded.config.pad_token_id = tokenizer.pad_token_id  # a classifier scores the last token that is not padding
    return loaded


def output_scaled(model: Any, logits: Any) -> Any:
    """What some families do behind their output layer (Cohere and Granite scale, Gemma caps); logits of any shape."""
    config = model.config.get_text_config()
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = (logits / cap).tanh() * cap
    return logits


def peft_config(lora: LoraConfig | None, task: Task = "CAUSAL_LM") -> Any:
    """peft's own config, for TRL's argument `peft_config`; None for full fine-tuning."""
    if lora is None:
        return None
    import peft

    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # divided by the rank, whole or not
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules) or "all-linear",  # which leaves the output layer out
        task_type=task,
    )
