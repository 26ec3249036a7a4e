"""What learners cannot be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import LoraConfig, OptimConfig
from cai_ray.engines.learners.job import LearnersConfig, check
from cai_ray.engines.learners.learning import dealt
from cai_ray.errors import ConfigError
from tests.policy_jobs import policy_job


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: greedy"),
        ({"optim": OptimConfig(epochs=1.5)}, r"epochs=1\.5 must be whole"),
        ({"total_updates": 0}, "total_updates=0"),
        ({"lora": LoraConfig(dropout=0.1)}, r"lora\.dropout=0\.1"),
        ({"workers": {"zero_stage": 0, "offload_optimizer": True}}, "offload_optimizer needs zero_stage"),
    ],
)
def test_bad_jobs_are_refused_before_anything_starts(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check(policy_job(tmp_path, tmp_path, tmp_path, **changes))


def test_a_good_job_is_not(tmp_path: Path) -> None:
    check(policy_job(tmp_path, tmp_path, tmp_path))


def test_passes_are_sized_by_tokens_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="micro_batch_size=4: PPO sizes its passes by tokens"):
        LearnersConfig(micro_batch_size=4)


@pytest.mark.parametrize("num_texts", [0, 3, 8, 21])
def test_texts_are_dealt_out_once_in_order(num_texts: int) -> None:
    portions = [dealt(at, 8, num_texts) for at in range(8)]
    assert [text for portion in portions for text in portion] == list(range(num_texts))
    assert max(map(len, portions)) - min(map(len, portions)) <= 1
