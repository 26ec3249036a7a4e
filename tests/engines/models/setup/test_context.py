"""The longest context by a model's config, as vLLM has it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig

from cai_ray.engines.models.setup.context import default_context, longest_context


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        ({"rope_type": "default"}, 1000),
        ({"rope_type": "linear", "factor": 4.0}, 4000),
        ({"rope_type": "dynamic", "factor": 2.0}, 2000),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 250}, 1000),
        (
            {
                "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 125, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            1000,
        ),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_rope_stretches_it(rope: dict[str, Any], longest: int) -> None:
    config = LlamaConfig(max_position_embeddings=1000, rope_parameters={"rope_theta": 1e4, **rope})
    assert longest_context(config) == longest == default_context(config)


def test_longrope_starts_at_what_it_was_trained_with() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 64, "long_factor": [2.0] * 64}
    rope["original_max_position_embeddings"] = 500
    config = LlamaConfig(max_position_embeddings=1000, original_max_position_embeddings=500, rope_parameters=rope)
    assert (longest_context(config), default_context(config)) == (1000, 500)


def test_other_names() -> None:
    assert longest_context(GPT2Config(n_positions=77)) == 77
    config = LlamaConfig(max_position_embeddings=1000)
    config.model_max_length = 5000  # Command-R
    assert longest_context(config) == 5000
