"""DPO's config and what the policy learns from a pair. Training itself: tests/cluster/test_preference_model.py."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from cai_ray.chat import Renderer
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.microworld.tokenizer import build_tokenizer
from cai_ray.stages.preferences.train_dpo import Config, LossType, answer_tokens


def test_soft_targets_need_a_loss_with_a_soft_form() -> None:
    assert Config(loss_type="ipo").targets == "soft"
    assert Config(loss_type="hinge", targets="hard").beta == 0.1
    with pytest.raises(ValidationError, match=r'loss_type="hinge" has no form for soft targets; set targets to "hard"'):
        Config(loss_type="hinge")


def test_trl_knows_every_loss() -> None:
    package = find_spec("trl")
    assert package is not None and package.origin is not None
    source = (Path(package.origin).parent / "trainer" / "dpo_trainer.py").read_text()
    assert all(f'loss_type == "{name}"' in source for name in get_args(LossType))


def test_prompt_and_answer_as_the_engine_meets_them() -> None:
    tokenizer: Any = build_tokenizer(200)
    renderer = Renderer(tokenizer)
    messages = [{"role": "user", "content": "How do I paint my chair?"}]
    prompt, answer = answer_tokens(AnswerTokens(renderer), messages, "Take a brush.")
    assert prompt == renderer.encode(renderer.text(messages))
    assert tokenizer.decode(answer) == "Take a brush.<|im_end|>"
