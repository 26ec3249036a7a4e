"""The preference model and DPO through Ray Train, and the preference model in stock vLLM."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.summaries.preference_model import PreferenceModelSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.config import ModelConfig, OptimConfig, WorkersConfig
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.models.reading import load_renderer
from cai_ray.engines.models.scoring import Scorer
from cai_ray.stages.context import Context
from cai_ray.stages.preferences import train_dpo, train_preference_model
from cai_ray.stages.preferences.pair_sources import HelpfulPairsConfig
from cai_ray.stages.preferences.preference_model_summary import summarise, table
from tests.label_artifacts import STAGE, context, label
from tests.tiny_policy import save_tiny_policy

pytestmark = pytest.mark.slow
NUM_LABELS, NUM_HUMAN = 240, 160
OPTIM = OptimConfig(learning_rate=3e-3, batch_size=16, max_steps=60)

# Run by a plain interpreter, without any of our code: conversations in, scores out.
STOCK_VLLM = """
import json, sys
from vllm import LLM, PoolingParams
folder, asked = sys.argv[1], json.load(open(sys.argv[2]))
llm = LLM(folder, runner="pooling", convert="classify", dtype="float32", enforce_eager=True, max_model_len=512,
          max_num_seqs=32)
params = PoolingParams(task="classify", use_activation=False)
prompts = [{"prompt_token_ids": ids} for ids in asked["ids"]]
tokenizer = llm.get_tokenizer()
prompts += [
    {"prompt_token_ids": tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)}
    for messages in asked["messages"]
]
outputs = llm.encode(prompts, params, pooling_task="classify", use_tqdm=False)
json.dump([float(output.outputs.data[0]) for output in outputs], open(sys.argv[3], "w"))
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


def labels() -> list[dict[str, Any]]:
    """Pairs to learn from, and three that cannot be learned."""
    rows = [label(k) for k in range(NUM_LABELS)]
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[2]["chosen"] = "<think>nothing else</think>"
    rows[3]["rejected"] *= 60
    return rows


@pytest.fixture(scope="module")
def trained(policy: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Artifact]:
    """Two workers with sharded weights: the hardest case for the new head, the saved files and the scoring."""
    config = train_preference_model.Config(
        model="policy",
        helpful_pairs=(HelpfulPairsConfig(num_pairs=NUM_HUMAN),),
        eval_fraction=0.1,
        optim=OPTIM,
        workers=WorkersConfig(num_workers=2, zero_stage=3, threads=1),
    )
    where = context(tmp_path_factory.mktemp("run"), policy, train_preference_model.STAGE, labels())
    artifact = train_preference_model.run(config, where, STAGE)
    # A second run of the same has nothing to do.
    assert train_preference_model.run(config, where, STAGE).manifest == artifact.manifest
    return where, artifact


def model_folder(artifact: Artifact) -> Path:
    return Path(artifact.folder.path("model"))


def test_every_comparison_ends_once(trained: tuple[Context, Artifact]) -> None:
    manifest = trained[1].manifest
    assert manifest.rows_in == NUM_LABELS + NUM_HUMAN
    assert manifest.rows_dropped == {"empty_response": 1, "identical": 1, "too_long": 1}
    assert manifest.rows_out == manifest.rows_in - 3
    rows = list(trained[1].rows())
    splits = Counter((row["label_source"], row["split"]) for row in rows)
    assert splits["ai", "eval"] >= NUM_LABELS // 4 and splits["human", "eval"] >= 20
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(json.dumps(row["prompt"]), set()).add(row["split"])
    assert all(len(found) == 1 for found in sides.values())


def test_the_model_is_a_stock_classifier_that_scores_zero_on_average(trained: tuple[Context, Artifact]) -> None:
    folder = model_folder(trained[1])
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "score"}
    assert config["pad_token_id"] is not None and config["pad_token_id"] != config["eos_token_id"]
    described = config["cai_ray"]
    assert described["scored_token"] == "<|im_end|>"
    scorer = Scorer(folder)
    pairs = [row for row in trained[1].rows() if row["split"] == "train"]
    scores = scorer.scores([row[f"{side}_tokens"] for row in pairs for side in ("chosen", "rejected")])
    assert abs(scores.mean()) < 1e-5 and abs(described["score_mean"]) < 1e-5
    assert scores.std() == pytest.approx(described["score_std"], rel=1e-4)
    assert scores.std() > 0.1
    assert "<|im_end|>" in (folder / "README.md").read_text()


def test_it_learned_and_the_summary_says_how_well(trained: tuple[Context, Artifact]) -> None:
    summary = summary_of(trained[1], PreferenceModelSummary, summarise)
    for source in ("ai", "human"):
        found = summary.sources[source]
        assert found.accuracy.value > 0.85
        assert found.accuracy.low < found.accuracy.value <= found.accuracy.high
        assert found.num_pairs == found.calibration.num >= 20
        assert 0 < found.calibration.ece < 0.4
        assert found.calibration.log_loss < math.log(2)
    assert summary.model_dump(mode="json") == json.loads(trained[1].folder.read("summary.json"))
    shown = table(summary)
    assert shown is not None and shown.row_count == 2


def test_stock_vllm_gives_the_same_scores(trained: tuple[Context, Artifact], tmp_path: Path) -> None:
    folder = model_folder(trained[1])
    scorer = Scorer(folder)
    rows = list(trained[1].rows())[:40]
    ids = [row["chosen_tokens"] for row in rows]
    asked = {"ids": ids, "messages": [[*row["prompt"], *row["chosen"]] for row in rows]}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    environment = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, "-c", STOCK_VLLM, str(folder), str(tmp_path / "asked.json"), str(tmp_path / "out.json")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    by_ids, by_messages = np.array(json.loads((tmp_path / "out.json").read_text())).reshape(2, -1)
    expected = scorer.scores(ids)
    assert np.std(expected) > 0.1
    assert by_ids == pytest.approx(expected, abs=1e-4)
    # Rendered with the chat template that is saved beside the model.
    assert by_messages == pytest.approx(expected, abs=1e-4)


def test_dpo_moves_the_policy_towards_the_chosen_answers(policy: Path, ray_session: None, tmp_path: Path) -> None:
    config = train_dpo.Config(
        model="policy", beta=0.3, optim=OptimConfig(learning_rate=1e-3, schedule="linear", batch_size=16, max_steps=20)
    )
    where = context(tmp_path, policy, train_dpo.STAGE, labels())
    artifact = train_dpo.run(config, where, STAGE)
    assert artifact.manifest.rows_dropped == {"empty_response": 1, "identical": 1, "too_long": 1}
    folder = model_folder(artifact)
    assert {file.name for file in artifact.manifest.model_files} >= {"model/config.json", "model/model.safetensors"}
    held_out = [row for row in artifact.rows() if row["split"] == "eval"]
    before, after = (_margins(path, held_out) for path in (policy, folder))
    assert np.mean(after > before) > 0.9
    # The policy is asked as before: its template still opens the answer.
    assert load_renderer(ModelConfig(path=str(folder))).text(held_out[0]["prompt"]).endswith("<|im_start|>assistant\n")


def _margins(folder: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    """[num_rows], log p(chosen) - log p(rejected) by stock transformers, nats."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    spoken = AnswerTokens(load_renderer(ModelConfig(path=str(folder))))

    def log_prob(row: dict[str, Any], side: str) -> float:
        example = spoken([*row["prompt"], *row[side]])
        with torch.inference_mode():
            logits = model(torch.tensor([example.input_ids])).logits[0, :-1].log_softmax(-1)
        start = len(example.prompt_ids) - 1
        return float(sum(logits[start + k, token] for k, token in enumerate(example.answer_ids)))

    return np.array([log_prob(row, "chosen") - log_prob(row, "rejected") for row in rows])
