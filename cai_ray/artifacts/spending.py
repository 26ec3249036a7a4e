"""What a stage has spent so far, by its files.

Tokens and money are those of committed parts: what requests under way cost is known when their rows are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow.fs as pafs

from cai_ray.artifacts.allowance import Spent, sum_of
from cai_ray.artifacts.artifact import MANIFEST, PLAN, Artifact, find
from cai_ray.artifacts.counters import JUDGE_TOKENS, MICRODOLLARS, OUTPUT_TOKENS, PROMPT_TOKENS
from cai_ray.artifacts.metrics_file import elapsed_of
from cai_ray.artifacts.parts import PartRecord, begun_parts
from cai_ray.artifacts.storage import Storage


@dataclass(frozen=True)
class Found:
    """What a stage's folder says of its rows: the artifact, or the parts so far of one that is not finished."""

    artifact: Artifact | None
    parts: list[PartRecord]


def found_in(folder: Storage) -> Found:
    """Nothing where there is none."""
    artifact = find(folder)
    return Found(artifact, [] if artifact is not None else begun_parts(folder))


def spent(folder: Storage, found: Found | None = None) -> Spent:
    """By the stage in this folder, finished or begun; nothing where there is none. `found`: in it, if that is known.

    A stage that is made from artifacts inside its folder counts what they spent, or repeats it: the larger is taken.
    """
    own = _own(folder, found or found_in(folder))
    inner = sum_of(_own(folder / name, found_in(folder / name)) for name in _artifacts_below(folder))
    return Spent(
        max(own.tokens, inner.tokens), max(own.microdollars, inner.microdollars), max(own.seconds, inner.seconds)
    )


def _artifacts_below(folder: Storage) -> list[str]:
    """Folders inside that hold an artifact, finished or begun, and no other one."""
    root = folder.path()
    below = folder.filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
    found = {
        str(PurePosixPath(info.path).parent.relative_to(root)) for info in below if info.base_name in (MANIFEST, PLAN)
    } - {"."}
    return sorted(name for name in found if not any(other.startswith(f"{name}/") for other in found))


def _own(folder: Storage, found: Found) -> Spent:
    if found.artifact is not None:
        return _of(Counter(found.artifact.manifest.counters), found.artifact.manifest.duration_s)
    counters: Counter[str] = Counter()
    for part in found.parts:
        counters.update(part.counters)
    return _of(counters, sum(elapsed_of(folder).values()))


def _of(counters: Counter[str], seconds: float) -> Spent:
    tokens = counters[PROMPT_TOKENS] + counters[OUTPUT_TOKENS] + counters[JUDGE_TOKENS]
    return Spent(tokens, counters[MICRODOLLARS], seconds)
