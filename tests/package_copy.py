"""A copy of the package and its tests, to add something to and count the places that took."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cai_ray

ROOT = Path(cai_ray.__file__).parent.parent
COPIED = ("cai_ray", "tests")


def copy_with(folder: Path, files: Mapping[str, str], edits: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Copy all to `folder`, write new `files`, and make `edits` (path -> text -> what comes in its place).

    Returns the paths of all Python files that differ from today's; each text that is replaced must be there once.
    """
    for entry in (path for path in ROOT.iterdir() if not path.name.startswith(".")):
        if entry.name in COPIED:
            shutil.copytree(entry, folder / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / entry.name).symlink_to(entry)
    for name, text in files.items():
        assert not (folder / name).exists(), f"{name} is there already"
        (folder / name).write_text(text.lstrip())
    for name, changes in edits.items():
        text = (folder / name).read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, f"{name} holds {old!r} {text.count(old)} times"
            text = text.replace(old, new)
        (folder / name).write_text(text)
    before, after = _texts(ROOT), _texts(folder)
    assert set(before) <= set(after)
    return {name for name in after if after[name] != before.get(name)}


def _texts(root: Path) -> dict[str, str]:
    """Every Python file below, by its path."""
    found = (path for part in COPIED for path in (root / part).rglob("*.py"))
    return {str(path.relative_to(root)): path.read_text() for path in found}


def passing_there(folder: Path, *tests: str) -> str:
    """Run these tests in the copy, which must pass; what pytest said."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
