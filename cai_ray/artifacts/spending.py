"""What a stage has spent so far, by its files.

Tokens and money are those of committed parts: what requests under way cost is known when their rows are.
"""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

import pyarrow.fs as pafs

from cai_ray.artifacts.allowance import Spent, sum_of
from cai_ray.artifacts.artifact import MANIFEST, PLAN, find
from cai_ray.artifacts.counters import MICRODOLLARS, OUTPUT_TOKENS, PROMPT_TOKENS
from cai_ray.artifacts.metrics_file import elapsed_of
from cai_ray.artifacts.parts import begun_parts
from cai_ray.artifacts.storage import Storage


def spent(folder: Storage) -> Spent:
    """By the stage in this folder, finished or begun; nothing where there is none.

    A stage that is made from artifacts inside its folder counts what they spent, or repeats it: the larger is taken.
    """
    own, inner = _own(folder), sum_of(_own(folder / name) for name in _artifacts_below(folder))
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


def _own(folder: Storage) -> Spent:
    found = find(folder)
    if found is not None:
        return _of(Counter(found.manifest.counters), found.manifest.duration_s)
    counters: Counter[str] = Counter()
    for part in begun_parts(folder):
        counters.update(part.counters)
    return _of(counters, sum(elapsed_of(folder).values()))


def _of(counters: Counter[str], seconds: float) -> Spent:
    return Spent(counters[PROMPT_TOKENS] + counters[OUTPUT_TOKENS], counters[MICRODOLLARS], seconds)
