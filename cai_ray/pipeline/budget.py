"""The limits of a run and of its stages: what the next stage may spend, and the end of a training whose time is up.

Stages that ask models end after what is under way (engines/conversations/purse.py), PPO after its step; other trainings
end at once and go on from their newest checkpoint.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cai_ray.artifacts.allowance import Allowance, Spent, limit_reached, sum_of
from cai_ray.artifacts.spending import spent
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Limits
from cai_ray.errors import LimitReached
from cai_ray.pipeline.recipe import Recipe
from cai_ray.pipeline.steps import SECTION_OF
from cai_ray.stages.step import Step
from cai_ray.stopping import stop_with


def allowance_of(recipe: Recipe, step: Step, all_steps: Sequence[Step], run: Storage) -> Allowance | None:
    """What a stage may spend now, of its own limits and of the run's; None: any amount.

    Raises LimitReached when one is reached already.
    """
    found = [
        (f"{SECTION_OF[step.stage]}.limits", step.config.limits, (step,)),
        ("limits", recipe.limits, all_steps),
    ]
    given = [(where, limits, steps) for where, limits, steps in found if limits is not None]
    if not given or step.is_view or not step.models:
        return None
    names = {step.stage, *(one.stage for _, _, steps in given for one in steps)}
    spent_by = {name: spent(run / name) for name in names}  # each is a listing of its folder
    left: dict[str, tuple[float, str]] = {}
    for where, limits, steps in given:
        so_far = sum_of(spent_by[one.stage] for one in steps)
        for kind, (amount, limit) in _left(where, limits, so_far).items():
            if amount <= 0:
                raise LimitReached(limit_reached(limit))
            left[kind] = min(left.get(kind, (amount, limit)), (amount, limit))
    return Allowance(
        folder=run / step.stage,
        before=spent_by[step.stage],
        tokens=int(left["tokens"][0]) if "tokens" in left else None,
        microdollars=int(left["dollars"][0]) if "dollars" in left else None,
        until=time.time() + left["hours"][0] if "hours" in left else None,
        limits={kind: limit for kind, (_, limit) in left.items()},
    )


def _left(where: str, limits: Limits, so_far: Spent) -> dict[str, tuple[float, str]]:
    """Kind of limit -> tokens, microdollars or seconds that are left, and how a person calls it."""
    spent_of = {
        "tokens": (limits.tokens, 1.0, so_far.tokens),
        "dollars": (limits.dollars, 1e6, so_far.microdollars),
        "hours": (limits.hours, 3600.0, so_far.seconds),
    }
    return {
        kind: (limit * scale - used, f"{where}.{kind}={limit:g}")
        for kind, (limit, scale, used) in spent_of.items()
        if limit is not None
    }


@contextmanager
def ending_in_time(step: Step, allowance: Allowance | None) -> Iterator[None]:
    """LimitReached is raised within when a training takes longer than it may."""
    if allowance is None or allowance.until is None or step.makes is None or step.minds_time:
        yield
        return
    reached = LimitReached(limit_reached(allowance.limits["hours"]))
    timer = threading.Timer(max(0.0, allowance.until - time.time()), lambda: stop_with(reached))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
