"""Likeness to a reference: the cosine, and references of a policy or of a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import ModelConfig
from cai_ray.dropped import DropReason
from cai_ray.engines.backends.scripted import ScriptedBackend
from cai_ray.stages.evaluation.judges.similarity import SimilarityJudge, compare_to_reference
from tests.stages.evaluation.evaluate_runs import PROMPTS, Judged, config, replies, values, write_prompts
from tests.stages.evaluation.judges.judging import ENDPOINT, ROW, Door, config_error, dropped, judged, refusal


def test_likeness_to_a_reference() -> None:
    judge = SimilarityJudge(model="m", name="J", reference_policy="base")
    vectors = {ROW["response"]: [3.0, 4.0], ROW["reference"]: [4.0, 3.0]}
    found = judged(compare_to_reference(ROW, Door([], vectors=vectors), judge=judge))
    assert found == {"similarity_score": pytest.approx(0.96)}
    flat = Door([], vectors=vectors | {ROW["reference"]: [0.0, 0.0]})
    assert dropped(compare_to_reference(ROW, flat, judge=judge)).reason == DropReason.UNPARSABLE


class Embeds(ScriptedBackend):
    """Doors that embed: by the length of the text, so that a cosine tells the texts apart."""

    def open(self, row_id: str, seed_of: Any, guard: Any) -> Any:
        door = super().open(row_id, seed_of, guard)

        async def embed(text: str) -> list[float]:
            return [1.0, float(len(text))]

        door.embed = embed  # type: ignore[attr-defined]
        return door


def engine(judge: SimilarityJudge, model: ModelConfig) -> Callable[[], Embeds]:
    return partial(Embeds, replies)


def test_references_from_a_policy_and_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    path = tmp_path / "references.jsonl"
    path.write_text('{"prompt": "How do I paint a chair? ", "reference": "Take it."}\n\n')
    scripted = Judged(monkeypatch, tmp_path)
    monkeypatch.setattr(SimilarityJudge, "engine", engine)
    like_first = {"kind": "similarity", "model": "judge", "name": "like_first", "reference_policy": "policy"}
    like_file = {"kind": "similarity", "model": "judge", "name": "like_file", "references": str(path)}
    artifact = scripted.run(config(like_first, like_file))
    by_policy = values(artifact, "similarity_score")
    assert {policy for policy, _ in by_policy} == {"sl_cai"} and sum(by_policy.values()) == 5
    by_file = values(artifact, "similarity_score.like_file")
    assert by_file[("policy", 1.0)] == 1 and sum(by_file.values()) == 2


@pytest.mark.parametrize("line", ["nonsense", '{"prompt": "p"}', '{"prompt": "p", "reference": 3}', "[1]", '"text"'])
def test_references_that_are_none(tmp_path: Path, line: str) -> None:
    path = tmp_path / "references.jsonl"
    path.write_text(f'{{"prompt": "p", "reference": "r"}}\n{line}\n')
    judge = SimilarityJudge(model="judge", references=str(path))
    assert "references.jsonl, line 2" in refusal(judge, ModelConfig(path="m"))


def test_configs_that_cannot_be() -> None:
    bare = {"kind": "similarity", "model": "judge"}
    assert "set reference_policy or references" in config_error(bare)
    assert "'rl' is not among policies" in config_error({**bare, "reference_policy": "rl"})
    assert "gone.jsonl" in refusal(SimilarityJudge(model="judge", references="gone.jsonl"), ModelConfig(path="m"))
    assert "loads its model by `path`" in refusal(SimilarityJudge(model="judge", references="gone.jsonl"), ENDPOINT)
