"""Which engine stands behind a ModelConfig.

Tested in tests/engines/backends/test_endpoint.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cai_ray.config import ModelConfig
from cai_ray.engines.conversations.asking import Backend
from cai_ray.engines.models.classifier import InputForm


def backend_factory(model: ModelConfig) -> Callable[[], Backend]:
    """What an engine actor calls to make its backend; picklable, and nothing heavy is imported before."""
    return partial(_endpoint if model.endpoint else _vllm, model)


def _vllm(model: ModelConfig) -> Backend:
    from cai_ray.engines.backends.vllm_backend import VllmBackend

    return VllmBackend(model)


def _endpoint(model: ModelConfig) -> Backend:
    from cai_ray.engines.backends.batches.backend import BatchBackend
    from cai_ray.engines.backends.endpoint import EndpointBackend

    return BatchBackend(model) if model.endpoint and model.endpoint.batch else EndpointBackend(model)


def classifier_factory(model: ModelConfig, form: InputForm, backbone: str | None = None) -> Callable[[], Any]:
    """The same for a model that scores texts; `backbone`: of a value head, see load_classifier."""
    return partial(_classifier, model, form, backbone)


def _classifier(model: ModelConfig, form: InputForm, backbone: str | None) -> Any:
    from cai_ray.engines.backends.in_process.classifier import ClassifierBackend

    return ClassifierBackend(model, form, backbone)
