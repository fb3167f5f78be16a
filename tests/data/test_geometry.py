"""Views of a sample: hand-worked ones, equality with torchvision's v2 functions and numpy."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from blobs import as_masks, blobs, dense, tight_boxes
from rcnn.data.dataset import Sample
from rcnn.data.geometry import TrainingSample, View, view_sample
from rcnn.parts.batch import TargetMasks, Targets
from rcnn.structures import Instances, Masks, Skeleton

ORIENTATIONS = list(product((False, True), repeat=3))


def v2_view(view, image):
    """What torchvision's own functions make of a tensor ``[..., H, W]``, nearest-exact."""
    x1, y1, x2, y2 = view.window
    out = functional.resize(
        image[..., y1:y2, x1:x2], list(view.resized), interpolation=InterpolationMode.NEAREST_EXACT
    )
    out = out.transpose(-1, -2) if view.transposed else out
    out = functional.horizontal_flip(out) if view.flip_x else out
    return functional.vertical_flip(out) if view.flip_y else out


# window 10 20 30 40 of a 100 x 50 image, doubled: x -> 2 (x - 10), y -> 2 (y - 20)
@pytest.mark.parametrize(
    ("orientation", "box"),
    [
        ((False, False, False), [4, 10, 24, 40]),
        ((False, True, False), [16, 10, 36, 40]),
        ((False, False, True), [4, 0, 24, 30]),
        ((True, False, False), [10, 4, 40, 24]),
        ((True, True, False), [0, 4, 30, 24]),
    ],
)
def test_box_by_hand(orientation, box):
    view = View((10, 20, 30, 40), (40, 40), *orientation)
    # 12..22 x 25..60 is cut at y = 40
    torch.testing.assert_close(view.boxes(torch.tensor([[12.0, 25, 22, 60]])), torch.tensor([box]).float())


def test_crop_by_hand():
    """A 4 x 4 mask cut to its right lower quarter, then doubled and mirrored."""
    bitmap = torch.zeros((1, 10, 12), dtype=torch.bool)
    bitmap[0, 2:6, 3:7] = True
    masks = as_masks(bitmap)
    truth = Targets((10, 12), tight_boxes(masks), torch.tensor([3]), masks=masks, areas=torch.tensor([16.0]))
    sample = TrainingSample(torch.zeros((3, 10, 12), dtype=torch.uint8), truth, "a")
    out = view_sample(sample, View((5, 4, 10, 9), (10, 10), flip_x=True), min_visible=0.3)
    expected = torch.zeros((1, 10, 10), dtype=torch.bool)
    expected[0, :4, 6:] = True
    assert torch.equal(dense(out.targets.masks), expected)
    torch.testing.assert_close(out.targets.boxes, torch.tensor([[6.0, 0, 10, 4]]))
    assert out.targets.size == (10, 10)
    assert out.image.shape == (3, 10, 10)
    assert out.targets.labels.tolist() == [3]
    assert out.targets.crowd.tolist() == [True]  # a quarter is left, 0.3 was asked for
    assert out.targets.areas is None
    kept = view_sample(sample, View((5, 4, 10, 9), (10, 10)), min_visible=0.2)
    assert kept.targets.crowd.tolist() == [False]
    assert len(view_sample(sample, View((5, 4, 10, 9), (10, 10)), 0.3, drop_truncated=True).targets) == 0
    assert len(view_sample(sample, View((5, 4, 10, 9), (10, 10)), 0.2, drop_truncated=True).targets) == 1
    crowd = TrainingSample(sample.image, replace(truth, crowd=torch.tensor([True])), "a")
    cut = view_sample(crowd, View((5, 4, 10, 9), (10, 10)), 0.3, drop_truncated=True)
    assert cut.targets.crowd.tolist() == [True], "what is left of a crowd is no background"


def stars(size, count, seed):
    """Outlines of stars, some beyond the border, and of two parts; the last one as a run-length code."""
    rng = np.random.default_rng(seed)
    outlines = []
    for number in range(count):
        parts = []
        for _ in range(1 + number % 2):
            angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
            centre, radii = rng.uniform(0, size[::-1]), rng.uniform(8, 20, (12, 1))
            parts.append(centre + radii * np.stack([np.cos(angles), np.sin(angles)], 1))
        outlines.append(parts)
    return [*outlines[:-1], Masks.from_outlines(outlines[-1:], size).rle()[0]]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("resized", [(60, 70), (31, 44), (150, 171)])
def test_drawn_outlines_differ_from_moved_pixels_along_the_edge_alone(orientation, resized):
    """By the width of a pixel of the source and one of the view; run-length codes do not differ."""
    size = (90, 100)
    outlines = stars(size, 9, seed=2)
    view = View((20, 10, 90, 70), resized, *orientation)
    moved = dense(view.masks(TargetMasks.from_masks(Masks.from_outlines(outlines, size)))).numpy()
    drawn = dense(view.drawn(outlines, size)).numpy()
    width = int(np.ceil(max(1, resized[0] / 60, resized[1] / 70)))
    assert np.array_equal(moved[-1], drawn[-1])
    assert moved.any((1, 2)).sum() >= 7
    for one, other in zip(moved, drawn, strict=True):
        grown, shrunk = (
            binary_dilation(one, np.ones((3, 3)), width),
            binary_erosion(one, np.ones((3, 3)), width, border_value=1),
        )
        assert not (other & ~grown).any()
        assert not (shrunk & ~other).any()
    total = np.array([[m.sum(), d.sum(), (m != d).sum()] for m, d in zip(moved, drawn, strict=True)]).sum(0)
    assert abs(total[0] - total[1]) < 0.02 * total[0], "neither grows nor shrinks"
    assert total[2] < 0.12 * total[0]


def test_a_crop_of_outlines_is_the_crop_of_their_masks():
    """Pixel for pixel: what is cut away is rounded as it was, too."""
    size = (90, 100)
    outlines = [[part.clip(0) for part in one] for one in stars(size, 12, seed=3)[:-1]]
    masks = TargetMasks.from_masks(Masks.from_outlines(outlines, size))
    for window in ((0, 0, 100, 90), (20, 10, 90, 70), (37, 41, 38, 42)):
        view = View(window, (window[3] - window[1], window[2] - window[0]))
        assert torch.equal(dense(view.drawn(outlines, size)), dense(view.masks(masks)))


def test_a_view_of_outlines_keeps_the_objects_of_the_view_of_masks():
    size = (90, 100)
    outlines = stars(size, 9, seed=2)
    masks = Masks.from_outlines(outlines, size)
    image, labels = np.zeros((*size, 3), np.uint8), np.arange(9)
    truth = Instances(size, masks.boxes(), labels, crowd=labels == 3)
    undrawn = TrainingSample.from_sample(Sample(image, truth, 1, outlines))
    drawn = TrainingSample.from_sample(Sample(image, replace(truth, masks=masks), 1))
    assert undrawn.targets.masks is None
    assert undrawn.nbytes < image.nbytes + masks.pixels.nbytes
    for truncated in (False, True):
        one, other = (
            view_sample(s, View((30, 20, 80, 90), (140, 100), flip_x=True), 0.5, drop_truncated=truncated)
            for s in (undrawn, drawn)
        )
        assert one.outlines is None
        assert one.targets.labels.tolist() == other.targets.labels.tolist() != labels.tolist()
        assert one.targets.crowd.tolist() == other.targets.crowd.tolist()
        assert one.targets.masks.size == other.targets.masks.size == (140, 100)
        torch.testing.assert_close(one.targets.boxes, other.targets.boxes, atol=2.0, rtol=0)
        torch.testing.assert_close(one.targets.boxes, tight_boxes(one.targets.masks))
    nothing = replace(undrawn, targets=undrawn.targets[[]], outlines=())
    assert len(view_sample(nothing, View((30, 20, 80, 90), (140, 100))).targets.masks) == 0


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("resized", [(40, 50), (23, 31), (77, 90), (1, 1)])
def test_masks_and_boxes_equal_v2(orientation, resized):
    sample = blobs()
    view = View((7, 5, 57, 45), resized, *orientation)
    expected = v2_view(view, dense(sample.targets.masks))
    masks = view.masks(sample.targets.masks)
    assert torch.equal(dense(masks), expected)
    out = view_sample(sample, view).targets
    present = expected.flatten(1).any(1)
    assert out.labels.tolist() == present.nonzero()[:, 0].tolist()
    assert torch.equal(dense(out.masks), expected[present])
    torch.testing.assert_close(out.boxes, tight_boxes(out.masks))


def test_boxes_equal_v2():
    boxes = torch.tensor([[3.5, 2, 30, 17], [0, 0, 80, 60], [60, 50, 70.25, 60]])
    truth = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(60, 80))
    v2 = functional.resize(functional.crop(truth, 4, 10, 50, 60), [75, 120])
    expected = functional.horizontal_flip(functional.clamp_bounding_boxes(v2))
    out = View((10, 4, 70, 54), (75, 120), flip_x=True).boxes(boxes)
    torch.testing.assert_close(out, expected.as_subclass(torch.Tensor))


@pytest.mark.parametrize("resized", [(41, 53), (97, 131), (60, 80)])
def test_masks_lie_where_the_image_shows_them(resized):
    """Nearest, other than nearest-exact, would shift the masks by up to half a pixel against the image."""
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    disk = (y - 30.3) ** 2 + (x - 41.8) ** 2 < 20**2
    masks = as_masks(disk[None])
    truth = Targets((60, 80), tight_boxes(masks), torch.zeros(1, dtype=torch.int64), masks=masks)
    sample = TrainingSample((disk * 255).to(torch.uint8).repeat(3, 1, 1), truth, 0)
    out = view_sample(sample, View((0, 0, 80, 60), resized, True, True, False))
    bright = out.image[0].float() / 255
    grid = torch.stack(torch.meshgrid(*(torch.arange(s) + 0.5 for s in bright.shape), indexing="ij"))
    mask = dense(out.targets.masks)[0].float()
    centre = (grid * mask).sum((1, 2)) / mask.sum()
    torch.testing.assert_close(centre, (grid * bright).sum((1, 2)) / bright.sum(), atol=0.1, rtol=0)


@pytest.mark.parametrize("resized", [(40, 1), (1, 1), (40, 2), (1, 40)])
def test_narrow_images_keep_their_pixels(resized):
    """Torch's uint8 kernel is off by up to 200 grey values where the result is one pixel wide."""
    image = torch.randint(0, 256, (3, 60, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    out = View((0, 0, 8, 60), resized).image(image)
    expected = functional.resize(image.float(), list(resized), antialias=True)
    assert out.dtype == torch.uint8
    torch.testing.assert_close(out.float(), expected, atol=1.01, rtol=0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_image_equals_numpy(orientation):
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)
    transposed, flip_x, flip_y = orientation
    expected = image.numpy().transpose(0, 2, 1) if transposed else image.numpy()
    expected = expected[:, ::-1] if flip_y else expected
    expected = expected[:, :, ::-1] if flip_x else expected
    out = View((0, 0, 6, 4), (4, 6), *orientation).image(image)
    assert np.array_equal(out.numpy(), expected)
    assert out.is_contiguous()


def test_keypoints_by_hand():
    points = torch.tensor([[[12.0, 25, 2], [50, 25, 1], [15, 30, 0]]])
    out = View((10, 20, 30, 40), (40, 40), flip_x=True).keypoints(points)
    # kept and mirrored; outside the window; never annotated
    torch.testing.assert_close(out, torch.tensor([[[36.0, 10, 2], [0, 0, 0], [0, 0, 0]]]))
    turned = View((10, 20, 30, 40), (40, 40), transposed=True).keypoints(points)
    torch.testing.assert_close(turned[0, 0], torch.tensor([10.0, 4, 2]))


def test_left_and_right_change_places_in_a_mirror_but_not_in_a_turn():
    skeleton = Skeleton(("nose", "left_ear", "right_ear"))
    points = torch.tensor([[[20.0, 10, 2], [10, 20, 2], [30, 20, 1]]])
    box = torch.tensor([[5.0, 5, 35, 35]])
    truth = Targets((40, 40), box, torch.zeros(1, dtype=torch.int64), keypoints=points, skeleton=skeleton)
    sample = TrainingSample(torch.zeros(3, 40, 40, dtype=torch.uint8), truth, 0)
    window = ((0, 0, 40, 40), (40, 40))
    mirrored = view_sample(sample, View(*window, flip_x=True)).targets.keypoints
    # The ear at the left of the picture is the left one again.
    assert mirrored.tolist() == [[[20, 10, 2], [10, 20, 1], [30, 20, 2]]]
    half_turn = view_sample(sample, View(*window, flip_x=True, flip_y=True)).targets.keypoints
    assert half_turn.tolist() == [[[20, 30, 2], [30, 20, 2], [10, 20, 1]]]
    quarter = view_sample(sample, View(*window, transposed=True, flip_x=True)).targets.keypoints
    assert quarter[0, :, 2].tolist() == [2, 2, 1]
    transposed = view_sample(sample, View(*window, transposed=True)).targets.keypoints
    assert transposed[0, :, 2].tolist() == [2, 1, 2]
