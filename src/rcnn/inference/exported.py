"""Exported models at work, without torch: ONNX files in ONNX Runtime, folders in OpenVINO.

The graph is ``rcnn.inference.exporters``'s; this module brings images to its input and detections back, as
``rcnn.transform`` and ``rcnn.inference.detector`` do for networks, in NumPy.

Differs from ``Detector.predict``: results hold NumPy arrays (``rcnn.structures.arrays``), large images are
not cut into tiles, and a file looks at a fixed number of candidates, which bounds ``max_detections``.

Legend: B images, H and W height and width, M and S sides of maps, N objects of one image, K keypoints.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from rcnn.io.images import read_pixels, rgb_pixels, to_rgb
from rcnn.io.renamed import current_settings
from rcnn.structures.arrays import Array, Instances, Masks, Size, Skeleton

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector, TensorAdapter

    ImageLike = str | Path | Image.Image | npt.NDArray[Any]
Run = Callable[[dict[str, Array]], dict[str, Array]]

FORMAT = 2
"""The layout of inputs, outputs and metadata; a change that older readers would misread raises it."""
METADATA_FILE = "rcnn.json"
OPENVINO_FILES = ("model.xml", "model.bin")
_HEAD, _SEAL = b"rcnn", b"rcnn_sha256"


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
        """What the labels mean."""
        return tuple(self.info["class_names"])

    @property
    def category_ids(self) -> tuple[int, ...] | None:
        """The category ids of the COCO file trained on, one a label; None where it was none."""
        ids = self.info.get("category_ids")
        return None if ids is None else tuple(ids)

    @property
    def min_score(self) -> float:
        """Detections below it are left out unless asked for."""
        return float(self.info["min_score"])

    @property
    def max_detections(self) -> int:
        """The most objects of an image unless asked for others."""
        return int(self.info["max_detections"])

    @property
    def transform_inside(self) -> bool:
        """Whether the graph takes images as they are."""
        return bool(self.info.get("transform_inside"))

    @property
    def skeleton(self) -> Skeleton | None:
        """What the keypoints are, of a model that finds them."""
        return Skeleton.from_json(self.info.get("skeleton"))

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        batch_size: int = 1,
    ) -> list[Instances]:
        """Find the objects.

        Args:
            images: one or a sequence of: a path; a PIL image; an array ``[H, W]``, ``[H, W, 3]`` or
                ``[H, W, 4]`` (RGB, alpha ignored) of integers, or floats in [0, 1].
            min_score: the lowest score returned; the model's own where None.
            max_detections: the most objects an image; the model's setting where None.
            batch_size: images the model sees at once.

        Returns:
            One an image, in the image's own coordinates, best score first.

        Raises:
            ValueError: an image that cannot be read, an array of another shape or range, a bad setting.
        """
        if min_score is not None and not 0 <= min_score <= 1:
            raise ValueError(f"min_score must lie between 0 and 1, not {min_score}")
        num_candidates = self.info["candidates"]
        if max_detections is not None and not 1 <= max_detections <= num_candidates:
            raise ValueError(
                f"max_detections must be 1 to {num_candidates}, not {max_detections}: an exported file looks "
                "at a fixed number of candidates; export the model anew with a higher rpn.pre_nms"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        given = [images] if isinstance(images, str | Path | Image.Image | np.ndarray) else list(images)
        min_score = self.min_score if min_score is None else min_score
        count = self.info["max_detections"] if max_detections is None else max_detections
        results: list[Instances] = []
        for start in range(0, len(given), batch_size):
            results += self._predict_batch(given[start : start + batch_size], min_score, count)
        return results

    def tensors(self) -> TensorAdapter:
        """The same model for what works on torch's tensors, such as the evaluation."""
        from rcnn.inference.detector import TensorAdapter

        return TensorAdapter(self)

    def inputs(self, images: Sequence[Array], min_score: float, count: int) -> dict[str, Array]:
        """What the graph takes of RGB images ``[H, W, 3]`` (docs/export.md lists it)."""
        settings = current_settings(self.info, warn=False)["transform"]
        rest: dict[str, Array] = {
            "min_score": np.array(min_score, np.float32),
            "max_detections": np.array(count, np.int64),
        }
        if self.transform_inside:
            return {"images": np.stack([_bytes(image).transpose(2, 0, 1) for image in images]), **rest}
        resized = [_resized(image, settings) for image in images]
        sizes = np.array([image.shape[:2] for image in resized], np.float32)
        return {"images": _batch(resized, settings), "sizes": sizes, **rest}

    def _predict_batch(self, images: Sequence[ImageLike], min_score: float, count: int) -> list[Instances]:
        pixels = [_rgb(image) for image in images]
        # A file with the transform inside resizes all images of a batch alike.
        alike = not self.transform_inside or len({image.shape for image in pixels}) == 1
        parts = [pixels] if alike else [[image] for image in pixels]
        found = [one for part in parts for one in self._found(part, min_score, count)]
        return [
            replace(one, path=Path(image)) if isinstance(image, str | Path) else one
            for image, one in zip(images, found, strict=True)
        ]

    def _found(self, pixels: Sequence[Array], min_score: float, count: int) -> list[Instances]:
        """The objects in RGB images ``[H, W, 3]`` that the graph sees at once."""
        inputs = self.inputs(pixels, min_score, count)
        found = self.run(inputs)
        results = []
        for i, image in enumerate(pixels):
            mine = found["image_index"] == i
            own = {name: values[mine] for name, values in found.items()}
            size: Size = image.shape[:2]
            seen = (int(inputs["sizes"][i][0]), int(inputs["sizes"][i][1])) if "sizes" in inputs else size
            results.append(self._instances(own, seen, size))
        return results

    def _instances(self, found: dict[str, Array], seen: Size, size: Size) -> Instances:
        """Detections on the resized image, brought back to the image's own ``size``."""
        ratio = np.array([size[1] / seen[1], size[0] / seen[0]], np.float32)
        keypoints = found.get("keypoints")
        if "keypoint_maps" in found:
            keypoints = _highest_pixels(found["keypoint_maps"], found["boxes"])
        if keypoints is not None:
            keypoints = keypoints * np.array([*ratio, 1], np.float32)
        boxes = found["boxes"] * np.tile(ratio, 2)
        boxes = boxes.clip(0, np.array([size[1], size[0]] * 2, np.float32))
        masks = paste_masks(found["mask_maps"], boxes, size) if "mask_maps" in found else None
        labels, scores = found["labels"].astype(np.int64), found["scores"]
        return Instances(size, boxes, labels, scores, masks, keypoints, self.class_names, self.skeleton)


def is_exported(path: str | Path) -> bool:
    """Whether a model is given by an exported file or folder, as far as names tell."""
    path = Path(path)
    return path.suffix in (".onnx", ".pt2") or (path / METADATA_FILE).is_file() or path.suffix == ".xml"


def load(
    path: str | Path, device: Any = None, *, half: bool = False, settings: Sequence[str] = ()
) -> Detector | ExportedDetector:
    """Open a trained model: what ``rcnn.inference.detector.load`` takes, or an exported file or folder.

    Args:
        path: a checkpoint, a run folder, the name of published weights; or, for which torch is not imported,
            an ``.onnx`` file or the folder of an OpenVINO model.
        device: where a network runs; None takes a GPU where there is one. Exported models run on the CPU.
        half: predict in bfloat16, see :class:`rcnn.inference.detector.Detector`; not for exported models.
        settings: changes such as ``model.box.nms_iou=0.4``, see
            :func:`rcnn.inference.detector.load_detector`; likewise.

    Raises:
        FileNotFoundError: there is no such file, folder or published model.
        ValueError: the file is no model, damaged, or does not fit this version of the package.
    """
    if is_exported(path):
        if half:
            raise ValueError(
                f"{path}: half precision is for networks; an exported file has its own precision"
            )
        if settings:
            raise ValueError(f"{path}: an exported file's settings are fixed; export the model with --set")
        if device is not None and str(device) != "cpu":
            raise ValueError(f"{path}: exported models run on the CPU; found device {device}")
        return open_exported(path)
    from rcnn.inference.detector import load_detector

    return load_detector(path, device, half=half, settings=settings)


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
        return _load_openvino(path if path.is_dir() else path.parent, threads)
    return _load_torch(path) if path.suffix == ".pt2" else _load_onnx(path, threads)


def _load_onnx(path: Path, threads: int | None) -> ExportedDetector:
    content = path.read_bytes()
    info = _checked(_verified_metadata(content, path), path)
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f'{path} needs ONNX Runtime: pip install "rcnn[runtime]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.enable_cpu_mem_arena = False  # it grows by half of itself with the second image
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own errors share no base class
        raise ValueError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} does not take it (opset {info['opset']}): pip "
            f"install --upgrade onnxruntime; it says: {error}"
        ) from error
    names = [output.name for output in session.get_outputs()]
    return ExportedDetector(lambda inputs: dict(zip(names, session.run(names, inputs), strict=True)), info)


def _load_openvino(folder: Path, threads: int | None) -> ExportedDetector:
    file = folder / METADATA_FILE
    if not file.is_file():
        raise ValueError(f"{folder}: no {METADATA_FILE} in this folder; expected one that rcnn export wrote")
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{file}: truncated or damaged; export the model anew") from error
    info = _checked(content, file)
    seal = info.pop(_SEAL.decode(), None)  # the first files had none
    if seal not in (None, _checksum(info)):
        raise ValueError(f"{file}: changed since its export; export the model anew")
    for name in OPENVINO_FILES:
        part = folder / name
        expected = info.get("sha256", {}).get(name)
        if not part.is_file() or hashlib.sha256(part.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{part}: missing, truncated or changed since its export; export the model anew")
    try:
        import openvino
    except ImportError as error:
        raise ValueError(f'{folder} needs OpenVINO: pip install "rcnn[runtime]"') from error
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
            f"{folder}: OpenVINO {openvino.__version__} does not take it: pip install --upgrade openvino; "
            f"it says: {error}"
        ) from error

    own = threading.local()  # a model called by itself has one request, whose results threads would share

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
        return {output.any_name: np.array(values) for output, values in own.request.infer(inputs).items()}

    return ExportedDetector(run, info)


def _has_matrix_units() -> bool:
    """Whether this is a CPU with AMX, and nobody has forbidden that OpenVINO uses it.

    There OpenVINO (2026.4 and before, its issue 37577) ends the process at integer models whose images may
    have any size: they are computed in float32, rounded as integers would be.
    """
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        return False
    try:
        return " amx_int8 " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _load_torch(path: Path) -> ExportedDetector:
    info = _torch_metadata(path)
    try:
        import torch
        import torchvision  # noqa: F401 - brings the operators that the program calls
    except ImportError as error:
        raise ValueError(f"{path} needs torch: pip install torch torchvision; or export to onnx") from error
    try:
        program: Any = torch.export.load(path).module()
    except Exception as error:  # of its schema, of operators, of the archive: they share no base class
        raise ValueError(
            f"{path}: torch {torch.__version__} does not take what {_written_by(info, 'torch')} wrote: "
            f"export the model anew with the torch that is to run it; it says: {error}"
        ) from error

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            found = program(*(torch.from_numpy(values) for values in inputs.values()))
        return {name: values.numpy() for name, values in found.items()}

    return ExportedDetector(run, info)


def _torch_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a ``.pt2`` file, once the archive's checksums are verified."""
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as file:
            damaged = file.testzip()
            name = next((n for n in file.namelist() if n.endswith(METADATA_FILE)), None)
            content = None if name is None else json.loads(file.read(name))
    except (zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, EOFError) as error:  # kinds of damage
        raise ValueError(
            f"{path}: truncated or damaged, or no file of rcnn export; export the model anew"
        ) from error
    if damaged is not None:
        raise ValueError(f"{path}: {damaged} in it is damaged; export the model anew")
    return _checked(content, path)


def metadata_bytes(metadata: Mapping[str, Any]) -> bytes:
    """The description beside an OpenVINO model, with the checksum of what it says."""
    return json.dumps({**metadata, _SEAL.decode(): _checksum(metadata)}, indent=1).encode()


def _checksum(metadata: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(metadata).encode()).hexdigest()


def with_checksum(model: bytes, metadata: Mapping[str, Any]) -> bytes:
    """An ONNX model with metadata before and the checksum of it all behind.

    Messages of ONNX's format may be laid end to end: what is repeated, as metadata entries are, adds up. So
    this is an ONNX file like any other, whose metadata is read and whose checksum is verified without a
    library.
    """
    content = _entry(_HEAD, json.dumps(metadata).encode()) + model
    return content + _entry(_SEAL, hashlib.sha256(content).hexdigest().encode())


def _verified_metadata(content: bytes, path: Path) -> dict[str, Any]:
    """The metadata of an ONNX file that :func:`with_checksum` made, once its checksum is verified."""
    start = content[:32].find(_HEAD + b"\x12")
    if not content.startswith(b"\x72") or start < 0:
        raise ValueError(f"{path}: not written by rcnn export; its metadata is not there")
    length = len(_entry(_SEAL, b"0" * 64))
    body, seal = content[:-length], content[-length:]
    if seal != _entry(_SEAL, hashlib.sha256(body).hexdigest().encode()):
        raise ValueError(f"{path}: truncated, or changed since its export; export the model anew")
    size, at = _read_varint(content, start + len(_HEAD) + 1)
    metadata: dict[str, Any] = json.loads(content[at : at + size])
    return metadata


def _entry(key: bytes, value: bytes) -> bytes:
    """A ModelProto that holds one entry of ``metadata_props`` (field 14: key 1, value 2)."""
    pair = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
    return b"\x72" + _varint(len(pair)) + pair


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = shift = 0
    while content[at] & 128:
        number |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | content[at] << shift, at + 1


def _checked(info: Any, path: Path) -> dict[str, Any]:
    """The metadata, if this version can use it."""
    if not isinstance(info, dict) or "export" not in info:
        raise ValueError(f"{path}: not written by rcnn export")
    if info["export"] > FORMAT:
        raise ValueError(
            f"{path}: written by a newer rcnn ({_written_by(info, 'rcnn')}, layout {info['export']}; this "
            f"one reads {FORMAT}): pip install --upgrade rcnn"
        )
    return info


def _written_by(info: Mapping[str, Any], package: str) -> str:
    """The version of a package that a file was made with, as far as it says so."""
    return str(info.get("versions", {}).get(package, "unknown"))


def _rgb(image: ImageLike) -> Array:
    """uint8 or float32 ``[H, W, 3]`` of anything that counts as an image."""
    if isinstance(image, str | Path):
        return read_pixels(image)
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    if isinstance(image, np.ndarray):
        return rgb_pixels(image)
    raise ValueError(f"expected a path, a PIL image or an array as image; got {type(image).__name__}")


def _bytes(image: Array) -> Array:
    """An RGB image of bytes or floats in [0, 1] as bytes; floats are rounded."""
    return image if image.dtype == np.uint8 else np.rint(image * 255).astype(np.uint8)


def _resized(image: Array, settings: Mapping[str, Any]) -> Array:
    """As ``Transform.resize``: float32 in [0, 1], ``[h, w, 3]``."""
    pixels = image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image
    height, width = image.shape[:2]
    short, longest = settings["short_side"], settings["max_long_side"]
    factor = settings["scale"] if short is None else short / min(height, width)
    factor = factor if longest is None else min(factor, longest / max(height, width))
    size = [max(1, int(side * factor + settings["margin"])) for side in (height, width)]
    if size == [height, width]:
        return pixels
    shrinks = settings["antialias"] and size[0] < height
    across = _resample(pixels.transpose(1, 0, 2), size[1], shrinks).transpose(1, 0, 2)
    return _resample(across, size[0], shrinks)


def _resample(lines: Array, count: int, antialias: bool) -> Array:
    """``[L, …]`` to ``[count, …]`` by bilinear interpolation between the lines' centres."""
    step = len(lines) / count
    reach = max(step, 1.0) if antialias else 1.0
    centres = (np.arange(count) + 0.5) * step
    first = np.floor(centres - reach + 0.5).astype(np.int64)
    index = first[:, None] + np.arange(math.ceil(2 * reach) + 1)
    weights = (1 - np.abs(index + 0.5 - centres[:, None]) / reach).clip(0)
    weights[(index < 0) | (index >= len(lines))] = 0
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    index = index.clip(0, len(lines) - 1)
    shape = (-1, *[1] * (lines.ndim - 1))
    result = np.zeros((count, *lines.shape[1:]), np.float32)
    for tap in range(index.shape[1]):
        result += weights[:, tap].reshape(shape) * lines[index[:, tap]]
    return result


def _batch(images: Sequence[Array], settings: Mapping[str, Any]) -> Array:
    """As ``Transform.batch``: normalised and padded, float32 ``[B, 3, H, W]``."""
    size_divisor = settings["size_divisor"]
    height, width = (-(-max(i.shape[axis] for i in images) // size_divisor) * size_divisor for axis in (0, 1))
    batch = np.zeros((len(images), 3, height, width), np.float32)
    mean, std = (np.array(settings[name], np.float32) for name in ("mean", "std"))
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[0], : image.shape[1]] = ((image - mean) / std).transpose(2, 0, 1)
    return batch


def paste_masks(maps: Array, boxes: Array, size: Size, threshold: float = 0.5) -> Masks:
    """As ``rcnn.ops.masks.paste_masks``: maps of probabilities ``[N, M, M]`` in their boxes, cut."""
    limit = np.array([size[1], size[0]], np.float32)
    low = np.floor(boxes[:, :2]).clip(0)
    high = np.maximum(np.minimum(np.ceil(boxes[:, 2:]), limit), low)
    windows = np.concatenate([low, high], 1).astype(np.int64)
    patches = []
    for values, (x1, y1, x2, y2), window in zip(maps, boxes, windows.tolist(), strict=True):
        columns = _between(values.T, np.arange(window[0], window[2], dtype=np.float32) + 0.5, x1, x2)
        patch = _between(columns.T, np.arange(window[1], window[3], dtype=np.float32) + 0.5, y1, y2)
        patches.append(patch >= threshold)
    return Masks.from_patches(patches, windows, size)


def _between(lines: Array, places: Array, low: np.float32, high: np.float32) -> Array:
    """Lines ``[M, …]`` that fill low to high, looked up at ``places``, linearly, with zeros around them."""
    side, none = len(lines), np.zeros_like(lines[:1])
    framed = np.concatenate([none, lines, none])
    at = ((places - low) / max(high - low, np.float32(1e-6)) * side + 0.5).clip(0, side + 1)
    first = np.minimum(at.astype(np.int64), side)
    rest = (at - first)[:, None]
    found: Array = framed[first] * (1 - rest) + framed[first + 1] * rest
    return found


def _highest_pixels(maps: Array, boxes: Array) -> Array:
    """As ``rcnn.ops.keypoints.find_keypoints`` without refinement: ``[N, K, 3]`` of ``[N, K, S, S]``."""
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


def _cubic(count: int, side: int) -> Array:
    """The matrix ``[count, side]`` of bicubic interpolation as torch has it (A = -0.75)."""
    at = (np.arange(count) + 0.5) * (side / count) - 0.5
    first = np.floor(at).astype(np.int64) - 1
    matrix = np.zeros((count, side), np.float32)
    for tap in range(4):
        d = np.abs(at - (first + tap))
        near, far = (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3
        np.add.at(matrix, (np.arange(count), (first + tap).clip(0, side - 1)), np.where(d <= 1, near, far))
    return matrix
