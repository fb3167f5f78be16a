"""Workers as actors of Ray Data, on this machine or a cluster.

A shard is one task, and its file the only thing that counts: a task that is repeated after its actor or its
machine is gone finds what is missing. Ray's own checkpoints of rows are not used: they predict everything
again where a plan does not begin with a read.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rcnn.bulk.worker import ShardReport, ShardWorker, WorkerOptions
from rcnn.config.ranges import check_ranges, ranged
from rcnn.extras import install_command
from rcnn.io.telemetry import without_telemetry

LOCAL = "local"
OBJECT_STORE = 128 * 2**20  # bytes; only numbers of shards go through it
MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class RayOptions:
    """How shards are done on Ray.

    Attributes:
        address: ``local``: a cluster of this machine alone, for this call; ``auto`` or ``host:port``: one
            that runs.
        actors: how many; None: one per GPU or, where there is none, per ``cpus_per_actor`` CPUs.
        cpus_per_actor: CPUs, and threads of its network.
        gpus_per_actor: GPUs, or a fraction of one; None: one where the cluster has any.
        retries: how often a shard is done again after its actor died.
    """

    address: str = LOCAL
    actors: int | None = ranged(None, 1, 1e6)
    cpus_per_actor: float = ranged(1.0, 0.1, 1e4)
    gpus_per_actor: float | None = ranged(None, 0, 1e3)
    retries: int = ranged(3, 0, 1e3)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one out of its range.
        """
        check_ranges(self)


class _Actor:
    """A worker as Ray Data calls it: a batch is one number of a shard."""

    def __init__(self, out: str, source: str, options: WorkerOptions) -> None:
        self.worker = ShardWorker.open(out, source, options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        reports = [asdict(self.worker.do(int(shard))) for shard in batch["shard"]]
        return {key: [report[key] for report in reports] for key in reports[0]}


def do_shards(
    ray_options: RayOptions, shards: Sequence[int], *, out: str, source: str, options: WorkerOptions
) -> Iterator[ShardReport]:
    """Have shards done, and say of each when it is.

    Raises:
        ValueError: Ray is not installed, or no cluster is reached.
        RuntimeError: a shard failed more often than it is retried; others are done.
    """
    for row in done_by_actors(ray_options, shards, _Actor, lambda put, there: (out, source, there), options):
        yield ShardReport(**row)


def done_by_actors(
    ray_options: RayOptions,
    numbers: Sequence[int],
    actor: type,
    arguments: Callable[[Callable[[Any], Any], WorkerOptions], tuple[Any, ...]],
    options: WorkerOptions,
) -> Iterator[dict[str, Any]]:
    """Have numbers done by actors on Ray: the row of each, as soon as it is there.

    Args:
        ray_options: how.
        numbers: what is to be done, one call of an actor each.
        actor: a class whose objects take a batch ``{"shard": [number]}`` and return one of a row.
        arguments: of the class, given what puts an object where all actors find it, and the options with the
            device and the threads that an actor has.
        options: of each worker.

    Raises:
        ValueError: as :func:`do_shards`.
        RuntimeError: likewise.
    """
    if not numbers:
        return
    try:
        with without_telemetry("ray"):
            import ray
            import ray.data
    except ImportError as error:
        raise ValueError(f"--ray needs Ray: {install_command('ray')}") from error
    began = not ray.is_initialized()
    if began:
        _connect(ray, ray_options.address)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        actors, gpus = _pool(_resources(ray), ray_options, len(numbers))
        device = options.device or ("cuda" if gpus else "cpu")
        threads = max(1, int(ray_options.cpus_per_actor))
        items = ray.data.from_items(
            [{"shard": number} for number in numbers], override_num_blocks=min(len(numbers), MOST_BLOCKS)
        )
        with warnings.catch_warnings():  # there is no other way to bound the retries of actors
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            done = items.map_batches(
                actor,
                fn_constructor_args=arguments(ray.put, replace(options, device=device, threads=threads)),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=actors),
                num_cpus=ray_options.cpus_per_actor,
                num_gpus=gpus or None,
                max_restarts=ray_options.retries,
                max_task_retries=ray_options.retries,
            )
        yield from done.iter_rows()
    finally:
        if began:
            ray.shutdown()


def _resources(ray: Any) -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()
    return found


def _connect(ray: Any, address: str) -> None:
    if address != LOCAL:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"--ray {address}: no cluster is reached there ({error}); start one with ray start --head"
            ) from error
        return
    ray.init(
        num_cpus=os.cpu_count(), object_store_memory=OBJECT_STORE, include_dashboard=False,
        _node_ip_address="127.0.0.1", log_to_driver=False, logging_level=logging.WARNING,
    )  # fmt: skip


def _pool(resources: dict[str, float], asked: RayOptions, shards: int) -> tuple[int, float]:
    """How many actors, and how many GPUs each has.

    Raises:
        ValueError: the cluster has not enough for one actor.
    """
    gpus = min(1.0, resources.get("GPU", 0)) if asked.gpus_per_actor is None else asked.gpus_per_actor
    room = [int(resources.get("CPU", 0) / asked.cpus_per_actor)]
    room += [int(resources.get("GPU", 0) / gpus)] if gpus else []
    most = min(room)
    if most < 1:
        found = f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
        raise ValueError(
            f"the Ray cluster has {found}; an actor asks for {asked.cpus_per_actor:g} CPUs and {gpus:g} GPUs"
        )
    return min(asked.actors or most, shards), gpus
