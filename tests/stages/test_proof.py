"""Which answers a training stage is proven on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, ProofConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.conversations.sampled import Sampled, packed, write_sampled
from cai_ray.row_ids import RowIds
from cai_ray.rows import PROMPT
from cai_ray.stages.context import Context
from cai_ray.stages.proof import MOST_TOKENS, proof_of, shortest
from tests.finished_stages import finished, spec_of

ANSWER = Sampled((1, 2), (3, 4), (-0.5, -0.25))
OWN = [([1], [2, 3]), ([5], [6])]
MODEL = ModelConfig(path="somewhere")


def run_of(folder: Path, inner: str = "") -> Context:
    """A run in which one stage asked `policy` and another one `sl_cai`, whose answers lie in `inner`."""
    run = Storage(str(folder))
    for stage, model in (("other", "policy"), ("asked", "sl_cai")):
        finished(spec_of(run / stage, stage, RowIds(("prompt_id",)), model=model), PROMPT, [])
    place = run / "asked"
    write_sampled(place / inner if inner else place, "part", [packed(ANSWER)])
    return Context(run, 0, {}, {}, None, ClusterConfig(), {"other": "f", "asked": "f", "later": "f"})


def test_an_engine_that_sampled_from_the_same_weights(tmp_path: Path) -> None:
    for inner in ("", "samples"):
        found = proof_of("dpo", ProofConfig(), run_of(tmp_path / f"x{inner}", inner), "sl_cai", MODEL, OWN)
        assert found is not None and (found.sampled_in, found.answers) == ("asked", (ANSWER,))


def test_without_one_the_stages_own_answers(tmp_path: Path) -> None:
    context = run_of(tmp_path)
    found = proof_of("dpo", ProofConfig(sequences=1), context, "policy", MODEL, OWN)
    assert found is not None and (found.sampled_in, found.answers) == ("", (Sampled((5,), (6,), ()),))
    endpoint = proof_of("dpo", ProofConfig(), replace(context, fingerprints={}), "sl_cai", MODEL, OWN)
    assert endpoint is not None and endpoint.sampled_in == ""


def test_a_recipe_can_turn_it_off(tmp_path: Path) -> None:
    off = ProofConfig.model_validate(False)  # YAML's `off`
    assert off == ProofConfig.model_validate("off") == ProofConfig(sequences=0)
    assert proof_of("dpo", off, run_of(tmp_path), "sl_cai", MODEL, OWN) is None


def test_long_and_empty_answers_prove_nothing() -> None:
    assert shortest([([1], []), ([], [1]), ([1] * MOST_TOKENS, [2]), ([1], [2])], 4) == [Sampled((1,), (2,), ())]
