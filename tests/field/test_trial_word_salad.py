"""SmolLM2-135M at the default temperature wrote word salad, unflagged (our own trial).

Now a silent recipe samples as the model's generation_config.json says (tests/pipeline/test_model_sampling.py); what is
salad all the same is seen in the summary, warned of, and dropped where the gate says so. The figures of the script are
those of the trial with the real model: -3.4 nats per token at temperature 1, -0.7 as its makers sample.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.constitution.source import load, resolve
from cai_ray.engines.backends.scripted import ScriptedBackend, ScriptedConversation
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.conversations.asking import Completion
from cai_ray.errors import ConfigError
from cai_ray.row_ids import RESPONSES_IDS
from cai_ray.rows import PROMPT
from cai_ray.stages.context import Context
from cai_ray.stages.revision import revise, summary
from tests.finished_stages import finished, spec_of
from tests.scripted_ppo import prompt_rows
from tests.stages.evaluation.evaluate_runs import converse_here


class Conversation(ScriptedConversation):
    async def __call__(self, messages: Any, sampling: SamplingConfig) -> Completion:
        likely = -3.4 if sampling.temperature > 0.5 else -0.7
        completion = await super().__call__(messages, sampling)
        return replace(completion, logprobs=(likely, likely) if self.wants_logprobs else None)


class Small(ScriptedBackend):
    """A model that answers as far as it is sampled coldly."""

    def open(self, row_id: str, seed_of: Any, guard: Any) -> Conversation:
        return Conversation(self, row_id, seed_of, guard)


def say(row_id: str, messages: Any, seed: int) -> str:
    return f"Some words of {row_id}, by seed {seed}."


def revised(folder: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> Any:
    """The finished stage and its summary."""
    run = Storage(str(folder))
    finished(spec_of(run / "load_prompts", "load_prompts", RESPONSES_IDS), PROMPT, prompt_rows(6))
    monkeypatch.setattr(revise, "backend_factory", lambda model: lambda: Small(say))
    context = Context(
        run=run,
        seed=0,
        models={"policy": ModelConfig()},
        trained={},
        constitution=load(resolve("harmlessness")),
        cluster=ClusterConfig(),
        fingerprints={"revise": "f"},
    )
    made = revise.Config.model_validate({"num_revisions": 1, **config})
    artifact = converse_here(revise.conversations(made, context, "load_prompts"), context.cluster)
    return artifact, summary.summarise(artifact)


def sampled_at(temperature: float) -> dict[str, Any]:
    kinds = ("answer_sampling", "critique_sampling", "revision_sampling")
    return {kind: {"temperature": temperature} for kind in kinds}


def test_salad_is_seen_and_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    artifact, found = revised(tmp_path / "hot", monkeypatch)
    assert artifact.manifest.rows_out == 6 and not artifact.manifest.rows_dropped  # the gate is off by default
    assert {what: one.mean for what, one in found.logprobs.items()} == pytest.approx(
        {"answer": -3.4, "critique 1": -3.4, "revision 1": -3.4}
    )
    assert "word salad" in caplog.text
    caplog.clear()
    gates = {"repeats_critique": "off"}  # the script says one text whatever is asked
    _, found = revised(tmp_path / "cold", monkeypatch, **sampled_at(0.2), gates=gates)
    assert found.logprobs["answer"].mean == pytest.approx(-0.7)
    assert found.logprobs["answer"].incoherent_share == 0 and not caplog.messages


def test_the_gate_flags_or_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, _ = revised(tmp_path / "flag", monkeypatch, gates={"incoherent": "flag"})
    assert artifact.manifest.counters["flag.incoherent"] == 12 and artifact.manifest.rows_out == 6
    artifact, _ = revised(tmp_path / "drop", monkeypatch, gates={"incoherent": "drop"})
    assert artifact.manifest.rows_dropped == {"incoherent": 6} and artifact.manifest.rows_out == 0


def test_a_server_cannot_be_gated(tmp_path: Path) -> None:
    server = ModelConfig.model_validate({"endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}})
    context = Context(
        run=Storage(str(tmp_path)),
        seed=0,
        models={"policy": server},
        trained={},
        constitution=load(resolve("harmlessness")),
        cluster=ClusterConfig(),
        fingerprints={},
    )
    config = revise.Config.model_validate({"gates": {"incoherent": "drop"}})
    with pytest.raises(ConfigError, match="is an endpoint, which gives no log-probabilities"):
        revise.job_of(config, context)
