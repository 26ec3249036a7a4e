"""The pages that are made of the code and of result files: `python -m docs.make`.

The words of docs/measured.md and docs/formats.md are in docs/templates/. Every figure of the first is read from a file
in benchmarks/results/ and its cases from docs/field_cases.yaml, every column of the second from the Arrow schemas and
the comments beside them, so that none is typed twice.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import yaml

from benchmarks.results_file import RESULTS
from cai_ray import dropped, rows
from cai_ray.stages.abliteration import measuring
from cai_ray.stages.evaluation import self_critique

DOCS = Path(__file__).parent


def measured(results: Path = RESULTS) -> str:
    """Raises jinja2.UndefinedError for a figure that a result file does not have."""
    files = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    cases = yaml.safe_load((DOCS / "field_cases.yaml").read_text())
    return _render("measured.md.j2", files=files, cases=cases, **files)


INNER = ("ASKED", "JUDGED_ANSWER")  # of artifacts inside a stage's own


def formats() -> str:
    """Raises KeyError for a schema that the template does not show."""
    modules = (rows, dropped, measuring, self_critique)
    found = {schema.name: schema for module in modules for schema in schemas(Path(str(module.__file__)))}
    found = {name: schema for name, schema in found.items() if name not in INNER}
    shown: set[str] = set()

    def show(name: str) -> Schema:
        shown.add(name)
        return found[name]

    page = _render("formats.md.j2", schema=show, reasons=list(dropped.DropReason), left_out=list(dropped.LeftOutReason))
    if missing := set(found) - shown:
        raise KeyError(f"docs/templates/formats.md.j2 does not show {', '.join(sorted(missing))}")
    return page


PAGES: dict[str, Callable[[], str]] = {"measured.md": measured, "formats.md": formats}

# ---- figures ----------------------------------------------------------------------------------------------------


def share(figure: Any, digits: int = 1) -> str:
    """A share in [0, 1] as percent: of a spread its median and range, of an estimate its value and interval."""
    return _figure(figure, 100, digits, "%")


def points(figure: Any, digits: int = 1) -> str:
    """A difference of shares as percentage points."""
    return _figure(figure, 100, digits, "")


def times(figure: Any, digits: int = 2) -> str:
    return _figure(figure, 1, digits, "x")


def number(figure: Any, digits: int = 3) -> str:
    return _figure(figure, 1, digits, "")


def plain(figure: Any, scale: float = 1, digits: int = 1) -> str:
    """The median or value alone."""
    return f"{scale * _middle(figure):.{digits}f}"


def _middle(figure: Any) -> float:
    if isinstance(figure, dict):
        return float(figure["median"] if "median" in figure else figure["value"])
    return float(figure)


def _figure(figure: Any, scale: float, digits: int, unit: str) -> str:
    middle = f"{scale * _middle(figure):.{digits}f}{unit}"
    if isinstance(figure, dict) and "median" in figure:
        return f"{middle} ({scale * figure['min']:.{digits}f} to {scale * figure['max']:.{digits}f})"
    if isinstance(figure, dict) and "low" in figure:
        return f"{middle} [{scale * figure['low']:.{digits}f}, {scale * figure['high']:.{digits}f}]"
    return middle


# ---- schemas ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One column of a schema: its type in Arrow's words, and what the comment beside it says."""

    name: str
    type: str
    nullable: bool
    comment: str


@dataclass(frozen=True)
class Schema:
    """One schema of a module, with the comment above it."""

    name: str
    comment: str
    columns: list[Column]


def schemas(path: Path) -> Iterator[Schema]:
    """The schemas and structs that are written out in a Python file, in order."""
    text = path.read_text()
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _is_schema(node.value):
            above = []
            line = node.lineno - 1
            while line in comments:
                above.insert(0, comments[line])
                line -= 1
            columns = [_column(field, comments) for field in ast.walk(node.value) if _is_call(field, "field")]
            name = node.targets[0].id  # type: ignore[attr-defined]
            yield Schema(name, " ".join(above), columns)


def _is_call(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name


def _is_schema(node: ast.Call) -> bool:
    return _is_call(node, "schema") or _is_call(node, "struct")


def _column(field: ast.AST, comments: dict[int, str]) -> Column:
    assert isinstance(field, ast.Call)
    name = eval(ast.unparse(field.args[0]), vars(rows))  # a literal, or a constant of rows.py
    nullable = not any(keyword.arg == "nullable" for keyword in field.keywords)
    said = [comments[line] for line in range(field.lineno, (field.end_lineno or field.lineno) + 1) if line in comments]
    return Column(name, _type(ast.unparse(field.args[1])), nullable, " ".join(said))


def _type(source: str) -> str:
    """An Arrow type as people write it: list<struct>, string, double."""
    found = eval(source, vars(rows))
    return _named(found)


def _named(found: pa.DataType) -> str:
    if pa.types.is_list(found):
        return f"list<{_named(found.value_type)}>"
    if pa.types.is_struct(found):
        known = {id(value): name for name, value in vars(rows).items() if isinstance(value, pa.StructType)}
        return known.get(id(found)) or next(name for name in known.values() if getattr(rows, name) == found)
    return str(found)


def _render(template: str, **facts: Any) -> str:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"share": share, "points": points, "times": times, "number": number, "plain": plain}
    return environment.from_string((DOCS / "templates" / template).read_text()).render(**facts)


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
        print(DOCS / name)
