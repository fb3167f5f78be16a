"""Training by real groups of two processes: equal to one, stopped and continued, lost and noticed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch.testing import assert_close

from groups import COMMAND, Group, environment, free_port, members, succeeded, wait_for
from rcnn.io import checkpoint
from rcnn.training import planning
from rcnn.training.planning import check_sync_bn
from rcnn.training.recipe import dump_recipe
from rcnn.training.run_folder import read_history
from tiny import tiny_network, tiny_recipe, tiny_shapes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the signals of Linux")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_shapes(12).write(tmp_path_factory.mktemp("data") / "shapes")


def recipe_file(folder: Path, **train: Any) -> Path:
    file = folder / "tiny.toml"
    file.write_text(dump_recipe(tiny_recipe(**train)), encoding="utf-8")
    return file


def machines(folder: Path) -> list[Path]:
    """A folder for each process: no file system is shared."""
    found = [folder / f"machine-{rank}" for rank in range(2)]
    for each in found:
        each.mkdir(exist_ok=True, parents=True)
    return found


def steps_done(out: Path) -> int:
    file = out / "last.safetensors"
    return checkpoint.read_metadata(file)["train_state"]["iteration"] if file.exists() else -1


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(folder)]


def test_two_processes_have_the_losses_and_weights_of_one(tmp_path: Path, data: Path) -> None:
    """By torchrun, with the losses of each step and the weights after the last one."""
    # Adam's first steps hang on the signs of gradients near zero, which rounding decides; and half precision
    # rounds the gradient of a process to 3 digits before it is averaged.
    file = recipe_file(tmp_path, eval_every=0.0, eval_images=3, optimizer="sgd", lr=0.01, amp="off")
    words = ["train", str(data), "--recipe", str(file), "--quiet", "--out"]
    alone = subprocess.run(
        [*COMMAND, *words, "one"], env=environment(), cwd=tmp_path, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1",
        f"--master_port={free_port()}", "--no-python",
    ]  # fmt: skip
    done = subprocess.run(
        [*torchrun, *COMMAND, *words, "two"], env=environment(), cwd=tmp_path, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    assert len(rows(one)) == len(rows(two)) == 10
    for expected, got in zip(rows(one), rows(two), strict=True):
        assert expected.keys() == got.keys()
        for key in (key for key in expected if "loss" in key):
            assert_close(got[key], expected[key], rtol=1e-3, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    weights = [checkpoint.read_checkpoint(folder / "last.safetensors")[0] for folder in (one, two)]
    for key, value in weights[0].items():
        if key.startswith("network."):
            assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
    results = [json.loads((f / "evaluation.json").read_text()) for f in (one, two)]
    assert results[0]["metrics"].keys() == results[1]["metrics"].keys()


def test_a_stopped_group_continues_by_the_same_command_to_the_same_bits(tmp_path: Path, data: Path) -> None:
    """As srun starts them, without a shared file system: SIGTERM, exit code 143, and the command again."""
    file = recipe_file(tmp_path, epochs=6.0, save_every=0.0, eval_images=2, ema=0.9)
    words = [*COMMAND, "train", str(data), "--recipe", str(file), "--out", "run", "--resume", "auto"]
    whole, stopped = machines(tmp_path / "whole"), machines(tmp_path / "stopped")
    succeeded(Group(words, whole))
    with Group(words, stopped) as group:
        wait_for(lambda: steps_done(stopped[0] / "run") >= 7, group.processes)
        for process in group.processes:
            process.send_signal(signal.SIGTERM)
        ended = group.ended(60)
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert ended[0][2].splitlines() == ["ended by SIGTERM; resume with: rcnn train --resume run"]
    assert ended[1][2] == ""
    reached = steps_done(stopped[0] / "run")
    assert 7 <= reached < 30
    said, silent = succeeded(Group(words, stopped))
    assert f"resumed at iteration {reached}" in said
    assert silent == ""
    for folder in (whole, stopped):
        assert list(folder[1].iterdir()) == [], "only the first process writes"
    for name in ("last.safetensors", "best.safetensors"):
        one, two = (checkpoint.read_checkpoint(f[0] / "run" / name)[0] for f in (whole, stopped))
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == [], name
    assert rows(whole[0] / "run") == rows(stopped[0] / "run")
    other = subprocess.run(
        [*words, "--seed", "3"], env=environment(), cwd=stopped[0], capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert other.returncode == 1
    assert "was started with --seed nothing, and this command has 3: give the same command" in other.stderr


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_other_in_one_sentence(killed: int, tmp_path: Path, data: Path) -> None:
    file = recipe_file(tmp_path, epochs=1e4, save_every=0.0, eval_every=0.9, eval_images=1)
    words = [*COMMAND, "train", str(data), "--recipe", str(file), "--out", "run"]
    folders = machines(tmp_path)
    with Group(words, folders) as group:
        wait_for(lambda: steps_done(folders[0] / "run") >= 2, group.processes)
        os.kill(group.processes[killed].pid, signal.SIGKILL)
        began = time.monotonic()
        ended = group.ended(60)
        assert time.monotonic() - began < 60
        assert not [pid for process in group.processes for pid in members(process.pid)]
    code, _, errors = ended[1 - killed]
    assert code == 1
    assert errors.strip() == (
        f"error: process {1 - killed} stops, because another process of the run has ended; start all of them "
        "again: give --resume auto with the same command, or --resume RUN"
    )
    assert steps_done(folders[0] / "run") >= 2


@pytest.mark.slow
def test_torchrun_starts_a_group_again_that_ends_as_an_undisturbed_one(tmp_path: Path, data: Path) -> None:
    """With --max-restarts and --resume auto; a worker is killed once the run has a checkpoint."""
    file = recipe_file(tmp_path, epochs=20.0, save_every=0.0, eval_every=0.5, eval_images=2)
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
        "--max-restarts=3", "--monitor-interval=0.5", "--no-python",
    ]  # fmt: skip
    words = [*torchrun, *COMMAND, "train", str(data), "--recipe", str(file), "--resume", "auto", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for out in (whole, killed):
        process = subprocess.Popen(
            [*words, str(out)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            if out is killed:
                wait_for(lambda: steps_done(killed) >= 5, [process])
                os.kill(worker_of(process.pid, rank=1), signal.SIGKILL)
            said, errors = process.communicate(timeout=300)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert "resumed at iteration" in said
    assert "another process of the run has ended" in errors
    assert rows(whole) == rows(killed)
    one, two = (checkpoint.read_checkpoint(out / "last.safetensors")[0] for out in (whole, killed))
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


def worker_of(launcher: int, rank: int) -> int:
    """The process of a rank that torchrun started."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                variables = (folder / "environ").read_bytes() if parent == launcher else b""
                if f"\0RANK={rank}\0".encode() in b"\0" + variables:
                    return int(folder.name)
    raise AssertionError("no such process")


PAUSE = """
import time
from pathlib import Path
class Pause:
    def on_evaluation(self, event):
        Path("pausing").touch()
        time.sleep(SECONDS)
"""


def pausing_after_evaluations(folder: Path, seconds: float) -> list[str]:
    """The words that let the first process pause, and say so by a file."""
    (folder / "pause.py").write_text(PAUSE.replace("SECONDS", str(seconds)))
    return ["--callback", "pause:Pause"]


def test_a_pause_longer_than_the_limit_of_a_step_is_no_loss(tmp_path: Path, data: Path) -> None:
    file = recipe_file(tmp_path, epochs=1.0, eval_every=1.0, eval_images=1)
    folders = machines(tmp_path)
    words = [*COMMAND, "train", str(data), "--recipe", str(file), "--out", "run", "--step-timeout", "2"]
    succeeded(Group([*words, *pausing_after_evaluations(folders[0], 3.5)], folders))
    assert (folders[0] / "pausing").exists()


@pytest.mark.parametrize(
    ("stopped", "during", "limit"),
    [
        (1, "steps", 4),
        (0, "a pause", 4),
        pytest.param(0, "steps", 4, marks=pytest.mark.slow),
        pytest.param(1, "steps", None, marks=pytest.mark.slow),  # the default
    ],
)
def test_a_stopped_process_ends_the_other_within_the_limit(
    stopped: int, during: str, limit: int | None, tmp_path: Path, data: Path
) -> None:
    """SIGSTOP, as a machine that hangs: connections stay open, and nothing comes."""
    pause = during == "a pause"
    file = recipe_file(tmp_path, epochs=1e4, save_every=0.0, eval_every=1e-3 if pause else 0.9, eval_images=1)
    folders = machines(tmp_path)
    words = [*COMMAND, "train", str(data), "--recipe", str(file), "--out", "run"]
    words += ["--step-timeout", str(limit)] if limit else []
    words += pausing_after_evaluations(folders[0], 300) if pause else []
    with Group(words, folders) as group:
        wait_for(
            (folders[0] / "pausing").exists if pause else lambda: steps_done(folders[0] / "run") >= 2,
            group.processes,
        )
        frozen, other = group.processes[stopped], group.processes[1 - stopped]
        frozen.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        _, errors = other.communicate(timeout=90)
        assert time.monotonic() - began < (limit or 60) + 30, "at once, on a machine that does nothing else"
        assert other.returncode == 1
        assert errors.strip() == (
            f"error: process {1 - stopped} stops, because another process of the run does not answer "
            "(--step-timeout is how long that is waited for); start all of them again: give --resume auto "
            "with the same command, or --resume RUN"
        )
        frozen.send_signal(signal.SIGCONT)
        if not pause:
            _, errors = frozen.communicate(timeout=60)
            assert re.fullmatch(f"error: process {stopped} stops, because another .*\n", errors)
    assert steps_done(folders[0] / "run") >= 2


def test_processes_that_do_not_come_are_reported_in_time(tmp_path: Path, data: Path) -> None:
    words = [*COMMAND, "train", str(data), "--out", "run", "--join-timeout", "2"]
    more = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "MASTER_ADDR": "127.0.0.1"}
    alone = subprocess.run(
        words, env=environment(**more, MASTER_PORT=str(free_port())), cwd=tmp_path, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert alone.returncode == 1
    assert re.match(r"error: process 0 of 2: the others were not there within 2 s at 127", alone.stderr)
    assert "Traceback" not in alone.stderr
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_split_is_refused_before_anything_is_written(
    tmp_path: Path, data: Path
) -> None:
    words = [*COMMAND, "train", str(data), "--out", "run", "--batch-size", "3"]
    folders = machines(tmp_path)
    with Group(words, folders) as group:
        ended = group.ended()
    for code, output, errors in ended:
        assert (code, output) == (1, "")
        assert "train.batch_size 3 cannot be split among 2 processes" in errors
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


@pytest.fixture
def launcher(tmp_path: Path, data: Path) -> Any:
    """`rcnn train --processes 2`, training, in a process group of its own."""
    file = recipe_file(tmp_path, epochs=1e4, save_every=0.0, eval_every=0.9, eval_images=1)
    words = [*COMMAND, "train", str(data), "--recipe", str(file), "--out", "run", "--processes", "2"]
    process = subprocess.Popen(
        words, env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: steps_done(tmp_path / "run") >= 2, [process])
        yield process
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_ctrl_c_ends_processes_of_this_machine_without_a_traceback(
    launcher: subprocess.Popen[str], tmp_path: Path
) -> None:
    began = time.monotonic()
    os.killpg(launcher.pid, signal.SIGINT)  # as a terminal does
    _, errors = launcher.communicate(timeout=30)
    took = time.monotonic() - began
    assert launcher.returncode == 130
    assert errors.splitlines() == ["interrupted; resume with: rcnn train --resume run"]
    assert took < 20, "within 2 s, on a machine that does nothing else"
    wait_for(lambda: not members(launcher.pid), seconds=5)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_what_started_them(
    sign: signal.Signals, launcher: subprocess.Popen[str], tmp_path: Path
) -> None:
    os.kill(launcher.pid, sign)
    _, errors = launcher.communicate(timeout=40)
    assert launcher.returncode == (143 if sign == signal.SIGTERM else -signal.SIGKILL)
    assert errors.splitlines() == ["ended by SIGTERM; resume with: rcnn train --resume run"]
    wait_for(lambda: not members(launcher.pid), seconds=5)
    assert steps_done(tmp_path / "run") >= 2


def test_batch_norms_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has SyncBN on GPUs only; converted, the names and what is predicted stay."""
    plain = tiny_recipe(sync_bn=True)
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match=r"train.sync_bn: the batch norms of this recipe are fixed"):
        check_sync_bn(plain, cpu)
    backbone = replace(plain.settings.backbone, norm="batch")
    recipe = replace(plain, settings=replace(plain.settings, backbone=backbone))
    check_sync_bn(recipe, cpu)  # one process has the statistics of the whole batch
    monkeypatch.setattr(planning, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"train.sync_bn: torch synchronises batch norms on GPUs only"):
        check_sync_bn(recipe, cpu)
    check_sync_bn(recipe, torch.device("cuda"))
    network = tiny_network(recipe).eval()
    images = torch.randn(1, 3, 64, 64)
    keys, expected = network.state_dict().keys(), network.backbone(images)
    convert_sync_batchnorm(network)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.modules())
    assert network.state_dict().keys() == keys
    assert_close(network.backbone(images), expected)
