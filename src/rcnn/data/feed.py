"""Batches as they arrive on a device, copied and rendered while it computes the step before.

The host launches a step and does not wait for its end: it takes the next batch while the device is at work.
On CUDA the copy, resizing and colours of that batch have a stream of their own, beside that of the step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from rcnn.data.packing import Packet

if TYPE_CHECKING:
    from rcnn.data.geometry import TrainingSample


def arrived(packet: Packet, device: torch.device) -> list[TrainingSample]:
    """The samples of a packet on a device, rendered there."""
    if device.type != "cuda":
        return _rendered(packet, device)[1]
    current, beside = torch.cuda.current_stream(device), _stream(device)
    with torch.cuda.stream(beside):
        there, samples = _rendered(packet, device)
    current.wait_stream(beside)
    # Their memory must not be given to the next batch before the step has read them.
    for tensor in (there.block, *(sample.image for sample in samples)):
        tensor.record_stream(current)
    return samples


def _rendered(packet: Packet, device: torch.device) -> tuple[Packet, list[TrainingSample]]:
    there = packet.to(device)
    return there, [sample.rendered() for sample in there.unpacked()]


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
