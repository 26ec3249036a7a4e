"""Where a run's folder may lie: not where it is lost, and where all nodes see it."""

from __future__ import annotations

import os
from pathlib import Path

from cai_ray.artifacts.storage import is_uri
from cai_ray.errors import ConfigError

PACKAGES = "_ray_pkg_"  # what Ray calls its copies of working directories


def refuse_package_cache(output: str) -> None:
    """Raises ConfigError for an output inside the copy of the working directory that a Ray job runs in (case 21).

    Ray keeps such a copy as long as it likes, and makes another one after any edit of the working directory.
    """
    if is_uri(output):
        return
    path = Path(output).expanduser()
    if any(part.startswith(PACKAGES) for part in (Path(os.getcwd()) / path).parts):
        raise ConfigError(
            f"output {output!r} would lie in Ray's copy of the job's working directory, which goes away with the job; "
            "set `output` to an absolute folder that every node sees, or to a URI (--set output=s3://bucket/runs)"
        )
