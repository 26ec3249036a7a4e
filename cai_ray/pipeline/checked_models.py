"""The files and settings of a recipe's models, looked at before any engine starts.

Tested in tests/field/test_27_setups.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cai_ray.config import ModelConfig
from cai_ray.pipeline.steps import SECTION_OF
from cai_ray.stages.context import Trained
from cai_ray.stages.step import Step


def check_models(all_steps: Sequence[Step], models: Mapping[str, ModelConfig], trained: Mapping[str, Trained]) -> None:
    """Raises ConfigError, with the mend, for a model that no engine, learner or scorer could load as the recipe says.

    `models`: those that the steps use and that no step trains.
    """
    from cai_ray.engines.models.setup.check import check_files, check_lora, check_setup

    prompted = {name for step in all_steps for name in (*step.asks, step.trains)}
    here = {name: model for name, model in models.items() if model.endpoint is None}
    for name, model in sorted(here.items(), key=lambda item: item[0] != "policy"):  # which others may stand for
        (check_setup if name in prompted else check_files)(f"models.{name}", model)
    for step in all_steps:
        lora = getattr(step.config, "lora", None)
        if lora is None or not lora.target_modules or step.trains is None:
            continue
        base = trained[step.trains].base_name if step.trains in trained else step.trains
        if base in here:
            check_lora(SECTION_OF[step.stage], lora.target_modules, f"models.{base}", here[base])
