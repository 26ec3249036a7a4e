"""Training curves: what they read is what the stages write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.metrics import training_keys as keys
from cai_ray.stages.report.source import RunSource
from cai_ray.stages.report.training import STAGES, TRUTH, training_of


def known_keys() -> set[str]:
    """Every key that training_keys names."""
    named = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    phases = {keys.seconds_of(phase) for phase in keys.PHASES}
    refresh = {keys.refresh_fit("held_out", "accuracy", when) for when in ("before", "after")}
    return named | phases | refresh


@pytest.mark.parametrize("stage", STAGES)
def test_panels_show_what_writers_name(stage: str) -> None:
    shown = {key for panel in STAGES[stage][1] for key in panel.names}
    assert shown <= known_keys() | set(TRUTH)  # the truth is computed here


@pytest.mark.parametrize("stage", STAGES)
def test_every_panel_is_drawn_from_its_own_keys(tmp_path: Path, stage: str) -> None:
    panels = STAGES[stage][1]
    values = {key: float(k) for k, key in enumerate(key for panel in panels for key in panel.names)}
    lines = [{keys.ATTEMPT: 1, keys.ELAPSED_S: 1.0, keys.STEP: step, keys.NUM_STEPS: 2, **values} for step in (1, 2)]
    lines.append({keys.ATTEMPT: 1, keys.ELAPSED_S: 2.0, keys.EVENT: "a worker was lost"})
    run = Storage(str(tmp_path))
    (run / stage).make()
    (run / stage).write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    (found,) = training_of(RunSource(run), [stage])
    assert [plot.title for plot in found.plots] == [panel.title for panel in panels]
    for plot, panel in zip(found.plots, panels, strict=True):
        assert [curve.points[-1] for curve in plot.curves] == [(2, values[key]) for key in panel.names]
    assert found.last == values and found.events == ["a worker was lost"] and found.num_steps == 2
