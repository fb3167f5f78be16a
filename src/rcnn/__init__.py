"""The R-CNN family: objects found, outlined, counted and measured in images.

A tour in the order of the data:

1. ``open_data(path)`` reads annotated images of any known format into a ``Dataset`` of ``Sample``;
   ``check`` lists its problems, ``show`` draws it, ``convert`` writes it in another format.
2. ``train(path)`` chooses a recipe from them, trains a model (``FasterRCNN``, ``MaskRCNN``, …) and reports on
   it; ``report`` rewrites the report.
3. ``load(path)`` opens a model, as a ``Detector``; ``evaluate(detector, dataset)`` measures it, ``bench``
   measures its speed, ``export`` writes it for ONNX Runtime or OpenVINO.
4. ``detector.predict(images)`` finds the objects of new images, as one ``Instances`` for each.

>>> import rcnn
>>> detector = rcnn.load("runs/nuclei")  # doctest: +SKIP
>>> (found,) = detector.predict("image.png", min_score=0.5)  # doctest: +SKIP
>>> found.boxes, found.labels, found.scores, found.masks  # doctest: +SKIP
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcnn.data.check import check
    from rcnn.data.convert import convert
    from rcnn.data.dataset import Dataset, Sample
    from rcnn.data.formats.open import open_data
    from rcnn.data.show import show
    from rcnn.evaluation.evaluator import evaluate
    from rcnn.evaluation.proposal_recall import propose
    from rcnn.inference.benchmark import bench
    from rcnn.inference.detector import Detector
    from rcnn.inference.exporters import export
    from rcnn.loading import load
    from rcnn.models.fast_rcnn import FastRCNN, FastRCNNSettings
    from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
    from rcnn.models.fcn import FCN, FCNSettings
    from rcnn.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNSettings
    from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
    from rcnn.models.panoptic_fpn import PanopticFPN, PanopticFPNSettings
    from rcnn.models.rcnn import RCNN, RCNNSettings
    from rcnn.parts.batch import ImageBatch, Output, Targets
    from rcnn.structures import Instances, Masks, MergeSettings, Panoptic, Skeleton, merge
    from rcnn.training.run import rewrite_report as report
    from rcnn.training.run import train
    from rcnn.transform import Transform

# Where the public names are defined: importing rcnn must not cost the seconds that importing torch does.
_MODULES = {
    "rcnn.data.check": "check",
    "rcnn.data.convert": "convert",
    "rcnn.data.dataset": "Dataset Sample",
    "rcnn.data.formats.open": "open_data",
    "rcnn.data.show": "show",
    "rcnn.evaluation.evaluator": "evaluate",
    "rcnn.evaluation.proposal_recall": "propose",
    "rcnn.inference.benchmark": "bench",
    "rcnn.inference.detector": "Detector",
    "rcnn.inference.exporters": "export",
    "rcnn.loading": "load",
    "rcnn.models.fast_rcnn": "FastRCNN FastRCNNSettings",
    "rcnn.models.faster_rcnn": "FasterRCNN FasterRCNNSettings",
    "rcnn.models.fcn": "FCN FCNSettings",
    "rcnn.models.keypoint_rcnn": "KeypointRCNN KeypointRCNNSettings",
    "rcnn.models.mask_rcnn": "MaskRCNN MaskRCNNSettings",
    "rcnn.models.panoptic_fpn": "PanopticFPN PanopticFPNSettings",
    "rcnn.models.rcnn": "RCNN RCNNSettings",
    "rcnn.parts.batch": "ImageBatch Output Targets",
    "rcnn.structures.instances": "Instances",
    "rcnn.structures.masks": "Masks",
    "rcnn.structures.panoptic": "MergeSettings Panoptic merge",
    "rcnn.structures.skeleton": "Skeleton",
    "rcnn.training.run": "train rewrite_report",
    "rcnn.transform": "Transform",
}
_RENAMED = {"rewrite_report": "report"}
_HOMES = {
    _RENAMED.get(name, name): (module, name) for module, names in _MODULES.items() for name in names.split()
}

__all__ = [
    "FCN",
    "RCNN",
    "Dataset",
    "Detector",
    "FCNSettings",
    "FastRCNN",
    "FastRCNNSettings",
    "FasterRCNN",
    "FasterRCNNSettings",
    "ImageBatch",
    "Instances",
    "KeypointRCNN",
    "KeypointRCNNSettings",
    "MaskRCNN",
    "MaskRCNNSettings",
    "Masks",
    "MergeSettings",
    "Output",
    "Panoptic",
    "PanopticFPN",
    "PanopticFPNSettings",
    "RCNNSettings",
    "Sample",
    "Skeleton",
    "Targets",
    "Transform",
    "bench",
    "check",
    "convert",
    "evaluate",
    "export",
    "load",
    "merge",
    "open_data",
    "propose",
    "report",
    "show",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("rcnn")
    if name not in _HOMES:
        raise AttributeError(f"module 'rcnn' has no attribute {name!r}")
    module, original = _HOMES[name]
    return getattr(import_module(module), original)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
