"""A few answers as engines sampled them, in a stage's folder: the sampler's side of a proof before training.

The first answers of each engine, as token ids with the log-probabilities that the engine gave them. A training stage
that starts from the same weights has its own model say what it thinks of them (engines/training/proof.py), so that no
engine has to be started to ask. They are evidence and no rows: no manifest counts them, and a stage is whole without.

Tested in tests/engines/conversations/test_sampled.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import TypeAdapter

from cai_ray.artifacts.storage import Storage

FOLDER = "sampled"  # inside the stage's own; one JSON list per part that has any
SAMPLED = "sampled"  # column of outcomes: a Sampled as JSON, or null
KEPT_PER_ENGINE = 4
MOST_TOKENS = 1024  # of prompt and answer together, to be kept
# Of a stage, whose answers come with log-probabilities so that some can be kept; they cost up to a fifth of the speed.
PROOF_ROWS = 16


@dataclass(frozen=True)
class Sampled:
    """One answer."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of answer_ids, nats, at temperature 1 and before anything is cut off

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


_ONE, _LIST = TypeAdapter(Sampled), TypeAdapter(list[Sampled])


def packed(sampled: Sampled | None) -> str | None:
    """As it travels in an outcome; None for one that is too long to be worth it."""
    if sampled is None or sampled.num_tokens > MOST_TOKENS:
        return None
    return _ONE.dump_json(sampled).decode()


def write_sampled(folder: Storage, part: str, outcomes: Iterable[str | None]) -> None:
    """Beside the part of that name; nothing where no outcome has any."""
    found = [text for text in outcomes if text is not None]
    if found:
        folder.write(f"{FOLDER}/{part}.json", f"[{','.join(found)}]".encode())


def read_sampled(folder: Storage, most: int) -> list[Sampled]:
    """The shortest that there are, at most `most`; none of a stage that kept none, or whose files are damaged."""
    found: list[Sampled] = []
    for name in folder.names(FOLDER, ".json"):
        try:
            found += _LIST.validate_json(folder.read(name))
        except ValueError:
            continue
    return sorted(found, key=lambda one: (one.num_tokens, one.prompt_ids, one.answer_ids))[:most]
