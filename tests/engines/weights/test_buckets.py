"""Tensors through a run of bytes and back."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.engines.weights.buckets import ALIGNMENT, pack, unpack

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.int64, torch.bool]
shapes = st.lists(st.integers(0, 5), max_size=3)


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).contiguous().view(torch.uint8).tolist()


@given(st.lists(st.tuples(st.sampled_from(DTYPES), shapes), max_size=6), st.integers(0, 2**31))
def test_every_type_and_shape_comes_back(kinds: list[tuple[torch.dtype, list[int]]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        (f"layer.{i}.weight", (torch.randn(shape, generator=generator, dtype=torch.float64) * 9).to(dtype))
        for i, (dtype, shape) in enumerate(kinds)
    ]
    layout, data = pack(tensors)
    found = list(unpack(layout, bytearray(data.tobytes())))
    assert [name for name, _ in found] == [name for name, _ in tensors]
    for (_, sent), (_, received) in zip(tensors, found, strict=True):
        assert (received.dtype, received.shape) == (sent.dtype, sent.shape)
        assert bits(received) == bits(sent)
    assert all(offset % ALIGNMENT == 0 for offset in layout["offsets"])


def test_what_is_packed_is_a_copy_and_may_lie_in_memory_as_it_likes() -> None:
    square = torch.arange(12.0).view(3, 4)
    layout, data = pack([("turned", square.t()), ("column", square[:, 1])])
    square.zero_()
    found = dict(unpack(layout, bytearray(data.tobytes())))
    assert found["turned"].tolist() == torch.arange(12.0).view(3, 4).t().tolist()
    assert found["column"].tolist() == [1.0, 5.0, 9.0]


def test_a_layout_is_plain_enough_for_any_wire() -> None:
    import json

    layout, _ = pack([("a", torch.zeros(2, 3, dtype=torch.bfloat16)), ("b", torch.zeros(()))])
    assert json.loads(json.dumps(layout)) == layout
    assert layout["dtype_names"] == ["bfloat16", "float32"]
    assert layout["shapes"] == [[2, 3], []]
