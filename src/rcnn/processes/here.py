"""Several processes on this machine, started by torch's own launcher, without its tracebacks."""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def run_here(count: int, command: Sequence[str]) -> int:
    """Run a command of Python in several processes that find each other; none is started again.

    Args:
        count: how many.
        command: what follows ``python``.

    Returns:
        The exit code: of the process that failed first, or 128 and the number of the signal that ended all.
    """
    logging.disable(logging.CRITICAL)  # each process says what failed
    signal.set_wakeup_fd(-1)  # each ends in time by itself, and this one after them
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.1, local_addr="localhost",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0
