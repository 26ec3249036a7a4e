"""The judges that a recipe may name: every kind that a file of this folder defines.

To add a judge, add its file: a subclass of AnswerJudge (base.py) with a `kind` of its own. Nothing else names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from cai_ray.stages.evaluation.judges.base import JudgeConfig


def _kinds() -> Iterator[type[JudgeConfig]]:
    """In the order of the files' names, and as they stand in them."""
    for module in sorted(f"{__name__}.{found.name}" for found in iter_modules(__path__)):
        for one in vars(import_module(module)).values():
            is_kind = isinstance(one, type) and issubclass(one, JudgeConfig) and not isabstract(one)
            if is_kind and one.__module__ == module:
                yield one


KINDS = tuple(_kinds())
if TYPE_CHECKING:
    AnyJudge = JudgeConfig
else:
    AnyJudge = Annotated[Union[KINDS], Field(discriminator="kind")]  # noqa: UP007  (made of a tuple)
