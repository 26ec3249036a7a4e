"""README.md of the policy that PPO saves.

Tested in tests/stages/ppo/test_train_ppo.py.
"""

from __future__ import annotations

from cai_ray.artifacts.storage import name_of
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.models import Models


def model_card(config: Config, models: Models, num_prompts: int) -> str:
    how = "low-rank adapters, merged" if config.lora else "every weight"
    when = "sampled one step ahead, with truncated importance weights" if config.asynchronous else "strictly on-policy"
    steering = "" if config.kl.target is None else f", steered to {config.kl.target:g} nats per answer"
    refreshed, against = "", "the score of a preference model"
    if (judge := config.constitution) is not None:
        against = f"the verdicts of a feedback model on a constitution ({judge.reading}; no preference model)"
    if config.refresh is not None:
        refreshed = (
            f"\n- the preference model learned on every {config.refresh.every} steps, from up to "
            f"{config.refresh.prompts} fresh pairs of the policy's answers"
        )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [ppo, rlaif, constitutional-ai]
---
# RL-CAI policy

`{name_of(models.policy.path)}` after reinforcement learning from AI feedback (Bai et al. 2022, section 4), made with
cai_ray: PPO against {against}, minus {config.kl.coefficient:g} x KL from where it started
({config.kl.estimator}{steering}).

- prompts: {num_prompts}; steps: {config.num_steps} of {config.num_episodes} answers each, {when}
- advantages: {config.advantage.kind}; {config.optim.epochs:g} passes over each step's answers in updates of
  {config.optim.batch_size}; learning rate {config.optim.learning_rate:g} ({config.optim.schedule})
- trained: {how}; at most {config.sampling.max_tokens} new tokens at temperature {config.sampling.temperature:g}\
{refreshed}

Any reward can be over-optimised: read samples and look at the run's metrics before use.
"""
