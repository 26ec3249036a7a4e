"""Engines that stay up between calls and converse about rows as they come: what a reward asks at every step.

A stage whose rows are all there at its start has a pool of Ray Data (`generation`). Here the next rows depend on what
was said of the last ones, so the same actors are kept, asked directly, and let sleep while learners have their GPUs.

Tested in tests/engines/rollouts/test_standing.py, and with vLLM in tests/cluster/test_reward.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from cai_ray.config import ModelConfig, Price
from cai_ray.engines.cluster import gpus_per_engine
from cai_ray.engines.conversations.ending import LEFT, Ending
from cai_ray.engines.conversations.generation import ConversationActor, ConversationJob
from cai_ray.engines.conversations.purse import Purse
from cai_ray.engines.groups import check_one_node
from cai_ray.engines.placement import EnginesConfig, spread, staying_options
from cai_ray.errors import EngineGaveUp
from cai_ray.rows import ROW_ID

CLOSING_LIMIT_S = 20.0
Row = dict[str, Any]


class StandingActor(ConversationActor):
    """A Ray actor; its methods run on one event loop. A call that Ray repeats after a restart does no harm."""

    async def ready(self) -> str | None:
        """Waits until the engine is up; the `Ending` where it never will be."""
        await self._is_ready()
        return None if self._ending is None else self._ending.model_dump_json()

    async def converse(self, rows: Sequence[Row]) -> list[Row]:
        """The outcomes of the rows, as `outcomes.outcome_schema` has them, in order."""
        made = [table.to_pylist() async for table in self(pa.Table.from_pylist(list(rows)))]
        return made[0]

    async def sleep(self) -> None:
        await self.backend.sleep()  # type: ignore[attr-defined]  # asked of vLLM alone

    async def wake(self) -> None:
        await self.backend.wake()  # type: ignore[attr-defined]

    async def close(self) -> None:
        """End the engine's processes; the actor follows."""
        self.backend.kill()


class PendingRows:
    """Outcomes on their way."""

    def __init__(self, engines: StandingEngines, rows: Sequence[Row], prompts: Sequence[str]) -> None:
        self._engines, self._num_rows = engines, len(rows)
        self._shares = spread(prompts, engines.config.num_engines)
        self._references = [
            engines.ask(number, "converse", [rows[i] for i in share]) if share else None
            for number, share in enumerate(self._shares)
        ]

    def result(self) -> list[Row]:
        """One outcome per row, in order; waits. Raises ConfigError, EngineGaveUp."""
        outcomes: dict[int, Row] = {}
        for share, reference in zip(self._shares, self._references, strict=True):
            if reference is not None:
                outcomes.update(zip(share, self._engines.wait(reference), strict=True))
        for outcome in outcomes.values():
            if outcome[LEFT] is not None:
                raise Ending.model_validate_json(outcome[LEFT]).error()
        return [outcomes[i] for i in range(self._num_rows)]


class StandingEngines:
    """One or many engines of `model` with one job. Needs a connected Ray.

    A lost engine is restarted, by its actor or (when that is lost) by Ray, and asked again what was on its way.
    """

    def __init__(
        self, job: ConversationJob, model: ModelConfig, config: EnginesConfig, price: Price | None = None
    ) -> None:
        check_one_node(model.engine, "the engines of PPO's judge are")
        engine = job.engine.model_copy(update={"max_restarts": config.max_restarts})
        self.job, self.config, self._purse = replace(job, engine=engine), config, Purse(None, price, "")
        self._gpus = 0.0 if model.endpoint else gpus_per_engine(model.engine)
        self._actors: list[Any] = []
        self._is_asleep = False

    @property
    def sleeps(self) -> bool:
        """Whether they share the learners' GPUs, and must sleep while those compute."""
        return self.config.sleep and self._gpus > 0

    def launch(self) -> None:
        """Let all engines start, and do not wait."""
        import ray

        for number in range(self.config.num_engines):
            options = staying_options(self.config, number, self._gpus, self.sleeps)
            actor = (
                ray.remote(StandingActor).options(max_concurrency=1024, **options).remote(self.job, None, self._purse)
            )
            self._actors.append(actor)
            actor.ready.remote()

    def start(self) -> None:
        """Returns when all engines answer, launched here if need be. Raises ConfigError, EngineGaveUp."""
        if not self._actors:
            self.launch()
        for reference in [actor.ready.remote() for actor in self._actors]:
            if (ending := self.wait(reference)) is not None:
                raise Ending.model_validate_json(ending).error()

    def submit(self, rows: Sequence[Row], prompts: Sequence[str]) -> PendingRows:
        """Converse about every row, which has a ROW_ID; returns at once. `prompts`: per row, whose prefix it shares."""
        assert all(ROW_ID in row for row in rows)
        return PendingRows(self, rows, prompts)

    def sleep(self) -> None:
        """Leave the GPUs to the learners; a no-op unless they share them."""
        if self.sleeps and not self._is_asleep:
            self._ask_all("sleep")
            self._is_asleep = True

    def wake(self) -> None:
        """Take the GPUs back."""
        if self._is_asleep:
            self._ask_all("wake")
            self._is_asleep = False

    def close(self) -> None:
        """End all engines. May be called twice, and before `start`."""
        import ray

        actors, self._actors = self._actors, []
        if actors:
            ray.wait([actor.close.remote() for actor in actors], num_returns=len(actors), timeout=CLOSING_LIMIT_S)
        for actor in actors:
            ray.kill(actor)

    def ask(self, number: int, method: str, *arguments: Any) -> Any:
        """An ObjectRef of one engine's answer."""
        return getattr(self._actors[number], method).remote(*arguments)

    def wait(self, reference: Any) -> Any:
        """An engine's answer. Raises EngineGaveUp when it is lost for good."""
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayActorError as error:
            raise EngineGaveUp(
                f"an engine of {self.job.stage} was lost more than max_restarts={self.config.max_restarts} times: "
                f"{error}"
            ) from error

    def _ask_all(self, method: str) -> None:
        for reference in [self.ask(number, method) for number in range(len(self._actors))]:
            self.wait(reference)
