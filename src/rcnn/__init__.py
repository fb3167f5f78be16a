"""The R-CNN family: objects found, outlined, counted and measured in images.

A tour in the order of the data:

1. ``open_data(path)`` reads annotated images of any known format into a ``Dataset`` of ``Sample``;
   ``check`` lists its problems, ``fix_data`` writes a corrected copy, ``show`` draws it, ``data_stats`` is a
   page about it, ``convert`` writes it in another format, ``split_data`` and ``merge_data`` divide and join
   such sets, and ``get_data`` downloads a published one.
2. ``train(path)`` chooses a recipe for the data, trains a model (``FasterRCNN``, ``MaskRCNN``, …) and reports
   on it; ``report`` rewrites the report, and ``list_models`` names what can be trained and loaded.
3. ``load(path)`` opens a model, as a ``Detector``; ``evaluate(detector, dataset)`` measures it, ``bench``
   measures its speed, ``explain`` shows why it finds or misses an object, and ``explain_data`` counts the
   causes over a data set; ``export`` writes it for ONNX Runtime or OpenVINO, and ``import_weights`` opens
   models of other programs; ``push`` puts it on the Hugging Face Hub.
4. ``detector.predict(images)`` finds the objects of new images, as one ``Instances`` per image; ``predict``
   writes what it finds into a folder, ``measure(image, found)`` measures it, and ``write_annotations`` writes
   objects in the format of another program. ``sample_images("nuclei")`` are photographs to try it on.
5. ``next_images(detector, pool)`` chooses the images that are most worth annotating.

>>> import rcnn
>>> detector = rcnn.load("runs/nuclei")  # doctest: +SKIP
>>> (found,) = detector.predict("image.png", min_score=0.5)  # doctest: +SKIP
>>> found.boxes, found.labels, found.scores, found.masks  # doctest: +SKIP
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcnn.data.archives import get_data
    from rcnn.data.check import check
    from rcnn.data.convert import convert
    from rcnn.data.dataset import Dataset, Sample
    from rcnn.data.fixing import fix_data
    from rcnn.data.formats.open import open_data
    from rcnn.data.merging import merge_data
    from rcnn.data.show import show
    from rcnn.data.splitting import split_data
    from rcnn.evaluation.data_page import data_stats
    from rcnn.evaluation.evaluator import evaluate, evaluate_results
    from rcnn.evaluation.explain.explain import explain
    from rcnn.evaluation.explain.missed import explain_data
    from rcnn.evaluation.proposal_recall import propose
    from rcnn.importers.convert import import_weights
    from rcnn.inference.annotation_folders import write_annotations
    from rcnn.inference.benchmark import bench
    from rcnn.inference.detector import Detector
    from rcnn.inference.exporters import export
    from rcnn.inference.next_images import next_images
    from rcnn.inference.output_files import OutputFiles
    from rcnn.inference.writers import predict_to_files as predict
    from rcnn.loading import load, sample_images
    from rcnn.measuring.measurements import Measurements, measure
    from rcnn.measuring.prediction import Measuring
    from rcnn.models.fast_rcnn import FastRCNN, FastRCNNSettings
    from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
    from rcnn.models.fcn import FCN, FCNSettings
    from rcnn.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNSettings
    from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
    from rcnn.models.panoptic_fpn import PanopticFPN, PanopticFPNSettings
    from rcnn.models.rcnn import RCNN, RCNNSettings
    from rcnn.parts.batch import ImageBatch, Output, Targets
    from rcnn.structures import Instances, Masks, MergeSettings, Panoptic, Skeleton, merge
    from rcnn.training.demo import run as demo
    from rcnn.training.inventory import list_models
    from rcnn.training.push import push
    from rcnn.training.run import rewrite_report as report
    from rcnn.training.run import train
    from rcnn.transform import Transform

# Where the public names are defined: importing rcnn must not cost the seconds that importing torch does.
_MODULES = {
    "rcnn.data.archives": "get_data",
    "rcnn.data.check": "check",
    "rcnn.data.convert": "convert",
    "rcnn.data.dataset": "Dataset Sample",
    "rcnn.data.fixing": "fix_data",
    "rcnn.data.formats.open": "open_data",
    "rcnn.data.merging": "merge_data",
    "rcnn.data.show": "show",
    "rcnn.data.splitting": "split_data",
    "rcnn.evaluation.data_page": "data_stats",
    "rcnn.evaluation.evaluator": "evaluate evaluate_results",
    "rcnn.evaluation.explain.explain": "explain",
    "rcnn.evaluation.explain.missed": "explain_data",
    "rcnn.evaluation.proposal_recall": "propose",
    "rcnn.importers.convert": "import_weights",
    "rcnn.inference.benchmark": "bench",
    "rcnn.inference.detector": "Detector",
    "rcnn.inference.exporters": "export",
    "rcnn.inference.annotation_folders": "write_annotations",
    "rcnn.inference.next_images": "next_images",
    "rcnn.inference.output_files": "OutputFiles",
    "rcnn.inference.writers": "predict_to_files",
    "rcnn.loading": "load sample_images",
    "rcnn.measuring.measurements": "Measurements measure",
    "rcnn.measuring.prediction": "Measuring",
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
    "rcnn.training.demo": "run",
    "rcnn.training.inventory": "list_models",
    "rcnn.training.push": "push",
    "rcnn.training.run": "train rewrite_report",
    "rcnn.transform": "Transform",
}
_RENAMED = {"predict_to_files": "predict", "rewrite_report": "report", "run": "demo"}
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
    "Measurements",
    "Measuring",
    "MergeSettings",
    "Output",
    "OutputFiles",
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
    "data_stats",
    "demo",
    "evaluate",
    "evaluate_results",
    "explain",
    "explain_data",
    "export",
    "fix_data",
    "get_data",
    "import_weights",
    "list_models",
    "load",
    "measure",
    "merge",
    "merge_data",
    "next_images",
    "open_data",
    "predict",
    "propose",
    "push",
    "report",
    "sample_images",
    "show",
    "split_data",
    "train",
    "write_annotations",
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
