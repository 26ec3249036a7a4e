"""README.md of what is published: how it was made, of what, how much, under which licences, and how good it is.

Tested in tests/publishing/test_publish.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cai_ray.constitution.principles import Constitution
from cai_ray.publishing.data_sets import Written, configs
from cai_ray.publishing.licences import BOTH, spelt
from cai_ray.publishing.sources import front_matter

NOT_FOR_OTHERS = ("output", "folder", "cluster")  # of a recipe: where it ran
_SERVER = ("base_url", "api_key_env", "headers_env", "extra_body")  # of an endpoint: whose it is
MADE_WITH = "Made with cai_ray: Constitutional AI (Bai et al. 2022, arXiv 2212.08073) as a distributed batch system."


def data_card(
    name: str,
    written: Sequence[Written],
    num_rows: Mapping[str, int],
    licences: Mapping[str, str | None],
    about: str,
) -> str:
    """Of a data set. `num_rows`: source -> rows; `licences`: of each source; `about`: see `about_run`."""
    every = sorted({spelt(one) for source in num_rows for one in (licences.get(source) or "").split(BOTH) if one})
    head = {
        "license": every[0] if len(every) == 1 else every,
        "pretty_name": name,
        "tags": ["constitutional-ai", "rlaif", "preference"],
        "configs": configs(written),
    }
    kinds = [
        [f"`{one.kind.name}`", one.kind.told, *(f"{one.num_rows.get(split, 0):,}" for split in ("train", "test"))]
        for one in written
    ]
    sources = [[source, f"{count:,}", licences.get(source) or "-"] for source, count in sorted(num_rows.items())]
    return "\n\n".join(
        [
            _head(head),
            f"# {name}",
            MADE_WITH + " Each configuration is a kind of row; models wrote the answers, critiques, revisions and "
            "labels, and some of the requests ask for harm.",
            _table(["configuration", "rows are", "train", "test"], kinds),
            "## Sources",
            _table(["source", "rows of it", "licence"], sources),
            about,
        ]
    )


def model_card(own: str, licence: str, base: str | None, data_set: str | None, about: str) -> str:
    """Of a model: its `own` README.md, with what the hub wants to know and `about` the run."""
    head, text = front_matter(own)
    more = {"license": spelt(licence), "base_model": base, "datasets": [data_set] if data_set else None}
    return f"{_head(head | {key: value for key, value in more.items() if value})}\n{text.rstrip()}\n\n{about}"


def about_run(recipe: Mapping[str, Any], constitution: Constitution | None, report: str) -> str:
    """What a run's cards share. `recipe`: of recipe.json; `report`: report.md."""
    parts = ["## How good it is", "\n".join(_lowered(report)).strip()]
    if constitution is not None:
        licence = f" Its licence: {constitution.license}." if constitution.license else ""
        principles = [
            f"- **{one.id}**: {one.comparison_question or one.critique_request or one.revision_request}"
            for one in constitution.principles
        ]
        parts += ["## Constitution", f"`{constitution.name}`, version {constitution.version}.{licence}"]
        parts.append("\n".join(principles))
    parts += ["## Recipe", f"```yaml\n{yaml.safe_dump(_for_others(recipe), sort_keys=False, allow_unicode=True)}```"]
    return "\n\n".join(parts) + "\n"


def _lowered(report: str) -> list[str]:
    """The report's lines one heading lower, its title left out."""
    lines = report.splitlines()[1:] if report.startswith("# ") else report.splitlines()
    return [f"#{line}" if line.startswith("#") else line for line in lines]


def _for_others(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Without places and servers of one's own."""
    kept = {name: value for name, value in recipe.items() if name not in NOT_FOR_OTHERS}
    kept["models"] = {name: _without_server(model) for name, model in recipe.get("models", {}).items()}
    return kept


def _without_server(model: Mapping[str, Any]) -> dict[str, Any]:
    if not (endpoint := model.get("endpoint")):
        return dict(model)
    return {**model, "endpoint": {name: value for name, value in endpoint.items() if name not in _SERVER}}


def _head(fields: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True)}---"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
