"""A template that shows the date: one date per run, in `recipe.json` and the fingerprint, for engine and learner."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.chat import Renderer
from cai_ray.config import ModelConfig
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.models.reading import load_renderer
from cai_ray.engines.models.scored_tokens import ScoredTokens
from cai_ray.engines.models.trainable import load_tokenizer
from cai_ray.fingerprint import model_settings, settings
from cai_ray.pipeline import run as running
from cai_ray.quality.cleaning import CleaningConfig
from cai_ray.stages.report.source import RECIPE
from tests.prompt_formats import FORMATS

CHATML = str(FORMATS["chatml"].template)
DATED = "<|im_start|>system\nIt is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n" + CHATML
FIRST_DAY, NEXT_DAY = datetime.date(2026, 3, 4), datetime.date(2026, 3, 5)
HELLO = [{"role": "user", "content": "Hello"}]


def model_of(folder: Path, template: str, **fields: Any) -> ModelConfig:
    FORMATS["chatml"].tokenizer().save_pretrained(folder)
    (folder / "mine.jinja").write_text(template)
    return ModelConfig(path=str(folder), chat_template=str(folder / "mine.jinja"), **fields)


def test_a_run_keeps_its_first_day(tmp_path: Path) -> None:
    model = model_of(tmp_path, DATED)
    first = running._checked("policy", model, FIRST_DAY)
    assert first.template_date == FIRST_DAY
    run = Storage(str(tmp_path / "run"))
    run.make()
    assert running._date_of(run) == datetime.date.today()
    run.write(RECIPE, f'{{"models": {{"policy": {{"template_date": "{first.template_date}"}}}}}}'.encode())
    assert running._date_of(run) == FIRST_DAY  # whatever the day is
    assert running._checked("policy", model, running._date_of(run)) == first


def test_prompts_show_the_runs_day_and_are_learned_as_asked(tmp_path: Path) -> None:
    model = running._checked("policy", model_of(tmp_path, DATED), FIRST_DAY)
    renderer = load_renderer(model)
    assert "It is 04 Mar 2026." in renderer.text(HELLO)
    answered = [*HELLO, {"role": "assistant", "content": "Hi."}]
    assert AnswerTokens(renderer)(answered).prompt_ids == renderer.encode(renderer.text(HELLO))
    scored = ScoredTokens(model, load_tokenizer(model))
    assert "It is 04 Mar 2026." in renderer.tokenizer.decode(scored.encode(HELLO, "Hi."))


def test_a_date_of_ones_own_stays(tmp_path: Path) -> None:
    model = model_of(tmp_path, DATED, template_date=NEXT_DAY)
    assert running._checked("policy", model, FIRST_DAY) == model


@pytest.mark.parametrize("template", [CHATML, "{% set day = '26 Jul 2024' %}" + CHATML])
def test_templates_without_a_date_are_left_alone(tmp_path: Path, template: str) -> None:
    model = model_of(tmp_path, template)
    assert running._checked("policy", model, FIRST_DAY) == model
    assert not Renderer(FORMATS["transcript"].tokenizer(), "transcript").shows_date()


def test_the_day_is_part_of_the_identity_where_there_is_one() -> None:
    plain = ModelConfig()
    assert not {"template_date", "chat_template_kwargs"} & settings(plain).keys()
    dated = plain.model_copy(update={"template_date": FIRST_DAY})
    assert model_settings(dated) != model_settings(dated.model_copy(update={"template_date": NEXT_DAY}))
    assert model_settings(dated) != model_settings(plain)
    assert settings(ModelConfig(chat_template_kwargs={"enable_thinking": False})) != settings(plain)
    assert "think_marks" not in settings(CleaningConfig())
    assert settings(CleaningConfig(think_marks=False))["think_marks"] is False
