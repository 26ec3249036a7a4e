"""Batched scores are those of stock transformers, one conversation at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cai_ray.engines import models
from cai_ray.engines.models.scoring import Scorer, replace_tensor
from cai_ray.errors import ConfigError
from cai_ray.progress import line
from tests.tiny_policy import save_tiny_policy

pytestmark = pytest.mark.slow
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "How do I paint my garden chair?"},
]
CONVERSATIONS = [
    (TURNS[2:], "To paint my garden chair, take a brush."),
    (TURNS[:1], "Hello."),
    (TURNS, "x"),
    (TURNS[2:], "No. " * 30),
]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random score model as transformers saves it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    policy = save_tiny_policy(tmp_path_factory.mktemp("policy"))
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(policy).save_pretrained(folder)
    return folder


def test_scores_are_those_of_transformers(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    monkeypatch.setattr(models.classifier, "BATCH_TOKENS", 120)  # several batches of different shapes
    scorer = Scorer(classifier)
    stock = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    scores = scorer.score(CONVERSATIONS)
    with torch.inference_mode():
        alone = [
            stock(input_ids=torch.tensor([scorer.tokens.encode(messages, answer)])).logits.item()
            for messages, answer in CONVERSATIONS
        ]
    assert np.ptp(alone) > 0.01
    assert scores == pytest.approx(alone, abs=1e-5)


def test_what_takes_long_shows_its_progress(
    classifier: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models.classifier, "BATCH_TOKENS", 120)
    scorer = Scorer(classifier, "score_rounds")
    caplog.set_level("INFO", "cai_ray")
    scorer.score(CONVERSATIONS)
    assert not caplog.messages, "what is quick says nothing"
    monkeypatch.setattr(line, "LOG_EVERY_S", 0.0)
    scorer.score(CONVERSATIONS)
    assert any(f"of {len(CONVERSATIONS)} conversations" in told for told in caplog.messages), caplog.messages
    assert all(told.startswith("score_rounds: ") for told in caplog.messages)


def test_states_are_what_the_head_sees(classifier: Path) -> None:
    scorer = Scorer(classifier)
    ids = [scorer.tokens.encode(messages, answer) for messages, answer in CONVERSATIONS]
    weight = scorer.model.score.weight.detach().double().numpy()[0]
    assert scorer.states(ids) @ weight == pytest.approx(scorer.scores(ids), abs=1e-5)


def test_a_new_head(classifier: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(classifier, tmp_path / "model"))
    ids = [Scorer(folder).tokens.encode(messages, answer) for messages, answer in CONVERSATIONS]
    before = Scorer(folder).scores(ids)
    weight = Scorer(folder).model.score.weight.detach().numpy()[0]
    replace_tensor(folder, "score.weight", 2 * weight)
    assert Scorer(folder).scores(ids) == pytest.approx(2 * before, abs=1e-5)
    with pytest.raises(ConfigError, match=r"no tensor 'score\.bias'"):
        replace_tensor(folder, "score.bias", weight)


def test_nothing_to_score(classifier: Path) -> None:
    scorer = Scorer(classifier)
    assert scorer.scores([]).shape == (0,)
    for ids in ([], [5, scorer.tokens.tokenizer.pad_token_id]):
        with pytest.raises(ValueError, match="conversation 1 is empty or ends in padding"):
            scorer.scores([[5, 2], ids])


def test_what_is_no_score_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no classifier at"):
        Scorer(tmp_path)
    with pytest.raises(ConfigError, match="has 2 outputs"):
        Scorer(save_tiny_policy(tmp_path))
