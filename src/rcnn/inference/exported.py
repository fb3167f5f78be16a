"""Exported models at work, without torch: ONNX files in ONNX Runtime, folders in OpenVINO.

The graph is ``rcnn.inference.exporters``'s; ``rcnn.inference.predictor`` brings images to it and results back
to them, as it does for networks.

Differs from :class:`rcnn.Detector`: a file considers a fixed number of candidates, which bounds
``max_detections``, and one that resizes images itself sees large ones in tiles only where its scale is fixed.

Legend: B images, C channels, H and W height and width.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from rcnn.config import build_settings
from rcnn.extras import install_command
from rcnn.inference import predictor, tiles
from rcnn.inference.exported_metadata import (
    METADATA_FILE,
    folder_metadata,
    onnx_metadata,
    torch_metadata,
    written_by,
)
from rcnn.inference.graph_files import inspect_onnx, inspect_openvino
from rcnn.inference.postprocess import Found, split_images
from rcnn.inference.predictor import Prepared, Request
from rcnn.inference.tiles import Tile, make_tiles, needs_tiling
from rcnn.inference.torch_archive import ArchiveError, safe_copy
from rcnn.io.checkpoint_fields import check_model_fields
from rcnn.io.reading import Reading
from rcnn.io.renamed import stored_settings
from rcnn.io.telemetry import without_telemetry
from rcnn.kernels.library import cpu_flags
from rcnn.structures import Array, Instances, MergeSettings, Size, Skeleton
from rcnn.transform import Transform

if TYPE_CHECKING:
    from rcnn.inference.predictor import ImageLike, OnError

# What is read of a file's metadata, besides what checkpoints have.
FIELDS: dict[str, Any] = {
    "max_detections": int | None, "candidates": int | None, "precision": str, "transform_inside": bool,
}  # fmt: skip
Run = Callable[[dict[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class ExportedDetector:
    """An exported model with all that it takes to use it on images.

    Attributes:
        run: the graph, from input arrays to output arrays, both by name.
        info: the file's metadata.
    """

    run: Run
    info: Mapping[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels index."""
        return tuple(self.info["class_names"])

    @property
    def semantic_names(self) -> tuple[str, ...]:
        """What the classes of pixels are, of a model that finds them."""
        return tuple(self.info.get("semantic_names", ()))

    @property
    def skeleton(self) -> Skeleton | None:
        """What the keypoints are, of a model that finds them."""
        return Skeleton.from_json(self.info.get("skeleton"))

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The category id of each label in COCO results: of the data it was trained on, else label + 1."""
        ids = self.info.get("category_ids")
        return tuple(range(1, len(self.class_names) + 1)) if ids is None else tuple(map(int, ids))

    @property
    def merge(self) -> MergeSettings | None:
        """How its objects and classes of pixels become one partition; None where it does not find both."""
        settings = self._settings["model"].get("merge")
        return None if settings is None else build_settings(MergeSettings(), settings, "merge")

    @cached_property
    def transform(self) -> Transform:
        """From images to what the graph sees."""
        return Transform.from_json(self._settings["transform"])

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """The metadata with today's names of settings."""
        return stored_settings(self.info)

    @property
    def transform_inside(self) -> bool:
        """Whether the graph takes images as they are."""
        return bool(self.info.get("transform_inside"))

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return self.transform.channels

    @property
    def reading(self) -> Reading:
        """How files are read."""
        return self.transform.read

    def with_reading(self, reading: Reading) -> ExportedDetector:
        """The detector that reads files in this way, which is no matter of the graph."""
        transform = {**self._settings["transform"], "read": asdict(reading)}
        return replace(self, info={**self.info, "transform": transform})

    @property
    def min_score(self) -> float:
        """Detections below it are left out unless asked for."""
        return float(self.info["min_score"])

    @property
    def max_detections(self) -> int | None:
        """The most objects of an image that is seen at once, unless others are asked for."""
        return self.info.get("max_detections")

    @property
    def candidates(self) -> int | None:
        """The most objects of an image that can be asked for."""
        return self.info.get("candidates")

    @property
    def nms_iou(self) -> float:
        """The highest IoU of two objects of one class; above it, the one with the lower score is dropped."""
        highest = float(self._settings["model"].get("box", {}).get("nms_iou", 0.5))
        if not 0 <= highest <= 1:
            raise ValueError(f"model.box.nms_iou {highest}: expected a number from 0 to 1")
        return highest

    @property
    def used_precision(self) -> str:
        """What it computes in: ``float32`` or ``int8``."""
        return str(self.info.get("precision", "float32"))

    def for_measuring(self) -> ExportedDetector:
        """The model whose results are measured: this one, as a file has its own precision."""
        return self

    @overload
    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
        proposals: Sequence[Array] | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[Instances]: ...

    @overload
    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
        proposals: Sequence[Array] | None = None,
        on_error: Literal["skip"],
    ) -> list[Instances | None]: ...

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
        proposals: Sequence[Array] | None = None,
        on_error: OnError = "raise",
    ) -> list[Instances] | list[Instances | None]:
        """Find the objects; see :meth:`rcnn.Detector.predict`.

        Raises:
            ValueError: as there; more ``max_detections`` than the file has candidates.
        """
        return predictor.predict(
            self, images, min_score=min_score, max_detections=max_detections, batch_size=batch_size,
            proposals=proposals, on_error=on_error,
        )  # fmt: skip

    @property
    def batch_size(self) -> int:
        """The number of images that the file sees at once unless another is asked for."""
        return 1

    def cap(self, size: Size) -> int | None:
        """The most objects of an image of ``size`` (height, width): of one seen in tiles, those of each."""
        return predictor.cap(self, size)

    def batch_key(self, size: Size) -> tuple[int, ...]:
        """The same for images that can share a batch: their padded size or, if it must agree, their own."""
        return size if self.transform_inside else self.transform.padded(self.transform.resized(size))

    def tiles_of(self, size: Size) -> list[Tile]:
        """The tiles of an image of ``size``, in pixels of what is seen; none where it is seen whole."""
        resized = self.transform.resized(size)
        if not needs_tiling(resized):
            return []
        if not self.transform_inside:
            return make_tiles(resized)
        if self.transform.short_side is not None or self.transform.max_long_side is not None:
            return []  # the graph would resize each tile as if it were an image
        scale = self.transform.scale
        return make_tiles(size, round(tiles.SIDE / scale), round(tiles.OVERLAP / scale))

    def prepare(self, image: Array, proposals: Array | None = None) -> Prepared:
        """An image ``[H, W, C]`` as the graph takes it; ``proposals`` are ignored."""
        size: Size = image.shape[:2]
        if self.transform_inside:
            rounded = image if image.dtype == np.uint8 else np.rint(image * 255).astype(np.uint8)
            return Prepared(rounded, size, size)
        return Prepared(self.transform.resize_array(image), size, self.transform.resized(size))

    def cut(self, image: Prepared, tile: Tile) -> Prepared:
        """A tile of a prepared image, as an image of its own."""
        return Prepared(image.pixels[tile.rows, tile.columns], tile.size, tile.size)

    def find(self, images: Sequence[Prepared], request: Request) -> list[Found]:
        """What is found in images that can share a batch, in coordinates of what is seen."""
        return split_images(self.run(self.inputs(images, request)), [image.seen_size for image in images])

    def inputs(self, images: Sequence[Prepared], request: Request) -> dict[str, Array]:
        """What the graph takes (docs/export.md lists it) of images that :meth:`prepare` made."""
        count = self.max_detections if request.max_detections is None else request.max_detections
        limits: dict[str, Array] = {
            "min_score": np.array(request.min_score, np.float32),
            "max_detections": np.array(count or 0, np.int64),
        }
        pixels = [image.pixels for image in images]
        if self.transform_inside:
            return {"images": np.stack([array.transpose(2, 0, 1) for array in pixels]), **limits}
        sizes = np.array([image.seen_size for image in images], np.float32)
        return {"images": self.transform.batch_arrays(pixels), "sizes": sizes, **limits}


def is_exported(path: str | Path) -> bool:
    """Whether a model is given by an exported file or folder, as far as its name shows."""
    path = Path(path)
    return path.suffix in (".onnx", ".pt2") or (path / METADATA_FILE).is_file() or path.suffix == ".xml"


def open_exported(path: str | Path, *, threads: int | None = None) -> ExportedDetector:
    """Open an exported model.

    Args:
        path: an ``.onnx`` file, the folder of an OpenVINO model, or a ``.pt2`` file (which needs torch).
        threads: processor threads used; None leaves it to the runtime, as a ``.pt2`` file always does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not written by ``rcnn export``, truncated, changed since, or by a newer version; or the
            runtime is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir() or path.suffix == ".xml":
        detector = _load_openvino(path if path.is_dir() else path.parent, threads)
    else:
        detector = _load_torch(path) if path.suffix == ".pt2" else _load_onnx(path, threads)
    check_model_fields(detector.info, str(path), FIELDS)
    try:
        _ = detector.transform, detector.skeleton, detector.merge, detector.nms_iou
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path}: its settings are damaged ({error}); export the model again") from error
    return detector


def _load_onnx(path: Path, threads: int | None) -> ExportedDetector:
    content = path.read_bytes()
    info = onnx_metadata(content, path)
    inspect_onnx(content, path)
    try:
        with without_telemetry("onnxruntime"):
            import onnxruntime
    except ImportError as error:
        raise ValueError(f"{path} needs ONNX Runtime: {install_command('runtime')}") from error
    onnxruntime.disable_telemetry_events()  # of one that was imported before
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.enable_cpu_mem_arena = False  # it grows by half with the second image
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own errors share no base class
        raise ValueError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot open it (opset {info['opset']}): pip "
            f"install --upgrade onnxruntime; it says: {error}"
        ) from error
    names = [output.name for output in session.get_outputs()]
    return ExportedDetector(lambda inputs: dict(zip(names, session.run(names, inputs), strict=True)), info)


def _load_openvino(folder: Path, threads: int | None) -> ExportedDetector:
    info = folder_metadata(folder)
    inspect_openvino(folder / "model.xml")
    try:
        with without_telemetry("openvino"):
            import openvino
    except ImportError as error:
        raise ValueError(f"{folder} needs OpenVINO: {install_command('runtime')}") from error
    # Its default on some processors is bfloat16.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if info.get("precision") == "int8" and _has_matrix_units():
        settings["LP_TRANSFORMS_MODE"] = False
    try:
        model = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", settings)
    except Exception as error:  # the runtime's own errors share no base class
        raise ValueError(
            f"{folder}: OpenVINO {openvino.__version__} cannot open it: pip install --upgrade openvino; "
            f"it says: {error}"
        ) from error

    own = threading.local()  # a model called by itself has one request, whose results threads would share

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
        return {output.any_name: np.array(values) for output, values in own.request.infer(inputs).items()}

    return ExportedDetector(run, info)


def _has_matrix_units() -> bool:
    """Whether this is a CPU with AMX, which OpenVINO may use.

    There OpenVINO (up to 2026.4, its issue 37577) crashes on integer models whose images may have any size:
    they are computed in float32, rounded as integers would be.
    """
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        return False
    return "amx_int8" in cpu_flags()


def _load_torch(path: Path) -> ExportedDetector:
    content = path.read_bytes()
    info = torch_metadata(content, path)
    try:
        import torch
        import torchvision  # noqa: F401 - brings the operators that the program calls
    except ImportError as error:
        raise ValueError(f"{path} needs torch: pip install torch torchvision; or export to onnx") from error
    from rcnn.device import survive_fork  # imports torch

    survive_fork()
    try:
        with warnings.catch_warnings():  # of torch 2.9, about how it reads its own archive
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            program: Any = torch.export.load(safe_copy(content)).module()
    except ArchiveError as error:
        raise ValueError(
            f"{path}: {error}; it is not opened. Export the model again with rcnn export."
        ) from error
    except Exception as error:  # of its schema, of operators, of the archive: they share no base class
        raise ValueError(
            f"{path}: torch {torch.__version__} cannot open what {written_by(info, 'torch')} wrote: "
            f"export the model again with the torch that is to run it; it says: {error}"
        ) from error

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            found = program(*(torch.from_numpy(values) for values in inputs.values()))
        return {name: values.numpy() for name, values in found.items()}

    return ExportedDetector(run, info)
