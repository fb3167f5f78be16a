"""A job from its command: the manifest, what is missing, and workers that do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rcnn.bulk.job import BulkOptions, Job, JobError, kept_job
from rcnn.bulk.manifest import MANIFEST, Listed, list_images, write_manifest
from rcnn.bulk.results import PARTS, shards_done
from rcnn.bulk.status import errors_in
from rcnn.bulk.storage import Place
from rcnn.bulk.worker import ShardReport, ShardWorker, WorkerOptions, open_model

if TYPE_CHECKING:
    from rcnn.bulk.ray_workers import RayOptions


@dataclass(frozen=True)
class BulkSummary:
    """What :func:`predict_bulk` did.

    Attributes:
        out: where the results are.
        images: images of the job.
        predicted: images of the shards that this call did.
        failed: those of them that have an error.
        objects: found in them.
        repeated: entries of the list that named an image again and were left out.
        remaining: shards that are still missing: those of other calls.
    """

    out: str
    images: int
    predicted: int
    failed: int
    objects: int
    repeated: int
    remaining: int


def predict_bulk(
    model: str,
    images: str | Sequence[str],
    out: str,
    options: BulkOptions | None = None,
    *,
    worker: WorkerOptions | None = None,
    shards: tuple[int, int] = (1, 1),
    ray: RayOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BulkSummary:
    """Predict a list of images into Parquet files, one row per image; the same call continues a job.

    Args:
        model: what :func:`rcnn.load` takes.
        images: what :func:`rcnn.bulk.manifest.list_images` takes: images, folders, patterns, lists, tables.
        out: a folder or the address of one in a store, such as ``s3://bucket/found``. It then holds
            ``job.json``, ``manifest.parquet`` and ``parts/00000000.parquet`` and so on.
        options: what is asked for.
        worker: how each worker works.
        shards: (i, n): do every n-th shard only, from the i-th, counted from 1, for n calls at the same time.
        ray: do the shards by actors on a Ray cluster; None: one after the other in this process.
        progress: called with the numbers of images done and of all that this call does.

    Raises:
        FileNotFoundError: an image, list or model that does not exist.
        JobError: another job is kept in ``out``.
        ValueError: a list without images, or bad options.
    """
    options, worker = options or BulkOptions(), worker or WorkerOptions()
    number, of = shards
    if not 1 <= number <= of:
        raise ValueError(f"shards {number}/{of}: expected i/n with i from 1 to n")
    place = Place.at(out)
    kept_job(place)  # a damaged one is reported before anything is done
    listed = list_images([images] if isinstance(images, str) else list(images))
    detector = open_model(model, worker)
    job = _begun(Job.of(model, detector, listed, options), place, listed)
    mine = [shard for shard in range(job.shards) if shard % of == number - 1]
    done = shards_done(place)
    missing = [shard for shard in mine if shard not in done]
    if worker.retry_errors:
        finished = [shard for shard in mine if shard in done]
        failed_in = zip(finished, errors_in(place, finished), strict=True)
        missing += [shard for shard, errors in failed_in if errors]
    if ray is None:
        here = ShardWorker(place, job, detector, worker)
        reports: Iterator[ShardReport] = map(here.do, missing)
    else:
        from rcnn.bulk.ray_workers import do_shards

        reports = do_shards(ray, missing, out=out, source=model, options=worker)
    total = sum(map(job.shard_size, missing))
    predicted = failed = objects = 0
    for report in reports:
        predicted, failed = predicted + report.images, failed + report.failed
        objects += report.objects
        if progress is not None:
            progress(predicted, total)
    remaining = job.shards - len(shards_done(place))
    if remaining == 0:
        (place / PARTS).remove_parts()
    return BulkSummary(out, job.images, predicted, failed, objects, listed.repeated, remaining)


def _begun(job: Job, place: Place, listed: Listed) -> Job:
    """The job that is kept, if it is this one; else this one, which is kept from now on.

    Several calls may begin at the same time: all write the same, or all but one are refused by what they read
    back.
    """
    kept = kept_job(place)
    if kept is None:
        others = place.files()
        if any(file.name != MANIFEST for file in others):
            raise JobError(f"{place}: there are other files ({others[0].name}); choose another --out")
        write_manifest(listed, place / MANIFEST, job.rows_per_shard)
        job.write(place)
        kept = kept_job(place)
        assert kept is not None
    job.check_same(kept, place)
    return kept
