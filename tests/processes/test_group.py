"""What processes of a real group agree on, and that a failure of one is a failure of all."""

import json
import sys
from pathlib import Path

import pytest
import torch

from groups import Group, succeeded
from rcnn.processes import group
from rcnn.processes.launch import Launch

SCRIPT = """
import json, sys, torch
from rcnn.processes.group import *
from rcnn.ops.losses import MeanLoss, global_means
from rcnn.processes.group import rank, world_size
join()
own = rank()
reductions, all_reduce = [], torch.distributed.all_reduce

def counted(tensor):
    reductions.append(tensor.tolist())
    all_reduce(tensor)

torch.distributed.all_reduce = counted
means = global_means({  # of 1 and 2 items, the sums 3 and 4; of nothing
    "some": MeanLoss(torch.tensor(3.0 + own), 1 + own),
    "given": torch.tensor(9.0 + own),
    "none": MeanLoss(torch.tensor(0.0), torch.tensor(0)),
})
torch.distributed.all_reduce = all_reduce

def fail(who, error):
    if own == who:
        raise error
    return own

def caught(call):
    try:
        return call()
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"

barrier()
said = {
    "size": world_size(),
    "first": from_first_process(lambda: {"from": own}),
    "nothing": from_first_process(lambda: None),
    "first fails": caught(lambda: from_first_process(lambda: fail(0, ValueError("no")))),
    "gathered": gathered("ab"[own]),
    "by first": gathered_by_first(lambda: own * 10),
    "one fails": caught(lambda: gathered_by_first(lambda: fail(1, OSError("gone")))),
    "mean": mean_over_processes([own, 10.0 * own], torch.device("cpu")),
    "cpu": str(process_device("cpu")),
    "each its own": str(process_device("cpu,meta")),
}
said["losses"] = mean_over_processes([m.item() for m in means.values()], torch.device("cpu"))
said["reductions"] = gathered(reductions)
print(json.dumps(said))
"""


def test_two_processes_agree(tmp_path: Path) -> None:
    first, second = map(json.loads, succeeded(Group([sys.executable, "-c", SCRIPT], [tmp_path, tmp_path])))
    assert (first.pop("by first"), second.pop("by first")) == ([0, 10], None)
    assert (first.pop("each its own"), second.pop("each its own")) == ("cpu", "meta")
    assert first == second == {
        "size": 2, "first": {"from": 0}, "nothing": None, "first fails": "ValueError: no",
        "gathered": ["a", "b"], "one fails": "OSError: gone", "mean": [0.5, 5.0], "cpu": "cpu",
        "losses": pytest.approx([7 / 3, 9.5, 0]), "reductions": [[[1, 0]], [[2, 0]]],
    }  # fmt: skip


def test_one_process_needs_no_group() -> None:
    assert (group.rank(), group.world_size()) == (0, 1)
    assert group.from_first_process(lambda: 3) == 3
    assert group.gathered(3) == group.gathered_by_first(lambda: 3) == [3]
    assert group.mean_over_processes([3.0], torch.device("cpu")) == [3.0]
    group.barrier()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[pair.cc:534] Connection closed by peer [127.0.0.1]:41", "has ended"),
        ("Timed out waiting 300000ms for recv operation to complete", "does not answer .--step-timeout"),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)
def test_what_is_said_of_a_lost_process(
    text: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert group.lost_process(RuntimeError(text)) is None, "a single process has lost none"
    monkeypatch.setattr(group, "world_size", lambda: 2)
    said = group.lost_process(RuntimeError(text))
    assert said is None if expected is None else expected in (said or "").replace("(", ".")


@pytest.mark.parametrize(("count", "local", "own"), [(0, 1, 0), (1, 1, 0), (4, 3, 3)])
def test_each_process_has_a_gpu_of_its_own(
    count: int, local: int, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM with --gpus-per-task shows each task one GPU, whatever its local rank."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert group._own_gpu(Launch("srun", local, 8, local, "here", 1)) == own


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="process 3 of this machine has no GPU: there are 2"):
        group._own_gpu(Launch("torchrun", 2, 3, 2, "here", 1))
