"""PPO: answers, scores and updates of every step.

Tested in tests/planning/test_plan.py.
"""

from __future__ import annotations

from dataclasses import replace

from cai_ray.errors import ConfigError
from cai_ray.planning.stand_in_engine import Usages
from cai_ray.planning.work import Memory, StagePlan, TrainingLoad, Work, training_work
from cai_ray.planning.world import PlannedModel, World, config_of, each
from cai_ray.stages.ppo.config import STAGE, Config
from cai_ray.stages.step import Step


def plan_ppo(step: Step, world: World) -> StagePlan:
    """Rows in are the prompts it may ask, rows out the answers it keeps."""
    config = config_of(step, Config)
    model = world.model(config.model)
    asked = [(row, weight) for row, weight in each(world.written[step.reads[0]]) if row["split"] == "train"]
    num_prompts = sum(weight for _, weight in asked)
    if not num_prompts:
        raise ConfigError(
            f'{step.stage} asks prompts of split "train", and there are none; lower prompts.test_fraction'
        )
    renderer = model.counter.renderer
    prompt = sum(len(renderer.encode(renderer.text(row["messages"]))) * w for row, w in asked) / num_prompts
    used = _rollouts(config, model, prompt)
    learned = used.prompt_tokens + used.output_tokens
    world.trained(step.makes or "rl_cai", config.model)
    return StagePlan(
        step.stage,
        num_prompts,
        config.num_steps * min(config.samples_kept, config.num_episodes),
        used,
        learned * config.optim.epochs,
        _work(config, model, world.model(config.preference_model), used, world),
    )


def _rollouts(config: Config, model: PlannedModel, prompt: float) -> Usages:
    episodes = config.num_steps * config.num_episodes + _refresh_answers(config)
    answer = model.counter.lengths.of("answer", config.sampling)
    block = model.config.engine.block_size
    again = (config.samples_per_prompt - 1) / config.samples_per_prompt  # of the answers, those to a prompt just read
    cached = block * (prompt // block) * again
    return Usages(episodes, episodes * prompt, episodes * cached, float(episodes * answer), prompt + answer)


def _refresh_answers(config: Config) -> int:
    """Two answers to each prompt of every refresh. Labelling these pairs is not counted."""
    if config.refresh is None:
        return 0
    return 2 * config.refresh.prompts * ((config.num_steps - 1) // config.refresh.every)


def _work(config: Config, model: PlannedModel, scorer: PlannedModel, used: Usages, world: World) -> Work:
    """Rollouts and updates take turns, or overlap when asynchronous; on GPUs of their own, or on the same ones."""
    has_value = config.advantage.kind == "gae"
    learned = used.prompt_tokens + used.output_tokens
    num_trained = 2 if has_value else 1
    load = TrainingLoad(
        tokens=learned * config.optim.epochs * num_trained,
        # The policy's and the reference's log-probabilities, the values, and the preference model's score.
        forward_tokens=learned * (1 + num_trained + scorer.shape.params / model.shape.params),
        steps=config.num_updates,
        micro_tokens=config.workers.pass_tokens(world.hardware.device.is_gpu),
        frozen_copies=1 if config.lora else 2,  # without adapters the policy is its own reference
        trained_copies=num_trained + (config.refresh is not None),
    )
    learners = training_work(load, model.shape, config.lora, config.workers, world.hardware)
    engines = world.engines(used, model, config.rollouts.num_engines)
    both = (learners.seconds, engines.seconds)
    seconds = max(both) if config.asynchronous else sum(both)
    if config.rollouts.sleep:
        return Work(seconds, max(learners.num_devices, engines.num_devices), _shared(learners, engines, world))
    memories = [work.memory for work in (learners, engines) if work.memory is not None]
    fullest = max(memories, key=lambda memory: memory.needed_gib / memory.have_gib)
    return Work(seconds, learners.num_devices + engines.num_devices, fullest)


def _shared(learners: Work, engines: Work, world: World) -> Memory | None:
    """An engine that wakes beside the learners' states, on the same GPU."""
    if learners.memory is None or engines.memory is None:
        return None
    needed = learners.memory.needed_gib + engines.memory.needed_gib
    what = f"learner: {learners.memory.what}; engine: {engines.memory.what}"
    return replace(learners.memory, needed_gib=needed, have_gib=world.hardware.device.memory_gib, what=what)


PLANNERS = {STAGE: plan_ppo}
