"""What comes along with the package and is called by name: constitutions, recipes, ablations, studies."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

Kind = Literal["constitution", "recipe", "ablation", "study"]
SUFFIXES = (".yaml", ".yml", ".json")  # a run keeps its recipe as JSON
_PACKAGE = Path(__file__).resolve().parent
_FOLDERS: dict[Kind, tuple[str, str]] = {  # in a checkout, beside the package; in an installed wheel, inside it
    "constitution": ("constitutions", "_constitutions"),
    "recipe": ("jobs/recipes", "_recipes"),
    "ablation": ("jobs/recipes/ablations", "_recipes/ablations"),
    "study": ("jobs/recipes/studies", "_recipes/studies"),
}


def available(kind: Kind) -> dict[str, Path]:
    """Name -> file of everything of this kind that comes along."""
    beside, inside = _FOLDERS[kind]
    files = (path for folder in (_PACKAGE / inside, _PACKAGE.parent / beside) for path in sorted(folder.glob("*.yaml")))
    return {path.stem: path for path in files}


def is_path(name: str) -> bool:
    """Whether this names a file: "quickstart" is a name unless such a file is here, "x.yaml" and "a/b" are paths."""
    path = Path(name)
    return path.suffix in SUFFIXES or "/" in name or path.is_file()


def advice(kind: Kind, name: str) -> str:
    """What to write in place of a name that is not there."""
    names = available(kind)
    near = difflib.get_close_matches(Path(name).name.removesuffix(".yaml"), list(names), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}there are: {', '.join(sorted(names)) or 'none'}; or give a .yaml path"
