"""A run from data to report: its folder, the same run again, killed, in two processes, and refused."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import rcnn
from rcnn.data.dataset import Dataset, Problem, Record
from rcnn.data.external_proposals import with_proposals, write_proposals
from rcnn.data.formats import parquet_shards, webdataset_writer
from rcnn.data.formats.open import open_data
from rcnn.inference.detector import Detector
from rcnn.inference.writers import predict_to_files
from rcnn.io import checkpoint
from rcnn.loading import load_detector
from rcnn.parts.pretrained import CAFFE, IMAGENET, backbone_normalisation
from rcnn.structures import Instances
from rcnn.training import run, settings, validation
from rcnn.training.planning import with_backbone_normalisation
from rcnn.training.recipe import dump_recipe, load_recipe, with_settings
from rcnn.training.run import rewrite_report, train
from rcnn.training.run_folder import folder_for, read_history
from rcnn.training.split import HoldOut, Split, check_distinct_names, checked, fingerprint, hold_out
from tiny import NAMES, tiny_network, tiny_recipe, tiny_shapes

ROOT = Path(__file__).parents[2]
FILES = {
    "best.safetensors", "environment.json", "evaluation.json", "last.safetensors", "log.txt", "metrics.jsonl",
    "recipe.toml", "report.html", "run.json",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def console() -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=200), text


def quiet() -> Console:
    return console()[0]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics without the time they took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(folder)]


def assert_same_run(folder: Path, other: Path) -> None:
    """Weights, state of the optimiser and metrics are the same to the last bit."""
    for name in ("best.safetensors", "last.safetensors"):
        one, two = (checkpoint.read_checkpoint(f / name)[0] for f in (folder, other))
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == [], name
    assert rows(folder) == rows(other)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures as a user has them."""
    folder = tmp_path_factory.mktemp("data") / "with a space"
    return tiny_shapes(12).write(folder)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty steps, a checkpoint after each, evaluated four times on one picture."""
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    recipe = tiny_recipe(epochs=8.0, save_every=0.0, eval_images=1, ema=0.9)
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def whole(data: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    return train(data, recipe=recipe_file, out=tmp_path_factory.mktemp("runs") / "whole", console=quiet())


# The folder


def test_what_a_run_folder_holds(whole: Path, data: Path, recipe_file: Path) -> None:
    assert {p.name for p in whole.iterdir()} == FILES
    assert load_recipe(whole / "recipe.toml") == load_recipe(recipe_file)
    asked = json.loads((whole / "run.json").read_text(encoding="utf-8"))
    assert asked["data"] == str(data)
    assert (asked["val"], asked["seed"], asked["skip_bad"]) == (None, 0, False)
    environment = json.loads((whole / "environment.json").read_text(encoding="utf-8"))
    assert torch.__version__.startswith(environment["torch"])
    assert environment["threads"] == 1
    assert "<html" in (whole / "report.html").read_text(encoding="utf-8")
    log = (whole / "log.txt").read_text(encoding="utf-8")
    assert "12 images (0 without objects)" in log
    assert "held out with seed 0" in log


def test_rows_of_losses_and_of_metrics(whole: Path) -> None:
    losses = [row for row in rows(whole) if "loss" in row]
    metrics = [row for row in rows(whole) if "mask/AP" in row]
    assert [row["iteration"] for row in losses] == [10, 20, 30, 40]
    assert [row["iteration"] for row in metrics] == [10, 20, 30, 40]
    assert losses[0]["epoch"] == 2.0
    assert losses[-1]["loss"] < 0.8 * losses[0]["loss"]
    assert all(row["val/loss"] > 0 and 0 <= row["f1"] <= 1 and 0 <= row["box/AP50"] <= 1 for row in metrics)


def test_the_best_model_has_the_threshold_of_the_evaluation(whole: Path) -> None:
    evaluation = json.loads((whole / "evaluation.json").read_text(encoding="utf-8"))
    detector = load_detector(whole, "cpu")
    assert detector.class_names == NAMES
    assert detector.min_score == pytest.approx(evaluation["f1_threshold"], abs=1e-4)
    assert detector.info["metrics"] == evaluation["metrics"]
    best = max((r for r in rows(whole) if "mask/AP" in r), key=lambda r: (r["mask/AP"] or 0, r["iteration"]))
    assert detector.info["best_iteration"] in (best["iteration"], 40)
    (found,) = detector.predict(tiny_shapes(1)[0].image, min_score=0.0)
    assert len(found)
    assert found.masks is not None


def test_a_report_can_be_written_again(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in FILES - {"report.html", "evaluation.json"}:
        (copy / name).write_bytes((whole / name).read_bytes())
    report = rewrite_report(copy, quiet())
    assert "<html" in report.read_text(encoding="utf-8")
    assert (copy / "evaluation.json").exists()


# The split


def test_the_held_out_part_is_seeded_disjoint_and_named(tmp_path: Path) -> None:
    shapes = tiny_shapes(20)
    parts = {seed: hold_out(shapes, ("first",), HoldOut(seed)) for seed in (0, 1)}
    again = hold_out(shapes, ("first",), HoldOut(0))
    ids = {s: [r.image_id for r in p.val.records] for s, p in parts.items()}
    assert ids[0] == [r.image_id for r in again.val.records]
    assert ids[0] != ids[1]
    for part in parts.values():
        train_ids = {r.image_id for r in part.train.records}
        val_ids = {r.image_id for r in part.val.records}
        assert val_ids
        assert train_ids | val_ids == set(range(20))
        assert not train_ids & val_ids
    names = ", ".join(map(str, ids[1]))
    number = len(ids[1])
    assert parts[1].messages[-1].endswith(f"{number} of 20 images held out with seed 1: {names}")


@pytest.mark.parametrize("images", [2, 3, 10])
def test_at_least_one_is_held_out_and_one_kept(images: int) -> None:
    for seed in range(10):
        parts = hold_out(tiny_shapes(images), (), HoldOut(seed))
        assert len(parts.train) > 0
        assert len(parts.val) > 0


def test_many_are_named_in_short() -> None:
    parts = hold_out(tiny_shapes(100), (), HoldOut(0))
    assert 8 < len(parts.val) < 25
    assert parts.messages[-1].endswith(f" and {len(parts.val) - 8} more")


def test_the_last_image_of_a_class_is_not_held_out() -> None:
    shapes = tiny_shapes(10)
    data = replace(shapes, records=[emptied(r) if i else r for i, r in enumerate(shapes.records)])
    for seed in range(20):
        parts = hold_out(data, (), HoldOut(seed))
        assert parts.train.has_objects
        assert len(parts.val) > 0


@pytest.mark.usefixtures("no_report")
def test_one_image_is_enough(tmp_path: Path) -> None:
    to, text = console()
    folder = train(tiny_shapes(1), epochs=1, out=tmp_path / "run", console=to, settings=["train.workers=0"])
    assert "the only image" in text.getvalue()
    assert load_detector(folder, "cpu").class_names == NAMES


def emptied(record: Record) -> Record:
    return replace(record, truth=Instances.empty(record.truth.size, NAMES), masks=None)


@pytest.mark.usefixtures("no_report")
def test_images_without_objects_in_both_parts(tmp_path: Path) -> None:
    def half_empty(data: Dataset) -> Dataset:
        return replace(data, records=[*map(emptied, data.records[::2]), *data.records[1::2]])

    folder = train(
        half_empty(tiny_shapes(4)), val=half_empty(tiny_shapes(2, first=50)), recipe=tiny_recipe(),
        out=tmp_path / "run", console=quiet(),
    )  # fmt: skip
    assert all(row["loss"] is not None for row in rows(folder) if "loss" in row)


@pytest.mark.usefixtures("no_report")
def test_a_held_out_part_without_objects_has_no_metrics(tmp_path: Path) -> None:
    data = tiny_shapes(4)
    held = {r.image_id for r in hold_out(data, (), HoldOut(0)).val.records}
    records = [emptied(r) if r.image_id in held else r for r in data.records]
    folder = train(
        replace(data, records=records), recipe=tiny_recipe(), out=tmp_path / "run", console=quiet()
    )
    (row,) = (row for row in rows(folder)[-1:] if "box/AP" in row)
    assert row["box/AP"] is None


@pytest.mark.usefixtures("no_report")
def test_boxes_alone_train_a_faster_rcnn(tmp_path: Path) -> None:
    shapes = tiny_shapes(2)
    boxes = replace(shapes, records=[replace(r, masks=None) for r in shapes.records])
    recipe = tiny_recipe("faster_rcnn")
    folder = train(boxes, val=boxes, recipe=recipe, out=tmp_path / "run", console=quiet())
    assert "mask/AP" not in rows(folder)[-1]
    found = load_detector(folder, "cpu").predict(shapes[0].image, min_score=0.0)
    assert found[0].masks is None


# The same run again


@pytest.mark.usefixtures("no_report")
def test_the_recipe_of_a_run_gives_the_run_again(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=1.0, seed=5)
    first = train(data, recipe=recipe, out=tmp_path / "first", console=quiet())
    again = train(data, recipe=first / "recipe.toml", out=tmp_path / "again", console=quiet())
    assert_same_run(first, again)
    other = train(data, recipe=first / "recipe.toml", seed=6, out=tmp_path / "other", console=quiet())
    assert rows(first)[0] != rows(other)[0]
    logs = [(f / "log.txt").read_text(encoding="utf-8") for f in (first, again, other)]
    splits = [next(line for line in log.splitlines() if "held out" in line)[20:] for log in logs]
    assert splits[0] == splits[1] != splits[2]


# Killed


KILLED = """
import sys, torch
torch.set_num_threads(1)
from rcnn.training.run import train
data, recipe, out, *resume = sys.argv[1:]
train(data, recipe=recipe, out=out, resume=resume[0] if resume else None)
"""


def environment() -> dict[str, str]:
    # The package that this process runs: with the kernels, if it has them.
    paths = [str(Path(rcnn.__file__).parents[1]), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TERM": "dumb"}


def steps_done(out: Path) -> int:
    """Of the last checkpoint; -1 without one."""
    file = out / "last.safetensors"
    if not file.exists():
        return -1
    with file.open("rb") as opened:  # once: the next checkpoint may take its place at any moment
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return int(json.loads(header["__metadata__"]["rcnn"])["train_state"]["iteration"])


def train_and_kill(data: Path, recipe: Path, out: Path, *resume: str, after: int) -> None:
    """Train in a process of its own, and end it once ``after`` steps are saved (-1: once it has begun)."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(data), str(recipe), str(out), *resume],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while not (out / "run.json").exists() or steps_done(out) < after:
            assert process.poll() is None, (process.stderr.read() if process.stderr else b"").decode()
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("after", [-1, 13], ids=["before any checkpoint", "in the middle"])
def test_a_killed_run_is_resumed_to_the_same_end(
    after: int, data: Path, recipe_file: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    train_and_kill(data, recipe_file, out, after=after)
    reached = steps_done(out)
    assert (reached == -1) if after == -1 else (after <= reached < 40)
    to, text = console()
    assert train(resume=out, console=to) == out
    assert (f"resumed at iteration {reached}" in text.getvalue()) == (reached > 0)
    assert {p.name for p in out.iterdir() if not p.name.startswith(".")} == FILES
    assert_same_run(out, whole)


def in_shards(kind: str, folder: Path) -> Path:
    """Twenty pictures, each a shard of its own: more than are open at a time."""
    module, name = {
        "parquet": (parquet_shards, "SHARD_ROWS"), "webdataset": (webdataset_writer, "SHARD_SAMPLES"),
    }[kind]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, 1)
        return rcnn.convert(tiny_shapes(20).write(folder / "files"), folder / kind, to=kind).out


@pytest.fixture(scope="module")
def shards_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs, a checkpoint after each step."""
    file = tmp_path_factory.mktemp("recipe") / "shards.toml"
    recipe = tiny_recipe(epochs=4.0, save_every=0.0, eval_images=1, ema=0.9)
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def whole_on_shards(shards_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on tar shards that nothing interrupted."""
    folder = tmp_path_factory.mktemp("shards")
    shards = in_shards("webdataset", folder)
    return train(shards, recipe=shards_recipe, out=folder / "whole", console=quiet())


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_killed_run_on_shards_ends_as_a_whole_one(
    kind: str, shards_recipe: Path, whole_on_shards: Path, tmp_path: Path
) -> None:
    """Shards of both kinds give the same run, and so does each that is killed and started again."""
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra bulk")
    shards, out = in_shards(kind, tmp_path), tmp_path / "killed"
    last = steps_done(whole_on_shards)
    after = random.Random(kind).randrange(4, last - 8)
    train_and_kill(shards, shards_recipe, out, "auto", after=after)
    assert after <= steps_done(out) < last
    train(shards, recipe=shards_recipe, out=out, resume="auto", console=quiet())
    assert_same_run(out, whole_on_shards)


@pytest.mark.usefixtures("no_report")
def test_a_finished_run_can_be_resumed(tmp_path: Path) -> None:
    shapes = tiny_shapes(4)
    out = train(shapes, val=shapes, recipe=tiny_recipe(), out=tmp_path / "run", console=quiet())
    before, _ = checkpoint.read_checkpoint(out / "last.safetensors")
    history = rows(out)
    train(shapes, val=shapes, resume=out, console=quiet())  # what was given opened is given again
    after, _ = checkpoint.read_checkpoint(out / "last.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert rows(out) == history


def test_a_model_keeps_the_category_ids_of_its_data(tmp_path: Path, no_report: None) -> None:
    data = replace(tiny_shapes(4), category_ids=(3, 90))
    folder = train(data, val=data, recipe=tiny_recipe(), out=tmp_path / "run", console=quiet())
    assert load_detector(folder).category_ids == (3, 90)


# Refused


def test_a_normalisation_that_is_no_backbones_stays() -> None:
    recipe = load_recipe("voc07_faster_rcnn_vgg16")
    given = replace(recipe, transform=replace(recipe.transform, std=(1 / 255,) * 3))
    assert with_backbone_normalisation(given) == given
    caffe = replace(recipe, transform=replace(recipe.transform, mean=CAFFE[0], std=CAFFE[1]))
    resnet = with_settings(caffe, ["model.backbone.name=resnet50"])
    assert (
        with_backbone_normalisation(resnet).transform.mean,
        with_backbone_normalisation(resnet).transform.std,
    ) == IMAGENET


def test_models_train_on_objects_of_which_some_lack_an_outline(tmp_path: Path, no_report: None) -> None:
    file = tiny_shapes(6).write(tmp_path / "data")
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = []
    file.write_text(json.dumps(content))
    for name in ("mask_rcnn", "faster_rcnn"):
        out = train(file, recipe=tiny_recipe(name, epochs=1.0), out=tmp_path / name, console=quiet())
        assert (out / "best.safetensors").is_file()
        assert "1 of " in (out / "log.txt").read_text()


def test_an_existing_run_is_not_overwritten(whole: Path, data: Path, recipe_file: Path) -> None:
    before = (whole / "last.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"already holds a run: continue it with --resume .*another --out"):
        train(data, recipe=recipe_file, out=whole, console=quiet())
    assert (whole / "last.safetensors").stat().st_mtime_ns == before


def test_without_a_folder_named_the_next_free_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with folder_for("some/cells") as lock:
        assert lock.folder == Path("runs/cells")
        with folder_for("some/cells") as other:
            assert other.folder == Path("runs/cells-2"), "of two that start at once, each has its own"
    with folder_for("some/cells") as lock:
        assert lock.folder == Path("runs/cells"), "empty: a start that was refused"
        (lock.folder / "run.json").touch()
    with folder_for("some/cells.json") as lock:
        assert lock.folder == Path("runs/cells-2")
    with folder_for(tiny_shapes(1)) as lock:
        assert lock.folder == Path("runs/shapes-seed0")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be created .*choose another --out.*file"):
        train(tiny_shapes(2), recipe=tiny_recipe(), out=tmp_path / "file" / "run", console=quiet())


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(PermissionError, match=r"no permission to write there; choose another --out.*run"):
        train(tiny_shapes(2), recipe=tiny_recipe(), out=tmp_path / "run", console=quiet())


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        train(tiny_shapes(2), recipe=tiny_recipe(), out=tmp_path / "run", console=quiet())


def boxes_only(data: Dataset) -> Dataset:
    return replace(data, records=[replace(r, masks=None) for r in data.records])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "needs a data set, or the folder of a run to resume"),
        ({"recipe": None, "minutes": 1, "epochs": 2}, r"both minutes \(1\) and epochs \(2\)"),
        ({"settings": ["train.minutes=3"]}, "train.minutes is 3.0 and train.epochs is 1.0: set exactly one"),
        ({"settings": ["train.epochs=none"]}, "minutes is None and train.epochs is None: set exactly one"),
        ({"minutes": 0}, "cannot train for 0 minutes or epochs"),
        ({"epochs": -1.0}, "epochs is -1.0: expected a number"),
        ({"settings": ["train.learning_rate=1"]}, r"train\.learning_rate: no such setting"),
        ({"settings": ["train.warm=0.1"]}, r"train\.warm: no such setting; did you mean train\.warmup\?"),
        ({"settings": ["train.lr=fast"]}, "train.lr: got 'fast'"),
        ({"model": "faster_rcnn"}, "a recipe names its own model and backbone"),
        ({"recipe": "no_such"}, "no_such: no such recipe"),
        ({"data": "no/such/folder"}, "no/such/folder"),
        (
            {"recipe": "voc07_fast_rcnn_vgg16", "settings": ["model.ranks=[8,4]"]},
            "layers are trained uncompressed",
        ),
        ({"settings": ["train.batch_size=0"]}, "batch_size is 0: expected at least 1 image"),
        ({"settings": ["train.seed=5"]}, "train.seed: use --seed"),
        ({"recipe": None, "seed": -1}, "seed is -1"),
        ({"device": "tpu"}, "device tpu: not available here"),
    ],
)
def test_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": tiny_shapes(2), "recipe": tiny_recipe(), **options}
    with pytest.raises((ValueError, OSError), match=message):
        train(given.pop("data"), **given, out=tmp_path / "run", console=quiet())
    assert not (tmp_path / "run").exists(), "the corrected command needs the folder"


def test_few_of_many_warnings_are_shown_before_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_shapes(2)
    faults = tuple(Problem(Path(f"{i}.png"), "Odd.", "Look.", severity="warning") for i in range(30))
    _, lines = checked(replace(data, problems=faults), None, skip_bad=False, boxes_only=False)
    assert [line for line in lines if "png" in line] == [f"warning: {i}.png: Odd. Look." for i in range(5)]
    assert lines[-1].startswith("and 25 more warnings, listed by: rcnn data check")


@pytest.mark.parametrize("amp", ["auto", "off"])
def test_validation_is_in_float32(amp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "training_precision", lambda device: "bf16")
    recipe, seen = tiny_recipe(amp=amp, eval_images=2), []
    measure = validation.Validation(tiny_network(recipe), recipe, Split(tiny_shapes(2), tiny_shapes(3), ()))
    evaluated = validation.evaluate_shares

    def watched(detector: Any, data: Any, **settings: Any) -> Any:
        seen.append((detector.precision, len(data)))
        return evaluated(detector, data, **settings)

    monkeypatch.setattr(validation, "evaluate_shares", watched)
    for full in (False, True):
        measure(full)
    assert seen == [("float32", 2), ("float32", 3)]


@pytest.mark.parametrize(("side", "count"), [(64, 6), (2048, 1), (8192, 1)])
def test_few_large_images_are_looked_at_while_training(side: int, count: int) -> None:
    data = tiny_shapes(6)
    records = [replace(r, truth=replace(r.truth, size=(side, side))) for r in data.records]
    parts = Split(data, replace(data, records=records), ())
    recipe = tiny_recipe(eval_images=6)
    found = validation.Validation(tiny_network(recipe), recipe, parts)
    assert len(found.subset) == count


@pytest.mark.parametrize("part", ["data", "val"])
def test_a_mask_model_on_boxes_is_refused_with_advice(part: str, tmp_path: Path) -> None:
    given = {"data": tiny_shapes(2), "val": tiny_shapes(2, first=9)}
    given[part] = boxes_only(given[part])
    with pytest.raises(ValueError, match=r"objects without masks, which mask_rcnn needs: choose --model fas"):
        train(given["data"], val=given["val"], recipe=tiny_recipe(), out=tmp_path / "run", console=quiet())
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_network_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    """The same folder can be used once the settings are mended."""
    with pytest.raises(ValueError, match=r"rpn\.sizes has 1 levels"):
        train(
            tiny_shapes(2), recipe=tiny_recipe(), settings=["model.rpn.sizes=[[16]]"], out=tmp_path / "run",
            console=quiet(),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_the_report_tells_all_that_was_set_and_left_out(tmp_path: Path) -> None:
    file = tiny_shapes(6).write(tmp_path / "data")
    pictures = sorted((file.parent / "images").iterdir())
    for picture in pictures[:2]:
        picture.write_bytes(picture.read_bytes()[:100])
    out = train(
        file, recipe=tiny_recipe(), settings=["train.batch_size=1", "train.lr=0.002"], skip_bad=True,
        out=tmp_path / "run", console=quiet(),
    )  # fmt: skip
    html = (out / "report.html").read_text(encoding="utf-8")
    for text in ("train.batch_size=1; train.lr=0.002", pictures[0].name, pictures[1].name):
        assert text in html, text
    assert load_detector(out).min_score == json.loads((out / "evaluation.json").read_text())["f1_threshold"]


def test_the_schedule_is_told_as_set(tmp_path: Path) -> None:
    out = train(
        tiny_shapes(3), model="faster_rcnn", epochs=0.1, settings=["train.batch_size=2", "train.lr=0.0003"],
        out=tmp_path / "run", console=quiet(),
    )  # fmt: skip
    reasons = json.loads((out / "run.json").read_text(encoding="utf-8"))["reasons"]
    schedule = {"what": "schedule", "value": "0.1 epochs, batches of 2, adamw at 0.0003, cosine", "why": ""}
    assert schedule in reasons


def test_resume_of_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run\.json, so this is not a run; start one with rcnn train"):
        train(resume=tmp_path, console=quiet())
    with pytest.raises(ValueError, match=r"no run\.json"):
        rewrite_report(tmp_path / "nowhere", quiet())


def test_resume_without_its_data(data: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("recipe.toml", "run.json"):
        (out / name).write_bytes((whole / name).read_bytes())
    asked = json.loads((out / "run.json").read_text(encoding="utf-8"))
    (out / "run.json").write_text(json.dumps({**asked, "data": str(tmp_path / "gone")}), encoding="utf-8")
    with pytest.raises(ValueError, match="gone"):
        train(resume=out, console=quiet())


@pytest.mark.usefixtures("no_report")
def test_resume_with_other_data(tmp_path: Path) -> None:
    """Another number of images would be split otherwise: what was trained on would be validated on."""
    shapes = tiny_shapes(8)
    out = train(shapes, recipe=tiny_recipe(), out=tmp_path / "run", console=quiet())
    with pytest.raises(ValueError, match=r"split had \d images when the run started, now it has \d"):
        train(shapes.subset(range(7)), resume=out, console=quiet())
    moved = [replace(r, truth=replace(r.truth, boxes=r.truth.boxes + 0.5)) for r in shapes.records]
    with pytest.raises(ValueError, match="or their objects or proposals have changed: restore the data"):
        train(replace(shapes, records=moved), resume=out, console=quiet())
    elsewhere = [replace(r, path=Path("elsewhere") / r.path.name) for r in shapes.records]
    moved = replace(shapes, records=elsewhere)
    before, now = (hold_out(data, (), HoldOut(0)) for data in (shapes, moved))
    for part, moved in ((before.train, now.train), (before.val, now.val)):
        assert fingerprint(part, with_proposals=False) == fingerprint(moved, with_proposals=False)
    boxes = {r.image_id: r.truth.boxes for r in shapes.records}
    some = fingerprint(with_proposals(shapes, boxes), with_proposals=True)
    others = {key: value + 0.25 for key, value in boxes.items()}
    assert fingerprint(with_proposals(shapes, others), with_proposals=True) != some
    assert train(shapes, resume=out, console=quiet()) == out
    asked = json.loads((out / "run.json").read_text(encoding="utf-8"))
    (out / "run.json").write_text(json.dumps({**asked, "split": None}), encoding="utf-8")
    with pytest.raises(ValueError, match="started by an earlier rcnn"):
        train(shapes, resume=out, console=quiet())


@pytest.mark.usefixtures("no_report")
def test_a_report_is_not_written_again_on_other_images(tmp_path: Path) -> None:
    """A part of a data set, given opened, is named by the whole of it: most of that was trained on."""
    whole = open_data(tiny_shapes(6).write(tmp_path / "data"))
    train(
        whole.subset(range(4)), val=whole.subset([4, 5]), recipe=tiny_recipe(), out=tmp_path / "run",
        console=quiet(),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"its validation split had 2 images .* now it has 6.*rcnn evaluate"):
        rewrite_report(tmp_path / "run", quiet())


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_images_are_normalised_for_the_backbone_that_was_set(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "load_pretrained", lambda network: None)  # a ResNet's would be downloaded
    sizes = "model.backbone.levels=[2, 3]" if backbone == "resnet18" else "model.backbone.levels=[1, 2]"
    text = [f"model.backbone.name={backbone}", sizes, "train.epochs=0.5"]
    out = train(tiny_shapes(4), recipe=tiny_recipe(), settings=text, out=tmp_path / "run", console=quiet())
    assert load_recipe(out / "recipe.toml").transform.mean == backbone_normalisation(backbone)[0]


def test_a_row_that_a_kill_cut_short_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 4, "loss": 1.0}\n{"iteration": 9, "lo', "utf-8")
    assert read_history(tmp_path) == [{"iteration": 4, "loss": 1.0}]


def test_the_written_shapes_are_those_drawn(data: Path) -> None:
    """What the tests above train on."""
    assert [len(r.truth) for r in open_data(data).records] == [len(r.truth) for r in tiny_shapes(12).records]


def test_one_file_of_proposals_for_parts_whose_images_share_names(tmp_path: Path) -> None:
    """COCO's files number each part from 1: images to validate on would get the boxes of those trained on."""
    shapes = tiny_shapes(2)
    parts = []
    for part in ("train", "val"):
        kept = [
            replace(r, path=tmp_path / part / f"{part}{i}.png", image_id=i)
            for i, r in enumerate(shapes.records)
        ]
        parts.append(replace(shapes, records=kept))
    boxes = shapes.records[0].truth.boxes
    by_id = write_proposals(tmp_path / "by_id.npz", {0: boxes, 1: boxes})
    with pytest.raises(
        ValueError, match=r"train0\.png \(training\) and .*val0\.png \(validation\) are both called 0"
    ):
        check_distinct_names(Split(*parts, ()), str(by_id))
    names = ("train0", "train1", "val0", "val1")
    by_name = write_proposals(tmp_path / "by_name.npz", dict.fromkeys(names, boxes))
    check_distinct_names(Split(*parts, ()), str(by_name))


def test_predictions_are_data_to_train_on(data: Path, tmp_path: Path, no_report: None) -> None:
    recipe = tiny_recipe(eval_images=1)
    detector = Detector(tiny_network(recipe), recipe.transform, NAMES)
    found = tmp_path / "found"
    predict_to_files(detector, [data.parent], found, min_score=0.0, max_detections=3)
    folder = train(
        found / "predictions.json", images=data.parent, recipe=recipe, out=tmp_path / "run", console=quiet()
    )
    again = load_detector(folder, "cpu")
    assert again.class_names == NAMES
    assert len(read_history(folder)) > 0
