"""Ids in buckets say what sets in memory say, and take no more memory for more of them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import chain

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_ray.artifacts import ids as ids_module
from cai_ray.artifacts.artifact import check_conservation
from cai_ray.artifacts.ids import Ids
from cai_ray.errors import ConservationError

NAMES = st.lists(st.sampled_from([*"abcdefgh", "", "ä", "a/0", "a" * 99]), max_size=40)


def made(chunks: list[list[str]]) -> Ids:
    """With each chunk at the place of its number."""
    found = Ids()
    for number, chunk in enumerate(chunks):
        found.add(pa.array(chunk, pa.string()), number)
    return found


@settings(max_examples=150, deadline=None)
@given(first=st.lists(NAMES, max_size=4), second=st.lists(NAMES, max_size=4), most_held=st.sampled_from([1, 5, 10_000]))
def test_they_are_what_sets_in_memory_are(first: list[list[str]], second: list[list[str]], most_held: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids_module, "MOST_HELD", most_held)
        ours, theirs = made(first), made(second)
        flat, other = [*chain(*first)], [*chain(*second)]
        assert len(ours) == len(flat) and Counter(ours) == Counter(flat)
        assert ours.num_repeated() == len(flat) - len(set(flat))
        places = [k for k, chunk in enumerate(first) for name in chunk if name in other]
        assert sorted(ours.places_in(theirs).tolist()) == places
        elsewhere: dict[int, set[str]] = {}
        for k, chunk in enumerate(first):
            if again := set(chunk) & set(chain(*first[:k])):
                elsewhere[k] = again
        assert ours.found_elsewhere() == elsewhere
        if len(flat) == len(set(flat)) and Counter(flat) == Counter(other):
            check_conservation(ours, theirs, "revise")
        else:
            with pytest.raises(ConservationError):
                check_conservation(ours, theirs, "revise")


def test_places_are_counted_through_when_none_are_given() -> None:
    found = Ids(pa.array(["a", "b"]))
    found.add(pa.array(["c"]))
    assert found.places_in(Ids(pa.array(["c", "a"]))).tolist() in ([0, 2], [2, 0])


MEMORY = """
import resource
import pyarrow as pa
from cai_ray.artifacts.artifact import check_conservation
from cai_ray.artifacts.ids import Ids

def peak_mb(num_ids):
    first, second = Ids(), Ids()
    for start in range(0, num_ids, 5_000):
        names = pa.array([f"{k:032x}/0" for k in range(start, start + 5_000)])
        first.add(names)
        second.add(names, start)
    check_conservation(first, second, "revise")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

few, many = peak_mb(300_000), peak_mb(1_500_000)
assert many - few < 50, (few, many)
"""


def test_five_times_as_many_take_no_more_memory() -> None:
    subprocess.run([sys.executable, "-c", MEMORY], check=True, timeout=300)
