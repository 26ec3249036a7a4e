"""The micro model of seed 0 comes along with the package, so that a first run need not train it.

`weights/seed0` holds the files as `pretrain.build` left them, float32 and not rounded, because the published figures
are of these weights. `weights/seed0.provenance.json` says which commit, machine and versions made them, their scores
and the hash of each file. Any seed, this one too, is built anew by `cai-ray microworld build`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from cai_ray.engines.models.files import appearing

logger = logging.getLogger(__name__)
WEIGHTS = Path(__file__).parent / "weights" / "seed0"
PROVENANCE = "seed0.provenance.json"  # beside the folder, so that the folder is what a build leaves


def provenance() -> dict[str, Any]:
    """Where the weights come from. Raises OSError or ValueError when the file is not there or not JSON."""
    found: dict[str, Any] = json.loads((WEIGHTS.parent / PROVENANCE).read_text(encoding="utf-8"))
    return found


def put(path: Path, fingerprint: str) -> bool:
    """Copy the model that comes along to the new folder `path`, all or nothing; False when it is not the one asked for.

    Every file is compared with its hash first. Damaged ones are a warning and False: the caller builds the model then.
    """
    try:
        found = provenance()
        if found["fingerprint"] != fingerprint:
            return False
        files = {name: _read(WEIGHTS / name, known) for name, known in found["files"].items()}
    except (OSError, ValueError, KeyError) as error:
        logger.warning(
            "the micro model that comes with cai_ray is damaged (%s); building it anew, which takes minutes. "
            "Installing cai_ray again mends that",
            error,
        )
        return False
    with appearing(path) as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
    return True


def _read(file: Path, known: dict[str, Any]) -> bytes:
    """Raises OSError when the file is not there, ValueError when it is not the one that `known` describes."""
    data = file.read_bytes()
    if len(data) != known["bytes"] or hashlib.sha256(data).hexdigest() != known["sha256"]:
        raise ValueError(f"{file} has {len(data):,} bytes and not the hash of the {known['bytes']:,} bytes built")
    return data
