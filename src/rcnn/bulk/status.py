"""How far a job is, from its files alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rcnn.bulk.job import begun_job
from rcnn.bulk.results import part_of, shards_done
from rcnn.bulk.storage import Place, pyarrow_modules

RECENT = 20  # shards whose files tell how fast the job is now
THREADS = 16  # that ask a store at the same time


@dataclass(frozen=True)
class JobStatus:
    """How far a job is.

    Attributes:
        images: of the whole job.
        done: images that have a row.
        failed: those of them that have an error.
        images_per_s: over the latest shards; None before there are two.
        seconds_left: at that rate; None where it is not known.
    """

    images: int
    done: int
    failed: int
    images_per_s: float | None
    seconds_left: float | None


def job_status(out: str) -> JobStatus:
    """How far the job is that writes to ``out``, from whatever machine.

    Raises:
        JobError: no job there.
    """
    place = Place.at(out)
    job = begun_job(place)
    shards = sorted(shards_done(place))
    done = sum(map(job.shard_size, shards))
    failed = sum(errors_in(place, shards))
    written = sorted((_written(place, shard), shard) for shard in shards)[-RECENT:]
    rate = None
    if len(written) > 1 and written[-1][0] > written[0][0]:
        # The first of them ended the time before; the others were written since.
        since = sum(job.shard_size(shard) for _, shard in written[1:])
        rate = since / (written[-1][0] - written[0][0])
    left = None if rate is None else (job.images - done) / rate
    return JobStatus(job.images, done, failed, rate, left)


def errors_in(out: Place, shards: Sequence[int]) -> list[int]:
    """The number of rows with an error in each of these shards, which are done."""
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(lambda shard: _errors(part_of(out, shard)), shards))


def _errors(part: Place) -> int:
    """The same of a file, from its end."""
    _, _, pq = pyarrow_modules()
    with part.filesystem.open_input_file(part.path) as file:
        metadata = pq.ParquetFile(file).metadata
    column = metadata.schema.names.index("error")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return sum(group.num_rows - group.column(column).statistics.null_count for group in groups)


def _written(place: Place, shard: int) -> float:
    """When the file of a shard was written, in seconds."""
    found = place.filesystem.get_file_info(part_of(place, shard).path).mtime_ns
    return 0.0 if found is None else found / 1e9
