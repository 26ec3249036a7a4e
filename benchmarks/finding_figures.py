"""One SVG per finding: lines over rounds, or bars per variant, with intervals and a point for every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#b5402c", "#2c6fb5", "#4d8f3f", "#8a5fb0", "#c98a1b", "#5a5a5a")
Pooled = Mapping[str, Any]  # value, low, high, n, per_seed
SETTINGS: Any = {"svg.hashsalt": "cai_ray", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def lines(
    path: Path, title: str, axis: str, series: Mapping[str, Sequence[Pooled | None]], names: Sequence[str]
) -> None:
    """Each series over the points `names`; what is None is left out."""

    def draw(axes: Any) -> None:
        for k, (label, points) in enumerate(series.items()):
            known = [(x, point) for x, point in enumerate(points) if point is not None]
            if not known:
                continue
            at = [x for x, _ in known]
            colour = COLOURS[k % len(COLOURS)]
            axes.plot(at, [p["value"] for _, p in known], color=colour, marker="o", label=label)
            axes.fill_between(at, [p["low"] for _, p in known], [p["high"] for _, p in known], color=colour, alpha=0.2)
            for x, point in known:
                axes.scatter([x] * len(point["per_seed"]), point["per_seed"], color=colour, s=8, alpha=0.6)
        axes.set_xticks(range(len(names)), names)

    _save(path, title, axis, draw)


def bars(path: Path, title: str, axis: str, groups: Mapping[str, Mapping[str, Pooled | None]]) -> None:
    """Groups (variants) of bars (metrics)."""
    metrics = list(dict.fromkeys(metric for own in groups.values() for metric in own))
    width = 0.8 / max(1, len(metrics))

    def draw(axes: Any) -> None:
        for k, metric in enumerate(metrics):
            known = [(x, own[metric]) for x, own in enumerate(groups.values()) if own.get(metric) is not None]
            if not known:
                continue
            at = [x + (k - (len(metrics) - 1) / 2) * width for x, _ in known]
            points = [point for _, point in known if point is not None]
            values = [p["value"] for p in points]
            errors = [[p["value"] - p["low"] for p in points], [p["high"] - p["value"] for p in points]]
            axes.bar(at, values, width, color=COLOURS[k % len(COLOURS)], label=metric)
            axes.errorbar(at, values, errors, fmt="none", ecolor="black", capsize=2, linewidth=0.8)
            for x, point in zip(at, points, strict=True):
                axes.scatter([x] * len(point["per_seed"]), point["per_seed"], color="black", s=6, zorder=3)
        axes.set_xticks(range(len(groups)), list(groups))

    _save(path, title, axis, draw)


def _save(path: Path, title: str, axis: str, draw: Any) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context(SETTINGS):
        figure, axes = pyplot.subplots(figsize=(8.4, 3.6))
        draw(axes)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylabel(axis)
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))  # hides no point
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
