"""Which function plans which stage. A new stage is one function more.

Tested in tests/planning/test_plan.py.
"""

from __future__ import annotations

from collections.abc import Callable

from cai_ray.planning import conversations, training
from cai_ray.planning.judges import plan_score_rounds
from cai_ray.planning.ppo import plan_ppo
from cai_ray.planning.work import StagePlan
from cai_ray.planning.world import World
from cai_ray.stages.evaluation import evaluate, multiple_choice, score_rounds
from cai_ray.stages.inputs import expand_prompts
from cai_ray.stages.inputs import sources as load_prompts
from cai_ray.stages.ppo import config as ppo_config
from cai_ray.stages.preferences import label_comparisons, sample_pairs, train_dpo, train_preference_model
from cai_ray.stages.report import write_report as report
from cai_ray.stages.revision import revise
from cai_ray.stages.step import Step
from cai_ray.stages.supervised import train_sft

Planner = Callable[[Step, World], StagePlan]


def plan_nothing(step: Step, world: World) -> StagePlan:
    """A stage that takes seconds, whatever the size of the run."""
    return StagePlan(step.stage, 0, 0)


PLANNERS: dict[str, Planner] = {
    load_prompts.STAGE: conversations.plan_load,
    expand_prompts.STAGE: conversations.plan_expand,
    revise.STAGE: conversations.plan_revise,
    train_sft.STAGE: training.plan_sft,
    sample_pairs.STAGE: conversations.plan_pairs,
    label_comparisons.STAGE: conversations.plan_labels,
    train_preference_model.STAGE: training.plan_preference_model,
    train_dpo.STAGE: training.plan_dpo,
    ppo_config.STAGE: plan_ppo,
    multiple_choice.STAGE: conversations.plan_multiple_choice,
    evaluate.STAGE: conversations.plan_evaluate,
    score_rounds.STAGE: plan_score_rounds,
    report.STAGE: plan_nothing,
}
