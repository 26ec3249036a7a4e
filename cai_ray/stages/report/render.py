"""The report as one HTML file: templates, style and script of `page/`, and a policy that allows nothing else.

Jinja escapes whatever it writes; data for the script goes in base64 into a block that is never executed. The
Content-Security-Policy names the one style and the one script by their hashes, so nothing that a model wrote could
run or load, even where escaping failed.

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cai_ray.dropped import DropReason, LeftOutReason
from cai_ray.metrics.names import metric_of
from cai_ray.stages.report import drawings
from cai_ray.stages.report.examples import Examples
from cai_ray.stages.report.facts import Facts
from cai_ray.stages.report.policies import ADD_A_JUDGE, NO_HARM_JUDGED, headline, interval, shown, title_of
from cai_ray.stages.report.text import visible

PAGE = Path(__file__).parent / "page"


def as_html(facts: Facts, examples: Examples) -> str:
    """The whole page."""
    style, script = _asset("style.css"), _asset("browser.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            facts=facts,
            examples=examples,
            style=style,
            script=script,
            policy=_security_policy(style, script),
            charts=_charts(facts),
            claims=headline(facts.policies, facts.policies.final) if facts.policies else [],
            reasons={reason.value: reason.sentence for reason in (*DropReason, *LeftOutReason)},
        )
    )


def as_study_html(figures: Any, charts: list[Any], tables: dict[str, list[list[str]]]) -> str:
    """A study's page: its charts and tables, each by its title, its head first; with the style of a run's."""
    style = _asset("style.css")
    template = _environment().get_template("study.html")
    policy = _security_policy(style, "")
    return template.render(figures=figures, charts=charts, tables=tables, style=style, policy=policy)


def as_svg(charts: list[Any]) -> str:
    """The charts below each other, as one file."""
    return _environment().get_template("figure.svg").render(charts=charts)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(visible=visible, count=_count, duration=_duration, title_of=title_of, metric_of=metric_of)
    made.globals.update(shown=shown, interval=interval, no_harm_judged=NO_HARM_JUDGED, add_a_judge=ADD_A_JUDGE)
    return made


def _asset(name: str) -> Markup:
    """A file of the page as it is: what it holds is ours."""
    return Markup((PAGE / name).read_text(encoding="utf-8"))


def _security_policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _charts(facts: Facts) -> dict[str, Any]:
    found = facts.policies
    return {
        "headline": drawings.headline_charts(found) if found else [],
        "categories": drawings.category_charts(found) if found else [],
        "frontier": drawings.frontier_chart(found) if found else None,
        "elo": drawings.elo_chart(found) if found else None,
        "rounds": drawings.round_charts(facts.rounds) if facts.rounds else [],
        "calibration": drawings.calibration_chart(facts.preference_model),
        "labels": drawings.label_chart(facts.labels) if facts.labels else None,
        "training": {one.stage: drawings.training_charts(one) for one in facts.training},
    }


def _count(value: float) -> str:
    """1,234"""
    return f"{value:,.0f}"


def _duration(seconds: float) -> str:
    """ "9.4 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"
