"""The known layouts; which one a set has; and a layout bound to the columns of one set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts import conversations, prompt_sets
from cai_ray.prompt_layouts.readings import bound_columns, columns_of, listed
from cai_ray.prompt_layouts.records import Fields, ParsedPrompt, ParseOptions

LayoutName = Literal[
    "auto",
    "messages",
    "sharegpt",
    "text",
    "transcript",
    "hh_rlhf",
    "red_team_attempts",
    "harmbench",
    "advbench",
    "jailbreakbench",
    "strongreject",
    "xstest",
]


@dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        parse: one record, seen through `Fields`, to a prompt; raises DropRow.
        required: fields every set of this layout has, each with the column names to look for, in order.
        optional: likewise for fields a set may lack.
    """

    parse: Callable[[Fields, ParseOptions], ParsedPrompt]
    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]]


_EXTRAS = {"category": ("category",), "id": ("id", "prompt_id"), "kind": ("kind",)}
_TEXT_COLUMNS = ("prompt", "question", "instruction", "request", "query", "user_input", "text", "input")

LAYOUTS: dict[str, Layout] = {
    "messages": Layout(conversations.parse_messages, {"prompt": ("messages", "prompt", "conversation")}, _EXTRAS),
    "sharegpt": Layout(conversations.parse_sharegpt, {"prompt": ("conversations", "conversation")}, _EXTRAS),
    "text": Layout(conversations.parse_text, {"prompt": _TEXT_COLUMNS}, _EXTRAS),
    "transcript": Layout(conversations.parse_transcript, {"prompt": ("transcript", *_TEXT_COLUMNS)}, _EXTRAS),
    "hh_rlhf": Layout(conversations.parse_hh_rlhf, {"chosen": ("chosen",), "rejected": ("rejected",)}, _EXTRAS),
    "red_team_attempts": Layout(conversations.parse_red_team_attempts, {"prompt": ("transcript",)}, _EXTRAS),
    "harmbench": Layout(
        prompt_sets.parse_harmbench,
        {"prompt": ("Behavior",)},
        {
            "category": ("SemanticCategory",),
            "id": ("BehaviorID",),
            "functional_category": ("FunctionalCategory",),
            "context": ("ContextString",),
        },
    ),
    "advbench": Layout(prompt_sets.parse_prompt_column, {"prompt": ("goal",)}, {"category": (), "id": ()}),
    "jailbreakbench": Layout(
        prompt_sets.parse_prompt_column, {"prompt": ("Goal",)}, {"category": ("Category",), "id": ()}
    ),
    "strongreject": Layout(
        prompt_sets.parse_prompt_column, {"prompt": ("forbidden_prompt",)}, {"category": ("category",), "id": ()}
    ),
    "xstest": Layout(
        prompt_sets.parse_xstest,
        {"prompt": ("prompt",)},
        {"category": ("type",), "id": ("id", "id_v2"), "label": ("label",)},
    ),
}
assert {*LAYOUTS, "auto"} == set(get_args(LayoutName))

# Columns that give a layout away, the more telling first.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmbench", ("Behavior", "SemanticCategory")),
    ("harmbench", ("Behavior", "BehaviorID")),
    ("jailbreakbench", ("Goal", "Category")),
    ("jailbreakbench", ("Goal", "Target")),
    ("advbench", ("goal", "target")),
    ("strongreject", ("forbidden_prompt",)),
    ("xstest", ("prompt", "type", "label")),
    ("xstest", ("prompt", "type", "focus")),
    ("xstest", ("prompt", "type", "note")),
    ("messages", ("messages",)),
    ("sharegpt", ("conversations",)),
    ("red_team_attempts", ("transcript", "rating")),
    ("red_team_attempts", ("transcript", "task_description")),
    ("transcript", ("transcript",)),
)


@dataclass(frozen=True)
class BoundLayout:
    """A layout and the columns of one set that carry its fields.

    Attributes:
        because: what gave the layout away, for a log line.
    """

    name: str
    layout: Layout
    columns: dict[str, str | None]
    options: ParseOptions
    because: str


def parse_record(bound: BoundLayout, record: Mapping[str, Any]) -> ParsedPrompt:
    """One record as a prompt. Raises DropRow with the reason why it is none."""
    return bound.layout.parse(Fields(record, bound.columns), bound.options)


def bind_layout(
    name: str,
    sample: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str | None] | None = None,
    options: ParseOptions | None = None,
) -> BoundLayout:
    """Choose the layout (`name` may be "auto") and find its columns in `sample`, the first records of a set.

    `columns` maps fields (prompt, category, id, ...) to columns, before any guess; None switches an
    optional field off. Raises ConfigError on an unknown layout or field and on a missing column.
    """
    given = dict(columns or {})
    present = columns_of(sample)
    because = "named in the recipe"
    if name == "auto":
        name, because = _sniff(sample, present, given)
    if name not in LAYOUTS:
        raise ConfigError(f"layout={name!r} is unknown; choose one of auto, {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    bound = bound_columns(name, layout.required, layout.optional, present, given)
    return BoundLayout(name, layout, bound, options or ParseOptions(), because)


def _sniff(
    sample: Sequence[Mapping[str, Any]], present: Sequence[str], given: Mapping[str, str | None]
) -> tuple[str, str]:
    """The layout's name and the reason. Raises ConfigError when nothing fits."""
    mapped = given.get("prompt")
    if mapped is not None:
        return _by_value(sample, mapped)
    for name, signs in _SIGNS:
        if all(sign in present for sign in signs):
            return name, f"columns {', '.join(signs)}"
    if "prompt" not in present and {"chosen", "rejected"} <= set(present):
        return "hh_rlhf", "columns chosen, rejected"
    column = next((column for column in (*_TEXT_COLUMNS, "conversation") if column in present), None)
    if column is None:
        raise ConfigError(
            f"no known layout has the columns {listed(present)}; name the prompt's column, "
            f"columns: {{prompt: <column>}}, or a layout ({', '.join(LAYOUTS)})"
        )
    return _by_value(sample, column)


def _by_value(sample: Iterable[Mapping[str, Any]], column: str) -> tuple[str, str]:
    """Tell text, transcripts and lists of turns apart by the first usable value of the prompt's column."""
    for record in sample:
        value = record.get(column)
        if isinstance(value, str) and value.strip():
            if value.lstrip().startswith("Human:") and ("\nAssistant:" in value or value[0] in "\r\n"):
                return "transcript", f'column {column} starts with "Human:"'
            return "text", f"column {column} holds text"
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            if "from" in value[0] and "value" in value[0]:
                return "sharegpt", f"column {column} holds from/value turns"
            return "messages", f"column {column} holds role/content turns"
    return "text", f"column {column}"
