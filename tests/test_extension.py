"""A package of a user's own extends rcnn from the command line and from Python, without a change in rcnn."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import rcnn
from rcnn.cli import app

PACKAGE = Path(__file__).parent / "extension"
NAME = "rcnn_extension"
# As small as a model can be, and as short as a training can be.
SMALL = (
    "model.fpn.channels=8", "model.box.channels=8", "model.mask.convs=1", "model.mask.channels=8",
    "augment.crop=96", "train.batch_size=2", "train.workers=0", "train.eval_images=1", "train.amp=off",
)  # fmt: skip


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
        "--disable-pip-version-check", "--target", str(folder), str(PACKAGE),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def extension(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(installed)
    yield
    for module in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[module]


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """A folder in the format of ``rcnn_extension.data:Squares``."""
    folder, lines = tmp_path / "squares", []
    folder.mkdir()
    for i in range(4):
        pixels = np.full((96, 96, 3), 40, np.uint8)
        pixels[10 + i : 40 + i, 20:50] = 200
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(f"{i}.png 20 {10 + i} 50 {40 + i}")
    (folder / "squares.txt").write_text("\n".join(lines))
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def sets(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.mark.export
@pytest.mark.usefixtures("extension")
def test_from_python(tmp_path: Path) -> None:
    from rcnn_extension.data import TwoSquares  # as its user would
    from rcnn_extension.tools import Steps

    data = rcnn.open_data(TwoSquares(), class_names=("small", "large"))
    run_folder = rcnn.train(
        data,
        model=f"{NAME}.nets:Mine",
        backbone=f"{NAME}.nets:backbone",
        epochs=0.5,
        out=tmp_path / "run",
        settings=(
            *SMALL, f"model.box.head={NAME}.nets:box_layers", f"model.mask.head={NAME}.nets:mask_layers",
            f"augment.extra={NAME}.data:mirror_colours",
        ),
        callbacks=[Steps()],
    )  # fmt: skip
    assert (run_folder / "steps.txt").read_text().startswith(("1 ", "2 "))
    detector = rcnn.load(run_folder)
    assert type(detector.network).__name__ == "Mine"
    assert type(detector.network.backbone.maps).__name__ == "TinyMaps"
    (found,) = detector.predict(data[0].image, min_score=0.0)
    assert found.class_names == ("small", "large")
    evaluation, _ = rcnn.evaluate(detector, data, metrics=["coco", f"{NAME}.metrics:COUNT"])
    assert evaluation.metrics["count/error"] >= 0
    rcnn.export(detector, tmp_path / "names.json", f"{NAME}.tools:write_names")
    assert json.loads((tmp_path / "names.json").read_text())["class_names"] == ["small", "large"]


@pytest.mark.export
@pytest.mark.usefixtures("extension")
def test_from_the_command_line(tmp_path: Path, squares: Path) -> None:
    kind, folder = ("--format", f"{NAME}.data:Squares"), tmp_path / "run"
    run(
        "train", squares, *kind, "--model", "faster_rcnn", "--backbone", f"{NAME}.nets:backbone",
        "--epochs", "0.5", "--out", folder, "--callback", f"{NAME}.tools:Steps",
        *sets(*(s for s in SMALL if ".mask." not in s), f"augment.extra={NAME}.data:mirror_colours"),
    )  # fmt: skip
    assert (folder / "steps.txt").is_file()
    written = tmp_path / "result.json"
    run("evaluate", folder, squares, *kind, "--metrics", f"coco,{NAME}.metrics:COUNT", "--json", written)
    assert "count/error" in json.loads(written.read_text())["metrics"]
    run("predict", folder, squares / "0.png", "--out", tmp_path / "found")
    out = tmp_path / "names.json"
    run("export", folder, "--out", out, "--format", f"{NAME}.tools:write_names")
    assert json.loads(out.read_text())["class_names"] == ["square"]


def test_a_path_in_a_file_is_imported_only_if_trusted(tmp_path: Path, installed: Path, squares: Path) -> None:
    """In a process of its own, in which nobody has imported the package."""
    code = (
        "import sys, rcnn; sys.path.insert(0, sys.argv[1]); "
        "rcnn.train(rcnn.open_data(sys.argv[2], format='rcnn_extension.data:Squares'), model='faster_rcnn', "
        "backbone='rcnn_extension.nets:backbone', epochs=0.5, out=sys.argv[3], settings=sys.argv[4:])"
    )
    folder = tmp_path / "run"
    settings = [setting for setting in SMALL if ".mask." not in setting]
    subprocess.run([sys.executable, "-c", code, installed, squares, folder, *settings], check=True)
    opening = "import sys, rcnn; sys.path.insert(0, sys.argv[1]); rcnn.load(sys.argv[2], trust=sys.argv[3:])"
    refused = subprocess.run(
        [sys.executable, "-c", opening, installed, folder], capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "rcnn_extension.nets:backbone" in refused.stderr
    assert "--trust rcnn_extension" in refused.stderr
    subprocess.run([sys.executable, "-c", opening, installed, folder, NAME], check=True)
