"""The recipe's models, looked at before any engine starts: set-up, prompts, thoughts, dates.

Tested in tests/field/test_27_setups.py and tests/field/test_11_unsaid_thinking.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from cai_ray.config import ModelConfig
from cai_ray.pipeline.steps import SECTION_OF
from cai_ray.stages.context import Trained
from cai_ray.stages.step import Step


def checked(name: str, model: ModelConfig, today: datetime.date) -> ModelConfig:
    """The model, with the run's date where its prompts show one. Raises ConfigError for one that cannot be asked."""
    if model.endpoint is not None:
        from cai_ray.engines.backends.endpoint import check_endpoint

        check_endpoint(model)
        return model
    from cai_ray.engines.models.reading import load_renderer
    from cai_ray.engines.models.setup.check import check_setup
    from cai_ray.engines.models.thinking import check_thinking

    renderer = load_renderer(model)
    check_setup(f"models.{name}", model)
    if not renderer.is_able():  # that the template was edited is told later, where it was; so is what it refuses
        return model
    check_thinking(name, model, renderer)
    is_undated = model.template_date is None and renderer.shows_date()
    return model.model_copy(update={"template_date": today}) if is_undated else model


def check_weights(
    all_steps: Sequence[Step], models: Mapping[str, ModelConfig], trained: Mapping[str, Trained], scorers: set[str]
) -> None:
    """Raises ConfigError for scorers without weights, and for adapters on layers that a trained model does not have."""
    from cai_ray.engines.models.setup.check import check_files, check_lora

    for name in sorted(scorers):
        if models[name].endpoint is None:
            check_files(f"models.{name}", models[name])
    for step in all_steps:
        lora = getattr(step.config, "lora", None)
        if lora is None or not lora.target_modules or step.trains is None:
            continue
        base = trained[step.trains].base_name if step.trains in trained else step.trains
        if models[base].endpoint is None:
            check_lora(SECTION_OF[step.stage], lora.target_modules, f"models.{base}", models[base])
