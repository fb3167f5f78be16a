"""One worker: loads the model once, and predicts shards."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from rcnn.bulk.job import Job, JobError, begun_job, model_digest
from rcnn.bulk.manifest import MANIFEST, shard_addresses
from rcnn.bulk.results import Row, error_row, part_of, read_rows, row_of, write_rows
from rcnn.bulk.storage import Place, as_local_file, is_remote, local_path
from rcnn.io.ahead import ahead, working_threads
from rcnn.io.images import read_image
from rcnn.io.reading import READING, reason_of
from rcnn.loading import load

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

READ_AHEAD = 4  # images decoded while the network computes; a batch where that is more
RETRIES = 3  # of reading from a store
LONGEST_ERROR = 500


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker works; none of it decides about the results.

    Attributes:
        device: where the model runs; None: a GPU where there is one.
        precision: see :func:`rcnn.load`.
        settings: changes of the model, such as ``model.box.nms_iou=0.4``, and of how files are read, such as
            ``transform.read.plane=max``, which exported models take, too.
        trust: packages whose code the model may name.
        threads: processor threads of the network; None: torch's default.
        batch_size: images that the network sees at once.
        retry_errors: predict the images of finished shards again that had an error.
    """

    device: str | None = None
    precision: str = "auto"
    settings: tuple[str, ...] = ()
    trust: bool | tuple[str, ...] = ()
    threads: int | None = None
    batch_size: int = 1
    retry_errors: bool = False


@dataclass(frozen=True)
class ShardReport:
    """What a worker did to one shard.

    Attributes:
        shard: its number.
        images: rows written.
        failed: those with an error.
        objects: found.
    """

    shard: int
    images: int
    failed: int
    objects: int


def open_model(source: str, options: WorkerOptions) -> Detector | ExportedDetector:
    """The model that a worker uses."""
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    ours = [setting for setting in options.settings if setting.startswith(f"{READING}.")]
    others = [setting for setting in options.settings if setting not in ours]
    precision: Any = options.precision
    detector = load(source, options.device, precision=precision, settings=others, trust=options.trust)
    return detector.with_reading(detector.reading.changed(ours)) if ours else detector


@dataclass
class ShardWorker:
    """Predicts shards of the job that is kept in a place.

    Attributes:
        out: the place.
        job: what is kept there.
        detector: the model.
        options: how it works.
    """

    out: Place
    job: Job
    detector: Detector | ExportedDetector
    options: WorkerOptions = field(default_factory=WorkerOptions)

    @classmethod
    def open(cls, out: str, source: str, options: WorkerOptions) -> ShardWorker:
        """A worker of a job that has begun, with a model of its own.

        Raises:
            JobError: no job, or the model here is not the job's.
        """
        place = Place.at(out)
        job = begun_job(place)
        detector = open_model(source, options)
        if (found := model_digest(source, detector)) != job.model:
            raise JobError(
                f"{source} on {socket.gethostname()} is another model ({found[:8]}) than the job's "
                f"({job.model[:8]}); copy the same file to every machine"
            )
        return cls(place, job, detector, options)

    def do(self, shard: int) -> ShardReport:
        """Predict a shard, or its failed images again, and write its file; done shards stay."""
        part = part_of(self.out, shard)
        rows = {row["path"]: row for row in read_rows(part)} if part.is_file() else {}
        addresses = shard_addresses(self.out / MANIFEST, shard)
        wanted = [
            address
            for address in addresses
            if address not in rows or (self.options.retry_errors and rows[address]["error"] is not None)
        ]
        if wanted:
            rows |= {row["path"]: row for row in self._predicted(wanted)}
            write_rows([rows[address] for address in addresses], part, self.job.classes)
        done = [rows[address] for address in addresses]
        failed = sum(row.get("error") is not None for row in done)
        return ShardReport(shard, len(done), failed, sum(len(row.get("labels") or ()) for row in done))

    def _predicted(self, addresses: Sequence[str]) -> Iterator[Row]:
        """The rows of images; the next ones are read while the network computes."""
        size = self.options.batch_size
        with working_threads(1) as pool:
            depth = max(READ_AHEAD, size)
            read = ahead(pool, self._read, addresses, depth, least=depth)
            while batch := list(islice(read, size)):
                yield from self._rows(batch)

    def _rows(self, batch: Sequence[_Read]) -> Iterator[Row]:
        usable = [one for one in batch if one.pixels is not None]
        for bad in (one for one in batch if one.pixels is None):
            yield error_row(bad.address, bad.sha256, bad.error)
        options = self.job.options
        asked: dict[str, Any] = {
            "min_score": options["min_score"],
            "max_detections": options["max_detections"],
        }
        try:
            pixels = [one.pixels for one in usable]
            found = (
                self.detector.predict(pixels, batch_size=self.options.batch_size, **asked) if usable else []
            )
        except Exception as error:  # whatever an image does must not lose the others
            if len(usable) == 1:
                yield error_row(usable[0].address, usable[0].sha256, _explained(error))
                return
            for alone in usable:
                yield from self._rows([alone])
            return
        for one, objects in zip(usable, found, strict=True):
            yield row_of(one.address, one.sha256 or "", objects, options["outlines"])

    def _read(self, address: str) -> _Read:
        """The pixels of an image, or why there are none."""
        sha256 = None
        try:
            content = _content(address)
            sha256 = hashlib.sha256(content).hexdigest()
            with as_local_file(address, content) as path:
                pixels = read_image(path, reading=self.detector.reading, channels=self.detector.channels)
        except Exception as error:  # whatever a decoder or a store raises
            return _Read(address, sha256, None, _explained(error))
        return _Read(address, sha256, pixels, "")


@dataclass(frozen=True)
class _Read:
    """An image, or why it could not be read."""

    address: str
    sha256: str | None
    pixels: Any
    error: str


def _content(address: str) -> bytes:
    """The bytes of a file. Only regular files are read; a store that does not answer is asked again."""
    if not is_remote(address):
        path = local_path(address)
        if path.exists() and not path.is_file():
            raise ValueError("not a regular file")
        return path.read_bytes()
    place = Place.at(address)
    for attempt in range(RETRIES):
        try:
            return place.read()
        except FileNotFoundError:
            raise
        except OSError:
            if attempt == RETRIES - 1:
                raise
            time.sleep(2**attempt)
    raise AssertionError


def _explained(error: Exception) -> str:
    return f"{type(error).__name__}: {reason_of(error) or 'no reason given'}"[:LONGEST_ERROR]
