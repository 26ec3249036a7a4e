"""Where the files are that a recipe names: in the recipe's own folder first, then in the working directory.

A name stays the name: fingerprints, ids and the stored recipe hold what was written, so that a run does not depend on
where its recipe lies. Whoever opens the file asks `location`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

FOLDER = "folder"  # of the validation context: the recipe's
_PASSWORD = re.compile(r"(?<=://)[^\s/?#'\"@:]*:(?!\d+/)[^\s?#'\"]*?@")
_KEY = re.compile(
    r"([?&][^\s=&?'\"]*(?:key|secret|token|password|credential|sig)[^\s=&'\"]*=)[^\s&#'\"]+", re.IGNORECASE
)


class Located(str):
    """A relative name in a recipe. Equal to the name, and written as the name.

    Attributes:
        location: what to open: a path in the recipe's folder where there is such a thing, else the name.
        folder: the recipe's.
    """

    location: str
    folder: str


def location(name: str) -> str:
    """What to open for this name: a path, a URI or a hub id. A home directory (`~`) is written out."""
    if isinstance(name, Located) and name.location != name:
        return name.location
    return os.path.expanduser(name) if name.startswith("~") else name


def without_keys(text: str) -> str:
    """The text with what is or may be a key left out of every URI in it: its user and password, a query's keys."""
    return _KEY.sub(r"\1...", _PASSWORD.sub("", text))


def searched(name: str) -> str:
    """For an error: where a file of this name was looked for."""
    if _is_elsewhere(name):
        return f"looked for it at {location(name)}"
    beside = f"in {name.folder}, where the recipe is, then " if isinstance(name, Located) else ""
    return f"looked for it {beside}in {os.getcwd()}, the working directory"


def _is_elsewhere(name: str) -> bool:
    return "://" in name or os.path.isabs(name) or name.startswith("~")


def _finding(is_there: Callable[[str], object]) -> WrapValidator:
    def find(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
        name: str = handler(value)
        if isinstance(value, Located):  # a part of a recipe that is validated again
            return value
        folder = (info.context or {}).get(FOLDER)
        if not folder or _is_elsewhere(name):
            return name
        found, beside = Located(name), os.path.join(folder, name)
        found.folder = folder
        found.location = beside if is_there(beside) else name
        return found

    return WrapValidator(find)


def _is_there(path: str) -> bool:
    return os.path.exists(path) or bool(glob.has_magic(path) and glob.glob(path, recursive=True))


InputPath = Annotated[str, _finding(_is_there)]  # a file, a folder or a glob; or a URI or hub id, left as it is
InputFile = Annotated[str, _finding(os.path.isfile)]
InputFolder = Annotated[str, _finding(os.path.isdir)]
