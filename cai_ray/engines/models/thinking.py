"""Whether the chat template opens a thought, against what the recipe says: found by rendering, before an engine starts.

Tested in tests/field/test_11_unsaid_thinking.py.
"""

from __future__ import annotations

from cai_ray.chat import Renderer
from cai_ray.config import ModelConfig
from cai_ray.errors import ConfigError
from cai_ray.markup import THINK_MARKS

_PROBE = "question-probe"
_DEFAULT = THINK_MARKS[0]


def opened_marks(renderer: Renderer, own: tuple[str, str] | None = None) -> tuple[str, str] | None:
    """The (opening, closing) marks of the thought that a prompt ends in; None: it ends in none.

    `own`: the recipe's marks, looked for besides the well-known ones.
    """
    if renderer.format == "transcript":
        return None
    behind = renderer.text([{"role": "user", "content": _PROBE}]).rpartition(_PROBE)[2].rstrip()
    pairs = THINK_MARKS if own is None else (own, *THINK_MARKS)
    return next((pair for pair in pairs if behind.endswith(pair[0])), None)


def check_thinking(name: str, model: ModelConfig, renderer: Renderer) -> None:
    """Raises ConfigError, with the lines to write, where a thought would be taken for the answer or the reverse."""
    said = model.thinking
    found = opened_marks(renderer, None if said is None else (said.open, said.close))
    if found is not None and (said is None or not said.opened_by_template or found[0] != said.open):
        marks = "" if found == _DEFAULT else f", open: {found[0]!r}, close: {found[1]!r}"
        raise ConfigError(
            f"models.{name}: its chat template opens a thought (every prompt ends in {found[0]!r}), and the recipe "
            "does not say so: thoughts would be taken for answers. Write\n"
            f"  {name}:\n    thinking: {{opened_by_template: true{marks}}}\n"
            "(or, where the template has such a switch, chat_template_kwargs: {enable_thinking: false})"
        )
    if found is None and said is not None and said.opened_by_template:
        raise ConfigError(
            f"models.{name}: thinking.opened_by_template is true, but no prompt ends in {said.open!r}: answers "
            f"would be taken for thoughts. Write\n  {name}:\n    thinking: {{opened_by_template: false}}\n"
            "or leave `thinking` out for a model that does not think"
        )
