"""What taking a direction out takes: forward passes and short answers, by transformers.

Tested in tests/planning/test_plan.py.
"""

from __future__ import annotations

from cai_ray.algorithms.directions import candidate_layers
from cai_ray.planning.stand_in_engine import Usages
from cai_ray.planning.work import StagePlan
from cai_ray.planning.world import World, config_of, each
from cai_ray.stages.abliteration import abliterate
from cai_ray.stages.step import Step

POSITIONS = 5  # tokens that a chat template ends in, where the recipe names no number
NUM_FORMS = 4  # that are measured, at most


def plan_abliterate(step: Step, world: World) -> StagePlan:
    """Prompts are read for their activations, three times per direction, and once more per form; some are answered."""
    config, source = config_of(step, abliterate.Config), world.written[step.reads[0]]
    model = world.model(config.model)
    renderer = model.counter.renderer
    lengths = [(len(renderer.encode(renderer.text(row["messages"]))), weight) for row, weight in each(source)]
    mean = sum(length * weight for length, weight in lengths) / max(1.0, source.num_rows)
    directions = len(candidate_layers(model.shape.layers, config.layer_step)) * (config.positions or POSITIONS)
    answered = 2.0 * (config.num_train + NUM_FORMS * config.num_test)
    read = answered + 2 * config.num_train + 3 * directions * config.num_validation + 4 * NUM_FORMS * config.num_test
    longest = max((length for length, _ in lengths), default=0) + config.max_tokens
    used = Usages(read, read * mean, 0.0, answered * config.max_tokens, longest)
    for name in step.made:
        world.models[name] = model
    work = world.engines(used, model, config.scaling.max_engines)
    return StagePlan(step.stage, source.num_rows, NUM_FORMS * 2.0 * config.num_test, used, work=work)


PLANNERS = {abliterate.STAGE: plan_abliterate}
