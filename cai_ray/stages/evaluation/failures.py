"""What judges could not judge, and why: for the summary of `evaluate` and its table.

Tested in tests/stages/evaluation/test_summary.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.stages.evaluation.folders import GAMES, JUDGED


def failures(artifact: Artifact) -> dict[str, Any]:
    """The summary's key `judges`: judge -> its kind and model, and for each policy how much it judged.

    {"kind", "model", "policies": {policy: {"num_judged", "failures": {reason: n}, "labels": {label: n}}}}. A game
    counts for both of its policies.
    """
    config: Mapping[str, Any] = artifact.manifest.config
    found = {}
    for judge in config.get("judges", []):
        name, is_pairwise = judge["name"] or judge["model"], judge["kind"] == "pairwise"
        judged = find(artifact.folder / (GAMES if is_pairwise else JUDGED) / name)
        found[name] = {
            "kind": judge["kind"],
            "model": judge["model"],
            "policies": _by_policy(judged, config["policies"], is_pairwise) if judged else {},
        }
    return found


def _by_policy(judged: Artifact, policies: Sequence[str], is_pairwise: bool) -> dict[str, Any]:
    """The counts of every policy that the judge was to judge."""
    num_judged: Counter[str] = Counter()
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in judged.rows(["policy_a", "policy_b"] if is_pairwise else ["policy", "labels"]):
        num_judged.update((row["policy_a"], row["policy_b"]) if is_pairwise else (row["policy"],))
        if not is_pairwise:
            labels[row["policy"]].update(row["labels"])
    for row in judged.dropped():
        for policy in _policies_of(row["row_id"], policies, is_pairwise):
            reasons[policy][row["reason"]] += 1
    return {
        name: {"num_judged": num_judged[name], "failures": dict(reasons[name]), "labels": dict(labels[name])}
        for name in policies
        if num_judged[name] or reasons[name]
    }


def _policies_of(row_id: str, policies: Sequence[str], is_pairwise: bool) -> tuple[str, ...]:
    """Whose answers a dropped row was about. Names may hold slashes, so they are looked for and not cut out."""
    if not is_pairwise:
        return (row_id.rsplit("/", 2)[0],)
    return next(pair for pair in combinations(policies, 2) if row_id.rsplit("/", 2)[0] == "/".join(pair))


def add_failures(shown: Table, summary: Mapping[str, Any]) -> None:
    """A row per judge and reason, with a column per policy; none where everything was judged."""
    policies = list(summary["policies"])
    for judge, found in summary["judges"].items():
        failed = {policy: own["failures"] for policy, own in found["policies"].items()}
        for reason in sorted({reason for own in failed.values() for reason in own}):
            cells = (str(failed[policy].get(reason, 0)) if policy in failed else "-" for policy in policies)
            shown.add_row(f"not judged by {judge}: {reason}", *cells)
