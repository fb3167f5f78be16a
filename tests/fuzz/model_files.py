"""Recipes, run folders, checkpoints and exported files, as rcnn 0.1.0 left them and as they are now."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fuzz.mutations import archive_of
from rcnn.inference.exported import ExportedDetector, open_exported
from rcnn.inference.exported_metadata import OPENVINO_FILES, metadata_bytes, onnx_metadata, with_checksum
from rcnn.io.checkpoint import read_checkpoint, write_checkpoint

ONNX, OPENVINO, TORCH = "exported/mask_rcnn.onnx", "exported/keypoint_rcnn", "exported/faster_rcnn.pt2"
PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
LARGEST = 3_000_000  # bytes of a file of the archive that doors look at
ARCHIVE = Path(__file__).parent.parent / "compat" / "files_0_1_0.tar.xz"


@cache
def _members() -> dict[str, bytes]:
    """The small files of the archive; weights are not looked at by these doors."""
    with tarfile.open(ARCHIVE) as file:
        return {
            entry.name: opened.read()
            for entry in file
            if entry.isfile() and entry.size < LARGEST and (opened := file.extractfile(entry)) is not None
        }


def _extract(folder: Path, below: str) -> Path:
    """The files of the archive below a path, into the folder."""
    for name, content in _members().items():
        if name == below or name.startswith(f"{below}/"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.replace(b"@HERE@", str(folder).encode()) if _is_text(name) else content)
    return folder / below


def _is_text(name: str) -> bool:
    return name.endswith((".json", ".toml", ".jsonl", ".txt"))


def _recipe(folder: Path) -> Path:
    from rcnn.training.recipe import default_recipe, dump_recipe

    path = folder / "recipe.toml"
    path.write_text(dump_recipe(default_recipe("mask_rcnn")), encoding="utf-8")
    return path


def _open_recipe(path: Path) -> int:
    """A recipe that is read is written and read back equal."""
    from rcnn.training.recipe import dump_recipe, load_recipe

    recipe = load_recipe(path)
    again = path.with_name("again.toml")
    again.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(again) == recipe
    again.unlink()
    return 1


def _run(folder: Path) -> Path:
    run = _extract(folder, "runs/mask_rcnn")
    _extract(folder, "data/objects")
    return run


def _open_run(path: Path) -> int:
    """What resuming and the report read of a run, weights apart."""
    from rcnn.training.run import _open_run, _reasons
    from rcnn.training.run_folder import read_history, truncate_history
    from rcnn.training.split import Sources, check_same_part

    _, split, info = _open_run(path, Sources(), Console(file=io.StringIO()))
    check_same_part(path, "training", part=split.train, info=info, advice="…")
    assert all(str(reason) for reason in _reasons(info))
    rows = read_history(path)
    assert all(isinstance(row, dict) for row in rows)
    kept = (path / "metrics.jsonl").read_bytes()
    truncate_history(path, 5)
    (path / "metrics.jsonl").write_bytes(kept)
    return len(rows)


def _checkpoint(folder: Path, name: str) -> Path:
    return _extract(folder, f"models/{name}.safetensors")


def _written_now(folder: Path) -> Path:
    """A checkpoint of 0.1.0, written again by this version."""
    from rcnn.loading import load_detector

    old = _checkpoint(folder, "keypoint_rcnn_masks")
    path = load_detector(old, "cpu").save(folder / "now.safetensors")
    shutil.rmtree(folder / "models")
    return Path(path)


def _open_checkpoint(path: Path) -> int:
    """What is loaded has names of classes and a score, and keeps its metadata when it is written."""
    from rcnn.loading import load

    detector: Any = load(path, "cpu")
    return _require_right(detector) + sum(t.numel() for t in detector.network.state_dict().values())


def _header(folder: Path) -> Path:
    import torch

    metadata = {"architecture": "x", "list": [1, None, {"a": "b"}], "min_score": 0.5}
    return write_checkpoint(folder / "a.safetensors", {"w": torch.ones(3)}, metadata)


def _open_header(path: Path) -> int:
    tensors, metadata = read_checkpoint(path)
    assert isinstance(metadata, dict)
    return len(tensors)


def _require_right(detector: Any) -> int:
    """Everything that a detector says of itself, of the types that it promises."""
    assert all(isinstance(name, str) for name in (*detector.class_names, *detector.semantic_names))
    assert all(isinstance(one, int) for one in detector.category_ids)
    assert len(detector.category_ids) == len(detector.class_names)
    assert 0 <= detector.min_score <= 1
    assert detector.channels > 0
    assert detector.skeleton is None or detector.skeleton.names
    assert detector.reading is not None
    if isinstance(detector, ExportedDetector):
        assert detector.max_detections is None or detector.max_detections > 0
        assert detector.candidates is None or detector.candidates > 0
        assert 0 <= detector.nms_iou <= 1
        assert isinstance(detector.merge, object)
        assert np.isfinite(detector.transform.mean).all()
    return len(detector.class_names)


def _metadata(folder: Path, *, of: str) -> Path:
    """The metadata of an exported file alone, as JSON; it is put into the file when that is opened."""
    if of.endswith(".onnx"):
        info = onnx_metadata(_members()[of], Path(of))
    else:
        info = json.loads(_members()[f"{of}/rcnn.json"])
    path = folder / "rcnn.json"
    path.write_text(json.dumps(info))
    return path


def _open_sealed(path: Path, write: Callable[[Path, Any], Path]) -> int:
    """Metadata of any kind in an exported file whose checksum is right."""
    try:
        info = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return 0
    return _open_metadata(write(path.parent, info))


def _seal_onnx(folder: Path, info: Any) -> Path:
    (folder / "a.onnx").write_bytes(with_checksum(_members()[ONNX], info))
    return folder / "a.onnx"


def _seal_openvino(folder: Path, info: Any) -> Path:
    out = _extract(folder, OPENVINO)
    if isinstance(info, dict):
        info.pop("rcnn_sha256", None)
        info = {**info, "sha256": json.loads(_members()[f"{OPENVINO}/rcnn.json"])["sha256"]}
        (out / "rcnn.json").write_bytes(metadata_bytes(info))
    else:
        (out / "rcnn.json").write_text(json.dumps(info))
    return out


def _seal_torch(folder: Path, info: Any) -> Path:
    with zipfile.ZipFile(io.BytesIO(_members()[TORCH])) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    name = next(name for name in parts if name.endswith("rcnn.json"))
    (folder / "a.pt2").write_bytes(archive_of({**parts, name: json.dumps(info).encode()}))
    return folder / "a.pt2"


def _open_metadata(path: Path) -> int:
    return _require_right(open_exported(path))


def _graph(folder: Path) -> Path:
    path = folder / "graph.onnx"
    path.write_bytes(_members()[ONNX])
    return path


def _use_onnx(path: Path) -> int:
    """A damaged graph whose checksum is right."""
    content = _members()[ONNX]
    sealed = path.with_name("sealed.onnx")
    sealed.write_bytes(with_checksum(path.read_bytes(), onnx_metadata(content, path)))
    return _use(sealed)


def _use_openvino(path: Path) -> int:
    """A damaged graph, or damaged weights, whose checksums are right."""
    info = json.loads((path / "rcnn.json").read_bytes())
    info.pop("rcnn_sha256", None)
    info["sha256"] = {name: sha256((path / name).read_bytes()).hexdigest() for name in OPENVINO_FILES}
    (path / "rcnn.json").write_bytes(metadata_bytes(info))
    return _use(path)


def _use(path: Path) -> int:
    """What opens can be used: what is found has the types and shapes that are promised."""
    detector = open_exported(path, threads=1)
    (found,) = detector.predict(PICTURE, min_score=0.0)
    assert found.boxes.shape == (len(found), 4)
    assert found.scores is not None
    return _require_right(detector)


CHECKPOINTS = ("faster_rcnn_unshared", "panoptic_fpn", "keypoint_rcnn_masks")
DOORS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], int], tuple[str, ...]]] = {
    "recipe": (_recipe, _open_recipe, ("*.toml",)),
    "run": (_run, _open_run, ("**/run.json", "**/run.json", "**/recipe.toml", "**/metrics.jsonl")),
    "checkpoint header": (_header, _open_header, ("**/*",)),
    "checkpoint of now": (_written_now, _open_checkpoint, ("**/*",)),
    **{
        f"checkpoint {name}": (partial(_checkpoint, name=name), _open_checkpoint, ("**/*",))
        for name in CHECKPOINTS
    },
    "exported onnx": (partial(_extract, below=ONNX), _open_metadata, ("**/*.onnx",)),
    "exported openvino": (partial(_extract, below=OPENVINO), _open_metadata, ("**/*",)),
    "exported torch": (partial(_extract, below=TORCH), _use, ("**/*.pt2",)),
    **{
        f"exported {name} metadata": (
            partial(_metadata, of=of),
            partial(_open_sealed, write=seal),
            ("rcnn.json",),
        )
        for name, of, seal in (
            ("onnx", ONNX, _seal_onnx),
            ("openvino", OPENVINO, _seal_openvino),
            ("torch", ONNX, _seal_torch),
        )
    },
    "exported onnx graph": (_graph, _use_onnx, ("*.onnx",)),
    "exported openvino graph": (
        partial(_extract, below=OPENVINO),
        _use_openvino,
        ("**/model.xml", "**/model.bin"),
    ),
}
GATE = {
    "exported openvino metadata": 30,
    "exported openvino graph": 30,
    "exported torch": 30,
    "exported torch metadata": 5,
}
"""The inputs that the gate tries at doors where each takes a tenth of a second or more, to open a graph."""
