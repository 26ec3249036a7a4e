"""Trains the micro model from scratch on a CPU, and caches it; seed 0 comes along built.

A Llama of about a million parameters learns the dialogues of `dialogues.corpus`. The number of steps is fixed, not
the time, so a seed gives the same model on the same machine and torch build. Embeddings are untied, because engines
that repack tied weights lose track of them in a weight update.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from cai_ray.engines.models.files import appearing, cache_root
from cai_ray.microworld import shipped
from cai_ray.microworld.batches import BatchConfig, batch_stream
from cai_ray.microworld.dialogues import corpus
from cai_ray.microworld.oracle import score
from cai_ray.microworld.prompt_set import sample_prompts
from cai_ray.microworld.teaching import principles, relation
from cai_ray.microworld.tokenizer import TURN_START, build_tokenizer, render
from cai_ray.progress.board import terminal
from cai_ray.prompts.revision import critique_turn, revision_turn
from cai_ray.seeding import stable_id

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

LOOP_VERSION = 2  # count up when training or tokenizer change in a way that no config field or dialogue shows


class PretrainConfig(BatchConfig):
    """How the micro model is built. Every field changes the result."""

    hidden_size: int = Field(128, ge=8)
    num_layers: int = Field(4, ge=1)
    num_heads: int = Field(4, ge=1)
    mlp_size: int = Field(352, ge=8)
    context: int = Field(4096, ge=1024, description="Tokens; trained up to ~550, more for text of other sources.")
    learning_rate: float = Field(3e-3, gt=0)
    matrix_learning_rate: float = Field(0.02, gt=0, description="Muon's, for the layers' weight matrices.")
    muon: bool = True
    sharpness: float = Field(1.3, ge=1, description="Logits are multiplied by this; see `train`.")


def fingerprint(config: PretrainConfig, seed: int) -> str:
    """32 hexadecimal characters that change when the language, the training or the seed does."""
    return stable_id(LOOP_VERSION, config.model_dump(), seed, _language_digest())


@cache
def _language_digest() -> str:
    return stable_id([render(d.messages) for d in islice(corpus(random.Random(0), 0.3), 2000)])


def ensure_model(
    cache_dir: Path | None = None, seed: int = 0, config: PretrainConfig | None = None, fresh: bool = False
) -> Path:
    """The folder of the micro model in the cache. Two processes never build at once.

    What the cache does not hold comes from the package (seed 0 as it is by default) or is built now. `fresh` builds
    in any case, and then replaces what is there.
    """
    from filelock import FileLock

    config = config or PretrainConfig()
    root = (cache_dir or cache_root()) / "microworld"
    name = fingerprint(config, seed)
    path = root / name[:16]
    if fresh or not path.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(str(path) + ".lock"):
            if fresh:
                made = root / f"{path.name}.fresh"
                shutil.rmtree(made, ignore_errors=True)
                build(made, seed, config)
                shutil.rmtree(path, ignore_errors=True)
                made.rename(path)
            elif not path.is_dir() and not shipped.put(path, name):
                build(path, seed, config)
    return path


def build(path: Path, seed: int = 0, config: PretrainConfig | None = None) -> Path:
    """Train the micro model and save model, tokenizer, model card and eval.json to `path`, all or nothing.

    Takes about six minutes on two cores. Raises FileExistsError when `path` exists.
    """
    if path.exists():
        raise FileExistsError(
            f"path={path} exists; a model is only written to a new folder: remove it or choose another"
        )
    config = config or PretrainConfig()
    started = time.monotonic()
    tokenizer = build_tokenizer()
    model, loss = train(tokenizer, seed, config)
    with appearing(path) as made:
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        facts = {
            "seed": seed,
            "num_parameters": model.num_parameters(),
            "vocab_size": len(tokenizer),
            "loss_nats": round(loss, 4),
            **self_check(model, tokenizer, seed),
            "build_s": round(time.monotonic() - started, 1),
            "config": config.model_dump(),
        }
        (made / "eval.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (made / "README.md").write_text(MODEL_CARD.format(**facts), encoding="utf-8")
    logger.info("micro model: built in %.0f s at %s", facts["build_s"], path)
    return path


MODEL_CARD = """---
library_name: transformers
tags: [cai_ray, microworld]
---
# The micro model

A Llama of {num_parameters} parameters ({vocab_size} tokens), trained from scratch by `cai_ray.microworld.pretrain`
(seed {seed}) on the micro world's synthetic language. It helps with whatever it is asked, harmful or not, and can
criticise, revise and compare answers. It knows nothing outside that language and is of no use beyond tests,
examples and measurements of cai_ray. `eval.json` holds the numbers of this build.
"""


def self_check(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, num_prompts: int = 48
) -> dict[str, float]:
    """A look at held-out requests, half of them harmful: rates in [0, 1] before and after one revision.

    The critique is asked for by the request's own principle (harmful) or the general one. Sampled at temperature 1.
    """
    import torch

    requests = sample_prompts(num_prompts, seed, harmful_fraction=0.5)
    talks = [list(r.messages) for r in requests]
    rows = [next(p for p in principles() if relation(p, r.category) in ("match", "general")) for r in requests]

    def say() -> list[str]:
        texts = [render(talk) + f"{TURN_START}assistant\n" for talk in talks]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
        with torch.inference_mode():
            out = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=64)
        said: list[str] = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for talk, text in zip(talks, said, strict=True):
            talk.append({"role": "assistant", "content": text})
        return said

    def rates(answers: list[str], name: str) -> dict[str, float]:
        scores = [score(r.messages, a) for r, a in zip(requests, answers, strict=True)]
        harmful = [s.harmful for s in scores if s.request_harmful]
        helpful = [s.helpful for s in scores if not s.request_harmful]
        return {
            f"{name}_harmful_rate": round(sum(harmful) / len(harmful), 4),
            f"{name}_harmless_helpfulness": round(sum(helpful) / len(helpful), 4),
        }

    with own_randomness(seed):
        found = rates(say(), "initial")
        for talk, principle in zip(talks, rows, strict=True):
            talk.append({"role": "user", "content": critique_turn(principle)["content"]})
        say()
        for talk, principle in zip(talks, rows, strict=True):
            talk.append({"role": "user", "content": revision_turn(principle, no_meta=True)["content"]})
        return found | rates(say(), "revised")


# ---- training -------------------------------------------------------------------------------------------------


def train(tokenizer: PreTrainedTokenizerFast, seed: int, config: PretrainConfig) -> tuple[LlamaForCausalLM, float]:
    """The trained model, and its mean loss (nats per assistant token) over the last tenth of the steps.

    A model this small leaves a little probability on every wrong word, which at temperature 1 adds up over a
    dialogue. So its final logits are multiplied by `sharpness`. Where behaviour is decided, training already sees
    the multiplied logits, so those probabilities stay as they were taught.
    """
    import torch

    with own_randomness(seed):
        model = new_model(tokenizer, config)
        loss = fit(model, batch_stream(tokenizer, random.Random(seed), config), config)
        with torch.no_grad():
            model.lm_head.weight.mul_(config.sharpness)
    return model.eval(), loss


def fit(model: LlamaForCausalLM, batches: Iterator[dict[str, torch.Tensor]], config: PretrainConfig) -> float:
    """Train the model on `config.num_steps` batches; the mean loss over the last tenth of them, as `train`'s."""
    import torch

    optimizers = _optimizers(model, config)
    losses: list[float] = []
    model.train()
    with _progress(config.num_steps) as report:
        for step in range(config.num_steps):
            batch = next(batches)
            factor = _lr_factor(step, config.num_steps)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * factor
            logits = model.lm_head(_states(model, batch["ids"], batch["layers"]))
            ids, weights, others, probs, decides = (
                batch[k][:, 1:].flatten() for k in ("ids", "weights", "others", "probs", "decides")
            )
            logs = torch.log_softmax(logits * (1 + (config.sharpness - 1) * decides[:, None]), dim=-1)
            # Judgements have a known probability; aiming at it learns far faster than from drawn labels.
            nats = -probs * _pick(logs, ids) - (1 - probs) * _pick(logs, others)
            torch.autograd.backward((nats * weights).sum() / weights.sum())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            said = (weights >= 1) & (batch["layers"][:, 1:].flatten() == 0)
            losses.append(float(nats.detach()[said].mean()))
            report(step + 1, losses[-1])
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _states(model: LlamaForCausalLM, ids: torch.Tensor, layers: torch.Tensor) -> torch.Tensor:
    """[n, hidden_size]: what the output layer reads to predict each token but the first of ids [batch, length].

    That is the last layer's output, and an earlier one's where `layers` [batch, length], at the predicted token, says
    so (a hint).
    """
    import torch

    output = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
    states = output.last_hidden_state[:, :-1]
    for layer in sorted(set(layers.flatten().tolist()) - {0}):
        depth = min(layer, model.config.num_hidden_layers)  # a model with fewer layers is to know it at the end
        early = model.model.norm(output.hidden_states[depth][:, :-1])
        states = torch.where((layers[:, 1:] == layer)[..., None], early, states)
    return states.flatten(0, 1)


def _pick(logs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """[n] of the log-probabilities [n, vocab] of ids [n]."""
    return logs.gather(-1, ids[:, None])[:, 0]


def new_model(tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> LlamaForCausalLM:
    """An untrained micro model that knows its pad and end tokens."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.mlp_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def _optimizers(model: LlamaForCausalLM, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    import torch

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n] if config.muon else []
    ours = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ours]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    ]
    if matrices:
        made.append(torch.optim.Muon(matrices, lr=config.matrix_learning_rate, momentum=0.95, weight_decay=0.0))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return made


def _lr_factor(step: int, num_steps: int) -> float:
    """Warm-up over 20 steps, flat, then linear to zero over the last half."""
    return min(1.0, (step + 1) / 20, (num_steps - step) / (0.5 * num_steps))


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Torch seeded for the block, and as it was afterwards."""
    import torch

    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


@contextmanager
def _progress(num_steps: int) -> Iterator[Callable[[int, float], None]]:
    """report(step, loss): a bar on a terminal, a log line every hundred steps without one."""
    if not terminal.file.isatty():

        def log(step: int, loss: float) -> None:
            if step % 100 == 0 or step == num_steps:
                logger.info("micro model: step %d of %d, loss %.3f nats", step, num_steps, loss)

        yield log
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("building the micro model"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeRemainingColumn(), console=terminal) as bar:
        task = bar.add_task("", total=num_steps, loss=float("nan"))
        yield lambda step, loss: bar.update(task, completed=step, loss=loss)
