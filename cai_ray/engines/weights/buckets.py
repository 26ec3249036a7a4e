"""Many tensors in one run of bytes: how weights travel between processes that share no device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 64  # bytes; a tensor that starts on a cache line can be viewed as any type


class Layout(TypedDict):
    """Where each tensor lies in its bucket: lists of equal length, of plain numbers and strings."""

    names: list[str]
    dtype_names: list[str]  # torch's, without the "torch."
    shapes: list[list[int]]
    offsets: list[int]  # bytes from the start of the bucket


def pack(tensors: Sequence[tuple[str, Tensor]]) -> tuple[Layout, Any]:
    """Copy the tensors, from whatever device, into one buffer: its layout, and a numpy array of uint8."""
    import torch

    layout = Layout(names=[], dtype_names=[], shapes=[], offsets=[])
    end = 0
    for name, tensor in tensors:
        layout["names"].append(name)
        layout["dtype_names"].append(str(tensor.dtype).removeprefix("torch."))
        layout["shapes"].append(list(tensor.shape))
        layout["offsets"].append(end)
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    buffer = torch.zeros(end, dtype=torch.uint8)
    for (_, tensor), offset in zip(tensors, layout["offsets"], strict=True):
        place = buffer[offset : offset + tensor.nbytes].view(tensor.dtype)
        place.copy_(tensor.detach().reshape(-1))
    return layout, buffer.numpy()


def unpack(layout: Layout, data: bytearray) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a bucket by name; they share the memory of `data`."""
    import torch

    # torch refuses an empty buffer, which is what tensors without elements pack into
    buffer = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    rows = zip(layout["names"], layout["dtype_names"], layout["shapes"], layout["offsets"], strict=True)
    for name, dtype_name, shape, offset in rows:
        dtype: torch.dtype = getattr(torch, dtype_name)
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        yield name, buffer[offset : offset + size].view(dtype).view(shape)
