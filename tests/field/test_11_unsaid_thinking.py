"""A template that opens a thought while the recipe says nothing, and the reverse; thoughts that leak into answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cai_ray.cli import app
from cai_ray.config import ModelConfig, ThinkingConfig
from cai_ray.engines.models.thinking import check_thinking, opened_marks
from cai_ray.errors import ConfigError
from cai_ray.quality.cleaning import CleaningConfig, clean
from tests.prompt_formats import FORMATS

CHATML = FORMATS["chatml"]
TEMPLATE = str(CHATML.template)


def opening(mark: str) -> Any:
    return CHATML.renderer(chat_template=TEMPLATE.replace("assistant\n{% endif", f"assistant\n{mark}\n{{% endif"))


def refused(renderer: Any, thinking: ThinkingConfig | None) -> str:
    with pytest.raises(ConfigError) as caught:
        check_thinking("policy", ModelConfig(thinking=thinking), renderer)
    return str(caught.value)


@pytest.mark.parametrize("mark", ["<think>", "<thinking>", "<|begin_of_thought|>", "[THINK]"])
def test_an_opened_thought_must_be_said(mark: str) -> None:
    assert "  policy:\n    thinking: {opened_by_template: true" in refused(opening(mark), None)
    assert "opened_by_template: true" in refused(opening(mark), ThinkingConfig())


def test_a_thought_that_is_not_opened_must_not_be_said() -> None:
    said = ThinkingConfig(opened_by_template=True)
    assert "  policy:\n    thinking: {opened_by_template: false}" in refused(CHATML.renderer(), said)
    assert "thinking" in refused(FORMATS["transcript"].renderer(), said)


def test_what_agrees_passes() -> None:
    check_thinking("m", ModelConfig(thinking=ThinkingConfig(opened_by_template=True)), opening("<think>"))
    own = ThinkingConfig(open="<hm>", close="</hm>", opened_by_template=True)
    check_thinking("m", ModelConfig(thinking=own), opening("<hm>"))
    for name in FORMATS:
        check_thinking("m", ModelConfig(), FORMATS[name].renderer())
        check_thinking("m", ModelConfig(thinking=ThinkingConfig()), FORMATS[name].renderer())


def test_a_thought_that_the_template_closes_is_not_open() -> None:
    closed = FORMATS["qwen3"].renderer(template_kwargs={"enable_thinking": False})
    assert closed.text([{"role": "user", "content": "u"}]).endswith("<think>\n\n</think>\n\n")
    assert opened_marks(closed) is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The person greets me.\n</think>\n\nHello!", "Hello!"),
        ("<think>Why?</think>Hello!", "Hello!"),
        ("<thinking>\nWhy?\n</thinking>\nHello!", "Hello!"),
        ("<|begin_of_thought|>Why?<|end_of_thought|>Hello!", "Hello!"),
        ("[THINK]Why?[/THINK]Hello!", "Hello!"),
        ("Hello!<think>Why?</think> Good day.", "Hello!\n\nGood day."),
        ("Hello!\n<think>So now I should", "Hello!"),
        ("<think>never ends", ""),
    ],
)
def test_a_leaked_thought_is_no_answer(text: str, left: str) -> None:
    cleaned = clean(text, CleaningConfig())
    assert (cleaned.text.strip(), cleaned.counts["think_marks"]) == (left, 1)
    assert clean(cleaned.text, CleaningConfig()).counts == {}


@pytest.mark.parametrize("text", ["Write `<think>` and `</think>` around it.", "I think: 1 < 2 [think again]."])
def test_text_about_marks_stays(text: str) -> None:
    assert clean(text, CleaningConfig()).counts == {}


RECIPE = """
name: unsaid
output: {output}
models:
  policy: {{path: microworld, chat_template: {template}}}
prompts: {{path: microworld, num_prompts: 4}}
"""


def test_a_run_ends_before_any_engine_with_the_lines_to_write(tmp_path: Path) -> None:
    template = tmp_path / "opens.jinja"
    template.write_text(TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(output=tmp_path / "runs", template=template))
    ended = CliRunner().invoke(app, ["run", str(recipe)])
    assert ended.exit_code == 2 and "Traceback" not in ended.output
    assert "opened_by_template: true" in ended.output
