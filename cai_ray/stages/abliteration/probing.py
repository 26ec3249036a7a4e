"""Asking workers that look into the model: any number of them, each on a GPU where there are GPUs.

Tested in tests/stages/abliteration/test_abliterate.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.config import ModelConfig
from cai_ray.engines.backends.in_process.probe import Interventions, probe_backend
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import Conversations, run_conversations
from cai_ray.row_ids import RowIds
from cai_ray.stages.abliteration.config import STAGE, Config
from cai_ray.stages.context import Context


@dataclass(frozen=True)
class Probing:
    """A model, and where what is found in it goes."""

    config: Config
    context: Context
    model: ModelConfig
    spec: StageSpec
    num_layers: int
    num_positions: int  # last tokens of a prompt that are looked at

    def ask(
        self,
        name: str,
        row_ids: RowIds,
        schema: pa.Schema,
        source: Artifact,
        converse: Callable[..., Any],
        expand: Callable[[pa.Table], pa.Table],
        unit_columns: tuple[str, ...],
        changes: Interventions | None = None,
    ) -> Artifact:
        """The artifact `name` inside the stage's: what is not there yet of the units of `source` is asked."""
        job = ConversationJob(
            stage=STAGE,
            seed=self.context.seed,
            schema=schema,
            converse=converse,
            expand=expand,
            make_backend=partial(probe_backend, self.model, changes),
            engine=self.model.engine,
            expected_tokens=512,
        )
        spec = self.spec.inner(name, row_ids, source)
        asked = Conversations(spec, source, unit_columns, job, self.model, self.config.scaling, name=name)
        return run_conversations(asked, self.context.cluster)
