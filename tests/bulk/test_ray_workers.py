"""Shards done by actors of Ray: the same files, whatever is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bulk_job import images, saved_model
from groups import called
from rcnn.bulk import BulkOptions, predict_bulk
from rcnn.bulk.ray_workers import RayOptions, _pool
from rcnn.bulk.worker import WorkerOptions

pytest.importorskip("ray", reason="needs the extra ray")
COUNT = 8
ACTOR = "MapBatches(_Actor)"  # of our class, in the name of its process
RUN = """
import sys
from rcnn.bulk import BulkOptions, predict_bulk
from rcnn.bulk.ray_workers import RayOptions
from rcnn.bulk.worker import WorkerOptions
model, images, out, actors = sys.argv[1:]
done = predict_bulk(
    model, images, out, BulkOptions(rows_per_shard=2), worker=WorkerOptions("cpu", "float32"),
    ray=RayOptions(actors=int(actors)),
)
print(done.predicted, done.remaining)
"""


def start(arguments: list[str], folder: str) -> subprocess.Popen[str]:
    """A job on a cluster of its own, whose folder has a short name: sockets are in it."""
    environment = {
        **os.environ, "RAY_TMPDIR": folder, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "parts").iterdir()}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A model and its images, and the job that one process did."""
    folder = tmp_path_factory.mktemp("job")
    arguments = [saved_model(folder), str(images(folder / "images", COUNT, broken=True))]
    exact = WorkerOptions("cpu", "float32", threads=1)
    predict_bulk(*arguments, str(folder / "whole"), BulkOptions(rows_per_shard=2), worker=exact)
    return arguments, folder / "whole"


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_actors_do_what_one_process_does_though_one_is_killed(
    job: tuple[list[str], Path], tmp_path: Path, short_folder: str
) -> None:
    arguments, whole = job
    before = called(ACTOR)
    process = start([*arguments, str(tmp_path / "out"), "1"], short_folder)
    deadline = time.monotonic() + 150
    while not (mine := called(ACTOR) - before) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mine, process.communicate(timeout=10)
    os.kill(mine.pop(), signal.SIGKILL)
    said, errors = process.communicate(timeout=240)
    assert said.split()[-2:] == [str(COUNT), "0"], errors[-3000:]
    assert files(tmp_path / "out") == files(whole)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_a_driver_killed_at_random_goes_on(
    job: tuple[list[str], Path], tmp_path: Path, short_folder: str, trial: int
) -> None:
    arguments, whole = job
    process = start([*arguments, str(tmp_path / "out"), "2"], short_folder)
    time.sleep(4 + trial)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    again = start([*arguments, str(tmp_path / "out"), "2"], short_folder)
    said, errors = again.communicate(timeout=300)
    assert said.split()[-1:] == ["0"], errors[-3000:]
    assert files(tmp_path / "out") == files(whole)


@pytest.mark.parametrize(
    ("resources", "options", "expected"),
    [
        ({"CPU": 2}, RayOptions(), (2, 0)),
        ({"CPU": 2}, RayOptions(cpus_per_actor=2), (1, 0)),
        ({"CPU": 64, "GPU": 8}, RayOptions(), (8, 1)),
        ({"CPU": 64, "GPU": 8}, RayOptions(gpus_per_actor=0.25), (32, 0.25)),
        ({"CPU": 64, "GPU": 8}, RayOptions(actors=3), (3, 1)),
        ({"CPU": 64}, RayOptions(), (50, 0)),  # no more than there are shards
    ],
)
def test_the_number_of_actors(
    resources: dict[str, float], options: RayOptions, expected: tuple[int, float]
) -> None:
    assert _pool(resources, options, 50) == expected


def test_a_cluster_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="has 2 CPUs and 0 GPUs; an actor asks for 1 CPUs and 1 GPUs"):
        _pool({"CPU": 2}, RayOptions(gpus_per_actor=1), 5)
