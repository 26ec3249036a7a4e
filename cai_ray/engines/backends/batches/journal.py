"""Which batches a stage has sent, in the stage's folder: what a run that goes on looks for before it pays again.

An entry is written before its batch is made, without the provider's id, and again with it. A batch whose maker was
killed between the two is found at the provider by the entry's key, which it carries as metadata.

Tested in tests/engines/backends/batches/test_backend.py.
"""

from __future__ import annotations

from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config

FOLDER = "batches"  # of a stage
METADATA = "cai_ray"  # a batch's, with the entry's key


class Entry(Config):
    """One batch."""

    key: str
    custom_ids: tuple[str, ...]
    batch_id: str | None = None  # the provider's; None: it may not have been made


class Journal:
    """A stage's entries. `folder`: the stage's; None: nothing is kept, and a killed run pays again."""

    def __init__(self, folder: Storage | None) -> None:
        self._folder = folder

    def entries(self) -> list[Entry]:
        if self._folder is None:
            return []
        names = self._folder.names(FOLDER, ".json")
        return [Entry.model_validate_json(self._folder.read(name)) for name in names]

    def write(self, entry: Entry) -> None:
        if self._folder is not None:
            self._folder.write(f"{FOLDER}/{entry.key}.json", entry.model_dump_json().encode())

    def forget(self, entry: Entry) -> None:
        """Of a batch that was never made."""
        if self._folder is not None:
            self._folder.delete(f"{FOLDER}/{entry.key}.json")
