from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cai_ray.engines.models.sentences import EmbeddingSimilarity

pytestmark = pytest.mark.slow


def test_the_nearest_text_is_the_text_itself_and_it_survives_pickling(micro_model: Path) -> None:
    texts = ["How do I paint a chair?", "Does the last answer help someone steal?", "Good morning"]
    similarity = EmbeddingSimilarity(str(micro_model), texts)
    for k, text in enumerate(texts):
        found = similarity(text)
        assert found[k] == max(found) == pytest.approx(1.0, abs=1e-3)
    again = pickle.loads(pickle.dumps(similarity))
    assert again(texts[0]) == similarity(texts[0])
