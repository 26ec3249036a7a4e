"""Constitution files: find them, read them with every mistake placed on its line, write them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cai_ray import shelf
from cai_ray.constitution.principles import (
    DUPLICATE_RULE,
    Constitution,
    ConstitutionError,
    FewShotComparison,
    FewShotRevision,
    Message,
    Mistake,
    Principle,
    RuleError,
    use_mistake,
)
from cai_ray.lookup import location, searched

Location = tuple[str | int, ...]

_VALUELESS = "a key has a value"
_MAX_NODES = 100_000  # YAML aliases can unfold without bound

# ------------------------------------------------------------------------------------------------------------- find


def resolve(name_or_path: str) -> Path:
    """The file of a constitution: "harmlessness" is one that comes with cai_ray, anything with / or .yaml a path."""
    path = Path(location(name_or_path))
    if shelf.is_path(str(path)):
        if path.is_file():
            return path
        raise _error(name_or_path, "there is no such file", f"check the path; {searched(name_or_path)}")
    names = shelf.available("constitution")
    if name_or_path in names:
        return names[name_or_path]
    raise _error(name_or_path, "no constitution of this name", shelf.advice("constitution", name_or_path))


def _error(source: str, rule: str, fix: str, line: int | None = None) -> ConstitutionError:
    return ConstitutionError(source, [Mistake(line, "", "", rule, fix)])


# ------------------------------------------------------------------------------------------------------------- read


def load(path: str | Path) -> Constitution:
    """The constitution in this YAML file. Raises ConstitutionError with every mistake and its line."""
    source = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as err:
        raise _error(source, f"cannot be read ({err.strerror})", "check the path and its permissions") from err
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data[: err.start].count(b"\n") + 1
        byte = f"byte 0x{data[err.start]:02x}"
        raise _error(source, f"the file is UTF-8, but here is {byte}", "save the file as UTF-8", line) from err
    return parse(text, source)


def parse(text: str, source: str = "constitution") -> Constitution:
    """The constitution in this YAML text. Raises ConstitutionError with every mistake and its line."""
    reader = _Reader()
    try:
        data = reader.read(text)
    except yaml.reader.ReaderError as err:
        line = text[: err.position].count("\n") + 1
        rule = f"YAML allows no control characters, but here is #x{ord(text[err.position]):04x}"
        raise _error(source, rule, "remove it, or write it escaped in double quotes", line) from err
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        rule = f"YAML syntax: {' '.join(part for part in (err.context, err.problem) if part)}"
        fix = "check the indentation and quotes here; text with ': ' or '#' goes in quotes or a | block"
        raise _error(source, rule, fix, mark.line + 1 if mark else None) from err
    except RecursionError as err:
        rule = "brackets or blocks are nested deeper than YAML can be read"
        raise _error(source, rule, "a constitution is three levels deep; remove the rest") from err
    if not isinstance(data, dict):
        value = "" if data is None else _short(data)
        rule = "a constitution is a mapping with name, version and principles"
        raise ConstitutionError(source, [*reader.mistakes, Mistake(1, "", value, rule, "start with `name: ...`")])
    mistakes = [*reader.mistakes, *_cross_mistakes(data, reader.lines)]
    valueless = {m.where for m in mistakes if m.rule == _VALUELESS}
    try:
        constitution = Constitution.model_validate(data)
    except ValidationError as err:
        found = (_from_pydantic(error, reader.lines) for error in err.errors())
        mistakes += [m for m in found if m and m not in mistakes and m.where not in valueless]
    if mistakes:
        raise ConstitutionError(source, sorted(mistakes, key=lambda m: (m.line or 0, m.where)))
    return constitution


def explain(error: ConstitutionError) -> str:
    """The mistakes as `constitution check` prints them."""
    count = len(error.mistakes)
    lines = [f"{error.source}: {count} mistake{'s' if count != 1 else ''}"]
    for mistake in error.mistakes:
        place = f"line {mistake.line}" if mistake.line else "the file"
        lines += ["", f"  {place}" + (f", {mistake.where}" if mistake.where else "")]
        lines += [f"    value: {mistake.value}"] if mistake.value else []
        lines += [f"    rule:  {mistake.rule}", f"    fix:   {mistake.fix}"]
    return "\n".join(lines) + "\n"


class _Reader:
    """YAML text to plain data, remembering the line of every location and finding repeated keys."""

    def __init__(self) -> None:
        self.lines: dict[Location, int] = {(): 1}
        self.mistakes: list[Mistake] = []
        self._num_nodes = 0

    def read(self, text: str) -> Any:
        self._loader = yaml.SafeLoader(text)
        try:
            node = self._loader.get_single_node()
            return None if node is None else self._plain(node, (), ())
        finally:
            self._loader.dispose()

    def _plain(self, node: yaml.Node, at: Location, inside: tuple[int, ...]) -> Any:
        self._num_nodes += 1
        if id(node) in inside or self._num_nodes > _MAX_NODES:
            problem = "an alias (*name) that holds itself or unfolds without end"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        inside = (*inside, id(node))
        if isinstance(node, yaml.MappingNode):
            return {key: self._plain(value, (*at, key), inside) for key, value in self._entries(node, at)}
        if isinstance(node, yaml.SequenceNode):
            items = []
            for i, item in enumerate(node.value):
                self.lines[(*at, i)] = item.start_mark.line + 1
                items.append(self._plain(item, (*at, i), inside))
            return items
        try:
            return self._loader.construct_object(node)
        except (ValueError, OverflowError) as err:  # such as the date 2024-13-45
            raise yaml.constructor.ConstructorError(None, None, str(err), node.start_mark) from err

    def _entries(self, node: yaml.MappingNode, at: Location) -> Iterator[tuple[str, yaml.Node]]:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            line, key = key_node.start_mark.line + 1, self._key(key_node)
            if key in first:
                rule = f"a key occurs once, {key!r} is already on line {first[key]}"
                self.mistakes.append(Mistake(line, _where((*at, key)), "", rule, "remove or rename one of them"))
            first.setdefault(key, line)
        self._loader.flatten_mapping(node)  # merge keys (<<) first, so that a mapping's own keys win
        for key_node, value_node in node.value:
            key = self._key(key_node)
            self.lines[(*at, key)] = line = key_node.start_mark.line + 1
            if isinstance(value_node, yaml.ScalarNode) and value_node.value == "" and value_node.style is None:
                # Read as null, which an optional key would take in silence.
                fix = "write the value, or remove the key"
                self.mistakes.append(Mistake(line, _where((*at, key)), "", _VALUELESS, fix))
            yield key, value_node

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key is plain text", node.start_mark)
        return str(node.value)


# --------------------------------------------------------------------------------------------------------- mistakes


def _cross_mistakes(data: dict[str, Any], lines: dict[Location, int]) -> list[Mistake]:
    """Rules over several fields. pydantic would hold these back until every single field is right."""
    mistakes: list[Mistake] = []
    first: dict[str, int] = {}
    principles = data.get("principles")
    for i, principle in enumerate(principles if isinstance(principles, list) else []):
        if not isinstance(principle, dict):
            continue
        at: Location = ("principles", i)
        principle_id = principle.get("id")
        if isinstance(principle_id, str):
            line = _line((*at, "id"), lines)
            if principle_id in first:
                rule = f"{DUPLICATE_RULE}, line {first[principle_id]} has the same"
                mistakes.append(Mistake(line, _where((*at, "id")), _short(principle_id), rule, "rename one of them"))
            first.setdefault(principle_id, line)
        keys = ("critique_request", "revision_request", "comparison_question", "rubric_question")
        critique, revision, *compares = (principle.get(key) is not None for key in keys)
        if problem := use_mistake(critique, revision, any(compares)):
            mistakes.append(Mistake(_line(at, lines), _where(at), "", problem.rule, problem.fix))
    return mistakes


def _from_pydantic(error: ErrorDetails, lines: dict[Location, int]) -> Mistake | None:
    at: Location = tuple(error["loc"])
    kind, value = error["type"], _short(error["input"])
    cause = error.get("ctx", {}).get("error")
    if kind == "too_short" and error["input"]:
        return None  # pydantic counts entries with mistakes of their own as absent
    if kind == "value_error" and isinstance(cause, RuleError):
        if cause.rule.startswith(DUPLICATE_RULE):
            return None  # _cross_mistakes has it, with both lines
        rule, fix, value = cause.rule, cause.fix, ""
    elif kind == "missing":
        rule, fix, value = f"the key {at[-1]!r} is missing", f"add `{at[-1]}:`", ""
    elif kind == "extra_forbidden":
        allowed = list(_model_at(at).model_fields)
        near = difflib.get_close_matches(str(at[-1]), allowed, n=1)
        rule = f"unknown key {str(at[-1])!r}"
        fix = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(allowed)}"
        value = ""
    else:
        rule, fix = _rule_and_fix(kind, error)
    return Mistake(_line(at, lines), _where(at), value, rule, fix)


def _rule_and_fix(kind: str, error: ErrorDetails) -> tuple[str, str]:
    field, value = error["loc"][-1] if error["loc"] else "", error["input"]
    match kind:
        case "string_type" if isinstance(value, list | dict):
            return "must be text", "write one string"
        case "string_type":
            return "must be text", f'put it in quotes: "{"null" if value is None else value}"'
        case "string_too_short":
            return "must not be empty", "write the text, or remove the key if it is optional"
        case "string_pattern_mismatch":
            return "must be kebab-case: small letters, digits and single hyphens", f"for example {_kebab(value)!r}"
        case "tuple_type" | "list_type":
            return "must be a list", f"write `{field}:` and below it one `- ...` per entry"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be a mapping of keys to values", "write `key: value` lines, indented"
        case "too_short":
            return "must have at least one entry", "add one"
        case "greater_than" | "finite_number":
            return "must be a finite number above 0", "write one, or remove the key for 1.0"
        case "float_type" | "float_parsing":
            return "must be a number", "write it without quotes, such as 2.0"
        case "literal_error":
            return f"must be {error['ctx']['expected']}", "use one of these"
        case _:
            return error["msg"][0].lower() + error["msg"][1:], "correct the value"


def _model_at(at: Location) -> type[Any]:
    """The model that an unknown key at `at` was given to."""
    names = [part for part in at[:-1] if isinstance(part, str)]
    owners: dict[str, type[Any]] = {
        "principles": Principle,
        "few_shot": FewShotRevision,
        "few_shot_comparisons": FewShotComparison,
        "messages": Message,
    }
    return owners[names[-1]] if names else Constitution


def _line(at: Location, lines: dict[Location, int]) -> int:
    """The line of `at`, or of the nearest thing around it that is there."""
    while at not in lines:
        at = at[:-1]
    return lines[at]


def _where(at: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kebab(value: Any) -> str:
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in str(value).lower()).split()
    return "-".join(words)[:40].strip("-") or "no-harm"


# ------------------------------------------------------------------------------------------------------------ write


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)  # lists indented under their key, as people write them


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Blocks for what a person would write as a block; PyYAML falls back to quotes where a block cannot hold it."""
    lines = text.split("\n")
    plain = all(line == line.strip() for line in lines)
    if not all(line.isprintable() for line in lines):
        style = '"'  # only here is every character escaped: elsewhere U+0085 comes back as a line break
    elif plain and "\n" in text:
        style = "|"
    elif plain and len(text) > 80 and "  " not in text:
        style = ">"
    else:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(constitution: Constitution) -> str:
    """Readable YAML; parse(dump_yaml(c)) == c. Values equal to their default are left out."""
    data = constitution.model_dump(mode="json", exclude_defaults=True)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
