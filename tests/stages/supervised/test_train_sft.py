"""The stage around the training: parts, conservation, refusals that come before any worker starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact, OpenStage, open_stage
from cai_ray.artifacts.storage import Storage
from cai_ray.chat import Renderer
from cai_ray.config import LoraConfig, ModelConfig, OptimConfig
from cai_ray.dropped import DropReason
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.models.answer_tokens import IGNORED, AnswerTokens
from cai_ray.engines.models.trainable import load_causal_lm, load_tokenizer
from cai_ray.engines.training.arguments import Device, trainer_args
from cai_ray.engines.training.token_files import read_tokens
from cai_ray.errors import ConfigError
from cai_ray.microworld.tokenizer import build_tokenizer
from cai_ray.row_ids import EXAMPLE_IDS, RESPONSES_IDS
from cai_ray.rows import REVISION
from cai_ray.stages.context import Context
from cai_ray.stages.supervised.train_sft import Config, MakeSftTrainer, job_of, write_examples
from tests.finished_stages import finished, spec_of
from tests.training_jobs import save_tiny_model

MODEL = ModelConfig(path="none")


def revision(number: int, text: str = "No, but you may ask the owner.", **changes: Any) -> dict[str, Any]:
    done = {"principle_id": "p", "critique": "c", "revision": text, "flags": []}
    return {
        "prompt_id": f"prompt{number}",
        "sample_index": 0,
        "kind": "red_team",
        "source": "s",
        "split": "train",
        "messages": [{"role": "user", "content": f"request {number}"}],
        "initial_response": "Yes.",
        "initial_flags": [],
        "revisions": [done, done],
        "finish_reasons": ["stop"],
        "num_neutralised": 0,
        "num_prompt_tokens": 1,
        "num_cached_tokens": 0,
        "num_output_tokens": 1,
        **changes,
    }


def revisions(folder: Path, rows: list[dict[str, Any]]) -> Artifact:
    """A finished revise stage."""
    return finished(spec_of(folder / "revise", "revise", RESPONSES_IDS, model="policy"), REVISION, rows)


def open_sft(folder: Path) -> OpenStage:
    opened = open_stage(spec_of(folder / "train_sft", "train_sft", EXAMPLE_IDS))
    assert isinstance(opened, OpenStage)
    return opened


@pytest.fixture(scope="module")
def tokenise() -> AnswerTokens:
    return AnswerTokens(Renderer(build_tokenizer(200)))


def written(
    folder: Path, rows: list[dict[str, Any]], tokenise: AnswerTokens, config: Config, max_length: int = 60
) -> Any:
    opened = open_sft(folder)
    ids, counts = write_examples(opened, revisions(folder, rows), config, tokenise, max_length, seed=0)
    return opened, ids, counts


def test_every_example_is_a_row_or_dropped(tmp_path: Path, tokenise: AnswerTokens) -> None:
    rows = [revision(k) for k in range(30)]
    rows += [revision(30, "word " * 200), revision(31, " ")]
    opened, ids, counts = written(tmp_path, rows, tokenise, Config(eval_fraction=0.3))
    artifact = opened.commit(ids)  # checks conservation over the files
    assert artifact.manifest.rows_in == 64
    assert artifact.manifest.rows_dropped == {DropReason.TOO_LONG: 2, DropReason.EMPTY: 2}
    train, held_out = read_tokens(opened.folder, "train"), read_tokens(opened.folder, "eval")
    assert (train.num_rows, held_out.num_rows) == (counts["num_train"], counts["num_eval"])
    assert train.num_rows + held_out.num_rows == 60 and held_out.num_rows > 0
    assert all(len(ids) <= 60 for ids in train["input_ids"].to_pylist())


def test_an_interrupted_attempt_is_written_over(tmp_path: Path, tokenise: AnswerTokens) -> None:
    rows = [revision(k) for k in range(6)]
    _, ids, _ = written(tmp_path, rows, tokenise, Config())
    again = open_sft(tmp_path)
    source = revisions(tmp_path / "same", rows)
    repeated, _ = write_examples(again, source, Config(), tokenise, 60, seed=0)
    assert repeated.equals(ids)
    assert again.commit(repeated).manifest.rows_out == 12


@pytest.mark.parametrize(
    ("config", "rows", "max_length", "words"),
    [
        ({}, {}, 8, ["12 left behind by max_length=8"]),
        ({"eval_fraction": 0.0}, {"split": "test"}, 60, ["12 held out", "eval_fraction=0.0"]),
        ({"revised_weight": 0.0}, {}, 60, ["revised_weight=0", "helpful_weight=1"]),
        ({"revision_index": 5}, {}, 60, ["revision_index=5"]),
    ],
)
def test_an_empty_dataset_names_the_filter(
    tmp_path: Path, tokenise: AnswerTokens, config: Any, rows: Any, max_length: int, words: list[str]
) -> None:
    asked = Config(**config)
    _, _, counts = written(tmp_path, [revision(k, **rows) for k in range(6)], tokenise, asked, max_length)
    with pytest.raises(ConfigError) as refused:
        job_of(asked, context(tmp_path), MODEL, max_length, counts)
    assert all(word in str(refused.value) for word in ("no example is left", *words))


def context(folder: Path) -> Context:
    return Context(
        run=Storage(str(folder)),
        seed=0,
        models={"policy": MODEL},
        trained={},
        constitution=None,
        cluster=ClusterConfig(),
        fingerprints={"train_sft": "f" * 32},
    )


def test_the_job_counts_every_epoch(tmp_path: Path, tokenise: AnswerTokens) -> None:
    config = Config(revised_weight=2.0, eval_fraction=0.0, optim=OptimConfig(epochs=3))
    _, _, counts = written(tmp_path, [revision(k) for k in range(6)], tokenise, config)
    job = job_of(config, context(tmp_path), MODEL, 60, counts)
    assert (job.num_examples, job.optim.epochs, job.evaluate) == (72, 1.0, False)
    assert "12 to learn, 0 held out" in job.model_card


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """Random weights under the micro world's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer(200)
    tokenizer.save_pretrained(folder)
    return ModelConfig(path=str(save_tiny_model(folder, len(tokenizer))))


def first_loss(folder: Path, model: ModelConfig, config: Config) -> tuple[Any, float]:
    """A trainer after one step of the whole data, and the loss of that step."""
    arguments = trainer_args(
        output_dir=str(folder / "out"),
        seed=0,
        optim=config.optim,
        workers=config.workers,
        device=Device(is_gpu=False, has_bf16=False),
        evaluate=True,
        run_name="x",
        is_small=True,
    )
    make = MakeSftTrainer(Storage(str(folder / "train_sft")), model, config, max_length=400, seed=0)
    trainer = make(arguments)
    trainer.train()
    return trainer, trainer.state.log_history[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_packed_or_not_the_loss_is_that_of_the_answers(
    tmp_path: Path, tokenise: AnswerTokens, tiny_model: ModelConfig, lora: LoraConfig | None
) -> None:
    import torch

    rows = [revision(k, f"No, but {'you may ask ' * k}the owner.") for k in range(4)]
    one_step = {"eval_fraction": 0.0, "lora": lora, "revision_index": "last"}
    config = Config(optim=OptimConfig(batch_size=4, max_steps=1), **one_step)
    opened, _, _ = written(tmp_path, [*rows, revision(4, split="test")], tokenise, config, max_length=400)
    trainer, plain = first_loss(tmp_path, tiny_model, config)
    packed_config = Config(optim=OptimConfig(batch_size=1, max_steps=1), packing=True, **one_step)
    packed_trainer, packed = first_loss(tmp_path, tiny_model, packed_config)
    assert len(packed_trainer.train_dataset) == 1  # the four rows in one
    assert packed == pytest.approx(plain, rel=1e-4)
    assert packed_trainer.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-3)

    # By hand, of the untrained weights: the mean over every answer token of all rows.
    model = load_causal_lm(tiny_model, load_tokenizer(tiny_model))
    nats, num_tokens = 0.0, 0
    for row in read_tokens(opened.folder, "train").to_pylist():
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        for position in range(1, len(labels)):
            if labels[position] != IGNORED:
                nats -= float(logprobs[position - 1, labels[position]])
                num_tokens += 1
    assert plain == pytest.approx(nats / num_tokens, rel=1e-4)
