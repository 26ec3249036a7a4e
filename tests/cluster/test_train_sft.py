"""The stage train_sft from revisions to a model that says them, on real Ray Train and TRL."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, OptimConfig, WorkersConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.microworld.tokenizer import build_tokenizer
from cai_ray.stages.context import Context
from cai_ray.stages.supervised import train_sft
from tests.stages.supervised.test_train_sft import revision, revisions
from tests.training_jobs import save_tiny_model

pytestmark = pytest.mark.slow
ANSWER = "No, but you may ask the owner."


def test_a_policy_learns_its_revisions(ray_session: None, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = build_tokenizer(200)
    model = save_tiny_model(tmp_path / "base", len(tokenizer))
    tokenizer.save_pretrained(model)
    revisions(tmp_path, [revision(k, ANSWER) for k in range(24)])
    context = Context(
        run=Storage(str(tmp_path)),
        seed=0,
        models={"policy": ModelConfig(path=str(model))},
        trained={},
        constitution=None,
        cluster=ClusterConfig(),
        fingerprints={"train_sft": "f" * 32},
    )
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
    assert train_sft.run(config, context, "revise").manifest == manifest  # nothing to do

    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "train_sft" / "model")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "train_sft" / "model")
    prompt = loaded.apply_chat_template(
        [{"role": "user", "content": "request 99"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        said = trained.generate(**prompt, do_sample=False, max_new_tokens=40)[0, prompt["input_ids"].shape[1] :]
    assert loaded.decode(said) == f"{ANSWER}<|im_end|>"
