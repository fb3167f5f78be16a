"""The documented example of Ray Train: the run that torchrun's processes make, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from examples import examples
from groups import COMMAND, Group, called, environment, succeeded
from rcnn.io import checkpoint
from rcnn.training.recipe import dump_recipe
from rcnn.training.run_folder import read_history
from tiny import tiny_recipe, tiny_shapes

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")

WORKER = "RayTrainWorker"  # in the name of its process
BEFORE = """
import ray
ray.init(
    num_cpus=2, object_store_memory=128 * 2**20, include_dashboard=False, _node_ip_address="127.0.0.1",
    log_to_driver=False,
)
"""
# What follows a fit that succeeded, and one whose data are not there.
AFTER = """
trainer.run_config.failure_config.max_failures = 0
trainer.train_loop_config["data"] = trainer.train_loop_config["data"] + "-missing"
trainer.train_loop_config["out"] = trainer.train_loop_config["out"] + "-refused"
try:
    trainer.fit()
except Exception as error:
    print(type(error).__name__, error)
"""


def example(data: Path, out: Path, recipe: Path, failures: int) -> str:
    """The page's example with paths of this machine, a recipe in place of the length, and some failures."""
    (found,) = (e.code for e in examples(ROOT / "docs" / "scaling.md", "python") if "TorchTrainer" in e.code)
    for said, meant in {
        '"/data/cells"': repr(str(data)),
        '"/data/runs/cells"': repr(str(out)),
        '"/data/ray"': repr(str(out.parent / "ray")),
        "epochs=12": f"recipe={str(recipe)!r}",
        "train.batch_size=8": "train.batch_size=2",
        "max_failures=3": f"max_failures={failures}",
    }.items():
        assert said in found
        found = found.replace(said, meant)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_shapes(12).write(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(dump_recipe(tiny_recipe(epochs=12.0, save_every=0.0, eval_every=0.5, eval_images=2)))
    return file


@pytest.fixture(scope="module")
def expected(data: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of the run that two processes make which srun starts."""
    folder = tmp_path_factory.mktemp("group")
    words = [*COMMAND, "train", str(data), "--recipe", str(recipe), "--batch-size", "2", "--out", "run"]
    succeeded(Group(words, [folder, folder]))
    return rows(folder / "run")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(folder)]


def started(code: str, folder: str) -> subprocess.Popen[str]:
    """A driver with a cluster of its own."""
    variables = {
        "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment(**variables), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a driver said, once it has ended."""
    try:
        return process.communicate(timeout=400)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_the_documented_example_makes_the_run_of_torchrun(
    data: Path, recipe: Path, expected: list[dict[str, Any]], tmp_path: Path, short_folder: str
) -> None:
    """One run folder, the same losses; and data that are refused are named by the error of ``fit``."""
    out = tmp_path / "run"
    said, errors = ended(started(BEFORE + example(data, out, recipe, 3) + AFTER, short_folder))
    assert rows(out) == expected, errors[-3000:]
    assert json.loads((out / "evaluation.json").read_text())["metrics"]
    assert said.startswith("WorkerGroupError"), (said, errors[-3000:])
    assert f"{data}-missing" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ray", "run"], "nothing of the refused one"


@pytest.mark.slow
@pytest.mark.parametrize("failures", [1, 0])
def test_a_worker_is_killed(
    failures: int,
    data: Path,
    recipe: Path,
    expected: list[dict[str, Any]],
    tmp_path: Path,
    short_folder: str,
) -> None:
    """The run goes on from its checkpoint to the same losses, or ends with an error that says why."""
    out = tmp_path / "run"
    last = out / "last.safetensors"
    others = called(WORKER)
    process = started(BEFORE + example(data, out, recipe, failures), short_folder)
    end = time.monotonic() + 300
    while not (last.exists() and checkpoint.read_metadata(last)["train_state"]["iteration"] >= 5):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(sorted(called(WORKER) - others)[-1], signal.SIGKILL)
    _, errors = ended(process)
    if failures:
        assert process.returncode == 0, errors[-3000:]
        assert rows(out) == expected
        assert "resumed at iteration" in (out / "log.txt").read_text()
    else:
        assert process.returncode == 1
        assert "WorkerGroupError" in errors
        assert "died" in errors
