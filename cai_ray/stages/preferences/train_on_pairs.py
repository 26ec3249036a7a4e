"""From labels to a trained model: the life of the two stages that learn from pairs.

Tested in tests/cluster/test_preference_model.py.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from cai_ray.artifacts.artifact import Artifact, open_stage
from cai_ray.config import ModelConfig, ProofConfig, StageConfig
from cai_ray.engines.models.reading import context_length
from cai_ray.engines.models.trainable import local_path
from cai_ray.engines.training.job import TrainingJob
from cai_ray.engines.training.launcher import train
from cai_ray.row_ids import PAIR_IDS
from cai_ray.stages.context import Context
from cai_ray.stages.held_out import held_out_texts
from cai_ray.stages.preferences.comparisons import Encode, PairOptions
from cai_ray.stages.preferences.training_pairs import WrittenPairs, write_pairs


class PairTraining(StageConfig, PairOptions):
    """What a stage that learns from pairs must know."""

    model: str = Field("sl_cai", description="Which model to start from.")
    proof: ProofConfig = Field(
        ProofConfig(), description="That the learner computes what samples, on a few answers before the first step."
    )


# Of the model that the training starts from: how it reads an answer, and what is done with the pairs.
Prepare = Callable[[ModelConfig], tuple[Encode, Callable[[WrittenPairs], TrainingJob]]]


def train_on_pairs(
    stage: str, config: PairTraining, context: Context, source_stage: str | None, prepare: Prepare
) -> Artifact:
    """Train on the labels of `source_stage`, where the run makes some, and on the pairs that the config brings."""
    labels = context.artifact(source_stage) if source_stage is not None else None
    opened = open_stage(context.spec(stage, config, PAIR_IDS, *([labels] if labels is not None else [])))
    if isinstance(opened, Artifact):
        return opened
    model = local_path(context.model(config.model))
    encode, job_of = prepare(model)
    longest = context_length(model, config.max_length)
    pairs = write_pairs(opened, config, labels, encode, longest, context.seed, held_out_texts(context))
    trained = train(job_of(pairs), context.cluster)
    return opened.commit(pairs.input_ids, trained.files)
