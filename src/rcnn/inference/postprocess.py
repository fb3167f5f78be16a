"""What comes after a network or an exported file, in NumPy: from flat outputs to the objects of each image.

Outputs have the names and shapes of :class:`rcnn.parts.batch.Detections`, as arrays. Boxes are scaled back to
the image's own size, mask maps pasted, keypoints read and pixel classes decided at that size.

Legend: N objects, B images of a batch, K keypoints, C classes of pixels, M and S the sides of maps, H and W
height and width of an image, h and w those of a mask's window, P pixels of all windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.structures import Array, Instances, Masks, Size, Skeleton
from rcnn.transform import interpolate

Found = dict[str, Any]
"""The outputs for one image by name, without ``image_index``: arrays; ``semantic_logits`` are ``[C, H, W]``.

In place of ``semantic_logits`` there may be ``semantic``, the classes ``[H, W]`` decided already, and in
place of ``mask_maps`` there may be ``masks``, pasted already. Of an image seen in tiles there is ``cut``,
bool ``[N]``; if objects were joined there, ``mask_maps`` belong to the boxes ``mask_boxes`` and to the
objects whose indices are ``mask_owner``.
"""
Floats = npt.NDArray[np.float32]


def split_images(outputs: Mapping[str, Array], sizes: Sequence[Size]) -> list[Found]:
    """The outputs of a batch, image by image, without padding.

    Args:
        outputs: ``boxes labels scores image_index`` and what else there is.
        sizes: (height, width) of the images of the batch as the network saw them.
    """
    per_object = {k: v for k, v in outputs.items() if k not in ("image_index", "semantic_logits")}
    results: list[Found] = []
    for i, (height, width) in enumerate(sizes):
        mine = outputs["image_index"] == i
        found = {name: values[mine] for name, values in per_object.items()}
        if "semantic_logits" in outputs:
            found["semantic_logits"] = outputs["semantic_logits"][i][:, :height, :width]
        results.append(found)
    return results


def instances_of(
    found: Found,
    seen_size: Size,
    size: Size,
    *,
    class_names: tuple[str, ...] = (),
    semantic_names: tuple[str, ...] = (),
    skeleton: Skeleton | None = None,
    path: Path | None = None,
) -> Instances:
    """The objects of one image in its own coordinates.

    Args:
        found: the outputs for this image.
        seen_size: (height, width) of the image as the network saw it; ``found`` has its coordinates.
        size: the image's own.
        class_names: what the labels index.
        semantic_names: what the classes of pixels index.
        skeleton: what the keypoints are.
        path: the image file.
    """
    ratio = _ratio(seen_size, size)
    boxes = own_boxes(found["boxes"], seen_size, size)
    keypoints = found.get("keypoints")
    if "keypoint_maps" in found:
        keypoints = highest_pixels(found["keypoint_maps"], found["boxes"])
    if keypoints is not None:
        keypoints = keypoints * np.array([*ratio, 1], np.float32)
    return Instances(
        size,
        boxes,
        found["labels"].astype(np.int64),
        found["scores"],
        _masks(found, boxes, ratio, size) if "mask_maps" in found else found.get("masks"),
        keypoints,
        cut=found.get("cut"),
        semantic=pixel_classes(found, size),
        class_names=class_names,
        semantic_names=semantic_names,
        skeleton=skeleton,
        path=path,
    )


def own_boxes(boxes: Array, seen_size: Size, size: Size) -> Floats:
    """Boxes in coordinates of what was seen, of ``seen_size``, as those of the image, of ``size``."""
    return _scaled(boxes, _ratio(seen_size, size), size)


def _ratio(seen_size: Size, size: Size) -> Floats:
    """What coordinates (x, y) of what was seen are multiplied by."""
    return np.array([size[1] / seen_size[1], size[0] / seen_size[0]], np.float32)


def _scaled(boxes: Array, ratio: Floats, size: Size) -> Floats:
    """Boxes times a ratio (x, y), within an image of ``size``."""
    scaled: Floats = (boxes * np.tile(ratio, 2)).clip(0, np.array([size[1], size[0]] * 2, np.float32))
    return scaled


def _masks(found: Found, boxes: Array, ratio: Floats, size: Size) -> Masks:
    """The masks of objects; those of several pieces are their union."""
    if "mask_owner" not in found:
        return paste_masks(found["mask_maps"], boxes, size)
    pieces = paste_masks(found["mask_maps"], _scaled(found["mask_boxes"], ratio, size), size)
    return pieces.united(found["mask_owner"], len(boxes))


def paste_masks(maps: Array, boxes: Array, size: Size, threshold: float = 0.5) -> Masks:
    """Binary masks from maps of probabilities, each resized to its box and cut at ``threshold``.

    Every pixel centre is looked up in the map with bilinear interpolation, zeros around the map: Detectron2's
    way, half a pixel more exact than resizing to whole pixels as torchvision and Detectron do. Were the map's
    border to go on instead, pixels beyond the box would count, a tenth of a small object.

    Args:
        maps: ``[N, M, M]`` in [0, 1].
        boxes: float32 ``[N, 4]`` in pixels.
        size: (height, width) of the image.
        threshold: at or above it a pixel is inside.
    """
    windows = mask_windows(boxes, size)
    columns, column_ends = _axis_weights(boxes[:, 0::2], windows[:, 0::2], maps.shape[-1])
    rows, row_ends = _axis_weights(boxes[:, 1::2], windows[:, 1::2], maps.shape[-1])
    masks = Masks(np.empty(int((windows[:, 2:] - windows[:, :2]).prod(1).sum()), np.uint8), windows, size)
    row = column = 0
    for probabilities, row_end, column_end, patch in zip(
        maps, row_ends, column_ends, masks.patches(), strict=True
    ):
        # Bilinear interpolation is a product with the rows' weights and one with the columns', for each mask.
        values = rows[row:row_end] @ probabilities @ columns[column:column_end].T
        np.greater_equal(values, threshold, out=patch.view(np.bool_))
        row, column = row_end, column_end
    return masks


def mask_windows(boxes: Array, size: Size) -> npt.NDArray[np.int64]:
    """The whole pixels ``[N, 4]`` that boxes ``[N, 4]`` touch in an image of ``size``; x1 y1 x2 y2."""
    low = np.floor(boxes[:, :2]).clip(0)
    high = np.minimum(np.ceil(boxes[:, 2:]), np.array([size[1], size[0]], np.float32))
    return np.concatenate([low, np.maximum(low, high)], 1).astype(np.int64)


def _axis_weights(extents: Array, windows: Array, side: int) -> tuple[Floats, list[int]]:
    """The weight of each of M cells for each pixel of the windows along one axis.

    Args:
        extents: float32 ``[N, 2]``: where the boxes begin and end; their cells are evenly spaced in between.
        windows: int64 ``[N, 2]``: the first pixel of each window, and the one behind the last.
        side: M.

    Returns:
        float32 ``[P, M]`` of all windows' pixels, one mask after the other, and where each mask's end.
    """
    lengths = windows[:, 1] - windows[:, 0]
    ends = lengths.cumsum()
    owner = np.repeat(np.arange(len(lengths)), lengths)
    pixel = np.arange(len(owner)) - (ends - lengths - windows[:, 0])[owner]
    span = (extents[:, 1] - extents[:, 0]).clip(1e-6)[owner]
    centre = pixel.astype(np.float32) + np.float32(0.5)
    at = (centre - extents[:, 0][owner]) / span * side - np.float32(0.5)
    weights: Floats = (1 - np.abs(at[:, None] - np.arange(side, dtype=np.float32))).clip(0)
    return weights, ends.tolist()


def highest_pixels(maps: Array, boxes: Array) -> Floats:
    """Keypoints as Detectron reads them: the highest pixel of each map resized to its box in whole pixels.

    The bicubic resizing is torch's; keypoints to parts of a cell are ``rcnn.ops.keypoints.find_keypoints``.

    Args:
        maps: logits ``[N, K, S, S]``.
        boxes: ``[N, 4]`` in pixels of the image as it was seen.

    Returns:
        float32 ``[N, K, 3]``: x, y and the logit there.
    """
    found = np.zeros((*maps.shape[:2], 3), np.float32)
    for own, box, result in zip(maps, boxes, found, strict=True):
        extent = (box[2:] - box[:2]).clip(1)
        width, height = np.ceil(extent).astype(int).tolist()
        wide = _cubic(width, own.shape[2]) @ own.transpose(0, 2, 1)  # [K, w, S]
        large = _cubic(height, own.shape[1]) @ wide.transpose(0, 2, 1)  # [K, h, w]
        flat = large.reshape(len(own), -1)
        place = flat.argmax(1)
        pixels = np.stack([place % width, place // width], 1) + np.float32(0.5)
        result[:, :2] = pixels * extent / np.ceil(extent) + box[:2]
        result[:, 2] = flat.max(1)
    return found


def _cubic(count: int, side: int) -> Floats:
    """The matrix ``[count, side]`` of bicubic interpolation as torch has it (A = -0.75)."""
    at = (np.arange(count) + 0.5) * (side / count) - 0.5
    first = np.floor(at).astype(np.int64) - 1
    matrix = np.zeros((count, side), np.float32)
    for tap in range(4):
        d = np.abs(at - (first + tap))
        near, far = (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3
        np.add.at(matrix, (np.arange(count), (first + tap).clip(0, side - 1)), np.where(d <= 1, near, far))
    return matrix


def pixel_classes(found: Found, size: Size) -> Array | None:
    """The class of every pixel of an image of ``size``, int64 ``[H, W]``, where there are any.

    From logits where these are there; classes decided already follow by the nearest pixel.
    """
    if "semantic_logits" in found:
        return largest_class(found["semantic_logits"], size)
    classes = found.get("semantic")
    if classes is None or classes.shape == size:
        return classes
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
        for new, old in zip(size, classes.shape, strict=True)
    )
    resized: Array = classes[rows[:, None], columns]
    return resized


def largest_class(logits: Array, size: Size) -> npt.NDArray[np.int64]:
    """The class of the largest of ``logits`` ``[C, h, w]`` at every pixel of ``size``, int64 ``[H, W]``.

    One class after the other is interpolated: all of them together would fill the memory for a photograph.
    ``rcnn.ops.semantic.largest_class`` does the same on a network's device.
    """
    best = np.full(size, -np.inf, np.float32)
    found = np.zeros(size, np.int64)
    for label, plane in enumerate(logits):
        resized = interpolate(plane.astype(np.float32, copy=False), size)
        larger = resized > best
        np.copyto(best, resized, where=larger)
        found[larger] = label
    return found
