"""A model as an auto-annotation function of CVAT, for its command line, its SDK and its agents.

    cvat-cli task auto-annotate 137 --function-module rcnn.inference.cvat -p model=str:runs/cells

``create`` is the name that CVAT looks for. What it returns follows the protocol
``cvat_sdk.auto_annotation.DetectionFunction``: ``spec`` names the labels, which CVAT matches with those of
the task by name, and ``detect`` finds the objects of one image. Masks are returned bit for bit; as polygons,
where the task asks for them, each part of an object is one, in a group of their own, along the borders of its
pixels. Objects with keypoints are skeletons, of which points with a logit of 0 or below are occluded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rcnn.extras import install_command
from rcnn.structures import Instances
from rcnn.structures.outlines import complete_polygons

if TYPE_CHECKING:
    from PIL import Image

    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector


def create(model: str, *, device: str | None = None, boxes: bool = False) -> DetectionFunction:
    """The function that CVAT calls, of a trained model.

    Args:
        model: whatever :func:`rcnn.load` opens.
        device: where it runs; None takes a GPU if there is one.
        boxes: return boxes, for tasks whose labels are rectangles.

    Raises:
        ValueError: a model that finds no objects, or the extra ``cvat`` is not installed.
    """
    from importlib import import_module

    # By name: loading stands above inference, and a file of CVAT's imports this module alone.
    return DetectionFunction(import_module("rcnn").load(model, device), boxes=boxes)


class DetectionFunction:
    """A detector as CVAT's protocol ``DetectionFunction``."""

    def __init__(self, detector: Detector | ExportedDetector, *, boxes: bool = False) -> None:
        if not detector.class_names:
            raise ValueError("CVAT: this model classifies pixels only; expected one that finds objects")
        try:
            import cvat_sdk.auto_annotation as sdk
        except ImportError as error:
            raise ValueError(f"CVAT's SDK is not installed: {install_command('cvat')}") from error
        self._sdk: Any = sdk
        self._detector, self._boxes = detector, boxes

    @property
    def spec(self) -> Any:
        """The labels, ``cvat_sdk.auto_annotation.DetectionFunctionSpec``; their ids are the classes'."""
        skeleton = None if self._boxes else self._detector.skeleton
        labels = []
        for number, name in enumerate(self._detector.class_names):
            if skeleton is None:
                labels.append(self._sdk.label_spec(name, number))
            else:
                points = [self._sdk.keypoint_spec(point, i) for i, point in enumerate(skeleton.names)]
                labels.append(self._sdk.skeleton_label_spec(name, number, points))
        return self._sdk.DetectionFunctionSpec(labels=labels)

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """The objects of an image as CVAT's shapes, best score first.

        Args:
            context: what CVAT asks for, ``cvat_sdk.auto_annotation.DetectionFunctionContext``: a confidence
                threshold (None: the model's) and whether masks are to be polygons.
            image: the image.
        """
        (found,) = self._detector.predict(image, min_score=context.conf_threshold)
        assert isinstance(found, Instances)
        shapes: list[Any] = []
        for index in range(len(found)):
            shapes += self._shapes(found, index, polygons=context.conv_mask_to_poly)
        return shapes

    def _shapes(self, found: Instances, index: int, *, polygons: bool) -> Iterator[Any]:
        """The shapes of one object."""
        label = int(found.labels[index])
        score = {} if found.scores is None else {"score": float(found.scores[index])}
        if found.keypoints is not None and not self._boxes:
            points = [
                self._sdk.keypoint(number, [x, y], occluded=logit <= 0)
                for number, (x, y, logit) in enumerate(found.keypoints[index].tolist())
            ]
            yield self._sdk.skeleton(label, points, **score)
        elif found.masks is None or self._boxes:
            yield self._sdk.rectangle(label, found.boxes[index].tolist(), **score)
        elif polygons:
            x, y = found.masks.windows[index, :2].tolist()
            patch = next(found.masks[[index]].patches()) != 0
            parts = complete_polygons(patch, (y, x))
            group = {"group": index + 1} if len(parts) > 1 else {}
            for part in parts:
                yield self._sdk.polygon(label, part.reshape(-1).tolist(), **group, **score)
        else:
            from cvat_sdk.masks import encode_mask

            mask = found.masks[index]
            if mask.any():
                yield self._sdk.mask(label, encode_mask(mask), **score)
