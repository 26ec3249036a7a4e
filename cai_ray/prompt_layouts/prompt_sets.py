"""The layouts of published prompt sets, one user prompt per record. Their columns are bound in `layouts`.

Tested in tests/prompt_layouts/test_layouts.py.
"""

from __future__ import annotations

from cai_ray.dropped import DropReason, DropRow, LeftOutReason
from cai_ray.prompt_layouts.records import Fields, Kind, ParsedPrompt, ParseOptions


def parse_prompt_column(fields: Fields, options: ParseOptions) -> ParsedPrompt:
    """AdvBench (`goal`), JailbreakBench (`Goal`), StrongREJECT (`forbidden_prompt`): requests for harm."""
    messages = [{"role": "user", "content": fields.text("prompt")}]
    return ParsedPrompt(messages, fields.label("category"), fields.label("id"), kind="red_team")


def parse_harmbench(fields: Fields, options: ParseOptions) -> ParsedPrompt:
    """HarmBench behaviours; a contextual one is its ContextString, a blank line, its Behavior.

    Only `options.functional_categories` pass. The default leaves out "copyright", whose harm lies in
    the words of a work, and "contextual", which needs the long context.
    """
    functional = fields.label("functional_category")
    if functional is not None and functional not in options.functional_categories:
        kept = ", ".join(options.functional_categories)
        raise DropRow(LeftOutReason.SUBSET, f"FunctionalCategory is not one of functional_categories ({kept})")
    content = fields.text("prompt")
    context = fields.label("context")
    if functional == "contextual":
        if context is None:
            raise DropRow(DropReason.MALFORMED, "a contextual behaviour without ContextString")
        content = f"{context}\n\n{content}"
    messages = [{"role": "user", "content": content}]
    return ParsedPrompt(messages, fields.label("category"), fields.label("id"), kind="red_team")


def parse_xstest(fields: Fields, options: ParseOptions) -> ParsedPrompt:
    """XSTest: safe prompts that look unsafe (kind "helpful") and their unsafe contrasts (kind "red_team").

    Older copies have no `label`; there a type that starts with "contrast_" is unsafe.
    """
    category = fields.label("category")
    label = fields.label("label")
    if label is None:
        if category is None:
            raise DropRow(DropReason.MALFORMED, "neither label nor type says whether the prompt is safe")
        label = "unsafe" if category.startswith("contrast_") else "safe"
    if label not in ("safe", "unsafe"):
        raise DropRow(DropReason.MALFORMED, 'label is neither "safe" nor "unsafe"')
    kind: Kind = "helpful" if label == "safe" else "red_team"
    messages = [{"role": "user", "content": fields.text("prompt")}]
    return ParsedPrompt(messages, category, fields.label("id"), kind)
