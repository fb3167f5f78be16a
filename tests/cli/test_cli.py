"""The command line: what each verb passes on, writes and says, and how it fails."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from rcnn import loading
from rcnn.cli import app
from rcnn.evaluation import int8
from rcnn.inference import exported as runtime
from rcnn.inference import exporters as export
from rcnn.inference.detector import Detector
from rcnn.inference.exporters import onnx_file
from rcnn.io.reading import Reading
from rcnn.metrics.registry import METRICS
from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
from rcnn.structures import Instances, Masks
from rcnn.training import run
from rcnn.transform import Transform
from tiny import ONE_LEVEL


def call(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "120", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class Fixed:
    """Finds in every image what the mask folders below hold: one object, ``10 20 30 40``."""

    class_names = ("object",)
    semantic_names = ()
    category_ids = (1,)
    skeleton = None
    max_detections = 1
    min_score = 0.5
    merge = None
    batch_size = 1
    used_precision = "float32"
    reading = Reading()
    channels = 3
    transform = Transform()
    info: ClassVar[dict[str, Any]] = {}

    def cap(self, size: tuple[int, int]) -> int:
        return self.max_detections

    def for_measuring(self) -> "Fixed":
        return self

    def with_reading(self, reading: Reading) -> "Fixed":
        assert reading == self.reading  # no option was given
        return self

    def predict(
        self, images: Any, *, min_score: float | None = None, max_detections: int | None = None
    ) -> list[Instances]:
        images = [images] if isinstance(images, np.ndarray) else images
        return [self._found(image.shape[:2], min_score or 0.5) for image in images]

    def _found(self, size: tuple[int, int], min_score: float) -> Instances:
        none = np.zeros(0, np.float32)
        if min_score > 0.75:
            return Instances.empty(size, self.class_names, scores=none, masks=Masks.empty(size))
        masks = Masks.from_patches([np.ones((20, 20), np.uint8)], [(20, 10)], size)
        return Instances(
            size, masks.boxes(), np.zeros(1, np.int64), np.array([0.75], np.float32), masks,
            class_names=self.class_names,
        )  # fmt: skip


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("load", "load_detector"):
        monkeypatch.setattr(loading, name, lambda *_, **__: Fixed())
    return "runs/fixed"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images of 40 x 60 pixels as mask folders."""
    folder = tmp_path / "data [1]"
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[20:40, 10:30] = 255
    for name in ("a", "b"):
        for part, pixels in (("images", 255 - mask), ("masks", mask)):
            (folder / name / part).mkdir(parents=True)
            Image.fromarray(pixels).save(folder / name / part / f"{name}.png")
    return folder


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``rcnn train`` passes on."""
    passed: dict[str, Any] = {}

    def train(data: Path | None, **options: Any) -> Path:
        passed.update(options, data=data)
        return Path("runs/x")

    monkeypatch.setattr(run, "train", train)
    return passed


def test_help_and_version_import_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "pydantic", "PIL", "timm"}
    code = f"import sys, rcnn.cli; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "verb",
    [
        ["train"],
        ["evaluate"],
        ["predict"],
        ["export"],
        ["propose"],
        ["data", "check"],
        ["data", "show"],
        ["demo"],
        ["report"],
        ["models"],
    ],
    ids=" ".join,
)
def test_every_help_has_an_example(verb: list[str]) -> None:
    result = call(*verb, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"rcnn {' '.join(verb)}" in result.output


def test_version() -> None:
    result = call("--version")
    assert result.exit_code == 0
    assert result.output.startswith("rcnn ")


def test_train_passes_everything_on(
    trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("v.json", "i", "vi", "p.npz", "vp.npz"):
        Path(name).touch()
    result = call(
        "train", "d.json", "--val", "v.json", "--images", "i", "--val-images", "vi", "--model", "mask_rcnn",
        "--backbone", "vgg16", "--recipe", "r.toml", "--minutes", "2.5", "--out", "o", "--seed", "0",
        "--set", "train.lr=1", "--set", "model.fpn=none", "--skip-bad", "--batch-size", "8", "--workers", "0",
        "--device", "cpu", "--proposals", "p.npz", "--val-proposals", "vp.npz", "--format", "coco",
        "--log", "wandb", "--log", "mlflow", "--callback", "mine:Beep", "--trust", "mine",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert trained.pop("console") is not None
    assert trained == {
        "data": Path("d.json"), "val": Path("v.json"), "images": Path("i"), "val_images": Path("vi"),
        "proposals": Path("p.npz"), "val_proposals": Path("vp.npz"),
        "model": "mask_rcnn", "backbone": "vgg16", "recipe": "r.toml", "minutes": 2.5, "epochs": None,
        "out": Path("o"), "seed": 0, "skip_bad": True, "resume": None, "workers": 0, "device": "cpu",
        "settings": ["train.lr=1", "model.fpn=none", "train.batch_size=8"], "format": "coco",
        "log": ["wandb", "mlflow"], "callbacks": ["mine:Beep"], "trust": ["mine"],
        "start": None, "rename": {}, "keep_classes": False, "freeze": (), "json_log": False,
        "join_timeout": 300.0, "step_timeout": 60.0,
    }  # fmt: skip
    assert "rcnn predict runs/x IMAGES" in result.output


def test_resume_alone_is_enough(trained: dict[str, Any]) -> None:
    assert call("train", "--resume", "runs/x").exit_code == 0
    assert (trained["data"], trained["resume"], trained["settings"]) == (None, Path("runs/x"), [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "give the DATA to train on, or --resume RUN"),
        (["train", "d", "--minutes", "1", "--epochs", "1"], "choose one"),
        (["train", "d", "--resume", "r"], "remove DATA"),
        (["train", "--resume", "r", "--seed", "0", "--set", "train.lr=1"], "remove --seed, --set"),
        (["evaluate", "runs/x", "nowhere [/a]"], "nowhere [/a]"),
        (["predict", "runs/x", "nowhere.png", "--out", "o"], "nowhere.png: no such image or folder"),
        (["data", "check", "nowhere"], "nowhere"),
    ],
)
def test_user_errors_are_one_message_and_exit_code_1(
    trained: dict[str, Any], model: str, arguments: list[str], message: str
) -> None:
    result = call(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not trained


def test_an_unknown_model_is_a_user_error(data: Path, tmp_path: Path) -> None:
    result = call("evaluate", tmp_path / "none.safetensors", data)
    assert result.exit_code == 1
    assert "none.safetensors: no such checkpoint" in result.stderr


def test_an_error_of_the_system_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any, **__: Any) -> Path:
        raise PermissionError(13, "Permission denied", "/runs/x")

    monkeypatch.setattr(run, "train", train)
    result = call("train", "d")
    assert (result.exit_code, result.stderr) == (1, "error: /runs/x: Permission denied\n")


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    code = "import sys; sys.argv = ['rcnn', 'train', '--debug']; from rcnn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "give the DATA" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "where"), [(["d", "--out", "runs/a"], "runs/a"), (["--resume", "b"], "b")]
)
def test_an_interrupted_training_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], where: str
) -> None:
    def train(*_: Any, **__: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", train)
    monkeypatch.chdir(tmp_path)
    result = call("train", *arguments)
    assert (result.exit_code, result.stderr.strip()) == (130, "interrupted before training started")
    Path(where).mkdir(parents=True)
    Path(where, "run.json").touch()
    result = call("train", *arguments)
    assert result.exit_code == 130
    assert f"rcnn train --resume {where}" in result.stderr


def test_any_other_interruption_exits_130(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", load)
    result = call("evaluate", "m", data)
    assert (result.exit_code, result.stderr.strip()) == (130, "interrupted")


def test_evaluate_prints_a_table_and_writes_json(model: str, data: Path, tmp_path: Path) -> None:
    result = call("evaluate", model, data, "--json", tmp_path / "r" / "result.json")
    assert result.exit_code == 0, result.output
    assert "100.0" in result.stdout
    measured = json.loads((tmp_path / "r" / "result.json").read_text())
    assert measured["metrics"]["mask/AP"] == pytest.approx(1.0)
    assert measured["data"] == str(data)
    assert measured["precision"] == "float32"


def test_evaluate_measures_the_families_named(model: str, data: Path, tmp_path: Path) -> None:
    result = call("evaluate", model, data, "--metrics", "nuclei, errors", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert "AJI+" in result.stdout
    assert "duplicate" in result.stdout
    assert "VOC07" not in result.stdout
    metrics = json.loads((tmp_path / "r.json").read_text())["metrics"]
    assert metrics["nuclei/AJI"] == pytest.approx(1.0)
    assert "mask/AP" not in metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "DATA", "--metrics", "nuclie"], "did you mean nuclei?"),
        (["m", "DATA", "--metrics", "coco,proposals"], "has no RPN to query"),
        (["DATA"], "found 1 arguments, expected MODEL and DATA"),
        (["m", "DATA", "--predictions", "DATA"], "expected DATA alone with --predictions"),
        (["DATA", "--predictions", "none.json"], "none.json: No such file"),
    ],
    ids=["unknown", "lacking", "no model", "both", "no file"],
)
def test_evaluate_refuses(model: str, data: Path, arguments: list[str], message: str) -> None:
    result = call("evaluate", *(data if a == "DATA" else a for a in arguments))
    assert result.exit_code == 1
    assert message in result.stderr


def test_evaluate_without_a_model(model: str, data: Path, tmp_path: Path) -> None:
    assert call("predict", model, data, "--out", tmp_path / "found").exit_code == 0
    assert call("predict", model, data, "--out", tmp_path / "bare", "--results-only").exit_code == 0
    bare = tmp_path / "bare" / "predictions.json"
    for file in (tmp_path / "found" / "predictions.json", bare):
        result = call("evaluate", data, "--predictions", file, "--json", tmp_path / "r.json")
        assert result.exit_code == 0, result.output
        written = json.loads((tmp_path / "r.json").read_text())
        assert written["predictions"] == str(file)
        assert written["metrics"]["mask/AP"] == pytest.approx(1.0)
    file.write_text(json.dumps([{**json.loads(bare.read_text())[0], "image_id": "elsewhere.png"}]))
    result = call("evaluate", data, "--predictions", file)
    assert result.exit_code == 1
    assert "predictions.json: entry 0: image_id 'elsewhere.png'" in result.stderr


def test_predictions_are_a_data_set_to_check(model: str, data: Path, tmp_path: Path) -> None:
    assert call("predict", model, data, "--out", tmp_path / "found").exit_code == 0
    file = tmp_path / "found" / "predictions.json"
    result = call("data", "check", file, "--images", data)
    assert result.exit_code == 0, result.output
    assert "object" in result.stdout


def test_help_names_every_family_of_metrics() -> None:
    said = " ".join(call("evaluate", "--help").output.split())
    for name in METRICS:
        assert name in said, name


def test_predict_writes_files_and_counts(model: str, data: Path, tmp_path: Path) -> None:
    result = call(
        "predict", model, data / "a" / "images", data / "b" / "images" / "b.png", "--out", tmp_path / "o"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == f"2 images: 2 object; written: {tmp_path / 'o'}\n"
    assert {p.name for p in (tmp_path / "o" / "overlays").iterdir()} == {"a.png", "b.png"}
    assert len(json.loads((tmp_path / "o" / "predictions.json").read_text())["annotations"]) == 2
    result = call("predict", model, data / "a" / "images", "--out", tmp_path / "p", "--min-score", "0.8")
    assert "1 images: no objects" in result.stdout
    with (tmp_path / "p" / "counts.csv").open() as file:
        assert list(csv.reader(file))[1:] == [["a.png", "object", "0"]]


def test_predict_without_a_folder(model: str, data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("found", "found-2"):
        result = call("predict", model, data / "a" / "images", "--overlay-format", "jpg")
        assert result.stdout == f"1 images: 1 object; written: {name}\n"
        assert [p.name for p in (tmp_path / name / "overlays").iterdir()] == ["a.jpg"]


def test_predict_passes_on_what_overlays_are_to_be(model: str, data: Path, tmp_path: Path) -> None:
    images = data / "a" / "images"
    call("predict", model, images, "--out", tmp_path / "o", "--overlay-scale", "2")
    with Image.open(images / "a.png") as image, Image.open(tmp_path / "o" / "overlays" / "a.png") as overlay:
        assert overlay.size == (2 * image.width, 2 * image.height)
    call("predict", model, images, "--out", tmp_path / "p", "--no-overlays")
    assert not (tmp_path / "p" / "overlays").exists()
    result = call("predict", model, images, "--out", tmp_path / "q", "--overlay-format", "jpeg")
    assert (result.exit_code, "did you mean jpg?" in result.stderr) == (1, True)
    assert not (tmp_path / "q").exists()


def test_predict_without_images_uses_those_of_the_model(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load", lambda *_, **__: Fixed())
    result = call("predict", "nuclei")
    assert result.exit_code == 0, result.output
    said, summary = result.stdout.splitlines()
    assert said.startswith("no IMAGES given: using the photographs that come with nuclei: ")
    assert all(str(path) in said for path in loading.sample_images("nuclei"))
    assert summary == "2 images: 2 object; written: found"
    for typed, hint in (("nucleus", "did you mean nuclei? "), (str(tmp_path), "")):
        refused = call("predict", typed)
        assert refused.exit_code == 1
        assert f"predict {typed}: {hint}give the IMAGES to find objects in" in refused.stderr


def test_predict_tells_of_images_that_may_hold_more(model: str, data: Path, tmp_path: Path) -> None:
    result = call("predict", model, data / "a" / "images", "--out", tmp_path / "found")
    assert "1 images reached the maximum number of detections" in result.output
    assert "--max-detections" in result.output
    more = call("predict", model, data / "a" / "images", "--out", tmp_path / "more", "--max-detections", "2")
    assert "maximum" not in more.output


def test_evaluate_refuses_unusable_images_before_predicting(model: str, tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in (1, 2)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [10, 20, 20, 20]} for i in (1, 2)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "object"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    Image.new("L", (60, 40)).save(tmp_path / "1.png")
    Image.new("L", (60, 50)).save(tmp_path / "2.png")  # ten rows more than the file says
    result = call("evaluate", model, tmp_path / "val.json")
    assert result.exit_code == 1
    assert "2.png" in result.output
    result = call("evaluate", model, tmp_path / "val.json", "--skip-bad")
    assert result.exit_code == 0, result.output
    assert "skipped: " in result.output


def test_data_show_passes_over_what_cannot_be_read(data: Path, tmp_path: Path) -> None:
    (data / "a" / "images" / "a.png").write_bytes(b"no image")
    result = call("data", "show", data, "--out", tmp_path / "look")
    assert result.exit_code == 0, result.output
    assert "1 of " in result.output


def test_predict_reports_broken_images_at_the_end_and_exits_1(model: str, data: Path, tmp_path: Path) -> None:
    broken = data / "a" / "images" / "broken.png"
    broken.write_bytes(b"\x89PNG no")
    result = call("predict", model, data / "a" / "images", "--out", tmp_path / "o")
    assert result.exit_code == 1
    assert "1 images could not be read" in result.stderr
    assert str(broken) in result.stderr
    assert "1 images: 1 object" in result.stdout


def test_data_check_counts_and_fails_on_errors(data: Path) -> None:
    result = call("data", "check", data)
    assert result.exit_code == 0, result.output
    assert "2 images" in result.stdout
    image = data / "b" / "images" / "b.png"
    image.write_bytes(image.read_bytes()[:60])
    result = call("data", "check", data)
    assert result.exit_code == 1
    assert str(image) in result.stdout


def test_data_show_draws_a_choice_and_a_sheet(data: Path, tmp_path: Path) -> None:
    result = call("data", "show", data, "--out", tmp_path / "o", "--count", "5")
    assert result.exit_code == 0, result.output
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"00000_a.png", "00001_b.png", "sheet.png"}
    assert "2 of 2 images drawn" in result.stdout
    call("data", "show", data, "--out", tmp_path / "p", "--count", "1")
    assert len(list((tmp_path / "p").iterdir())) == 2


def test_models_lists_models_backbones_and_recipes() -> None:
    output = call("models").output
    for word in (
        "faster_rcnn",
        "mask_rcnn",
        "efficientnet_lite0",
        "RCNN_WEIGHTS",
        "Recipes",
        "maskrcnn_resnet50_fpn_coco",
    ):
        assert word in output


def test_demo_and_report_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from rcnn.training import demo

    calls: list[Any] = []
    monkeypatch.setattr(demo, "run", lambda out, minutes: calls.append((out, minutes)))
    assert call("demo", "--out", "x", "--minutes", "1").exit_code == 0
    monkeypatch.setattr(run, "rewrite_report", lambda folder: folder / "report.html", raising=False)
    assert "runs/x/report.html" in call("report", "runs/x").output
    assert calls == [(Path("x"), 1.0)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a Faster R-CNN that finds some objects in any image."""
    torch.manual_seed(0)
    network = FasterRCNN(1, FasterRCNNSettings(**ONE_LEVEL)).eval()
    torch.nn.init.normal_(network.box.logits.weight, std=0.5)
    made = Detector(network, Transform(), ("object",), 0.01)
    return made.save(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def traced(checkpoint: Path) -> tuple[Any, bytes]:
    """Its graph, which takes an export's time, as a program and as an ONNX model."""
    program = export.trace(loading.load_detector(checkpoint))
    return program, onnx_file.to_bytes(program)


@pytest.fixture
def exportable(checkpoint: Path, traced: tuple[Any, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(export, "trace", lambda _: traced[0])
    monkeypatch.setattr(onnx_file, "to_bytes", lambda _: traced[1])
    return checkpoint


@pytest.mark.export
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model.onnx", ()),
        ("openvino", ("--format", "openvino")),
        ("model.pt2", ("--format", "torch", "--set", "model.box.max_detections=7")),
    ],
)
def test_export_writes_what_predict_takes(
    exportable: Path, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    result = call("export", exportable, "--out", tmp_path / name, *options)
    assert (result.exit_code, result.output) == (0, f"written: {tmp_path / name}\n")
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)  # no ties of scores
    Image.fromarray(noise).save(tmp_path / "noise.png")
    objects: list[Any] = []
    for model in (exportable, tmp_path / name):
        out = tmp_path / f"found {len(objects)}"
        result = call("predict", model, tmp_path / "noise.png", "--out", out)
        assert result.exit_code == 0, result.output
        objects.append(json.loads((out / "predictions.json").read_text())["annotations"])
    expected, found = objects
    assert len(found) == (7 if "--set" in options else 10)
    for one, other in zip(found, expected, strict=False):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


def test_export_passes_everything_on(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Any] = []

    def write(detector: Any, out: Path, format: str, **settings: Any) -> Path:
        passed.append((type(detector), out, format, settings))
        return out

    monkeypatch.setattr(export, "export", write)
    result = call("export", model, "--out", "o.pt2", "--format", "torch", "--transform-inside")
    assert result.output == "written: o.pt2\n"
    assert passed == [(Fixed, Path("o.pt2"), "torch", {"transform_inside": True, "calibration": ()})]


def test_export_in_int8_says_what_it_costs(
    model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any, calibration: list[np.ndarray], transform_inside: bool) -> Path:
        assert [image.shape for image in calibration] == [(40, 60, 3)] * 2
        assert not transform_inside
        return tmp_path / "o"

    def measure(detector: Any, *_: Any, metrics: list[str], **__: Any) -> tuple[Any, None]:
        ap, seconds = (0.625, 0.25) if isinstance(detector, Fixed) else (0.5, 0.125)
        found = {"mask/AP": ap, "mask/AP50": ap + 0.125}
        shown = tuple((name, name) for name in found)
        return SimpleNamespace(metrics=found, headline=lambda: shown, seconds={"predicting": seconds}), None

    monkeypatch.setattr(export, "_require_packages", lambda *_: None)  # nncf need not be there to be replaced
    monkeypatch.setattr(export, "export", write)
    monkeypatch.setattr(runtime, "open_exported", lambda path: path)
    monkeypatch.setattr(int8, "evaluate", measure)
    result = call("export", model, "--out", tmp_path / "o", "--format", "openvino", "--int8", data)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"written: {tmp_path / 'o'}",
        "mask/AP: 0.6250, in int8 0.5000",
        "mask/AP50: 0.7500, in int8 0.6250",
        "seconds per image: 0.250, in int8 0.125",
    ]


@pytest.mark.export
def test_export_in_int8(exportable: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason='needs the extra "int8"')
    result = call("export", exportable, "--out", tmp_path / "o", "--format", "openvino", "--int8", data)
    assert result.exit_code == 0, result.output
    number = r"\d\.\d{3,4}"
    for line in (
        f"box/AP: {number}, in int8 {number}",
        f"box/AP50: {number}, in int8 {number}",
        f"seconds per image: {number}, in int8 {number}",
    ):
        assert re.search(f"^{line}$", result.stdout, re.MULTILINE), result.stdout
    assert runtime.open_exported(tmp_path / "o").info["precision"] == "int8"
    assert "FakeQuantize" in (tmp_path / "o" / "model.xml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "o.onnx", "--format", "caffe"], "expected one of onnx, openvino, torch"),
        (["--out", "o.pt2"], "o.pt2: expected a file *.onnx"),
        (["--out", "o.onnx", "--int8", "DATA"], "format onnx: eight-bit integers are for openvino"),
        (["--out", "o.onnx", "--set", "model.box.nms=1"], "model.box.nms: no such setting"),
        (["--out", "o.onnx", "--int8", "nowhere"], "nowhere"),
    ],
    ids=["format", "ending", "int8", "setting", "no data"],
)
def test_export_refuses(checkpoint: Path, data: Path, arguments: list[str], message: str) -> None:
    result = call("export", checkpoint, *(data if a == "DATA" else a for a in arguments))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
