"""Packets: what is packed comes out again, in one block, whichever way it went."""

import pickle

import numpy as np
import pytest
import torch

from rcnn.data import packing
from rcnn.data.packing import ALIGNMENT, Packet

VALUE = {
    "bytes": torch.arange(7, dtype=torch.uint8),
    "empty": torch.zeros((0, 4)),
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "strided": torch.arange(12).view(3, 4).T,
    "bool": [torch.tensor([True, False])],
    "array": np.arange(3),
    "text": "a",
}


def assert_equal(found):
    assert found.keys() == VALUE.keys()
    for name in ("bytes", "empty", "scalar", "strided"):
        assert torch.equal(found[name], VALUE[name])
        assert found[name].dtype == VALUE[name].dtype
    assert torch.equal(found["bool"][0], VALUE["bool"][0])
    assert found["array"].tolist() == [0, 1, 2]
    assert found["text"] == "a"


@pytest.mark.parametrize("sharers", [0, 2])
def test_what_is_packed_comes_out_again(sharers):
    packet = Packet.of(VALUE, sharers)
    assert packet.shared == packet.block.is_shared() == bool(sharers)
    assert len(packet.block) == 4 * ALIGNMENT + 2 * ALIGNMENT - ALIGNMENT
    for way in (packet, packet.here(), Packet.from_value(*packet.by_value())):
        assert_equal(way.unpacked())
    assert not packet.here().block.is_shared()
    assert Packet.of("no tensor").unpacked() == "no tensor"
    assert Packet.from_value(*Packet.of("no tensor").by_value()).unpacked() == "no tensor"


def test_tensors_are_parts_of_the_block():
    packet = Packet.of([torch.zeros(3), torch.ones(2)])
    first, _ = packet.unpacked()
    first += 5
    assert packet.unpacked()[0].tolist() == [5, 5, 5]


def test_without_room_in_shared_memory_bytes_are_sent(monkeypatch):
    """Containers often have 64 MB of it; a block that does not fit would end the worker by a bus error."""
    size = len(Packet.of(VALUE).block)
    for free, shared in ((4 * size, True), (4 * size - 1, False)):
        monkeypatch.setattr(packing, "_room", lambda free=free: free)
        packet = Packet.of(VALUE, 2)
        assert packet.shared is shared
        assert isinstance(packet.portable, Packet) is shared
    assert_equal(Packet.from_value(*pickle.loads(pickle.dumps(packet.portable))).unpacked())
