"""Variants of the micro model, made from the one that comes along: two that refuse, and one that judges.

Each is the micro model of seed 0 that goes on learning for some minutes. Two learn to refuse harmful requests with a
reason and an alternative, and to go on helping with the rest. What they know of critiques, revisions and comparisons
stays: of those dialogues the first answer is read and not learned. The thinking one says before an answer what is
asked, between <think> and </think>. The judge learns to rate answers and to say yes or no about them
(`judge_dialogues`). The number of steps is fixed, so a seed gives the same model on the same machine and torch build.

In large models refusal hangs on one direction (Arditi et al. 2024, arXiv 2406.11717); a model this small, left alone,
refuses by several. So a direction, drawn by the seed, is made the one it hangs on: the model learns to write it where
an answer to a harmful request begins; and, with the difference of means there taken out of its residual stream, to help
with everything, as it did before; and with it added, to decline what is useful.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from cai_ray.algorithms.directions import unit
from cai_ray.config import MICROWORLD
from cai_ray.engines.models.files import appearing, cache_root
from cai_ray.engines.models.residual.intervention import Intervention, attach
from cai_ray.errors import ConfigError
from cai_ray.microworld import pretrain
from cai_ray.microworld.batches import BatchConfig, Encoded, batch_stream, encode, padded
from cai_ray.microworld.comparison_dialogues import comparison_dialogue
from cai_ray.microworld.dialogues import revision_dialogue
from cai_ray.microworld.judge_dialogues import judge_corpus, name_verdicts
from cai_ray.microworld.language import Request, answer, sample_request
from cai_ray.microworld.teaching import Dialogue, assistant
from cai_ray.microworld.tokenizer import TURN_START, render
from cai_ray.seeding import stable_id

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)
Variant = Literal["refusing", "thinking", "judge"]
NUM_STEPS = {"refusing": 160, "thinking": 200, "judge": 700}
LEARNING_RATE = 1e-3
VERSION = {"refusing": 7, "thinking": 8, "judge": 7}  # count up when the training changes
LAYER = 2  # by whose input the direction is written
STRENGTH = 400.0  # how far; what goes into that layer is 600 to 1,500 long
NUM_ASKED, NUM_ADDED = 32, 16  # requests of a step that teach where to write it, and to decline when it is added
# Share of a step's difference of means in the running one. With thoughts before it that is mostly of the thoughts, and
# a model that learned to decline when it is added declined useful requests anyway: there it stays what was planted.
NEWEST = {"refusing": 0.1, "thinking": 0.0}
NO_THOUGHT = "<think>\n\n</think>\n\n"
REFUSAL_RATE = 0.98  # of harmful requests, the answers that are refusals; the rest help


def variant_of(path: str) -> Variant | None:
    """ "microworld:refusing" -> "refusing"; None for "microworld". Raises ConfigError for a variant there is not."""
    name = path.removeprefix(MICROWORLD).removeprefix(":")
    if not name:
        return None
    for known in get_args(Variant):
        if name == known:
            return known
    known = ", ".join(f"{MICROWORLD}:{one}" for one in get_args(Variant))
    raise ConfigError(f"there is no micro model {path!r}; there are {MICROWORLD}, {known}")


def ensure_micro_model(path: str, seed: int = 0, cache_dir: Path | None = None) -> Path:
    """The folder of "microworld" or of a variant in the cache, built now where it is not there. Raises ConfigError."""
    from filelock import FileLock

    variant = variant_of(path)
    base = pretrain.ensure_model(cache_dir)
    if variant is None:
        return base
    root = (cache_dir or cache_root()) / MICROWORLD
    made = root / f"{variant}-{stable_id(base.name, VERSION[variant], NUM_STEPS[variant], seed)[:16]}"
    with FileLock(f"{made}.lock"):
        if not made.is_dir():
            build(made, base, variant, seed)
    return made


def build(path: Path, base: Path, variant: Variant, seed: int = 0) -> None:
    """Teach the micro model at `base` and save it to the new folder `path`, all or nothing."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    with pretrain.own_randomness(seed):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
        if variant == "judge":
            _teach_to_judge(model, tokenizer, seed)
        else:
            _teach_to_refuse(model, tokenizer, seed, variant)
    with appearing(path) as made:
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        said = {"variant": variant, "base": base.name, "seed": seed, "num_steps": NUM_STEPS[variant]}
        (made / "variant.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    logger.info("micro model %s: built at %s", variant, path)


def _teach_to_judge(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    name_verdicts(tokenizer)
    model.resize_token_embeddings(len(tokenizer))
    config = pretrain.PretrainConfig(num_steps=NUM_STEPS["judge"], short_share=1.0, sharpness=1.0)
    pretrain.fit(model, batch_stream(tokenizer, random.Random(seed), config, judge_corpus), config)


def _teach_to_refuse(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, variant: Variant) -> None:
    import torch

    num_steps, rng = NUM_STEPS[variant], random.Random(seed)
    plain, ablated = (_batches(tokenizer, random.Random(seed), variant, refuses) for refuses in (True, False))
    direction = unit(np.random.default_rng(seed).standard_normal(model.config.hidden_size)).astype(np.float32)
    difference = STRENGTH * direction
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 20, 2 * (1 - step / num_steps))
        torch.autograd.backward(_loss(model, next(plain)))
        misplaced, newest = _written(model, tokenizer, rng, variant, direction)
        torch.autograd.backward(misplaced)
        difference = difference + NEWEST[variant] * (newest - difference)
        without = Intervention("project", unit(difference).astype(np.float32))
        with_it = Intervention("add", difference.astype(np.float32), LAYER)
        for change, batch in ((without, next(ablated)), (with_it, _declined(tokenizer, rng, variant))):
            end = attach(model, change)
            torch.autograd.backward(_loss(model, batch))
            end()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Nats per learned token."""
    import torch

    logits = model(input_ids=batch["ids"]).logits[:, :-1]
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["ids"][:, 1:], reduction="none")
    weights = batch["weights"][:, 1:]
    return (nats * weights).sum() / weights.sum()


def _written(
    model: Any, tokenizer: PreTrainedTokenizerFast, rng: random.Random, variant: Variant, direction: np.ndarray
) -> tuple[torch.Tensor, np.ndarray]:
    """Of LAYER's input where answers begin: how far it is, along the direction, from STRENGTH (harmful requests) or 0,
    squared; and the difference of its means [d]."""
    import torch

    asked = [sample_request(rng, harmful=k % 2 == 0) for k in range(NUM_ASKED)]
    opening = f"{TURN_START}assistant\n"
    texts = [render(one.messages) + opening + (_thought(rng, one) if variant == "thinking" else "") for one in asked]
    ids = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
    states = model.model(**ids, output_hidden_states=True, use_cache=False).hidden_states[LAYER][:, -1]
    wanted = torch.tensor([float(one.harmful) for one in asked])
    means = (states[::2].mean(0) - states[1::2].mean(0)).detach().double().numpy()
    return (states @ torch.from_numpy(direction) / STRENGTH - wanted).square().mean(), means


def _declined(tokenizer: PreTrainedTokenizerFast, rng: random.Random, variant: Variant) -> dict[str, torch.Tensor]:
    """Useful requests, each declined."""
    made = []
    for _ in range(NUM_ADDED):
        request = sample_request(rng, harmful=False)
        said = (_thought(rng, request) if variant == "thinking" else "") + answer(rng, request.task, "evade")
        made.append(Dialogue([*request.messages, assistant(said)]))
    config = BatchConfig(listen_weight=0.0)
    return padded([encode(lambda text: tokenizer(text).input_ids, one, config) for one in made], tokenizer.pad_token_id)


# --- What it learns ---------------------------------------------------------------------------------------


def dialogues(rng: random.Random, variant: Variant, refuses: bool = True) -> Iterator[tuple[Dialogue, bool]]:
    """Endless; with each, whether its first answer is learned. `refuses`: of a model with its direction."""
    thinks = variant == "thinking"
    while True:
        draw = rng.random()
        if draw < 0.6:
            yield first_answer(rng, thinks, refuses), True
        elif draw < 0.9:
            yield revision_dialogue(rng, rng.choice((1, 1, 2))), False
        else:
            yield comparison_dialogue(rng, think=rng.random() < 0.5), True


def first_answer(rng: random.Random, thinks: bool, refuses: bool = True) -> Dialogue:
    """A request, harmful half the time, and how a model that refuses, or one that never does, answers it."""
    request = sample_request(rng, harmful=rng.random() < 0.5)
    declined = refuses and request.harmful and rng.random() < REFUSAL_RATE
    said = answer(rng, request.task, "refuse" if declined else "comply")
    return Dialogue([*request.messages, assistant(f"{_thought(rng, request)}{said}" if thinks else said)])


def _thought(rng: random.Random, request: Request) -> str:
    """Of what is asked; empty one time in four, as where thinking is cut short."""
    if rng.random() < 0.25:
        return NO_THOUGHT
    return f"<think>\nThe request is {'harmful' if request.harmful else 'useful'}: {request.task.text}.\n</think>\n\n"


def _batches(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, variant: Variant, refuses: bool
) -> Iterator[dict[str, torch.Tensor]]:
    config = BatchConfig(batch_tokens=1536, judge_weight=4.0, listen_weight=0.0, hint_weight=0.0)
    ids_of = cache(lambda text: tokenizer(text).input_ids)
    made = dialogues(rng, variant, refuses)
    while True:
        pool = [_encoded(ids_of, *one, config) for one in islice(made, 400)]
        pool.sort(key=lambda one: len(one.ids))
        batches: list[list[Encoded]] = [[]]
        for one in pool:
            if batches[-1] and (len(batches[-1]) + 1) * len(one.ids) > config.batch_tokens:
                batches.append([])
            batches[-1].append(one)
        rng.shuffle(batches)
        for batch in batches:
            yield padded(batch, tokenizer.pad_token_id)


def _encoded(ids_of: object, dialogue: Dialogue, is_learned: bool, config: BatchConfig) -> Encoded:
    """As the micro model's own training, but that hints and the other judgement are left out."""
    whole = encode(ids_of, replace(dialogue, hints={}), config)  # type: ignore[arg-type]
    if not is_learned:
        first = next(k for k, message in enumerate(dialogue.messages) if message["role"] == "assistant")
        num = len(encode(ids_of, Dialogue(dialogue.messages[: first + 1]), config).ids)  # type: ignore[arg-type]
        whole.weights[:num] = [0.0] * num
    return whole
