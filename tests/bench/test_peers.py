"""The peers of the benchmarks: torchvision's detectors, made lighter, on images as large as they are."""

import torch
from benchmarks.peers import keep_scale, lighten, torchvision_detector, torchvision_inputs

from rcnn.data.geometry import TrainingSample
from tiny import tiny_shapes


def test_a_lighter_peer_trains_on_images_as_they_are() -> None:
    torch.manual_seed(0)
    shapes = tiny_shapes(2)
    classes = len(shapes.class_names)
    network = torchvision_detector(classes, masks=True, sizes=(8, 16, 32, 64, 128), short_side=256)
    heavy = sum(p.numel() for p in network.parameters())
    lighten(network, classes)
    keep_scale(network)
    assert sum(p.numel() for p in network.parameters()) < 0.7 * heavy
    samples = [shapes[0], shapes[1]]
    tensors = [TrainingSample.from_sample(s) for s in samples]
    images, targets = torchvision_inputs([t.image for t in tensors], [t.targets for t in tensors])
    seen, _ = network.transform(images)
    assert seen.image_sizes == [tuple(image.shape[1:]) for image in images]
    losses = network.train()(images, targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert network.roi_heads.mask_head[0][0].weight.grad.abs().sum() > 0
    found = network.eval()(images)
    assert all((one["boxes"] <= 64).all() for one in found)
