"""Models for training: load weights and tokenizer, adapters, and turn a checkpoint into a model folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from cai_ray.config import LoraConfig, ModelConfig
from cai_ray.engines.model_files import localised
from cai_ray.errors import ConfigError

Task = Literal["CAUSAL_LM", "SEQ_CLS"]
PAD_TOKEN = "<|pad|>"
ADAPTER = "adapter_config.json"
# What a checkpoint has beside the model: states to resume from, and the Trainer's own arguments.
NOT_MODEL = (
    "optimizer.*", "scheduler.*", "scaler.*", "rng_state*", "trainer_state.json", "training_args.bin", "latest",
    "zero_to_fp32.py", "global_step*",
)  # fmt: skip


def local_path(model: ModelConfig) -> ModelConfig:
    """The model with a relative folder made absolute: a worker's working directory is another one."""
    folder = Path(model.path).expanduser()
    return model.model_copy(update={"path": str(folder.absolute())}) if folder.is_dir() else model


def load_tokenizer(model: ModelConfig) -> Any:
    """The model's tokenizer, padding right with a token that ends no turn, and with the recipe's chat template.

    A tokenizer without such a padding token gets one of its reserved tokens, or else a new one, for which
    `load_causal_lm` and `load_classifier` make room. Raises ConfigError when there is no tokenizer.
    """
    from cai_ray.engines.tokenizers import load_renderer

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


def load_classifier(model: ModelConfig, tokenizer: Any, num_labels: int = 1) -> Any:
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

    model = localised(model)
    try:
        loaded = auto_class.from_pretrained(
            model.path,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=torch.float32,
            **options,
        )
    except (OSError, ValueError) as error:
        raise _no_model(model, error) from error
    if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
        loaded.resize_token_embeddings(len(tokenizer))
    loaded.config.pad_token_id = tokenizer.pad_token_id  # a classifier scores the last token that is not padding
    return loaded


def _no_model(model: ModelConfig, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0]
    return ConfigError(
        f"no model to train at {model.path!r}: {reason} (give a local folder or a hub id that the workers can reach)"
    )


def context_length(model: ModelConfig) -> int:
    """The most tokens the model reads at once. Raises ConfigError when there is no model."""
    if model.max_model_len is not None:
        return model.max_model_len
    from transformers import AutoConfig

    model = localised(model)
    try:
        config = AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _no_model(model, error) from error
    return int(config.get_text_config().max_position_embeddings)


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


def export_model(checkpoint: Path, folder: Path, model_card: str) -> None:
    """Write the model of a Trainer's checkpoint folder as a Hugging Face folder of its own, replacing `folder`.

    Adapters are merged into the weights they were trained on. From files alone, so that it does not matter how the
    training was sharded.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(*NOT_MODEL))
    if (folder / ADAPTER).exists():
        _merge_adapters(folder)
    _turn_cache_on(folder / "config.json")
    (folder / "README.md").write_text(model_card, encoding="utf-8")


def _merge_adapters(folder: Path) -> None:
    """Replace the adapters in `folder` by the whole model, in the precision its base is stored in."""
    import peft
    import torch
    from transformers import AutoConfig

    adapters = folder / "adapter_model.safetensors"
    config = peft.PeftConfig.from_pretrained(str(folder))
    stored = AutoConfig.from_pretrained(config.base_model_name_or_path, revision=config.revision).dtype
    options: dict[str, Any] = {"dtype": torch.float32}
    auto_class: Any = peft.AutoPeftModelForCausalLM
    if config.task_type == peft.TaskType.SEQ_CLS:
        auto_class = peft.AutoPeftModelForSequenceClassification
        options["num_labels"] = _num_labels(adapters)
    merged = auto_class.from_pretrained(str(folder), **options).merge_and_unload()
    for file in (folder / ADAPTER, adapters):
        file.unlink()
    merged.to(stored or torch.float32).save_pretrained(folder)


def _num_labels(adapters: Path) -> int:
    from safetensors import safe_open

    with safe_open(adapters, framework="pt") as tensors:
        (head,) = (name for name in tensors.keys() if name.endswith("score.weight"))  # noqa: SIM118, no mapping
        return int(tensors.get_slice(head).get_shape()[0])


def _turn_cache_on(config: Path) -> None:
    """The Trainer turns the key-value cache off and the config remembers it; whoever generates wants it on."""
    saved = json.loads(config.read_text(encoding="utf-8"))
    if saved.get("use_cache") is False:
        config.write_text(json.dumps({**saved, "use_cache": True}, indent=2) + "\n", encoding="utf-8")
