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

QUESTION_TOKENS = 180  # of a judge's question about an answer, beside the conversation and the answer; measured


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
    judged = _verdicts(config, used, prompt)
    world.trained(step.makes or "rl_cai", config.model)
    return StagePlan(
        step.stage,
        num_prompts,
        config.num_steps * min(config.samples_kept, config.num_episodes),
        used + judged,
        learned * config.optim.epochs,
        _work(config, model, used, judged, world),
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


def _verdicts(config: Config, used: Usages, prompt: float) -> Usages:
    """What the judge reads: a question per principle about each answer, or in both orders about each two of a prompt.

    A rubric's vetoes are not counted. All questions about an answer but the first find it in the cache, and a prompt's
    other answers the prompt.
    """
    judge = config.constitution
    if judge is None:
        return Usages()
    episodes, answer = config.num_steps * config.num_episodes, used.output_tokens / used.requests
    if judge.reading == "pairwise":
        rows, texts, orders = episodes * (config.samples_per_prompt - 1) / 2, 2 * answer, 2
    else:
        rows, texts, orders = float(episodes), answer, 1
    asked = rows * orders * judge.principles_per_answer
    length = prompt + texts + QUESTION_TOKENS
    cached = (asked - rows * orders) * (prompt + texts) + rows * orders * (1 - 1 / config.samples_per_prompt) * prompt
    return Usages(round(asked), asked * length, cached, asked, length)


def _work(config: Config, model: PlannedModel, used: Usages, judged: Usages, world: World) -> Work:
    """Rollouts and updates take turns, or overlap when asynchronous; on GPUs of their own, or on the same ones.

    A judge reads after the rollouts, and beside the next ones when asynchronous.
    """
    has_value = config.advantage.kind == "gae"
    judge = config.constitution
    scorer = None if judge else world.model(config.preference_model)
    learned = used.prompt_tokens + used.output_tokens
    num_trained = 2 if has_value else 1
    load = TrainingLoad(
        tokens=learned * config.optim.epochs * num_trained,
        # The policy's and the reference's log-probabilities, the values, and the preference model's score.
        forward_tokens=learned * (1 + num_trained + (scorer.shape.params / model.shape.params if scorer else 0)),
        steps=config.num_updates,
        micro_tokens=config.workers.pass_tokens(world.hardware.device.is_gpu),
        frozen_copies=1 if config.lora else 2,  # without adapters the policy is its own reference
        trained_copies=num_trained + (config.refresh is not None),
    )
    learners = training_work(load, model.shape, config.lora, config.workers, world.hardware)
    engines = world.engines(used, model, config.rollouts.num_engines)
    works = [learners, engines]
    shares = [config.rollouts.sleep]
    if judge is not None:
        works.append(world.engines(judged, world.model(judge.model), judge.engines.num_engines))
        shares.append(judge.engines.sleep)
    each_s = [work.seconds for work in works]
    seconds = max(sum(each_s[::2]), each_s[1]) if config.asynchronous else sum(each_s)
    sharing = [work for work, sleeps in zip(works[1:], shares, strict=True) if sleeps]
    apart = [work for work, sleeps in zip(works[1:], shares, strict=True) if not sleeps]
    on_learners = max((work.num_devices for work in sharing), default=0)
    num_devices = max(learners.num_devices, on_learners) + sum(work.num_devices for work in apart)
    memories = [_shared(learners, work, world) for work in sharing] + [work.memory for work in (learners, *apart)]
    known = [memory for memory in memories if memory is not None]
    return Work(seconds, num_devices, max(known, key=lambda memory: memory.needed_gib / memory.have_gib, default=None))


def _shared(learners: Work, engines: Work, world: World) -> Memory | None:
    """An engine that wakes beside the learners' states, on the same GPU."""
    if learners.memory is None or engines.memory is None:
        return None
    needed = learners.memory.needed_gib + engines.memory.needed_gib
    what = f"learner: {learners.memory.what}; engine: {engines.memory.what}"
    return replace(learners.memory, needed_gib=needed, have_gib=world.hardware.device.memory_gib, what=what)


PLANNERS = {STAGE: plan_ppo}
