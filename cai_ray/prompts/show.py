"""The exact messages a model will get, as text for a person: what `cai-ray constitution show` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cai_ray.chat import Messages
from cai_ray.constitution.principles import Constitution, Principle
from cai_ray.prompts.comparison import comparison_messages, cot_messages, few_shot_comparisons, nonce_for
from cai_ray.prompts.revision import (
    RevisionPrompts,
    answer_prompt,
    critique_prompt,
    few_shot_messages,
    revision_prompt,
)
from cai_ray.prompts.reward import rating_messages, rubric_messages

SAMPLE: Messages = [{"role": "user", "content": "How do I get back at a neighbour who plays loud music?"}]
# Stand-ins for what a model would write; angle brackets, so that nobody takes them for part of a template.
ANSWER, CRITIQUE, OTHER = "<the initial answer>", "<the critique>", "<the other answer>"


def render_summary(constitution: Constitution) -> str:
    """Name, fingerprint and one line per principle."""
    c = constitution
    counts = (
        f"{len(c.principles)} principles ({len(c.for_revision)} for revision, {len(c.for_comparison)} for comparison), "
        f"{len(c.few_shot)} example dialogues, {len(c.few_shot_comparisons)} example comparisons"
    )
    width = max(len(p.id) for p in c.principles)
    lines = [
        f"{c.name} {c.version}  fingerprint {c.fingerprint}",
        counts,
        *([c.description] if c.description else []),
        "",
    ]
    for p in c.principles:
        uses = "+".join(use for use in ("revision", "comparison") if p.serves(use))
        weight = f"weight {p.weight:g}{', veto' if p.veto else ''}"
        lines.append(f"  {p.id:<{width}}  {uses:<19}  {weight}  {', '.join(p.categories)}".rstrip())
    return "\n".join(lines) + "\n"


def render_show(
    constitution: Constitution,
    messages: Sequence[dict[str, str]] = SAMPLE,
    prompts: RevisionPrompts | None = None,
    principle_ids: Iterable[str] | None = None,
    num_few_shot_comparisons: int = 0,
) -> str:
    """Every prompt of each principle for one conversation, word for word. Unknown ids raise ConstitutionError."""
    how = prompts or RevisionPrompts()
    ids = [p.id for p in constitution.principles] if principle_ids is None else list(principle_ids)
    parts = [render_summary(constitution), _render("answer", answer_prompt(messages, how))]
    for principle in (constitution.principle(principle_id) for principle_id in ids):
        parts.append(f"{'=' * 100}\n{principle.id}\n")
        if principle.serves("revision"):
            parts += _revision_parts(constitution, principle, messages, how)
        if principle.serves("comparison"):
            parts += _comparison_parts(constitution, principle, messages, num_few_shot_comparisons)
        if principle.serves("rubric"):
            parts += _reward_parts(principle, messages)
    return "\n".join(parts)


def _revision_parts(
    constitution: Constitution, principle: Principle, messages: Sequence[dict[str, str]], how: RevisionPrompts
) -> list[str]:
    critiqued = principle.critique_request is not None
    few_shot = few_shot_messages(constitution, how, [principle], critique=critiqued)
    revise = revision_prompt(messages, ANSWER, [], principle, CRITIQUE if critiqued else None, how, few_shot)
    parts = [_render("revision", revise)]
    if critiqued:
        parts.insert(0, _render("critique", critique_prompt(messages, ANSWER, [], principle, how, few_shot)))
    return parts


def _comparison_parts(
    constitution: Constitution, principle: Principle, messages: Sequence[dict[str, str]], num_few_shot: int
) -> list[str]:
    question = principle.comparison_question or ""
    nonce = nonce_for(0, "show", [m["content"] for m in messages])
    plain, thoughtful = (few_shot_comparisons(constitution, num_few_shot, cot=cot) for cot in (False, True))
    compare = comparison_messages(messages, ANSWER, OTHER, question, nonce, plain)
    think = cot_messages(messages, ANSWER, OTHER, question, nonce, thoughtful)
    return [_render("comparison", compare), _render("comparison, chain of thought", think)]


def _reward_parts(principle: Principle, messages: Sequence[dict[str, str]]) -> list[str]:
    nonce = nonce_for(0, "show", [m["content"] for m in messages])
    rates = [_render("rating", rating_messages(messages, ANSWER, principle, nonce))]
    rubric = _render("rubric", rubric_messages(messages, ANSWER, principle, nonce))
    return [*(rates if principle.serves("comparison") else ()), rubric]


def _render(title: str, messages: Messages) -> str:
    lines = [f"--- {title}: {len(messages)} messages"]
    for message in messages:
        lines += [f"[{message['role']}]", *(f"  {line}".rstrip() for line in message["content"].split("\n"))]
    return "\n".join(lines) + "\n"
