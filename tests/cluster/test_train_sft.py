"""The stage train_sft from revisions to a model that says them, on real Ray Train and TRL."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, OptimConfig, ProofConfig, WorkersConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.conversations.sampled import Sampled, packed, write_sampled
from cai_ray.errors import ConfigError
from cai_ray.exits import exit_code
from cai_ray.microworld.tokenizer import build_tokenizer
from cai_ray.stages.context import Context
from cai_ray.stages.supervised import train_sft
from tests.stages.supervised.test_train_sft import revision, revisions
from tests.training_jobs import save_tiny_model

pytestmark = pytest.mark.slow
ANSWER = "No, but you may ask the owner."


def begun(folder: Path, num_rows: int) -> Context:
    """A run whose revisions are there, and a policy to start from."""
    tokenizer = build_tokenizer(200)
    model = save_tiny_model(folder / "base", len(tokenizer))
    tokenizer.save_pretrained(model)
    revisions(folder, [revision(k, ANSWER) for k in range(num_rows)])
    return Context(
        run=Storage(str(folder)),
        seed=0,
        models={"policy": ModelConfig(path=str(model))},
        trained={},
        constitution=None,
        cluster=ClusterConfig(),
        fingerprints={"revise": "f" * 32, "train_sft": "f" * 32},
    )


def test_a_policy_learns_its_revisions(ray_session: None, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    context = begun(tmp_path, 24)
    config = train_sft.Config(
        eval_fraction=0.2,
        keep="best",
        optim=OptimConfig(learning_rate=0.01, batch_size=8, epochs=20),
        workers=WorkersConfig(steps_per_checkpoint=25, threads=1),
    )
    artifact = train_sft.run(config, context, "revise")
    manifest = artifact.manifest
    assert (manifest.rows_in, manifest.rows_out, manifest.num_dropped) == (48, 48, 0)
    names = {file.name for file in manifest.model_files}
    assert {"model/config.json", "model/model.safetensors", "model/README.md", "model/tokenizer.json"} <= names
    assert not artifact.folder.exists("tokens")
    events = [entry["event"] for entry in parse_metrics(read_metrics(artifact.folder)) if "event" in entry]
    assert events[0].startswith("the learner agrees with plain (eager) attention: ")  # no engine sampled here
    assert train_sft.run(config, context, "revise").manifest == manifest  # nothing to do

    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "train_sft" / "model")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "train_sft" / "model")
    prompt = loaded.apply_chat_template(
        [{"role": "user", "content": "request 99"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        said = trained.generate(**prompt, do_sample=False, max_new_tokens=40)[0, prompt["input_ids"].shape[1] :]
    assert loaded.decode(said) == f"{ANSWER}<|im_end|>"


def test_a_learner_that_is_not_the_sampler_is_refused(ray_session: None, tmp_path: Path) -> None:
    context = begun(tmp_path, 8)
    elsewhere = Sampled((5, 6, 7), (8, 9), (-0.125, -9.5))  # nothing that these weights would say of these tokens
    write_sampled(context.folder("revise"), "part", [packed(elsewhere)])
    config = train_sft.Config(optim=OptimConfig(batch_size=4), workers=WorkersConfig(threads=1))
    with pytest.raises(ConfigError, match=r"sft: the learner does not compute what the engine .* in revise") as refused:
        train_sft.run(config, context, "revise")
    assert exit_code(refused.value) == 2
    off = config.model_copy(update={"proof": ProofConfig(sequences=0)})
    assert train_sft.run(off, context, "revise").manifest.rows_out == 16
