"""A job: one row per image, whatever ends it, and the row that the image has alone."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bulk_job import BROKEN, images, saved_model
from rcnn.bulk import BulkOptions, JobError, job_status, predict_bulk, read_predictions
from rcnn.bulk.worker import ShardWorker, WorkerOptions
from rcnn.loading import load

COUNT = 7
OPTIONS = BulkOptions(rows_per_shard=2)
EXACT = WorkerOptions(device="cpu", precision="float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("data") / "images", COUNT, broken=True)


@pytest.fixture(scope="module")
def whole(model: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    summary = predict_bulk(model, str(folder), str(out), OPTIONS, worker=EXACT)
    assert (summary.images, summary.predicted, summary.failed, summary.remaining) == (COUNT, COUNT, 1, 0)
    return out


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_each_image_has_the_row_that_it_has_alone(whole: Path, model: str, folder: Path) -> None:
    detector = load(model, "cpu", precision="float32")
    rows = list(read_predictions(str(whole)))
    assert [Path(row.path).name for row in rows] == [f"{n:02}.png" for n in range(COUNT)]
    for number, row in enumerate(rows):
        if number == BROKEN:
            assert row.instances is None
            assert row.error is not None
            assert "02.png" in row.error
            continue
        (alone,) = detector.predict(row.path)
        assert row.instances is not None
        assert len(alone) > 0
        for name in ("boxes", "labels", "scores"):
            assert_array_equal(getattr(row.instances, name), getattr(alone, name))
        assert row.instances.masks is not None
        assert alone.masks is not None
        assert_array_equal(row.instances.masks.dense(), alone.masks.dense())
        assert row.instances.class_names == alone.class_names


def test_polygons_give_the_same_masks(whole: Path, model: str, folder: Path, tmp_path: Path) -> None:
    asked = replace(OPTIONS, outlines="polygons")
    predict_bulk(model, str(folder), str(tmp_path / "out"), asked, worker=EXACT)
    for row, other in zip(read_predictions(str(tmp_path / "out")), read_predictions(str(whole)), strict=True):
        if row.instances is not None:
            assert other.instances is not None
            assert_array_equal(row.instances.masks, other.instances.masks)


@pytest.mark.parametrize("after", range(4))
def test_a_job_that_was_stopped_becomes_the_same(
    whole: Path, model: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    done, write = [], ShardWorker.do

    def ended(self: ShardWorker, shard: int) -> Any:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(shard)
        return write(self, shard)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(ShardWorker, "do", ended)
        with pytest.raises(KeyboardInterrupt):
            predict_bulk(model, str(folder), str(out), OPTIONS, worker=EXACT)
    assert job_status(str(out)).done == 2 * after
    summary = predict_bulk(model, str(folder), str(out), OPTIONS, worker=EXACT)
    assert summary.predicted == COUNT - 2 * after
    assert files(out) == files(whole)


def test_shards_of_several_calls_make_up_the_job(
    whole: Path, model: str, folder: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    left = [
        predict_bulk(model, str(folder), out, OPTIONS, worker=EXACT, shards=(n, 3)).remaining
        for n in (3, 1, 2)
    ]
    assert left == [3, 1, 0]
    assert files(tmp_path / "out") == files(whole)


def test_errors_are_tried_again_when_asked(whole: Path, model: str, folder: Path, tmp_path: Path) -> None:
    mine = images(tmp_path / "images", COUNT, broken=True)
    out = str(tmp_path / "out")
    predict_bulk(model, str(mine), out, OPTIONS, worker=EXACT)
    assert job_status(out).failed == 1
    good = (folder / "01.png").read_bytes()
    (mine / f"{BROKEN:02}.png").write_bytes(good)
    assert predict_bulk(model, str(mine), out, OPTIONS, worker=EXACT).predicted == 0
    before = files(tmp_path / "out")
    summary = predict_bulk(model, str(mine), out, OPTIONS, worker=replace(EXACT, retry_errors=True))
    assert (summary.predicted, summary.failed, job_status(out).failed) == (2, 0, 0)
    changed = {name for name, content in files(tmp_path / "out").items() if content != before[name]}
    assert changed == {"parts/00000001.parquet"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min_score": 0.7}, "min_score 0.05 there, 0.7 here"),
        ({"max_detections": 3}, "max_detections None there, 3 here"),
        ({"outlines": "polygons"}, "outlines rle there, polygons here"),
        ({"rows_per_shard": 3}, "rows_per_shard 2 there, 3 here"),
    ],
)
def test_another_request_is_refused(
    whole: Path, model: str, folder: Path, change: dict[str, Any], said: str
) -> None:
    before = files(whole)
    with pytest.raises(JobError, match=said):
        predict_bulk(model, str(folder), str(whole), replace(OPTIONS, **change), worker=EXACT)
    assert files(whole) == before


def test_another_list_or_model_is_refused(whole: Path, model: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"list of images of 7 .*manifest\.parquet"):
        predict_bulk(model, str(folder / "00.png"), str(whole), OPTIONS, worker=EXACT)
    other = saved_model(tmp_path, "faster_rcnn")
    with pytest.raises(JobError, match=r"model \w{8} there"):
        predict_bulk(other, str(folder), str(whole), OPTIONS, worker=EXACT)
    kept = str(whole / "manifest.parquet")
    assert predict_bulk(model, kept, str(whole), OPTIONS, worker=EXACT).predicted == 0


def test_a_folder_of_other_things_is_refused(model: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(JobError, match=r"other files \(mine\.txt\)"):
        predict_bulk(model, str(folder), str(tmp_path), OPTIONS, worker=EXACT)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "not a job"), ("[]", "not a job"), ('{"format": 1}', "not a job"), ('{"format": 2}', "format 2")],
)
def test_a_damaged_job_is_reported(model: str, folder: Path, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "job.json").write_text(content)
    with pytest.raises(JobError, match=said):
        predict_bulk(model, str(folder), str(tmp_path), OPTIONS, worker=EXACT)
    with pytest.raises(JobError):
        job_status(str(tmp_path))


def test_a_worker_with_another_model_refuses_to_work(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="another model"):
        ShardWorker.open(str(whole), saved_model(tmp_path, "faster_rcnn"), EXACT)


def test_shards_are_numbered_from_one(model: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shards 0/3: expected i/n"):
        predict_bulk(model, str(folder), str(tmp_path / "out"), shards=(0, 3))


RUN = """
import sys
from rcnn.bulk import BulkOptions, predict_bulk
from rcnn.bulk.worker import WorkerOptions
model, images, out = sys.argv[1:]
predict_bulk(model, images, out, BulkOptions(rows_per_shard=2), worker=WorkerOptions("cpu", "float32"))
"""


def killed(arguments: list[str], out: Path, seconds: float) -> bool:
    """Start a job and kill it some time after it began; whether it was still at work."""
    process = subprocess.Popen([sys.executable, "-c", RUN, *arguments, str(out)])
    deadline = time.monotonic() + 120
    while not (out / "job.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait(60) == -signal.SIGKILL


def test_a_killed_job_goes_on(whole: Path, model: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert killed([model, str(folder)], out, 0.02)
    predict_bulk(model, str(folder), str(out), OPTIONS, worker=EXACT)
    assert files(out) == files(whole)


@pytest.mark.slow
def test_a_job_killed_at_random_goes_on(whole: Path, model: str, folder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for trial in range(20):
        out = tmp_path / f"out{trial}"
        for _ in range(int(random.integers(1, 4))):
            killed([model, str(folder)], out, float(random.uniform(0, 1.5)))
        predict_bulk(model, str(folder), str(out), OPTIONS, worker=EXACT)
        assert files(out) == files(whole), trial
        rows = [json.dumps(row.path) for row in read_predictions(str(out))]
        assert len(rows) == len(set(rows)) == COUNT


def test_what_ends_one_image_does_not_end_the_others(
    model: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rcnn.inference.detector import Detector

    predict = Detector.predict

    def failing(self: Detector, images: Any, **options: Any) -> Any:
        if any(np.asarray(image).sum() % 2 for image in images):
            raise RuntimeError("something in the network")
        return predict(self, images, **options)

    monkeypatch.setattr(Detector, "predict", failing)
    out = str(tmp_path / "out")
    batched = replace(EXACT, batch_size=4)
    summary = predict_bulk(model, str(folder), out, replace(OPTIONS, rows_per_shard=7), worker=batched)
    rows = list(read_predictions(out))
    assert len(rows) == COUNT
    assert summary.failed == sum(row.error is not None for row in rows)
    odd = [row for row in rows if row.error is not None and "something in the network" in row.error]
    assert all(row.sha256 is not None for row in odd)
    assert len(odd) in range(1, COUNT - 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_only_regular_files_are_read(model: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    text = tmp_path / "list.txt"
    text.write_text("pipe.png\nmissing.png\n")
    out = str(tmp_path / "out")
    predict_bulk(model, str(text), out, worker=EXACT)
    errors = [row.error for row in read_predictions(out)]
    assert [error is not None for error in errors] == [True, True]
    assert "not a regular file" in str(errors[0])
    assert "FileNotFoundError" in str(errors[1])
