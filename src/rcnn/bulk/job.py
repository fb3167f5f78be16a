"""``job.json``: what a job is, so that only the same job is continued."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.bulk.manifest import MANIFEST, Listed
from rcnn.bulk.results import Outlines, check_outlines, class_metadata
from rcnn.bulk.storage import Place
from rcnn.config.ranges import check_ranges, ranged
from rcnn.inference.exported import is_exported
from rcnn.inference.identity import digest_of, file_digest
from rcnn.io.json_text import object_of

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

JOB = "job.json"
FORMAT = 1


class JobError(ValueError):
    """Another job is kept where this one is to be, or none."""


@dataclass(frozen=True)
class BulkOptions:
    """What is asked of a job; all of it decides about the results.

    Attributes:
        min_score: the lowest score kept; None: the model's threshold.
        max_detections: the most objects per image; None: the model's setting.
        outlines: masks as COCO's run-length codes (``rle``) or as ``polygons``; both are exact.
        rows_per_shard: the number of images per file.
    """

    min_score: float | None = ranged(None, 0, 1)
    max_detections: int | None = ranged(None, 1, 1e9)
    outlines: Outlines = "rle"
    rows_per_shard: int = ranged(1000, 1, 1e6)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option out of its range, or an unknown form of outlines.
        """
        check_ranges(self)
        check_outlines(self.outlines)


@dataclass(frozen=True)
class Job:
    """A job, as ``job.json`` keeps it.

    Attributes:
        model: a digest of what predicts.
        manifest: a digest of the list of images.
        images: their number.
        options: what was asked for, with how images are read and in which precision the model computes.
        classes: what labels mean.
        rcnn: the version that began the job.
        format: of this file.
    """

    model: str
    manifest: str
    images: int
    options: dict[str, Any]
    classes: dict[str, Any]
    rcnn: str = field(default_factory=lambda: importlib.metadata.version("rcnn"))
    format: int = FORMAT

    @classmethod
    def of(
        cls, source: str, detector: Detector | ExportedDetector, listed: Listed, options: BulkOptions
    ) -> Job:
        """The job of a model on a list of images."""
        asked = asdict(options)
        if options.min_score is None:
            asked["min_score"] = detector.min_score
        return cls(
            model=model_digest(source, detector),
            manifest=listed.digest,
            images=len(listed.addresses),
            options={**asked, "reading": repr(detector.reading), "precision": detector.used_precision},
            classes=class_metadata(detector),
        )

    @property
    def rows_per_shard(self) -> int:
        """The number of images of every shard but the last."""
        return int(self.options["rows_per_shard"])

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.images // self.rows_per_shard)

    def shard_size(self, shard: int) -> int:
        """The number of images of one shard."""
        return min(self.rows_per_shard, self.images - shard * self.rows_per_shard)

    def write(self, out: Place) -> None:
        """Keep the job."""
        (out / JOB).write(json.dumps(asdict(self), indent=1).encode() + b"\n")

    def check_same(self, kept: Job, out: Place) -> None:
        """Raise a JobError that names every difference from the job that is kept in a place."""
        lists = (
            f"of {kept.images} ({kept.manifest[:8]})", f"of {self.images} ({self.manifest[:8]})",
        )  # fmt: skip
        pairs = {
            "model": (kept.model[:8], self.model[:8]),
            "list of images": lists,
            **{name: (kept.options.get(name), value) for name, value in self.options.items()},
        }
        differences = [
            f"{name} {theirs} there, {ours} here" for name, (theirs, ours) in pairs.items() if theirs != ours
        ]
        if differences:
            hint = (
                f"; to finish its own list, give {out / MANIFEST}" if kept.manifest != self.manifest else ""
            )
            raise JobError(
                f"{out / JOB}: another job is kept there: {'; '.join(differences)}. Repeat that job's "
                f"command to continue it{hint}, or choose another --out"
            )


def model_digest(source: str, detector: Detector | ExportedDetector) -> str:
    """What distinguishes a model; of an exported one, its files."""
    return file_digest(Path(source)) if is_exported(source) else digest_of(detector)


def begun_job(out: Place) -> Job:
    """The job that is kept in a place.

    Raises:
        JobError: none, a damaged file, or one of a later version.
    """
    job = kept_job(out)
    if job is None:
        raise JobError(f"{out}: no job of bulk prediction there; expected {JOB}")
    return job


def kept_job(out: Place) -> Job | None:
    """The job that is kept in a place; None where there is none.

    Raises:
        JobError: a damaged file, or one of a later version.
    """
    place = out / JOB
    if not place.is_file():
        return None
    try:
        content: Mapping[str, Any] = object_of(place.read())
        if content.get("format") != FORMAT:
            raise JobError(f"{place}: format {content.get('format')}; this version of rcnn reads {FORMAT}")
        job = Job(**content)
        if not (isinstance(job.images, int) and job.rows_per_shard > 0 and isinstance(job.classes, dict)):
            raise TypeError("its values are of other types")
    except JobError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise JobError(f"{place}: not a job of bulk prediction ({error}); choose another --out") from error
    return job
