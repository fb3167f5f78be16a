"""A training's processes: how they end, and that one folder is one run. Each test is bounded in time."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from groups import COMMAND, environment, members, wait_for
from rcnn.data import workers
from rcnn.data.workers import lost_worker
from rcnn.io import checkpoint
from rcnn.io.lock import FolderInUseError, FolderLock
from rcnn.training.recipe import dump_recipe
from rcnn.training.run import train
from tiny import tiny_recipe, tiny_shapes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")

# Many steps, prepared by a process of its own, a checkpoint after each.
LONG = tiny_recipe(epochs=1e4, save_every=0.0, eval_every=0.9, eval_images=1, workers=1, lr=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_shapes(8).write(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "long.toml"
    file.write_text(dump_recipe(LONG), encoding="utf-8")
    return file


@pytest.fixture
def start(data: Path, recipe: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `rcnn train` in a group of its own, and wait until it has trained."""
    started = []

    def begin(out: Path, *command: str) -> subprocess.Popen[str]:
        words = [*(command or COMMAND), "train", str(data), "--recipe", str(recipe), "--out", str(out)]
        process = subprocess.Popen(
            words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        wait_for(lambda: (out / "last.safetensors").exists(), [process], seconds=180)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
def test_workers_end_with_their_parent_even_if_it_is_killed(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(tmp_path / "run")
    assert len(members(process.pid)) == 2, "a worker beside the training"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)  # which reads to the end of pipes that workers hold, too
    wait_for(lambda: not members(process.pid), seconds=5)


@needs_proc
def test_sigterm_saves_a_checkpoint_and_leaves_nothing_else(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(out)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors.splitlines() == [f"ended by SIGTERM; resume with: rcnn train --resume {out}"]
    assert not [path.name for path in out.rglob(".*")]
    assert checkpoint.read_metadata(out / "last.safetensors")["train_state"]["iteration"] > 0
    wait_for(lambda: not members(process.pid), seconds=5)


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_is_answered_at_once_in_one_line(
    times: int, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(out)
    began = time.monotonic()
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        time.sleep(0.1)
    _, errors = process.communicate(timeout=20)
    took = time.monotonic() - began
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted" in errors
    assert len(errors.splitlines()) == 1
    assert took < 8, "within 2 s, on a machine that does nothing else"
    checkpoint.read_checkpoint(out / "last.safetensors")


@needs_proc
@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_ctrl_c_under_torchrun(
    times: int, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The processes of the run end in one line and leave nothing; torchrun's own traceback is torchrun's."""
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start(out, *torchrun, "--no-python", *COMMAND)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count(f"interrupted; resume with: rcnn train --resume {out}") == 1
    assert not re.findall(r'File "[^"]*/(?:src|site-packages)/rcnn/[^"]*"', errors), "no traceback of ours"
    wait_for(lambda: not members(process.pid), seconds=5)
    checkpoint.read_checkpoint(out / "last.safetensors")


@needs_proc
def test_a_worker_that_memorys_guard_killed_is_one_sentence(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(out)
    (worker,) = set(members(process.pid)) - {process.pid}
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.strip() == (
        "error: a process that prepares batches was killed, most likely because memory ran out: use "
        "--workers 0 (batches are then prepared by the training process); continue with "
        f"--resume {out}"
    )


def test_a_worker_that_ends_while_it_hands_over_its_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ConnectionResetError(104, "Connection reset by peer")

    def noticed() -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(workers, "NOTICED_SECONDS", 0.0)
    with pytest.raises(ConnectionResetError):
        list(workers.arriving(broken()))
    monkeypatch.setattr(workers, "NOTICED_SECONDS", 60.0)
    monkeypatch.setattr(torch._C, "_error_if_any_worker_fails", noticed)
    with pytest.raises(RuntimeError, match="is killed by signal"):
        list(workers.arriving(broken()))


@pytest.mark.parametrize(
    ("error", "is_printed"),
    [(EOFError(), False), (ConnectionResetError(104, "reset"), False), (OSError(5, "I/O error"), True)],
)
def test_a_worker_prints_no_traceback_of_a_connection_that_its_parent_left(
    error: Exception, is_printed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    workers._report(type(error), error, None)
    assert bool(capsys.readouterr().err) is is_printed


def test_a_killed_worker_whose_end_torch_saw_first_is_named() -> None:
    class Loaded:
        _workers = (SimpleNamespace(pid=6, exitcode=None), SimpleNamespace(pid=7, exitcode=-signal.SIGKILL))

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")

    with pytest.raises(RuntimeError, match=r"\(pid 7\) is killed by signal: Killed"):
        list(workers.arriving(Loaded()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "was killed, .* --workers 3$"),
        (
            "DataLoader worker (pid(s) 7) exited unexpectedly",
            r"ended unexpectedly \(Data.*\): use --workers 0",
        ),
        ("CUDA error", None),
    ],
)
def test_what_is_said_of_a_lost_worker(text: str, expected: str | None) -> None:
    said = lost_worker(RuntimeError(text), 4)
    assert said is None if expected is None else re.search(expected, said or "")


SCRIPT = """
import multiprocessing, sys
import rcnn
def call():
    rcnn.train(sys.argv[1], recipe=sys.argv[2], out=sys.argv[3], epochs=1)
if multiprocessing.current_process().name == "MainProcess":
    multiprocessing.set_start_method("spawn")
"""


@pytest.mark.parametrize("main", ["call()", 'if __name__ == "__main__":\n    print("here")\ncall()'])
def test_a_script_that_imports_itself_again(main: str, data: Path, recipe: Path, tmp_path: Path) -> None:
    """Without the guard no process is started; with it in the wrong place, one line says where it belongs."""
    script, out = tmp_path / "mine.py", tmp_path / "run"
    script.write_text(SCRIPT + main)
    done = subprocess.run(
        [sys.executable, str(script), str(data), str(recipe), str(out)],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    advice = 'outside of `if __name__ == "__main__":`; put the call below such a line'
    if main == "call()":
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"workers: none, because {script} starts the training {advice}") == 1
    else:
        assert done.returncode == 1
        assert f"error: {script} starts the training {advice}" in done.stderr
        assert "ended unexpectedly" in done.stderr
    assert done.stdout.count("run: ") == 1, "one training, not two"


def test_two_trainings_do_not_share_a_folder(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(out)
    message = f"another process is writing to this run \\(process {process.pid} on .*\\); wait until"
    with pytest.raises(FolderInUseError, match=message):
        train(resume=out, console=Console(quiet=True))
    with pytest.raises(ValueError, match="already holds a run"):
        train(tiny_shapes(2), recipe=tiny_recipe(), out=out, console=Console(quiet=True))
    assert process.poll() is None


def test_threads_of_one_process_do_not_share_a_folder_either(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "run"), pytest.raises(FolderInUseError, match="this process is already"):
        FolderLock(tmp_path, "run")
    assert not list(tmp_path.iterdir()), "what is released leaves nothing"


def test_a_lock_is_not_inherited_by_a_process_that_outlives_its_parent(tmp_path: Path) -> None:
    """Locked, forked, killed: the child lives on, and the folder is free."""
    script = (
        "import os, sys, time; from pathlib import Path; from rcnn.io.lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1]), 'run')\n"
        "if os.fork() == 0: os.close(1); time.sleep(60)\n"
        "print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], env=environment(), stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(FolderInUseError, match="another process"):
            FolderLock(tmp_path, "run")
        process.kill()
        process.wait(timeout=10)
        FolderLock(tmp_path, "run").release()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_many_that_start_at_once_get_the_lock_one_by_one(tmp_path: Path) -> None:
    got, refused = [], []

    def claim() -> None:
        try:
            lock = FolderLock(tmp_path, "run")
        except FolderInUseError:
            refused.append(1)
        else:
            got.append(lock)

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 19)
    got[0].release()
