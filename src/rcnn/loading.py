"""The one loader: whatever holds a trained model is opened by :func:`load`.

A run folder, a checkpoint, an exported file, the name of a model that comes with the package, or of published
weights. Exported files are opened without torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.catalogue import PUBLISHED
from rcnn.config import build_settings, did_you_mean, override_tables, parse_assignments, require_trust
from rcnn.inference.exported import ExportedDetector, is_exported, open_exported
from rcnn.io.checkpoint_fields import check_model_fields
from rcnn.io.folders import is_there
from rcnn.io.hub import download_model, is_hub_address
from rcnn.io.images import IMAGE_ENDINGS
from rcnn.io.packaged import packaged
from rcnn.io.renamed import current_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rcnn.inference.detector import Detector, Precision

# Where the weights are in a training run's checkpoint, the better ones first; others hold them alone.
WEIGHT_PREFIXES = ("ema.", "network.")
_OWN_METADATA = ("architecture", "model", "class_names", "transform", "min_score")


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    precision: Precision = "auto",
    half: bool | None = None,
    settings: Sequence[str] = (),
    trust: bool | Iterable[str] = (),
) -> Detector | ExportedDetector:
    """Open a trained model.

    Args:
        path: what :func:`load_detector` takes; or, for which torch is not imported, an ``.onnx`` file or the
            folder of an OpenVINO model; or a ``.pt2`` file.
        device: where a network runs; None takes a GPU where there is one. Exported models run on the CPU.
        precision: see :func:`load_detector`; exported models have their own.
        half: the old name of ``precision``.
        settings: changes such as ``model.box.nms_iou=0.4``, see :func:`load_detector`; likewise.
        trust: packages whose code a file may name, or True, see :func:`load_detector`.

    Raises:
        FileNotFoundError: there is no such file, folder or published model.
        ValueError: the file is not a model, is damaged, or does not fit this version of the package.
    """
    if not is_exported(path):
        return load_detector(path, device, precision=precision, half=half, settings=settings, trust=trust)
    if half or precision != "auto":
        raise ValueError(f"{path}: an exported file has its own precision; expected precision auto")
    if settings:
        raise ValueError(f"{path}: an exported file's settings are fixed; export the model with --set")
    if device is not None and str(device) != "cpu":
        raise ValueError(f"{path}: exported models run on the CPU; found device {device}")
    return open_exported(path)


def load_detector(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    precision: Precision = "auto",
    half: bool | None = None,
    settings: Sequence[str] = (),
    trust: bool | Iterable[str] = (),
) -> Detector:
    """Open a trained network.

    Args:
        path: a checkpoint, a run folder (its best checkpoint, else its last), the name of a model that comes
            with the package (``nuclei``), or of published weights such as ``maskrcnn_resnet50_fpn_coco``,
            which are downloaded; or ``hf://user/name``, a model on the Hugging Face Hub.
        device: where it runs; None takes a GPU where there is one.
        precision: ``auto``, ``bf16`` or ``float32``, see :class:`rcnn.inference.detector.Detector`; warns
            where the device is not faster in the one asked for.
        half: the old name: True for ``bf16``, False for ``float32``.
        settings: changes for prediction, such as ``model.box.nms_iou=0.4`` or ``transform.short_side=1000``.
        trust: packages whose code a file may name by dotted path, for a model or backbone of a user's own;
            modules that are imported already need not be named; True: any package.

    Raises:
        FileNotFoundError: there is no such file, folder or published model.
        ValueError: the file is not a checkpoint, or does not fit this version of the package; no such device;
            a setting that is unknown or asks for other weights; code that is not trusted.
    """
    if is_exported(path):
        raise ValueError(
            f"{path}: an exported model, which rcnn.load opens; expected a network, such as the run or "
            "checkpoint that it was made from"
        )
    from rcnn.device import choose_device, fast_bfloat16, keep_freed_memory, survive_fork
    from rcnn.inference.detector import precision_of

    precision = precision if half is None else precision_of(half)
    where = choose_device(device)
    file = _checkpoint_file(path)
    detector = _published(str(path)) if file is None else _read(file, trust)
    detector = _changed(detector, settings) if settings else detector
    keep_freed_memory()
    survive_fork()
    detector.network.to(where).eval()
    if precision == "bf16" and not fast_bfloat16(where):
        warnings.warn(f"bf16 is slower than float32 on this {where}", stacklevel=2)
    return replace(detector, precision=precision)


def shipped() -> dict[str, Path]:
    """The trained models that come with the package: name to file."""
    return {path.stem: path for path in sorted(packaged("trained").glob("*.safetensors"))}


def sample_images(name: str) -> list[Path]:
    """Photographs to try a model on that comes with the package; empty where it has none."""
    images = packaged("trained") / name
    return (
        sorted(path for path in images.glob("*") if path.suffix in IMAGE_ENDINGS) if name in shipped() else []
    )


def _checkpoint_file(path: str | Path) -> Path | None:
    """The file meant; None where the text can only be the name of published weights."""
    if is_hub_address(path):
        return download_model(str(path))
    file = Path(path)
    is_name = isinstance(path, str) and not file.suffix and len(file.parts) == 1
    if file.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (file / name).is_file():
                return file / name
        if is_name and str(path) in shipped():  # a folder of data may have the name of its model
            return shipped()[str(path)]
        raise ValueError(
            f"{file}: no model in this folder; expected best.safetensors or last.safetensors of a run"
        )
    return shipped().get(str(path)) if is_name and not is_there(file) else file


def _published(name: str) -> Detector:
    from rcnn.importers.convert import load_published

    try:
        return load_published(name)
    except KeyError as error:
        hint = did_you_mean(name, {**shipped(), **PUBLISHED})
        raise FileNotFoundError(
            f"{name}: no such file or folder, and no model of this name; {hint}`rcnn models` lists the names"
        ) from error


def _read(file: Path, trust: bool | Iterable[str]) -> Detector:
    """The detector that a checkpoint holds."""
    from rcnn.inference.detector import Detector
    from rcnn.io.checkpoint import read_checkpoint
    from rcnn.models import model_class
    from rcnn.structures import Skeleton
    from rcnn.transform import Transform

    tensors, metadata = read_checkpoint(file)
    missing = [key for key in _OWN_METADATA if key not in metadata]
    if missing:
        raise ValueError(f"{file}: not a detector: its metadata lacks {', '.join(missing)}")
    check_model_fields(metadata, str(file))
    require_trust([metadata["architecture"], metadata["model"]], str(file), trust)
    try:
        model = model_class(metadata["architecture"])
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    class_names = tuple(metadata["class_names"])
    semantic_names = tuple(metadata.get("semantic_names", ()))
    try:
        skeleton = Skeleton.from_json(metadata.get("skeleton"))
        settings = build_settings(model.Settings(), metadata["model"], "model")
        transform = build_settings(Transform(), metadata["transform"], "transform")
        network = model.build(settings, class_names, semantic_names, skeleton)
        network.load_state_dict(_weights(tensors, metadata))
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{file}: made by another version of rcnn? {error}") from error
    own = (*_OWN_METADATA, "skeleton", "semantic_names", "interpolation")
    return Detector(
        network,
        transform,
        class_names,
        float(metadata["min_score"]),
        {key: value for key, value in metadata.items() if key not in own},
        skeleton,
        semantic_names,
    )


def _changed(detector: Detector, assignments: Sequence[str]) -> Detector:
    """The detector with some settings changed that its weights do not depend on."""
    network = detector.network
    tables = override_tables(
        {"model": network.settings, "transform": detector.transform},
        current_settings(parse_assignments(assignments)),
    )
    names = detector.class_names, detector.semantic_names, detector.skeleton
    changed = network.build(tables["model"], *names)
    try:
        changed.load_state_dict(network.state_dict())
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"{', '.join(assignments)}: the weights are for other settings: {first}") from error
    # What was measured of it was measured with its own settings.
    info = {key: value for key, value in detector.info.items() if key != "metrics"}
    return replace(detector, network=changed, transform=tables["transform"], info=info)


def _weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The network's weights among a checkpoint's tensors: those that a run evaluates and keeps."""
    from rcnn.parts.interpolation import interpolate

    for prefix in WEIGHT_PREFIXES:
        found = _under(prefix, tensors)
        if found:
            start = _under("start.", tensors)
            return interpolate(start, found, float(metadata["interpolation"])) if start else found
    return tensors


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
