"""An image's result is the same alone and in any batch, whatever the sizes of the others."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, real_data
from rcnn import load
from rcnn.data.shapes import draw_shapes
from rcnn.io.images import image_size
from rcnn.structures import Array, Instances, Size

ARCHIVE = ROOT / "tests" / "compat" / "files_0_1_0.tar.xz"
SIZES = ((64, 64), (96, 150), (33, 70), (200, 210), (65, 64), (64, 60), (128, 129), (129, 128))
NETWORKS = tuple(
    f"models/{name}.safetensors"
    for name in ("faster_rcnn", "keypoint_rcnn_masks", "mask_rcnn_c4", "panoptic_fpn", "fcn")
)
EXPORTED = tuple(
    f"exported/{name}"
    for name in ("mask_rcnn.onnx", "keypoint_rcnn", "faster_rcnn.pt2", "faster_rcnn_whole.onnx")
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny trained models of every kind, and some of them exported."""
    folder = tmp_path_factory.mktemp("files")
    with tarfile.open(ARCHIVE) as archive:
        wanted = [m for m in archive.getmembers() if m.name.startswith(("models/", "exported/"))]
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # before Python 3.11.4
        archive.extractall(folder, wanted)
    return folder


def pictures() -> list[Array]:
    return [draw_shapes(1, first=i, size=size, objects=(3, 9))[0].image for i, size in enumerate(SIZES)]


def check_same(alone: Instances, together: Instances) -> None:
    """The same objects, in any order of nearly equal scores."""
    assert len(alone) == len(together)
    left = list(range(len(together)))
    assert (alone.scores is None) == (together.scores is None)
    for i in range(len(alone)):
        same = [
            k
            for k in left
            if alone.labels[i] == together.labels[k]
            and abs(alone.scores[i] - together.scores[k]) < 1e-3
            and np.abs(alone.boxes[i] - together.boxes[k]).max() < 1e-2
        ]
        assert same, f"nothing in the batch like {alone[i]!r} {alone.boxes[i]}"
        left.remove(same[0])
    if alone.semantic is not None:
        assert (alone.semantic != together.semantic).mean() < 1e-4


@pytest.mark.parametrize("name", [*NETWORKS, *EXPORTED])
def test_images_of_many_sizes(name: str, files: Path) -> None:
    if name.endswith(".onnx"):
        pytest.importorskip("onnxruntime")
    elif name.endswith(".pt2"):
        pytest.importorskip("torch", "2.9", "older torch does not read today's programs")
    elif "." not in name:
        pytest.importorskip("openvino")
    model, images = load(files / name), pictures()
    alone = model.predict(images, min_score=0.05)
    together = model.predict(images, min_score=0.05, batch_size=len(images))
    assert any(len(found) for found in alone) or not model.class_names, "there is something to compare"
    for one, other in zip(alone, together, strict=True):
        check_same(one, other)


def test_small_images_with_objects_at_their_border_beside_large_ones() -> None:
    """0.1.0 lost objects at the right and lower border of small nuclei images in a batch with a large one."""
    by_size: dict[Size, list[Path]] = {}
    for path in sorted(real_data("nuclei/val").rglob("images/*.png")):
        by_size.setdefault(image_size(path), []).append(path)
    chosen = [*by_size[256, 256][:3], *by_size[256, 320][:1], *by_size[260, 347][:1], *by_size[360, 360][:1]]
    model = load("nuclei", "cpu", precision="float32")
    together = model.predict(chosen, batch_size=len(chosen))
    for path, other in zip(chosen, together, strict=True):
        assert len(other)
        check_same(model.predict(path)[0], other)
