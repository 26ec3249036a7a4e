"""Training batches: the corpus encoded, weighted, and cut into batches of dialogues of about one length.

Tested in tests/microworld/test_pretrain.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import Field

from cai_ray.config import Config
from cai_ray.microworld.dialogues import corpus
from cai_ray.microworld.teaching import Dialogue
from cai_ray.microworld.tokenizer import render

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

Corpus = Callable[[random.Random, float], Iterator[Dialogue]]  # of (rng, long_share)


class BatchConfig(Config):
    """What the micro model sees in training."""

    num_steps: int = Field(1600, ge=1)
    batch_tokens: int = Field(2048, ge=1024, description="Tokens per step, padding included.")
    short_share: float = Field(0.45, ge=0.0, le=1.0, description="First share of the steps: short dialogues only.")
    long_share: float = Field(0.4, ge=0.0, le=1.0, description="Share of long dialogues among the rest.")
    listen_weight: float = Field(0.1, ge=0, le=1, description="Loss weight of what the assistant does not say itself.")
    decide_weight: float = Field(4.0, ge=1, description="Loss weight of the first word of an assistant turn.")
    judge_weight: float = Field(10.0, ge=1, description="Loss weight of the word that holds a judgement.")
    hint_weight: float = Field(4.0, ge=0, description="Loss weight of a hint.")


def batch_stream(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, config: BatchConfig, corpus: Corpus = corpus
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of the fields of `Encoded`, each [num_dialogues, length], about `batch_tokens`, padded at the right.

    A batch holds dialogues of about one length, each from position 0 as in use, so little is wasted on padding and
    no dialogue sees another.
    """
    ids_of = cache(lambda text: tokenizer(text).input_ids)  # most turns come up again
    num_short = round(config.num_steps * config.short_share)
    for long_share, num_batches in ((0.0, num_short), (config.long_share, config.num_steps - num_short)):
        dialogues = corpus(rng, long_share)
        made = 0
        while made < num_batches:
            pool = [encode(ids_of, d, config) for d in islice(dialogues, 2000)]
            pool.sort(key=lambda e: len(e.ids))
            batches: list[list[Encoded]] = [[]]
            for encoded in pool:
                if batches[-1] and (len(batches[-1]) + 1) * len(encoded.ids) > config.batch_tokens:
                    batches.append([])
                batches[-1].append(encoded)
            rng.shuffle(batches)
            for batch in batches[: num_batches - made]:
                yield padded(batch, tokenizer.pad_token_id)
                made += 1


def padded(batch: list[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Fields of `Encoded`, each [num_dialogues, length], padded at the right."""
    import torch

    length = max(len(e.ids) for e in batch)
    padding = {"ids": pad, "weights": 0.0, "others": pad, "probs": 1.0, "decides": 0.0, "layers": 0}
    return {
        name: torch.tensor([getattr(e, name) + [fill] * (length - len(e.ids)) for e in batch])
        for name, fill in padding.items()
    }


@dataclass
class Encoded:
    """One dialogue as training sees it; all lists [length].

    Attributes:
        ids: token ids.
        weights: loss weight of each token.
        others: the token id that the opposite judgement has there; the token itself where nothing is judged.
        probs: P(the token rather than the other one), in (0, 1]; 1 where nothing is judged.
        decides: 1 where behaviour is decided (the first word of an assistant turn, a judgement), else 0.
    """

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    probs: list[float] = field(default_factory=list)
    decides: list[float] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)


def encode(ids_of: Callable[[str], list[int]], dialogue: Dialogue, config: BatchConfig) -> Encoded:
    """What the assistant says, its end-of-turn token included, weighs 1; judgements and all else as configured.

    `ids_of` gives the token ids of a text.
    """
    made = Encoded()
    for index, message in enumerate(dialogue.messages):
        text = render([message])
        turn = ids_of(text)
        others, probs, decides = list(turn), [1.0] * len(turn), [0.0] * len(turn)
        weights, layers = [config.listen_weight] * len(turn), [0] * len(turn)
        if message["role"] == "assistant":
            # "<|im_start|>", "assistant", "\n" go before what is said, "\n" goes after.
            weights[3:-1] = [1.0] * (len(turn) - 4)
            decides[3], weights[3] = 1.0, config.decide_weight
            if (choice := dialogue.choices.get(index)) is not None:
                place = 3 + choice.at if choice.at >= 0 else len(turn) - 2 + choice.at
                [others[place]] = ids_of(choice.other)
                probs[place], decides[place] = choice.prob, 1.0
                weights[place] = config.judge_weight
        for hint in dialogue.hints.get(index, ()):
            place = len(ids_of(text.partition(hint.after)[0] + hint.after))
            others[place], probs[place], layers[place] = ids_of(hint.word)[0], 0.0, hint.layer
            weights[place] = config.hint_weight
        made.ids += turn
        made.weights += weights
        made.others += others
        made.probs += probs
        made.decides += decides
        made.layers += layers
    return made
