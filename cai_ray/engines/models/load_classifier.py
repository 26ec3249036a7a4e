"""Load a classifier or reward model as stock transformers have it, and refuse what only looks like one.

Tested in tests/engines/backends/test_classifier.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cai_ray.config import ModelConfig
from cai_ray.engines.models.classifier import InputForm, LoadedClassifier
from cai_ray.engines.models.files import localised
from cai_ray.engines.models.reading import config_of, dtype_of, max_tokens_of, tokenizer_of
from cai_ray.engines.models.scoring import CONFIG_KEY
from cai_ray.errors import ConfigError
from cai_ray.lookup import location, searched


def labels_of(model: ModelConfig) -> list[str]:
    """The names of a classifier's outputs, in order, from its config alone. Raises ConfigError when there is none."""
    config = config_of(localised(model))
    return [str(config.id2label[k]) for k in range(config.num_labels)]


def is_multi_label(model: ModelConfig) -> bool:
    """Whether each output is a yes or no of its own, as the model's config says."""
    return bool(config_of(localised(model)).problem_type == "multi_label_classification")


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
        from cai_ray.engines.models.value_head import load_value_head

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


def _template(model: ModelConfig) -> str | None:
    if model.chat_template is None:
        return None
    try:
        return Path(location(model.chat_template)).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"chat_template {model.chat_template!r} cannot be read: {error.strerror}; {searched(model.chat_template)}"
        ) from error
