"""How a process knows that it is one of several."""

import pytest

from rcnn.processes.launch import Launch, first_host, launched

SLURM = {
    "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[03-04]",
    "SLURM_JOB_ID": "20007",
}  # fmt: skip
TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29501",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (TORCHRUN, Launch("torchrun", 1, 2, 1, "10.0.0.7", 29501)),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, None),
        (SLURM, Launch("srun", 3, 8, 1, "gpu03", 20007)),
        ({**SLURM, "SLURM_JOB_ID": "50007"}, Launch("srun", 3, 8, 1, "gpu03", 30007)),
        ({**SLURM, "MASTER_ADDR": "a", "MASTER_PORT": "5"}, Launch("srun", 3, 8, 1, "a", 5)),
        # `srun -n 4` inside of a job that asked for 8
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "4"}, Launch("srun", 3, 4, 1, "gpu03", 20007)),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        # torchrun inside of a job of SLURM is what counts
        ({**SLURM, **TORCHRUN}, Launch("torchrun", 1, 2, 1, "10.0.0.7", 29501)),
        # a shell inside of an allocation
        ({"SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu1"}, None),
    ],
)
def test_what_the_environment_says(environment: dict[str, str], expected: Launch | None) -> None:
    assert launched(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**SLURM, "SLURM_NTASKS": "two"}, "SLURM_NTASKS is 'two'; expected a whole number"),
        ({**SLURM, "SLURM_PROCID": "8"}, "started process 8 of 8: ranks begin with 0"),
        ({**SLURM, "SLURM_JOB_NODELIST": ""}, "set MASTER_ADDR to the name of the first machine"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
    ],
)
def test_what_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launched(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu[03-05,9],login1", "gpu03"),
        ("a-[1,3]-x,b", "a-1-x"),
        ("n1.cluster.org,n2", "n1.cluster.org"),
        ("rack[2-3]n[01-16]", "rack2n01"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_a_list_without_a_name() -> None:
    with pytest.raises(ValueError, match="begins with no name: set MASTER_ADDR"):
        first_host("[")
