"""What a pipeline of Ray Data does here besides, at each step of its execution in the driver.

Tested in tests/cluster/test_stragglers.py.
"""

from __future__ import annotations

from typing import Any


def callbacks() -> list[type]:
    """Classes for `DataContext.custom_execution_callback_classes`; Ray Data makes one of each per execution."""
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class ForgetBlocks(ExecutionCallback):  # type: ignore[misc]  # untyped
        """Ray Data keeps a record of every block for its statistics: kilobytes each in the driver, read by nobody."""

        def on_execution_step(self, executor: Any) -> None:
            for operator in executor._topology:
                getattr(operator, "_output_blocks_stats", []).clear()

    class KeepEngines(ExecutionCallback):  # type: ignore[misc]  # untyped
        """Engines stay until their pool's last row is done, to take rows off slow ones.

        Ray Data lets an engine go once the last row is handed out and it has none. An actor is there as long as
        somebody holds its handle.
        """

        def __init__(self) -> None:
            self._kept: dict[Any, set[Any]] = {}

        def on_execution_step(self, executor: Any) -> None:
            for operator in executor._topology:
                if (pool := getattr(operator, "_actor_pool", None)) is None:
                    continue
                if operator.has_completed():
                    self._kept.pop(operator, None)
                    continue
                before = self._kept.get(operator, set()) if operator._inputs_complete else set()
                self._kept[operator] = before | set(pool._running_actors)

        def after_execution_succeeds(self, executor: Any) -> None:
            self._kept.clear()

        def after_execution_fails(self, executor: Any, error: Exception) -> None:
            self._kept.clear()

    return [ForgetBlocks, KeepEngines]
