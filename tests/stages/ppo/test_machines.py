"""What PPO's engines and learners are held to, by what they compute in."""

from __future__ import annotations

import pytest

from cai_ray.config import ModelConfig
from cai_ray.engines.models.agreement import HALF_PRECISION_TOLERANCE, HALF_PRECISION_WORST, TOLERANCE
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.machines import tolerances

EXACT, HALF = (TOLERANCE, TOLERANCE), (HALF_PRECISION_TOLERANCE, HALF_PRECISION_WORST)


@pytest.mark.parametrize(
    ("dtype", "has_gpus", "expected"),
    [
        ("float32", False, EXACT),
        ("auto", False, EXACT),  # float32 on a CPU
        ("bfloat16", False, HALF),  # an engine of half precision, a learner of full: real models on a laptop
        ("float16", False, HALF),
        ("float32", True, HALF),
        ("bfloat16", True, HALF),
    ],
)
def test_half_precision_on_either_side_is_no_fault(dtype: str, has_gpus: bool, expected: tuple[float, float]) -> None:
    policy = ModelConfig.model_validate({"path": "m", "dtype": dtype})
    assert tolerances(Config(), policy, has_gpus) == expected
    told = Config.model_validate({"proof": {"tolerance": 0.02}})
    assert tolerances(told, policy, has_gpus) == (0.02, 0.02)
