"""Batches for a device: rendered there as a CPU renders them, by one copy that nobody waits for."""

from dataclasses import replace
from itertools import chain, islice

import pytest
import torch
from torch.testing import assert_close

from pretended import DEVICE, DeviceTensor, pretended, values
from rcnn.data import packing
from rcnn.data.augment import Augment
from rcnn.data.loader import HERE, training_batches
from rcnn.data.shapes import draw_shapes
from rcnn.transform import Transform

SHAPES = draw_shapes(6, size=(48, 64), diameter=(12, 24), objects=(1, 4))
LARGER = Augment(crop=128, scale_jitter=(1.6, 2.0), rotate90=True, brightness=0.4, hue=0.1)


def batches(device, augment=LARGER, count=4, **settings):
    made = training_batches(SHAPES, augment, Transform(), batch_size=3, seed=5, device=device, **settings)
    return list(islice(made, count))


def assert_same(here, there):
    for one, other in zip(chain(*here), chain(*there), strict=True):
        assert one.image_id == other.image_id
        assert other.rendering is None
        assert isinstance(other.image, DeviceTensor)
        # Bytes are resized in whole numbers on a CPU; hue magnifies the difference.
        apart = (values(other.image).float() - one.image.float()).abs()
        assert (apart <= 2).float().mean() > 0.95
        assert apart.max() < 20
        for name in ("boxes", "labels"):
            assert_close(values(getattr(other.targets, name)), getattr(one.targets, name))
        assert torch.equal(values(other.targets.masks.pixels), one.targets.masks.pixels)
        assert (other.targets.crowd is None) == (not one.targets.crowd.any())


@pytest.mark.parametrize(
    "changes",
    [{}, {"scale_jitter": (0.5, 0.7)}, {"copy_paste": 0.7}, {"crop": 24}],
    ids=["rendered there", "smaller", "copy-paste", "crops"],
)
def test_a_device_renders_what_a_cpu_renders(changes):
    augment = replace(LARGER, **changes)
    here = batches(HERE, augment)
    with pretended() as log:
        there = batches(DEVICE, augment)
        # torchvision's hue copies a table of 18 numbers, in the stream of the feed.
        assert not [place for place in log.syncs if "functional/_color.py" not in place], f"\n{log}"
        assert not log.mixed
    assert_same(here, there)


@pytest.mark.parametrize("room", [2**40, 0])
def test_workers_hand_over_blocks(room, monkeypatch):
    monkeypatch.setattr(packing, "_room", lambda: room)
    here = batches(HERE)
    assert_equal_images(here, batches(HERE, workers=1))
    made = training_batches(SHAPES, LARGER, Transform(), batch_size=3, seed=5, device=DEVICE, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rcnn.device.PINNING", (DEVICE.type,))
        # The worker starts here, where the device is no more than a name.
        packets = islice(made, 1)
        patch.setattr("rcnn.data.loader.arrived", lambda packet, device: packet)
        packet = next(packets)
    assert packet.shared == bool(room)
    sent = packet.unpacked()
    assert all(sample.rendering is not None for sample in sent)
    assert max(sample.image.numel() for sample in sent) <= 3 * 48 * 64
    with pretended():
        assert_same(here[:1], [[sample.to(DEVICE) for sample in sent]])
    made.close()


def assert_equal_images(some, others):
    for one, other in zip(chain(*some), chain(*others), strict=True):
        assert torch.equal(one.image, other.image)
