"""Folders that count only with a record beside them (guarantee G3).

`<place>/<name>/` holds the files, `<place>/<name>.json` the record of their sizes and hashes, written last.

Tested in tests/engines/training/test_checkpoints.py.
"""

from __future__ import annotations

import logging
import re
from pathlib import PurePosixPath
from typing import TypeVar

from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config

logger = logging.getLogger(__name__)
Record = TypeVar("Record", bound=Config)


def write(storage: Storage, place: str, name: str, record: Config) -> None:
    """From here on the folder counts."""
    storage.write(f"{place}/{name}.json", record.model_dump_json(indent=2).encode())


def read_all(storage: Storage, place: str, kind: type[Record]) -> list[Record]:
    """Every record that can be read, in no order; the folders' files are not looked at."""
    found = []
    for name in storage.names(place, ".json"):
        try:
            found.append(kind.model_validate_json(storage.read(name)))
        except ValueError:
            logger.warning("%s cannot be read and what it is about is passed over", name)
    return found


def delete(storage: Storage, place: str, name: str) -> None:
    """Delete one folder; its record goes first, so that a crash leaves no record of missing files."""
    storage.delete(f"{place}/{name}.json")
    storage.delete_folder(f"{place}/{name}")


def sweep(storage: Storage, place: str, pattern: re.Pattern[str]) -> list[str]:
    """Delete folders of that name pattern without a record, left by a save that was cut off; their names."""
    recorded = {PurePosixPath(name).stem for name in storage.names(place, ".json")}
    orphans = [name for name in (storage / place).folders() if pattern.fullmatch(name) and name not in recorded]
    for name in orphans:
        storage.delete_folder(f"{place}/{name}")
    storage.sweep_temporary(place)
    return orphans
