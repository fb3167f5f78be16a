"""Options: old names, a user's own objects by dotted path, and what ``--version`` says."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rcnn import loading
from rcnn.cli import app
from rcnn.data.shapes import draw_shapes
from rcnn.inference import writers
from rcnn.training import run


def call(*arguments: str | Path) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "120", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What verbs pass on."""
    found: dict[str, Any] = {}

    def record(*arguments: Any, **options: Any) -> Path:
        found.update(options, first=arguments[0])
        return Path("runs/x")

    def load(*arguments: Any, **options: Any) -> Any:
        record(*arguments, **options)
        raise ValueError("enough")

    monkeypatch.setattr(run, "train", record)
    monkeypatch.setattr(loading, "load", load)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(2, size=(48, 64)).write(tmp_path_factory.mktemp("data"))


def test_trunk_is_the_old_name_of_backbone(passed: dict[str, Any]) -> None:
    with pytest.warns(FutureWarning, match="--trunk is now --backbone; the old name will be removed in 0.3"):
        assert call("train", "d", "--trunk", "vgg16").exit_code == 0
    assert passed["backbone"] == "vgg16"
    assert "--trunk" not in call("train", "--help").output


def test_half_is_the_old_name_of_precision_bf16(passed: dict[str, Any], data: Path) -> None:
    with pytest.warns(FutureWarning, match="--half is now --precision bf16"):
        assert call("evaluate", "m", data, "--half").exit_code == 1
    assert passed["precision"] == "bf16"
    for verb in ("evaluate", "predict"):
        assert "--half" not in call(verb, "--help").output


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_precision_and_trust_are_passed_on(passed: dict[str, Any], data: Path, verb: str) -> None:
    image = next(data.parent.rglob("*.png"))
    arguments = {"evaluate": [data], "predict": [image, "--out", data.parent / "found"]}[verb]
    result = call(verb, "m", *arguments, "--precision", "float32", "--trust", "mine", "--trust", "yours")
    assert (result.exit_code, result.stderr) == (1, "error: enough\n")
    assert passed["precision"] == "float32"
    assert passed["trust"] == ["mine", "yours"]
    call(verb, "m", *arguments)
    assert passed["precision"] == "auto"  # evaluation measures it in float32, see rcnn.evaluation.evaluator


def test_dotted_paths_of_a_users_own(passed: dict[str, Any]) -> None:
    result = call(
        "train", "d", "--model", "mine.nets:Mine", "--backbone", "mine.nets:build", "--callback", "mine:Beep",
        "--format", "mine.formats:MyFormat", "--log", "tensorboard",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (passed["model"], passed["backbone"]) == ("mine.nets:Mine", "mine.nets:build")
    assert (passed["callbacks"], passed["log"]) == (["mine:Beep"], ["tensorboard"])
    assert passed["format"] == "mine.formats:MyFormat"


@pytest.mark.parametrize("verb", [["data", "check"], ["data", "show", "--out", "o"]], ids=" ".join)
def test_a_format_of_ones_own(verb: list[str], data: Path) -> None:
    result = call(*verb, data, "--format", "no_such_package.formats:MyFormat")
    assert result.exit_code == 1
    assert "there is no module no_such_package" in result.stderr
    result = call(*verb, data, "--format", "coca")
    assert "expected one of coco, voc" in result.stderr


def test_data_of_a_named_format(data: Path) -> None:
    result = call("data", "check", data, "--format", "coco")
    assert result.exit_code == 0, result.output
    assert "2 images" in result.stdout


def test_svd_refuses_what_has_no_such_layers(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setattr(loading, "load", lambda *_, **__: object())
    monkeypatch.setattr(writers, "predict_to_files", None)
    image = next(data.parent.rglob("*.png"))
    for ranks, message in (("8,4", "exported files cannot be compressed"), ("8", "expected two ranks")):
        result = call("predict", "m", image, "--out", data.parent / "o", "--svd", ranks)
        assert (result.exit_code, message in result.stderr) == (1, True), result.stderr


def all_verbs() -> list[list[str]]:
    """Every command with its subcommands, and none: the application itself."""
    command = typer.main.get_command(app)
    found: list[list[str]] = [[]]
    for name, verb in command.commands.items():
        found += [[name], *([name, below] for below in getattr(verb, "commands", ()))]
    return found


@pytest.mark.parametrize("verb", all_verbs(), ids=lambda verb: " ".join(verb) or "rcnn")
def test_h_is_help_everywhere(verb: list[str]) -> None:
    short = call(*verb, "-h")
    assert short.exit_code == 0
    assert short.output == call(*verb, "--help").output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("rcnn tr", "train"), ("rcnn data sh", "show"), ("rcnn predict --min", "--min-score")],
)
def test_the_shell_completes_verbs_and_options(typed: str, offered: str) -> None:
    command = [sys.executable, "-c", "from rcnn.cli import main; main()"]
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    environment = {**os.environ, "_RCNN_COMPLETE": "complete_bash", **asked}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert offered in done.stdout.split()


def test_the_shell_is_told_to_ask_rcnn() -> None:
    command = [sys.executable, "-c", "from rcnn.cli import main; main()", "--show-completion", "bash"]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "_RCNN_COMPLETE=complete_bash" in script
    assert script.rstrip().endswith("rcnn")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["trian", "d"], "Did you mean 'train'?"),
        (["predict", "m", "i", "--min-scor", "1"], "Possible options: --min-score"),
    ],
    ids=["verb", "option"],
)
def test_misspelt_verbs_and_options_get_a_suggestion(typed: list[str], meant: str) -> None:
    result = call(*typed)
    assert result.exit_code == 2
    assert meant in result.output


def test_version_in_detail() -> None:
    for arguments in (("--version", "-v"), ("-v", "--version"), ("--version", "--verbose")):
        lines = dict(line.partition(": ")[::2] for line in call(*arguments).stdout.splitlines()[1:])
        assert list(lines) == [
            "Python", "torch", "torchvision", "timm", "numpy", "onnxruntime", "openvino", "CPU", "compiled",
        ]  # fmt: skip
        assert "instructions: " in lines["CPU"]
        assert "kernels" in lines["compiled"]
    assert len(call("--version").stdout.splitlines()) == 1


LIGHT = {"models": ["models"], "version": ["--version", "-v"], "help": ["train", "--help"]}


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT)
def test_torch_is_not_imported(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom rcnn.cli import app\n"
        f"try: app({arguments!r})\nexcept SystemExit: pass\n"
        "print('imported:', sorted({'torch', 'torchvision', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: []"


BLOCKED = """
import sys
from importlib.abc import MetaPathFinder
class NoTorch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
from rcnn.cli import app
app(sys.argv[1:], prog_name="rcnn")
"""


@pytest.mark.parametrize(
    "arguments",
    [["train", "d"], ["bench", "nuclei"], ["export", "nuclei", "--out", "x.onnx"], ["report", "r"], ["demo"]],
    ids=lambda arguments: arguments[0],
)
def test_what_needs_torch_says_so_in_one_line(arguments: list[str]) -> None:
    command = [sys.executable, "-c", BLOCKED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: rcnn {arguments[0]} needs torch: pip install torch")
