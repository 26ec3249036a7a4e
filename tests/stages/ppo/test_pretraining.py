"""The pretraining mix: which texts are learned beside the answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from cai_ray.errors import ConfigError
from cai_ray.row_ids import text_key
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.pretraining import PretrainingConfig, drawn, input_identity, read_texts
from tests import runs


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_texts_are_read_cut_and_counted(tmp_path: Path) -> None:
    path = runs.write_jsonl(
        tmp_path / "texts.jsonl", [{"text": "abcdef"}, {"text": "x"}, {"other": "y"}, {"text": "gh"}]
    )
    assert read_texts(PretrainingConfig(path=str(path), max_tokens=4), letters) == [
        tuple(letters("abcd")),
        tuple(letters("gh")),
    ]
    assert read_texts(PretrainingConfig(path=str(path), column="other", limit=4), lambda text: [1, 2]) == [(1, 2)]
    with pytest.raises(ConfigError, match="has no text in column 'words'"):
        read_texts(PretrainingConfig(path=str(path), column="words"), letters)
    assert input_identity(PretrainingConfig(path=str(path)))["pretraining"] == [["texts.jsonl", path.stat().st_size]]
    assert input_identity(None) == {}


def test_texts_that_hold_a_held_out_prompt_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = "Which soup suits a Monday?"
    texts = [asked, f"Human: {asked}\nAssistant: Leek.", f"Soups\n {asked} \nLeek.", "Which soup?", "Leek suits all."]
    path = runs.write_jsonl(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    held_out = {text_key([{"role": "user", "content": asked}])}
    with caplog.at_level("WARNING"):
        found = read_texts(PretrainingConfig(path=str(path)), letters, held_out)
    assert found == [tuple(letters(text)) for text in texts[3:]]
    assert "3 pretraining texts hold a prompt of split test" in caplog.text


def test_a_step_draws_texts_of_its_own() -> None:
    texts = [(k, k) for k in range(10)]
    assert drawn(texts, 4, 1, seed=0) == drawn(texts, 4, 1, seed=0) != drawn(texts, 4, 2, seed=0)
    assert len(set(drawn(texts, 10, 3, seed=0))) == 10
    assert set(Counter(drawn(texts, 25, 1, seed=0)).values()) == {2, 3}
    assert drawn([], 0, 1, seed=0) == []


def test_text_and_weight_go_together() -> None:
    for section in ({"pretraining": {"path": "x"}}, {"loss": {"pretraining_coefficient": 1.0}}):
        with pytest.raises(ValidationError, match="go together"):
            Config.model_validate(section)
    config = Config.model_validate({"pretraining": {"path": "x"}, "loss": {"pretraining_coefficient": 1.0}})
    assert config.num_texts == 8 * config.updates_per_step == 8 * 2 * 4
    assert Config().num_texts == 0
