"""**Law:** an output that cannot be written, or an input that is not there, is refused before the work.

Every path of a command is in one of the tables below: the first test fails if one is missing.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer.main
from typer.testing import CliRunner

import rcnn
from rcnn import cli
from rcnn.data.dataset import Dataset
from rcnn.inference.exporters import check_export
from rcnn.io.destinations import refuse_unwritable, refuse_unwritable_file, refuse_unwritable_folder
from tiny import tiny_shapes

# Each verb's output option, and a command whose inputs are not there: an error about these would mean that
# they were opened first.
OUTPUTS: dict[tuple[str, str], list[str]] = {
    ("train", "--out"): ["train", "no_data", "--out", "OUT"],
    ("evaluate", "--json"): ["evaluate", "no_model", "no_data", "--json", "OUT"],
    ("predict", "--out"): ["predict", "no_model", "no_images", "--out", "OUT"],
    ("next", "--out"): ["next", "no_model", "no_images", "--out", "OUT"],
    ("app", "--out"): ["app", "no_model", "no_folder", "--out", "OUT"],
    ("export", "--out"): ["export", "no_model", "--out", "OUT"],
    ("explain", "--picture"): ["explain", "no_model", "no_data", "--picture", "OUT"],
    ("explain", "--html"): ["explain", "no_model", "no_data", "--html", "OUT"],
    ("explain", "--json"): ["explain", "no_model", "no_data", "--json", "OUT"],
    ("propose", "--out"): ["propose", "no_data", "--out", "OUT"],
    ("demo", "--out"): ["demo", "--out", "OUT"],
    ("data check", "--fix"): ["data", "check", "no_data", "--fix", "OUT"],
    ("data convert", "OUT"): ["data", "convert", "no_data", "OUT", "--to", "coco"],
    ("data get", "--out"): ["data", "get", "voc2007", "--out", "OUT"],
    ("data show", "--out"): ["data", "show", "no_data", "--out", "OUT"],
    ("data split", "OUT"): ["data", "split", "no_data", "OUT"],
    ("data merge", "OUT"): ["data", "merge", "no_data", "no_data_2", "OUT"],
    ("data stats", "--out"): ["data", "stats", "no_data", "--out", "OUT"],
    ("weights import", "--out"): ["weights", "import", "no_file", "--source", "detectron2", "--out", "OUT"],
}
FOLDERS = {verb for verb in OUTPUTS if verb[1] == "OUT"} | {
    ("train", "--out"), ("predict", "--out"), ("next", "--out"), ("demo", "--out"), ("app", "--out"),
    ("data check", "--fix"), ("data get", "--out"), ("data show", "--out"),
}  # fmt: skip
# Options that name inputs, all refused when they are read where nothing is there.
INPUTS: dict[tuple[str, str], list[str]] = {
    ("train", "--val"): ["train", "no_data"],
    ("train", "--images"): ["train", "no_data"],
    ("train", "--val-images"): ["train", "no_data"],
    ("train", "--proposals"): ["train", "no_data"],
    ("train", "--val-proposals"): ["train", "no_data"],
    ("evaluate", "--images"): ["evaluate", "no_model", "no_data"],
    ("evaluate", "--proposals"): ["evaluate", "no_model", "no_data"],
    ("evaluate", "--predictions"): ["evaluate", "no_data"],
    ("predict", "--image-ids"): ["predict", "no_model", "no_images"],
    ("predict", "--regions"): ["predict", "no_model", "no_images"],
    ("next", "--annotated"): ["next", "no_model", "no_images"],
    ("export", "--int8"): ["export", "no_model", "--out", "a.onnx"],
    ("export", "--images"): ["export", "no_model", "--out", "a.onnx"],
    ("explain", "--images"): ["explain", "no_model", "no_data"],
    ("explain", "--proposals"): ["explain", "no_model", "no_data"],
    ("bench", "--images"): ["bench", "no_model"],
    ("propose", "--images"): ["propose", "no_data", "--out", "a.npz"],
    ("data check", "--images"): ["data", "check", "no_data"],
    ("data convert", "--images"): ["data", "convert", "no_data", "out", "--to", "coco"],
    ("data show", "--images"): ["data", "show", "no_data", "--out", "out"],
    ("data split", "--images"): ["data", "split", "no_data", "out"],
    ("weights import", "--classes"): ["weights", "import", "no_file", "--out", "a"],
    ("weights import", "--config"): ["weights", "import", "no_file", "--out", "a"],
}
# Arguments that are opened first of all, and the run whose own error says more.
OPENED = {
    ("train", "DATA"), ("train", "--resume"), ("predict", "IMAGES"), ("next", "POOL"),
    ("explain", "IMAGE|DATA"), ("bench", "DATA"), ("propose", "DATA"),
    ("report", "RUN"), ("app", "FOLDER"), ("weights import", "FILE"), ("data merge", "DATA DATA…"),
    ("data stats", "DATA…"),
    *((f"data {verb}", "DATA") for verb in ("check", "convert", "show", "split")),
}  # fmt: skip
# Paths, or addresses of stores.
ADDRESSES = {("predict", "--out"), ("predict", "IMAGES")}


def path_parameters() -> Iterator[tuple[str, str]]:
    """Verb and name of every option and argument that is a path."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))
        hints = get_type_hints(command.callback) if words and not hasattr(command, "commands") else {}
        for parameter in command.params:
            named = parameter.param_type_name == "option"
            found = " ".join(words), parameter.opts[0] if named else str(parameter.metavar)
            if "Path" in str(hints.get(parameter.name)) or found in ADDRESSES:
                yield found

    return walk(typer.main.get_command(cli.app), ())


def call(arguments: list[str]) -> str:
    """The one line that a failing command prints."""
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1, result.output
    return result.stderr.strip()


def test_every_path_is_an_output_or_an_input() -> None:
    assert set(path_parameters()) == {*OUTPUTS, *INPUTS, *OPENED}


def below_a_file(folder: Path, ending: str) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / f"out{ending}"


def too_long(folder: Path, ending: str) -> Path:
    return folder / f"{'é' * 150}{ending}"


def too_long_a_folder(folder: Path, ending: str) -> Path:
    return folder / "missing" / ("x" * 256) / f"out{ending}"


def in_no_folder_of_files(folder: Path, ending: str) -> Path:
    return Path("/proc/self") / f"out{ending}"


UNWRITABLE: dict[str, Callable[[Path, str], Path]] = {
    "below a file": below_a_file, "too long": too_long, "in too long a folder": too_long_a_folder,
}  # fmt: skip
if sys.platform == "linux":
    UNWRITABLE["where nothing can be made"] = in_no_folder_of_files
ENDINGS = {"export": ".onnx", "propose": ".npz"}


@pytest.mark.parametrize("why", UNWRITABLE)
def test_an_unwritable_output_is_refused_first(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for (verb, option), command in OUTPUTS.items():
        out = UNWRITABLE[why](tmp_path, ENDINGS.get(verb, ""))
        said = call([str(out) if word == "OUT" else word for word in command])
        if not said.startswith(f"error: {option} {out}") or "cannot be written (" not in said:
            wrong[verb, option] = said
    assert not wrong


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for (verb, option), command in OUTPUTS.items():
        out = tmp_path / f"there{ENDINGS.get(verb, '')}"
        if (verb, option) in FOLDERS:
            out.write_text("")
        elif verb == "weights import":
            out.with_suffix(".safetensors").mkdir()
        else:
            out.mkdir()
        said = call([str(out) if word == "OUT" else word for word in command])
        if "there" not in said or "no_" in said.replace(str(tmp_path), ""):
            wrong[verb, option] = said
        for made in tmp_path.iterdir():
            made.rmdir() if made.is_dir() else made.unlink()
    assert not wrong


def test_a_missing_input_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for (_, option), command in INPUTS.items():
        assert call([*command, option, "nowhere"]) == f"error: {option} nowhere: No such file or directory"
    assert not list(tmp_path.iterdir())


def test_data_of_ones_own_have_a_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(["train", "no_data", "--val", "my_package.data:val"]).startswith("error: no_data:")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["export", "no_model", "--out", "a.bin"], "expected a file *.onnx"),
        (["export", "no_model", "--out", "a.onnx", "--format", "onxn"], "did you mean onnx?"),
        (["export", "no_model", "--out", "a.onnx", "--int8", "."], "eight-bit integers are for openvino"),
        (["propose", "no_data", "--out", "a.txt"], "written as .npz or .json"),
        (["evaluate", "no_model", "no_data", "--metrics", "coko"], "did you mean coco?"),
        (["evaluate", "no_model", "no_data", "--svd", "many"], "expected two ranks"),
        (["predict", "no_model", "no_images", "--overlay-format", "gif"], "expected one of png, jpg"),
        (["data", "convert", "no_data", "out", "--to", "cocoo"], "did you mean coco?"),
        (["data", "split", "no_data", "out", "--to", "cocoo"], "did you mean coco?"),
        (["data", "merge", "no_data", "b", "out", "--to", "cocoo"], "did you mean coco?"),
        (["data", "check", "no_data", "--fix", "out", "--to", "cocoo"], "did you mean coco?"),
        (["train", "no_data", "--log", "tensorbord"], "did you mean tensorboard?"),
        (["train", "no_data", "--model", "mask_rcn"], "did you mean mask_rcnn?"),
        (["push", "no_model", "name"], "expected USER/NAME"),
    ],
)
def test_what_is_misspelt_is_refused_first(
    command: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in call(command)


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("onnx", ["export", "no_model", "--out", "a.onnx"], "export"),
        ("openvino", ["export", "no_model", "--out", "a", "--format", "openvino"], "export"),
        ("nncf", ["export", "no_model", "--out", "a", "--format", "openvino", "--int8", "."], "int8"),
        ("cv2", ["propose", "no_data", "--out", "a.npz"], "selective-search"),
        ("cv2", ["train", "no_data", "--model", "fast_rcnn"], "selective-search"),
        ("sklearn", ["train", "no_data", "--recipe", "voc07_rcnn_alexnet"], "svm"),
        ("tensorboard", ["train", "no_data", "--log", "tensorboard"], "tensorboard"),
        ("mlflow", ["train", "no_data", "--log", "mlflow"], "mlflow"),
        ("wandb", ["train", "no_data", "--log", "wandb"], "wandb"),
        ("huggingface_hub", ["push", "no_model", "user/name"], "hub"),
        ("huggingface_hub", ["evaluate", "hf://user/name", "no_data"], "hub"),
    ],
)
def test_a_missing_package_is_reported_first(
    package: str, command: list[str], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    find = "rcnn.inference.exporters.find_spec"
    monkeypatch.setattr(find, lambda name: None if name == package else object())
    said = call(command)
    assert f"[{extra}]" in said, said
    assert not list(tmp_path.iterdir())


class Unopened(Dataset):
    """A data set that must not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the data was asked for")


def test_functions_refuse_as_commands_do(tmp_path: Path) -> None:
    """Before they look at opened data, too."""
    (tmp_path / "file").write_text("")
    out, data = tmp_path / "file" / "out", Unopened.__new__(Unopened)
    calls: dict[str, Callable[[], object]] = {
        "convert": lambda: rcnn.convert(data, out, to="coco"),
        "split": lambda: rcnn.split_data(data, out),
        "merge": lambda: rcnn.merge_data([data, data], out),
        "fix": lambda: rcnn.fix_data(data, out),
        "show": lambda: rcnn.show(data, out),
        "stats": lambda: rcnn.data_stats([data], out),
        "propose": lambda: rcnn.propose(data, out.with_suffix(".npz")),
        "predict": lambda: rcnn.predict(Unopened.__new__(Unopened), [tmp_path / "file"], out),  # type: ignore[arg-type]
        "export": lambda: check_export(out.with_suffix(".onnx")),
    }
    for function in calls.values():
        with pytest.raises(ValueError, match=r"cannot be written \(Not a directory\): choose another path"):
            function()


def test_a_metric_that_lacks_an_input_is_refused_after_the_first_images() -> None:
    class Boxes:
        class_names = tiny_shapes(1).class_names
        seen = 0

        def predict(self, images: list[Any], **_: Any) -> list[rcnn.Instances]:
            self.seen += len(images)
            return [rcnn.Instances.empty(image.shape[:2], self.class_names) for image in images]

    detector, data = Boxes(), tiny_shapes(40)
    with pytest.raises(ValueError, match="metrics keypoints: needs keypoints in the data"):
        rcnn.evaluate(detector, data, metrics=["keypoints"])
    assert detector.seen < 20, "some are predicted ahead"


def test_what_can_be_written_is_not_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "missing" / "target.json")
    for file in ("old.json", "new.json", "a/b/c.json", "x" * 255, "link"):
        refuse_unwritable_file(tmp_path / file)
        refuse_unwritable(tmp_path / file)
    for folder in ("new", "a/b", "."):
        refuse_unwritable_folder(tmp_path / folder)
    for stream in ("-", os.devnull, "/dev/stdout"):
        refuse_unwritable_file(Path(stream))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old.json"]
    with pytest.raises(ValueError, match=r"link cannot be written \(No such file"):
        refuse_unwritable_folder(tmp_path / "link")
