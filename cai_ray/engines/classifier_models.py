"""Load a classifier or reward model as stock transformers have it, and refuse what only looks like one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cai_ray.config import ModelConfig
from cai_ray.engines.classifier_inputs import InputForm
from cai_ray.engines.model_files import localised
from cai_ray.engines.scoring import CONFIG_KEY
from cai_ray.errors import ConfigError


@dataclass(frozen=True)
class LoadedClassifier:
    """A model ready to classify."""

    name: str  # for messages to people
    model: Any  # called as stock transformers' sequence classifiers are; eval mode
    tokenizer: Any
    max_tokens: int
    pad_id: int | None  # None: one text at a time
    system_role: Literal["auto", "native", "fold", "drop"]
    chat_template: str | None  # in place of the tokenizer's

    @property
    def can_batch(self) -> bool:
        return self.pad_id is not None

    def outputs(self, texts: Sequence[Mapping[str, Sequence[int]]]) -> list[list[float]]:
        """[num_texts][num_labels] raw outputs. Texts of different length are padded on the right."""
        import torch

        longest = max(len(text["input_ids"]) for text in texts)
        batch: dict[str, Any] = {}
        for name in texts[0]:
            fill = (self.pad_id or 0) if name == "input_ids" else 0
            batch[name] = [[*text[name], *([fill] * (longest - len(text[name])))] for text in texts]
        lengths = [len(text["input_ids"]) for text in texts]
        batch["attention_mask"] = [[1] * length + [0] * (longest - length) for length in lengths]
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            logits = self.model(**{name: torch.tensor(rows, device=device) for name, rows in batch.items()}).logits
        found: list[list[float]] = logits.double().cpu().tolist()
        return found


def labels_of(model: ModelConfig) -> list[str]:
    """The names of a classifier's outputs, in order, from its config alone. Raises ConfigError when there is none."""
    config = config_of(localised(model))
    return [str(config.id2label[k]) for k in range(config.num_labels)]


def is_multi_label(model: ModelConfig) -> bool:
    """Whether each output is a yes or no of its own, as the model's config says."""
    return bool(config_of(localised(model)).problem_type == "multi_label_classification")


def config_of(model: ModelConfig) -> Any:
    """Raises ConfigError when there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"no classifier at {model.path!r}: {str(error).splitlines()[0]}") from error


def load_classifier(model: ModelConfig, form: InputForm, backbone: str | None = None) -> LoadedClassifier:
    """The model on a GPU where there is one. Raises ConfigError for weights without a classifier's head.

    `backbone`: of a value head, where its config and tokenizer are.
    """
    import torch

    model = localised(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # Ray sets one thread per logical CPU of the actor, which says nothing about its model
        torch.set_num_threads(model.engine.cpu_threads or os.cpu_count() or 1)
    template = _template(model)
    if form == "value_head":
        from cai_ray.engines.value_head import load_value_head

        return load_value_head(model, backbone, device, template)
    classifier = _stock(model).to(device).eval()
    config = classifier.config.get_text_config()
    tokenizer = tokenizer_of(model.tokenizer or model.path, model)
    trained = getattr(classifier.config, CONFIG_KEY, {})
    return LoadedClassifier(
        name=f"classifier {model.path!r}",
        model=classifier,
        tokenizer=tokenizer,
        max_tokens=max_tokens_of(model, config, tokenizer),
        pad_id=config.pad_token_id,
        system_role=trained.get("system_role", model.system_role),
        chat_template=template,
    )


def _stock(model: ModelConfig) -> Any:
    from transformers import AutoModelForSequenceClassification

    try:
        classifier, info = AutoModelForSequenceClassification.from_pretrained(
            model.path,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=dtype_of(model),
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"no classifier at {model.path!r}: {str(error).splitlines()[0]}") from error
    if missing := sorted(info["missing_keys"]):
        # transformers would make them up at random, and every score would be noise.
        raise ConfigError(
            f"the model at {model.path!r} is no classifier: its weights lack {', '.join(missing[:3])}; "
            "name one with a trained classification head"
        )
    return classifier


def dtype_of(model: ModelConfig) -> Any:
    """As the recipe says; "auto": float32 on CPU, as stored on a GPU."""
    import torch

    if model.dtype == "auto":
        return "auto" if torch.cuda.is_available() else torch.float32
    return getattr(torch, model.dtype)


def max_tokens_of(model: ModelConfig, config: Any, tokenizer: Any) -> int:
    """The most tokens the model reads: the recipe's word, else the least that config and tokenizer give."""
    if model.max_model_len is not None:
        return model.max_model_len
    known = [int(tokenizer.model_max_length)]  # a huge number where the tokenizer does not say
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        # RoBERTa and its like count positions from behind the padding token's.
        offset = config.pad_token_id + 1 if "roberta" in config.model_type and config.pad_token_id is not None else 0
        known.append(int(positions) - offset)
    return min(known)


def tokenizer_of(path: str, model: ModelConfig) -> Any:
    """Raises ConfigError when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer at {path!r}: {str(error).splitlines()[0]}") from error


def _template(model: ModelConfig) -> str | None:
    if model.chat_template is None:
        return None
    try:
        return Path(model.chat_template).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"chat_template {model.chat_template!r} cannot be read: {error.strerror}") from error
