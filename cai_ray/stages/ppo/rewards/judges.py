"""The engines that give verdicts, and what they are told.

Tested in tests/cluster/test_reward.py.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.stages.context import Context
from cai_ray.stages.ppo.pretraining import STAGE
from cai_ray.stages.ppo.rewards.config import ConstitutionReward
from cai_ray.stages.ppo.rewards.verdicts import VERDICT, check, verdict

if TYPE_CHECKING:
    from cai_ray.engines.rollouts.standing import StandingEngines

EXPECTED_TOKENS = 512  # of a question, at first


def judges_of(config: ConstitutionReward, context: Context) -> StandingEngines:
    """The judge's engines, not started yet. Raises ConfigError, ConstitutionError."""
    from cai_ray.engines.backends.vllm_engine import SLEEPS
    from cai_ray.engines.rollouts.standing import StandingEngines

    model, constitution = context.model(config.model), context.principles()
    is_two_tokens = check(config, model, constitution)
    if config.engines.sleep and model.endpoint is None:
        engine = model.engine.model_copy(update={"extra": SLEEPS | model.engine.extra})
        model = model.model_copy(update={"engine": engine})
    job = ConversationJob(
        stage=f"{STAGE} reward",
        seed=context.seed,
        schema=VERDICT,
        converse=partial(
            verdict,
            config=config,
            constitution=constitution,
            form=model.format,
            seed=context.seed,
            is_two_tokens=is_two_tokens,
        ),
        expand=_as_they_are,
        make_backend=backend_factory(model),
        engine=model.engine,
        expected_tokens=EXPECTED_TOKENS,
        measured_rows=0,
        measured_share=0.0,
    )
    price = model.endpoint.price if model.endpoint else None
    return StandingEngines(job, model, config.engines, price)


def _as_they_are(rows: pa.Table) -> pa.Table:
    return rows
