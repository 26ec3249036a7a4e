"""Randomness by address: one stable hash from (run seed, stage, row id, k) to an integer seed.

Nothing here depends on process, host, Python hash seed or call order, so ids, principle draws, A/B
orders and sampling seeds are bit-exact on any cluster shape (guarantee G5).
"""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
Part = str | int | float | bool | None | list[Any] | dict[str, Any]


def digest(*parts: Part, num_bytes: int = 16) -> bytes:
    """BLAKE2b of the canonical JSON of `parts`.

    JSON keeps part boundaries ("a","bc" differs from "ab","c") and types ("1" differs from 1).
    Lone surrogates, which UTF-8 cannot carry, are escaped by JSON itself.
    """
    return hashlib.blake2b(_CANONICAL.encode(parts).encode("ascii"), digest_size=num_bytes).digest()


def stable_id(*parts: Part) -> str:
    """A 32-character lower-case hexadecimal id (128 bits) of `parts`."""
    return digest(*parts).hex()


def seed_for(run_seed: int, stage: str, row_id: str, k: int | str = 0) -> int:
    """The seed of draw `k` of row `row_id` in `stage`; in [0, 2**31), which every engine accepts."""
    return int.from_bytes(digest(run_seed, stage, row_id, k, num_bytes=8), "big") >> 33


def rng_for(run_seed: int, stage: str, row_id: str, k: int | str = 0) -> random.Random:
    """A private generator for one draw; two different addresses give independent streams."""
    return random.Random(int.from_bytes(digest(run_seed, stage, row_id, k), "big"))
