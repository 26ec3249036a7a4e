"""Mistakes in the section `ppo`: each is refused with one message, before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cai_ray.fingerprint import settings
from cai_ray.stages.ppo.config import Config


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"prompts_per_step": 20, "optim": {"batch_size": 16}},
            r"prompts_per_step=20 x samples_per_prompt=1=20 answers are no multiple of optim.batch_size=16; "
            r"set optim.batch_size to 20",
        ),
        (
            {"prompts_per_step": 4, "optim": {"batch_size": 4}, "workers": {"num_workers": 8}},
            r"workers.num_workers=8 learners share updates of optim.batch_size=4",
        ),
        ({"optim": {"epochs": 1.5}}, r"optim.epochs=1.5 must be whole"),
        ({"optim": {"max_steps": 10}}, r"optim.max_steps=10 means nothing here; set num_steps"),
        ({"sampling": {"temperature": 0}}, r"sampling.temperature=0 gives one answer per prompt"),
        ({"sampling": {"top_p": 0.9}}, r"sampling.top_p=0.9 changes the distribution"),
        ({"sampling": {"top_k": 5, "stop": ["\n"]}}, r"leave top_k and stop out"),
        ({"advantage": {"kind": "grpo"}}, r'advantage.kind="grpo" compares answers.*samples_per_prompt=1'),
        ({"asynchronous": True, "rollouts": {"sleep": True}}, r"turn one of them off"),
        ({"workers": {"micro_batch_size": 4}}, r"set tokens_per_pass"),
        ({"learning_rate": 1.0}, r"extra_forbidden"),
        (
            {"reward": {"kind": "constitution", "reading": "pairwise"}},
            r'reward.reading="pairwise" says which.*advantage.kind="gae" takes.*set advantage.kind to grpo or rloo',
        ),
        (
            {"reward": {"kind": "constitution", "reading": "rubric", "principles": {"method": "weighted"}}},
            r"would weigh the draws too; set principles.method to random",
        ),
        (
            {"reward": {"kind": "constitution", "principles_per_answer": 2, "principles": {"replacement": True}}},
            r"would ask the same question twice; set principles.replacement=false",
        ),
        ({"reward": {"kind": "constitution", "principles": {"method": "contextual"}}}, r'"contextual" is for revision'),
        ({"reward": {"kind": "hope"}}, r"'preference_model', 'refresh', 'constitution'"),
    ],
)
def test_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(section)


def test_numbers_that_follow_from_others() -> None:
    config = Config.model_validate(
        {
            "num_steps": 5,
            "prompts_per_step": 16,
            "samples_per_prompt": 4,
            "advantage": {"kind": "rloo"},
            "optim": {"batch_size": 16, "epochs": 3, "learning_rate": 1e-4},
            "value_learning_rate": 1e-3,
        }
    )
    assert (config.num_episodes, config.num_minibatches, config.num_updates) == (64, 4, 60)
    assert config.value_optim.learning_rate == 1e-3 and config.value_optim.batch_size == 16
    assert Config().value_optim == Config().optim


def test_what_only_changes_speed_stays_out_of_the_fingerprint() -> None:
    fast = {
        "workers": {"num_workers": 2, "tokens_per_pass": 9},
        "rollouts": {"num_engines": 2},
        "proof": {"sequences": 0},
        "reward": {"kind": "preference_model"},
    }
    assert settings(Config.model_validate(fast)) == settings(Config())
    for decides in ({"asynchronous": True}, {"preference_model": "other"}, {"num_steps": 7}, {"kl": {"target": 6.0}}):
        assert settings(Config.model_validate(decides)) != settings(Config())
    judged = {"kind": "constitution"}
    spread_out = {**judged, "engines": {"num_engines": 2, "sleep": True}}
    assert settings(Config.model_validate({"reward": spread_out})) == settings(
        Config.model_validate({"reward": judged})
    )
    assert settings(Config.model_validate({"reward": judged})) != settings(Config())
