"""Which function plans which stage: the planners of all files here. A new stage is one more in the file it belongs to.

Tested in tests/planning/test_plan.py.
"""

from __future__ import annotations

from collections.abc import Callable

from cai_ray.planning import abliteration, conversations, judges, ppo, training
from cai_ray.planning.work import StagePlan
from cai_ray.planning.world import World
from cai_ray.stages.report import write_report
from cai_ray.stages.step import Step

Planner = Callable[[Step, World], StagePlan]


def plan_nothing(step: Step, world: World) -> StagePlan:
    """A stage that takes seconds, whatever the size of the run."""
    return StagePlan(step.stage, 0, 0)


PLANNERS: dict[str, Planner] = {
    **conversations.PLANNERS,
    **abliteration.PLANNERS,
    **training.PLANNERS,
    **ppo.PLANNERS,
    **judges.PLANNERS,
    write_report.STAGE: plan_nothing,
}
