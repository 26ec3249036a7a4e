"""Text that the policy must not forget while it learns to please: the optional pretraining mix.

InstructGPT's "PPO-ptx" (Ouyang et al. 2022, arXiv 2203.02155, section 3.5): next-token loss on other text, added to
every update with the weight `loss.pretraining_coefficient`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from itertools import islice
from typing import Any

from pydantic import Field

from cai_ray.artifacts.identity import Input
from cai_ray.config import Config
from cai_ray.errors import ConfigError
from cai_ray.fingerprint import names_and_sizes
from cai_ray.lookup import InputPath
from cai_ray.prompt_layouts.files import read_records
from cai_ray.row_ids import text_key
from cai_ray.seeding import rng_for

logger = logging.getLogger(__name__)
STAGE = "train_ppo"  # whose draws these are
MIN_TOKENS = 2  # the first one is not learned


class PretrainingConfig(Config):
    """Where the text comes from."""

    path: InputPath = Field(description="A file of records (JSONL, Parquet, text, ...), a folder, a glob or a URI.")
    column: str = Field("text", description="Of the records: the text.")
    texts_per_update: int = Field(8, ge=1, description="Added to every update, drawn anew.")
    max_tokens: int = Field(256, ge=MIN_TOKENS, description="Longer texts are cut.")
    limit: int = Field(10_000, ge=1, description="Records read, from the first.")


def input_identity(config: PretrainingConfig | None) -> dict[str, Any]:
    """For the fingerprint: names and sizes of local files."""
    return {} if config is None else {"pretraining": names_and_sizes(config.path)}


def input_files(config: PretrainingConfig | None) -> list[Input]:
    """What the text is read from."""
    return [] if config is None else [Input(config.path, "pretraining text")]


def read_texts(
    config: PretrainingConfig, encode: Callable[[str], Sequence[int]], held_out: Container[bytes] = frozenset()
) -> list[tuple[int, ...]]:
    """Token ids of every usable text, at least 2 each. Raises ConfigError when there is none.

    `held_out`: the `text_key` of prompts that are for tests alone; a text of which a line is one of them is left out,
    and a line of the log says how many.
    """
    found, num_barred = [], 0
    records = islice(read_records(config.path), config.limit)
    for _, record in records:
        text = record.get(config.column) if isinstance(record, dict) else None
        if isinstance(text, str) and _holds_any(text, held_out):
            num_barred += 1
        elif isinstance(text, str):
            ids = tuple(encode(text))[: config.max_tokens]
            if len(ids) >= MIN_TOKENS:
                found.append(ids)
    if num_barred:
        logger.warning("%s: %d pretraining texts hold a prompt of split test; they are left out", STAGE, num_barred)
    if not found:
        raise ConfigError(f"ppo.pretraining.path={config.path!r} has no text in column {config.column!r}; set `column`")
    return found


def _holds_any(text: str, held_out: Container[bytes]) -> bool:
    """Whether the text, one of its lines, or a line behind its speaker's label is one of these prompts."""
    lines = text.splitlines()
    parts = {text, *lines, *(line.partition(": ")[2] for line in lines)}
    return any(text_key([{"role": "user", "content": part}]) in held_out for part in parts if part.strip())


def drawn(texts: Sequence[tuple[int, ...]], num: int, step: int, seed: int) -> list[tuple[int, ...]]:
    """`num` texts for a step, with repetition only where there are fewer; `num` is 0 where there are none."""
    if not num:
        return []
    rng = rng_for(seed, STAGE, str(step), "pretraining")
    whole, rest = divmod(num, len(texts))
    chosen = [*range(len(texts))] * whole + rng.sample(range(len(texts)), rest)
    rng.shuffle(chosen)
    return [texts[k] for k in chosen]
