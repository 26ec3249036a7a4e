from __future__ import annotations

import json
import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from cai_ray.seeding import digest, rng_for, seed_for, stable_id

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_ids_are_what_they_were() -> None:
    """Stored runs hold these values: they may never change."""
    assert stable_id() == "7ebb3c7c2a87b1a2f8a7ed729ecb040d"
    assert stable_id("a", 1, None) == "fc64438b1d02ead43476828cf1c13e2d"
    assert seed_for(0, "revise", "row", 0) == 84886438
    assert rng_for(0, "revise", "row").random() == 0.31217751218469314


def test_another_process_and_hash_seed_agree() -> None:
    code = (
        "from cai_ray.seeding import rng_for, stable_id;"
        "print(stable_id({'b': 1, 'a': [2.5, 'x']}), rng_for(3, 's', 'r', 'k').random())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    here = f"{stable_id({'a': [2.5, 'x'], 'b': 1})} {rng_for(3, 's', 'r', 'k').random()}"
    assert printed == {here}


def test_boundaries_and_types_count() -> None:
    parts: list[tuple[str | int | float | bool | None, ...]] = [
        ("a", "bc"), ("ab", "c"), ("abc",), ("1",), (1,), (1.0,), (True,), (None,), ("null",), ("",), (),
    ]  # fmt: skip
    assert len({stable_id(*each) for each in parts}) == len(parts)


def test_lone_surrogates_have_an_id() -> None:
    assert stable_id("\ud800") != stable_id("\udfff")


@given(JSON, JSON)
def test_ids(one: object, other: object) -> None:
    assert stable_id(one) == stable_id(one)  # type: ignore[arg-type]
    assert len(stable_id(one)) == 32 and set(stable_id(one)) <= set("0123456789abcdef")  # type: ignore[arg-type]
    assert (stable_id(one) == stable_id(other)) == (canonical(one) == canonical(other))  # type: ignore[arg-type]


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@given(st.integers(0, 2**31), st.text(), st.text(), st.integers(0, 100))
def test_seeds_are_in_range(run_seed: int, stage: str, row_id: str, k: int) -> None:
    assert 0 <= seed_for(run_seed, stage, row_id, k) < 2**31


def test_seeds_fill_their_range_evenly() -> None:
    seeds = [seed_for(0, "stage", f"row {i}") for i in range(2000)]
    assert len(set(seeds)) == len(seeds)
    assert abs(sum(seeds) / len(seeds) / 2**31 - 0.5) < 4 * (1 / 12) ** 0.5 / len(seeds) ** 0.5  # four standard errors
    assert abs(sum(seed % 2 for seed in seeds) / len(seeds) - 0.5) < 4 * 0.5 / len(seeds) ** 0.5


def test_each_part_of_the_address_matters() -> None:
    addresses = [(0, "s", "r", 0), (1, "s", "r", 0), (0, "t", "r", 0), (0, "s", "q", 0), (0, "s", "r", 1)]
    assert len({seed_for(*address) for address in addresses}) == len(addresses)
    assert len({rng_for(*address).random() for address in addresses}) == len(addresses)


def test_draws_do_not_disturb_each_other() -> None:
    alone = rng_for(0, "s", "r").random()
    other = rng_for(0, "s", "other")
    other.random()
    assert rng_for(0, "s", "r").random() == alone


def test_digests_have_the_length_asked_for() -> None:
    assert len(digest("x")) == 16 and len(digest("x", num_bytes=8)) == 8
