"""Load a classifier or reward model as stock transformers have it, and refuse what only looks like one.

Tested in tests/engines/backends/in_process/test_classifier.py.
"""

from __future__ import annotations

import os
from typing import Any

from cai_ray.config import ModelConfig
from cai_ray.engines.models.classifier import InputForm, LoadedClassifier
from cai_ray.engines.models.reading import (
    attention_of,
    dtype_of,
    max_tokens_of,
    read,
    read_chat_template,
    read_config,
    read_tokenizer,
    trained_system_role,
)
from cai_ray.engines.models.value_head import load_value_head
from cai_ray.errors import ConfigError


def labels_of(model: ModelConfig) -> list[str]:
    """The names of a classifier's outputs, in order, from its config alone. Raises ConfigError when there is none."""
    config = read_config(model, "classifier")
    return [str(config.id2label[k]) for k in range(config.num_labels)]


def is_multi_label(model: ModelConfig) -> bool:
    """Whether each output is a yes or no of its own, as the model's config says."""
    return bool(read_config(model, "classifier").problem_type == "multi_label_classification")


def load_classifier(model: ModelConfig, form: InputForm, backbone: str | None = None) -> LoadedClassifier:
    """The model on a GPU where there is one. Raises ConfigError for weights without a classifier's head.

    `backbone`: of a value head, where its config and tokenizer are.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # Ray sets one thread per logical CPU of the actor, which says nothing about its model
        torch.set_num_threads(model.engine.cpu_threads or os.cpu_count() or 1)
    template = read_chat_template(model)
    if form == "value_head":
        return load_value_head(model, backbone, device, template)
    classifier = _stock(model).to(device).eval()
    config = classifier.config.get_text_config()
    tokenizer = read_tokenizer(model)
    return LoadedClassifier(
        name=f"classifier {model.path!r}",
        model=classifier,
        tokenizer=tokenizer,
        max_tokens=max_tokens_of(model, config, tokenizer),
        pad_id=config.pad_token_id,
        system_role=trained_system_role(classifier.config, model.system_role),
        chat_template=template,
        template_kwargs=model.chat_template_kwargs,
    )


def _stock(model: ModelConfig) -> Any:
    from transformers import AutoModelForSequenceClassification

    classifier, info = read(
        AutoModelForSequenceClassification,
        model,
        "classifier",
        dtype=dtype_of(model),
        attn_implementation=attention_of(read_config(model, "classifier")),
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        # transformers would make them up at random, and every score would be noise.
        raise ConfigError(
            f"the model at {model.path!r} is no classifier: its weights lack {', '.join(missing[:3])}; "
            "name one with a trained classification head"
        )
    return classifier
