"""Exported files find what the networks find."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

import rcnn
from conftest import ROOT
from rcnn.evaluation.evaluator import evaluate
from rcnn.inference import exported as runtime
from rcnn.inference import exported_metadata as metadata
from rcnn.inference.detector import Detector
from rcnn.inference.exporters import Exporter, export, exporter
from rcnn.inference.exporters.graph import DetectionsByName, trace, trace_with_transform
from rcnn.inference.exporters.onnx_file import to_bytes
from rcnn.inference.exporters.openvino_folder import ancestors
from rcnn.loading import load
from rcnn.models import build_model
from rcnn.models.faster_rcnn import FasterRCNNSettings
from rcnn.models.fcn import FCNSettings
from rcnn.models.keypoint_rcnn import KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNNSettings
from rcnn.models.panoptic_fpn import PanopticFPNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import ImageBatch
from rcnn.parts.box_head import CascadeSettings, PoolSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.structures import Skeleton
from rcnn.transform import Transform
from tiny import BOX, MASK, NAMES, ONE_LEVEL, SHARED, tiny_shapes

pytestmark = pytest.mark.export

KEYPOINT = KeypointHeadSettings(3, 1, 8, PoolSettings(size=4))
ADAPTIVE = PoolSettings(size=3, sampling_ratio=0)
SETTINGS: dict[str, Any] = {
    "faster_rcnn": FasterRCNNSettings(**SHARED),
    "mask_rcnn": MaskRCNNSettings(**SHARED, mask=MASK),
    "keypoint_rcnn": KeypointRCNNSettings(**SHARED, keypoint=KEYPOINT),
}
PIXELS = (*NAMES, "ground", "sky")
# Odd sides, below and above one another, one less than the divisor.
SIZES = ((90, 120), (61, 200), (224, 31))


def detector(model: str, settings: Any = None) -> Detector:
    torch.manual_seed(0)
    network: Any = build_model(model, settings or SETTINGS[model], NAMES, PIXELS)
    for head in getattr(network.box, "steps", [network.box]) if network.finds_objects else ():
        torch.nn.init.normal_(head.logits.weight, std=0.5)
        torch.nn.init.normal_(head.deltas.weight, std=0.05)
    if getattr(network, "scores", None) is not None:
        torch.nn.init.normal_(network.scores[0].weight, std=0.5)
    if getattr(network, "mask", None) is not None:
        torch.nn.init.normal_(network.mask.logits.weight, std=0.5)
    skeleton = Skeleton(("a", "b", "c")) if model == "keypoint_rcnn" else None
    names = NAMES if network.finds_objects else ()
    pixels = network.pixel_names(NAMES, PIXELS)
    return Detector(network.eval(), Transform(scale=1.25), names, 0.4, {}, skeleton, pixels)


@contextmanager
def traced_as(body: bytes, program: Any = None) -> Iterator[None]:
    """Exports write this graph: to trace and convert it takes most of these tests' time."""
    with (
        mock.patch("rcnn.inference.exporters.trace", return_value=program),
        mock.patch("rcnn.inference.exporters.trace_with_transform", return_value=program),
        mock.patch("rcnn.inference.exporters.onnx_file.to_bytes", return_value=body),
    ):
        yield


OFTEN, SELDOM = "mask_rcnn", ("faster_rcnn", "keypoint_rcnn")


@pytest.fixture(
    scope="module", params=[OFTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in SELDOM)]
)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Path]:
    made, folder = detector(request.param), tmp_path_factory.mktemp(request.param)
    export(made, folder / "model.onnx")
    with traced_as((folder / "model.onnx").read_bytes()):
        export(made, folder / "openvino", "openvino")
    return made, folder


FORKED = """
import os, sys, time
import numpy as np, rcnn
detector = rcnn.load(sys.argv[1])
image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
before = detector.predict([image], min_score=0.0)[0]
child = os.fork()
found = detector.predict([image], min_score=0.0)[0]
if child == 0:
    os._exit(0 if len(before) and np.array_equal(found.scores, before.scores) else 1)
for _ in range(600):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        sys.exit(status)
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the child waits without end")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_files_that_were_opened_before_a_fork_work_in_the_child(files: tuple[Detector, Path]) -> None:
    """As gunicorn does with preload_app."""
    _, folder = files
    paths = os.pathsep.join([str(Path(rcnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    for name in ("model.onnx", "openvino"):
        done = subprocess.run(
            [sys.executable, "-c", FORKED, str(folder / name)], env={**os.environ, "PYTHONPATH": paths},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


STAGE = ONE_LEVEL | {"box": dataclasses.replace(BOX, layers="stage")}


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("faster_rcnn", dataclasses.replace(SETTINGS["faster_rcnn"], shared=False)),
        ("mask_rcnn", MaskRCNNSettings(**STAGE, mask=MASK)),
        ("keypoint_rcnn", KeypointRCNNSettings(**STAGE, keypoint=KEYPOINT, mask=MASK)),
    ],
    ids=["nothing shared", "masks after the backbone's stage", "masks beside the backbone's stage"],
)
def test_the_graph_finds_what_the_network_finds(model: str, settings: Any) -> None:
    network: Any = detector(model, settings).network
    images, sizes = torch.rand(2, 3, 96, 64), ((96, 60), (90, 64))
    limits = torch.tensor(0.0), torch.tensor(9)
    found = DetectionsByName(network)(images, torch.tensor(sizes).float(), *limits)
    expected = network(ImageBatch(images, sizes), min_score=0.0, max_detections=9).detections
    assert len(expected)
    torch.testing.assert_close(found, expected.tensors())


def pictures() -> list[np.ndarray[Any, Any]]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def compare(found: Any, expected: rcnn.Instances) -> None:
    assert len(found) == len(expected)
    for name in ("boxes", "scores", "labels", "keypoints"):
        value = getattr(expected, name)
        if value is None:
            assert getattr(found, name) is None
        else:
            np.testing.assert_allclose(getattr(found, name), value, atol=1e-3, rtol=1e-3)
    if expected.masks is not None:
        differ = found.masks.dense() != expected.masks.dense()
        assert differ.sum() <= 1e-4 * differ.size  # a probability of 0.5 may fall to either side
    if expected.semantic is not None:
        assert (found.semantic == expected.semantic).mean() > 0.999
    assert found.size == expected.size
    assert found.class_names == expected.class_names
    assert found.semantic_names == expected.semantic_names


@pytest.mark.parametrize("name", ["model.onnx", "openvino"])
def test_the_same_detections(files: tuple[Detector, Path], name: str) -> None:
    made, folder = files
    loaded = runtime.open_exported(folder / name)
    assert loaded.class_names == NAMES
    assert loaded.min_score == 0.4
    for batch_size in (1, 3):
        expected = made.predict(pictures(), batch_size=batch_size)
        assert any(len(one) for one in expected)
        for one, other in zip(loaded.predict(pictures(), batch_size=batch_size), expected, strict=True):
            compare(one, other)


FORMATS = {"onnx": "model.onnx", "openvino": "openvino", "torch": "model.pt2"}


def in_every_format(made: Detector, folder: Path, **settings: Any) -> list[runtime.ExportedDetector]:
    """The detector's exports, of one graph."""
    program = trace_with_transform(made) if settings.get("transform_inside") else trace(made)
    with traced_as(to_bytes(program), program):
        written = [export(made, folder / file, name, **settings) for name, file in FORMATS.items()]
    return [runtime.open_exported(file) for file in written]


@pytest.mark.parametrize(
    "settings",
    [
        KeypointRCNNSettings(
            **ONE_LEVEL | {"box": dataclasses.replace(BOX, pool=ADAPTIVE)},
            keypoint=dataclasses.replace(KEYPOINT, pool=ADAPTIVE),
        ),
        KeypointRCNNSettings(**ONE_LEVEL, keypoint=dataclasses.replace(KEYPOINT, refine=False), mask=MASK),
    ],
    ids=["adaptive RoIAlign", "keypoints at whole pixels, and masks"],
)
def test_small_ones_in_every_format(settings: KeypointRCNNSettings, tmp_path: Path) -> None:
    made, images = detector("keypoint_rcnn", settings), pictures()
    best = sorted(float(one.scores.max()) for one in made.predict(images, min_score=0.0))
    beside = (best[0] + best[1]) / 2  # nothing in one image of the three
    assert sorted(map(bool, map(len, made.predict(images, min_score=beside)))) == [False, True, True]
    for loaded in in_every_format(made, tmp_path):
        for some, lowest, batch_size in ((images, 0.0, 1), (images, beside, 3), (images[::-1], beside, 3)):
            expected = made.predict(some, min_score=lowest)
            found = loaded.predict(some, min_score=lowest, batch_size=batch_size)
            for one, other in zip(found, expected, strict=True):
                compare(one, other)


@pytest.mark.parametrize("name", ["model.onnx", "openvino"])
def test_no_detection_and_few(files: tuple[Detector, Path], name: str) -> None:
    made, folder = files
    loaded = runtime.open_exported(folder / name)
    for settings in ({"min_score": 1.0}, {"max_detections": 2}, {"min_score": 0.0}):
        expected = made.predict(pictures()[0], **settings)  # type: ignore[arg-type]
        (found,) = loaded.predict(pictures()[0], **settings)  # type: ignore[arg-type]
        compare(found, expected[0])


CODE = """
import sys
sys.modules["torch"] = None
import rcnn
from rcnn.cli import app
file, picture, out = sys.argv[1:]
(found,) = rcnn.load(file).predict(picture, min_score=0.0)
assert len(found) and found[:1].to_coco()[0]["score"] == found.scores[0]
found.save(out + ".csv")
app(["predict", file, picture, "--out", out, "--min-score", "0.1"], standalone_mode=False)
"""


@pytest.mark.parametrize("name", ["model.onnx", "openvino"])
def test_without_torch(files: tuple[Detector, Path], name: str, tmp_path: Path) -> None:
    picture, out = tmp_path / "picture.png", tmp_path / "out"
    Image.fromarray(pictures()[0]).save(picture)
    source = str(Path(rcnn.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(files[1] / name), str(picture), str(out)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "predictions.json").read_text())["annotations"]
    assert (out / "overlays" / "picture.png").is_file()
    expected = files[0].predict(picture, min_score=0.0)[0].save(tmp_path / "expected.csv").read_text()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == len(expected.splitlines())


def test_files_say_nothing_of_the_machine_that_wrote_them(files: tuple[Detector, Path]) -> None:
    """No paths of source files; no addresses, so that the same model gives the same file."""
    for name in ("model.onnx", "openvino/model.xml"):
        content = (files[1] / name).read_bytes()
        for note in (b"site-packages", b'File "', b" at 0x", b"stack_trace", str(ROOT).encode()):
            assert note not in content, name


def test_damaged_files_are_refused(files: tuple[Detector, Path], tmp_path: Path) -> None:
    content = (files[1] / "model.onnx").read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    newer = metadata.with_checksum(b"", {"export": metadata.FORMAT + 1, "versions": {"rcnn": "9.0"}})
    for wrong, message in (
        (content[:-100], "truncated"),
        (bytes(changed), "changed since"),
        (b"\x08\x0a", "not written by rcnn export"),
        (b"", "not written by rcnn export"),
        (newer, "newer rcnn .9.0"),
    ):
        (tmp_path / "wrong.onnx").write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            runtime.open_exported(tmp_path / "wrong.onnx")


def test_a_folder_whose_description_has_no_sum_of_its_own(
    files: tuple[Detector, Path], tmp_path: Path
) -> None:
    shutil.copytree(files[1] / "openvino", tmp_path / "first")  # as the first ones were
    description = json.loads((tmp_path / "first" / "rcnn.json").read_text())
    del description["rcnn_sha256"]
    (tmp_path / "first" / "rcnn.json").write_text(json.dumps(description))
    assert load(tmp_path / "first" / "model.xml").class_names == NAMES


OTHERS = {
    "cascade": (
        "mask_rcnn",
        MaskRCNNSettings(
            **ONE_LEVEL | {"box": dataclasses.replace(BOX, cascade=CascadeSettings())}, mask=MASK
        ),
    ),
    "panoptic": (
        "panoptic_fpn",
        PanopticFPNSettings(**SHARED, mask=MASK, semantic=SemanticHeadSettings(channels=8, groups=2)),
    ),
    "fcn": (
        "fcn",
        FCNSettings(
            BackboneSettings("efficientnet_lite0", (3,), frozen_stages=0), pool=False, channels=16, kernel=3,
            alignment="centred", dropout=0.0,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS])
def test_other_models_in_every_format(name: str, tmp_path: Path) -> None:
    made, images = detector(*OTHERS[name]), pictures()
    expected = made.predict(images, min_score=0.2)
    assert any(len(one) or one.semantic is not None for one in expected)
    for loaded in in_every_format(made, tmp_path):
        for batch_size in (1, 3):
            for one, other in zip(
                loaded.predict(images, min_score=0.2, batch_size=batch_size), expected, strict=True
            ):
                compare(one, other)
    if made.network.needs_semantic:
        with pytest.raises(ValueError, match="leave its transform outside"):
            export(made, tmp_path / "inside.onnx", transform_inside=True)


WRITTEN: list[Any] = []


def write_list(program: Any, metadata: Any, out: Path, images: Any) -> None:
    """A format of a user's own."""
    WRITTEN.append((program, metadata["format"], out, images))


def test_a_format_of_ones_own(tmp_path: Path) -> None:
    path = f"{__name__}:write_list"
    assert exporter(path) == Exporter(write_list)
    with traced_as(b"", program="the graph"):
        export(detector("faster_rcnn"), tmp_path / "list.txt", path)
    assert [("the graph", path, tmp_path / "list.txt", ())] == WRITTEN
    with pytest.raises(ValueError, match="expected a function, or an Exporter; got list"):
        exporter(f"{__name__}:WRITTEN")


@pytest.mark.slow
def test_a_program_of_torch(tmp_path: Path) -> None:
    made = detector("mask_rcnn")
    loaded = runtime.open_exported(export(made, tmp_path / "model.pt2", "torch"))
    content = (tmp_path / "model.pt2").read_bytes()
    assert b"site-packages" not in content
    assert str(ROOT).encode() not in content
    for settings in ({}, {"min_score": 1.0}, {"max_detections": 1}):
        expected = made.predict(pictures(), **settings)  # type: ignore[arg-type]
        for one, other in zip(loaded.predict(pictures(), **settings), expected, strict=True):  # type: ignore[arg-type]
            compare(one, other)


@pytest.mark.parametrize(
    ("transform", "shared", "min_score"),
    [
        (Transform(antialias=False), SHARED, 0.4),  # below it the smallest image has ties
        (Transform(100, max_long_side=190), ONE_LEVEL, 0.3),
        pytest.param(Transform(100, max_long_side=190), SHARED, 0.4, marks=pytest.mark.slow),
    ],
    ids=["scale", "sides", "sides and levels"],
)
def test_the_transform_inside(
    transform: Transform, shared: dict[str, Any], min_score: float, tmp_path: Path
) -> None:
    made = detector("mask_rcnn", MaskRCNNSettings(**shared, mask=MASK))
    made = dataclasses.replace(made, transform=transform, min_score=min_score)
    first, *rest = pictures()
    images: list[Any] = [first, first[::-1].copy(), *rest, first[:5, :7]]  # the first two are a batch
    expected = made.predict(images)
    assert any(len(one) for one in expected)
    for loaded in in_every_format(made, tmp_path, transform_inside=True):
        for one, other in zip(loaded.predict(images, batch_size=2), expected, strict=True):
            compare(one, other)


def test_a_scale_that_is_no_fraction_stays_beside(tmp_path: Path) -> None:
    made = dataclasses.replace(detector("mask_rcnn"), transform=Transform(scale=0.33333))
    with pytest.raises(ValueError, match="is not a fraction"):
        export(made, tmp_path / "model.onnx", transform_inside=True)


def test_keypoints_read_off_the_image_need_the_transform_beside(tmp_path: Path) -> None:
    made = detector("keypoint_rcnn")
    network: Any = made.network
    network.keypoint.settings = dataclasses.replace(network.keypoint.settings, refine=False)
    with pytest.raises(ValueError, match="leave its transform outside"):
        export(made, tmp_path / "model.onnx", transform_inside=True)


def test_eight_bit_integers(files: tuple[Detector, Path], tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason='needs the extra "int8"')
    import openvino

    made, folder = files
    with traced_as((folder / "model.onnx").read_bytes()):
        loaded = runtime.open_exported(export(made, tmp_path / "int8", "openvino", calibration=pictures()))
    assert loaded.info["precision"] == "int8"
    (found,), (expected,) = (one.predict(pictures()[0], min_score=0.0) for one in (loaded, made))
    assert len(found) == len(expected)
    # Rounded, but the same objects.
    assert abs(found.scores.mean() - expected.scores.mean()) < 0.1
    model = openvino.Core().read_model(tmp_path / "int8" / "model.xml")
    before = {output.any_name: ancestors(output.node) for output in model.outputs}
    rounded = {op.get_friendly_name() for op in model.get_ops() if op.get_type_name() == "FakeQuantize"}
    assert rounded & before["scores"]
    connected = [op for op in model.get_ops() if op.get_type_name() == "MatMul"]
    assert connected
    for value in (value for op in connected for value in op.inputs()):
        assert value.get_source_output().get_node().get_friendly_name() not in rounded
    for name in before.keys() & {"mask_maps", "keypoints"}:
        branch = before[name] - before["boxes"] - before["labels"] - before["scores"]
        assert branch
        assert not rounded & branch


@pytest.mark.parametrize(
    ("package", "format", "extra"),
    [("onnxscript", "onnx", "export"), ("openvino", "openvino", "export"), ("nncf", "openvino", "int8")],
)
def test_a_package_that_is_not_installed(
    package: str, format: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rcnn.inference.exporters.find_spec", lambda name: None if name == package else object()
    )
    monkeypatch.setattr(
        "rcnn.inference.exporters.trace", lambda _: pytest.fail("traced, which takes its time, in vain")
    )
    images = [np.zeros((64, 64, 3), np.uint8)] if package == "nncf" else []
    out = tmp_path / ("a.onnx" if format == "onnx" else "a")
    with pytest.raises(ValueError, match=rf'^{package} not installed: pip install "\.\[{extra}\]"'):
        export(detector("faster_rcnn"), out, format, calibration=images)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    made = detector("faster_rcnn")
    with pytest.raises(ValueError, match="eight-bit integers are for openvino"):
        export(made, tmp_path / "a.onnx", calibration=[np.zeros((64, 64, 3), np.uint8)])
    with pytest.raises(ValueError, match="expected one of onnx, openvino, torch, or one of your own"):
        export(made, tmp_path / "a.onnx", "caffe")
    with pytest.raises(ValueError, match=r"expected a file \*.onnx"):
        export(made, tmp_path / "a.bin")
    with pytest.raises(ValueError, match="multiple of the backbone's stride"):
        export(dataclasses.replace(made, transform=Transform(size_divisor=1)), tmp_path / "a.onnx")


def test_threads_do_not_get_each_others_results(files: tuple[Detector, Path]) -> None:
    loaded = runtime.open_exported(files[1] / "openvino")
    alone = [loaded.predict(image, min_score=0.0)[0].boxes for image in pictures()]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(10):
            together = pool.map(lambda image: loaded.predict(image, min_score=0.0)[0].boxes, pictures())
            for one, other in zip(alone, together, strict=True):
                assert np.array_equal(one, other)


def test_evaluation_takes_it(files: tuple[Detector, Path]) -> None:
    shapes = tiny_shapes(3)
    if files[0].skeleton is not None:
        pytest.skip("the pictures have no keypoints")
    with pytest.raises(ValueError, match="exported models run on the CPU; found device cuda"):
        load(files[1] / "model.onnx", "cuda")
    expected, _ = evaluate(files[0], shapes, max_detections=30)
    found, _ = evaluate(runtime.open_exported(files[1] / "model.onnx"), shapes, max_detections=30)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-3, nan_ok=True)
