"""The tables of a prediction, written as images are done, so that nothing done is lost.

While images are predicted the tables stand in the folder as ``.NAME.part``, beside ``.progress.jsonl``: what
was asked for, then a line for each image with the bytes that every table had after it. Whatever ends the
prediction, the tables are then cut to the last whole image and completed; after ``kill -9`` the next start
does that. **Law:** a prediction that was stopped anywhere and started again writes what one that was not
stopped writes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from rcnn.data.formats.coco_text import CocoText
from rcnn.inference.measured import MEASURED_FILES, ImageMeasured, Measurer, numbers_of
from rcnn.inference.sources import PROGRESS, RUN, holds_predictions
from rcnn.io.destinations import refuse_unwritable_folder
from rcnn.io.folders import has_content
from rcnn.io.json_text import parse_json
from rcnn.io.lock import LOCK, FolderLock
from rcnn.structures import AREA_COLUMNS, OBJECT_COLUMNS, Instances, table

if TYPE_CHECKING:
    from rcnn.inference.annotation_folders import AnnotationFolders
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

COUNT_COLUMNS = ("image", "class", "count")
WRITTEN_FOLDERS = ("overlays", "maps", "panoptic")
WRITTEN_FILES = (
    "predictions.json",
    "objects.csv",
    "counts.csv",
    "areas.csv",
    "panoptic.json",
    "next.csv",
    RUN,
    *MEASURED_FILES,
)
HEADS = {"objects.csv": OBJECT_COLUMNS, "counts.csv": COUNT_COLUMNS, "areas.csv": AREA_COLUMNS}
REFUSAL = "choose another --out, or --overwrite (in Python: overwrite=True) to replace what is there"


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a prediction can neither begin nor be continued in, before any work.

    Raises:
        ValueError: there is something else in it, or a finished prediction; or it cannot be written.
    """
    refuse_unwritable_folder(out)
    if overwrite or not has_content(out) or (out / PROGRESS).is_file() or _holds_a_lock_alone(out):
        return
    what = "is a finished prediction" if holds_predictions(out) else "are other files"
    raise ValueError(f"{out}: there {what}; {REFUSAL}")


def clear_output(out: Path) -> None:
    """Remove what an earlier prediction wrote; other files stay."""
    if not (holds_predictions(out) or (out / PROGRESS).is_file()):
        return
    for name in (*WRITTEN_FOLDERS, *_annotation_folders(out)):
        if (out / name).is_dir() and not (out / name).is_symlink():
            shutil.rmtree(out / name)
    for name in (*WRITTEN_FILES, PROGRESS, *(f".{name}.part" for name in WRITTEN_FILES)):
        (out / name).unlink(missing_ok=True)


def _annotation_folders(out: Path) -> list[str]:
    """The folders of annotations that an earlier prediction wrote, as its journal or ``run.json`` says."""
    with contextlib.suppress(OSError, ValueError):
        rows = _journal(out / PROGRESS) or [parse_json((out / RUN).read_text(encoding="utf-8"))]
        named = rows[0].get("folders", [])
        # A file may say anything: nothing outside is removed.
        return [name for name in named if isinstance(name, str) and Path(name).name == name != ".."]
    return []


@dataclass
class ImageEntry:
    """What is noted of an image, in the tables or in the formats of ``--to``.

    Attributes:
        texts: what is appended to which file, by its path below the output folder.
        facts: what the journal says of the image.
        lost: the number of losses of each kind, by format.
        failed: a message for each format that the image could not be written in.
        unwritten: these formats.
    """

    texts: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)


class OutputTables:
    """The tables and ``run.json`` of one prediction; a context manager.

    Attributes:
        lock: of the folder, taken already; a context manager, too, around everything that writes there.
        done: what the journal says of each image that is done, by name.
        counts: objects of each class so far.
        failed: a message for each image, or overlay, that could not be used or written.
        full: images with as many objects as can be reported.
        cut: by image, the number of objects whose rest beyond a tile was not found.
    """

    def __init__(
        self,
        out: Path,
        detector: Detector | ExportedDetector,
        predictions: CocoText,
        asked: Mapping[str, Any],
        command: str,
        *,
        image_ids: Mapping[str, int | str],
        folders: AnnotationFolders | None = None,
        measurer: Measurer | None = None,
    ) -> None:
        """Prepare the tables.

        Args:
            out: the folder; made where missing.
            detector: what predicts.
            predictions: the text of ``predictions.json``.
            asked: what ``run.json`` says of the prediction.
            command: what distinguishes this prediction from others; only the same one is continued.
            image_ids: the id of each image in ``predictions.json``.
            folders: those of the formats that the objects are written in besides.
            measurer: what measures the objects, has tables of its own, and completes the folder.

        Raises:
            FolderInUseError: another prediction writes there.
            OSError: the folder cannot be written.
        """
        self.class_names, self.predictions, self.command = detector.class_names, predictions, command
        self.image_ids, self.folders = image_ids, folders
        self.run = {
            "rcnn": importlib.metadata.version("rcnn"), "precision": detector.used_precision, **asked,
            "folders": [] if folders is None else folders.names,
        }  # fmt: skip
        self.counts = Counter(dict.fromkeys(detector.class_names, 0))
        self.pixels = Counter(dict.fromkeys(detector.semantic_names, 0))
        self.done: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []
        self.full: list[str] = []
        self.cut: dict[str, int] = {}
        names = ["predictions.json", "objects.csv", "counts.csv"] if detector.class_names else []
        names += ["areas.csv"] if detector.semantic_names else []
        heads = {} if measurer is None else dict(measurer.heads)
        self.measurer, self.heads = measurer, HEADS | heads
        self.out, self.names = out, [*names, *heads]
        out.mkdir(parents=True, exist_ok=True)
        self.lock = FolderLock(out, "prediction")

    @property
    def images(self) -> int:
        """The number of images done."""
        return len(self.done)

    def __enter__(self) -> OutputTables:
        self._open()
        return self

    def _open(self) -> None:
        rows = _journal(self.out / PROGRESS)
        if rows and rows[0].get("command") != self.command:
            raise ValueError(f"{self.out}: there is an unfinished prediction of another command; {REFUSAL}")
        if self.folders is not None:
            self.folders.open()
            self.names = [*self.names, *self.folders.files]
        self._files: dict[str, BinaryIO] = {}
        for name in self.names:
            if rows and not _part(self.out / name).exists() and (self.out / name).exists():
                (self.out / name).replace(_part(self.out / name))
            begun = rows and _part(self.out / name).exists()
            self._files[name] = _part(self.out / name).open("r+b" if begun else "w+b")
        sizes = {name: file.seek(0, 2) for name, file in self._files.items()}
        whole = [row for row in rows if all(sizes[name] >= row["sizes"][name] for name in self.names)]
        self._journal = (self.out / PROGRESS).open("wb")
        if not whole:
            self._sizes = dict.fromkeys(self.names, 0)
            self._cut()
            for name, head in self.heads.items():
                self._write(name, table([head]))
            self._write("predictions.json", self.predictions.start())
            for name, text in ({} if self.folders is None else self.folders.start()).items():
                self._write(name, text)
            whole = [{"command": self.command, "folders": self.run["folders"], "sizes": self._ends()}]
        for row in whole:
            self._note(row)
        self._cut()

    def _note(self, row: Mapping[str, Any]) -> None:
        """Write a line of the journal: from here on the image is done."""
        self._journal.write(json.dumps(row).encode() + b"\n")
        self._journal.flush()
        self._sizes = dict(row["sizes"])
        if "image" not in row:
            return
        name = row["image"]
        self.done[name] = dict(row)
        height, width = row["size"]
        self.predictions.note(self.image_ids[name], name, (height, width), row["objects"])
        if self.folders is not None:
            self.folders.note(row)
        self.counts.update(row["counts"])
        self.pixels.update(row["pixels"])
        self.failed += row["failed"]
        self.full += [name] if row["full"] else []
        if row.get("cut"):  # not in journals before 0.2
            self.cut[name] = row["cut"]

    def _write(self, name: str, text: str) -> None:
        """To one of the tables, if this model has it. File names need not be UTF-8."""
        if name in self._files:
            self._files[name].write(text.encode(errors="surrogateescape"))

    def _ends(self) -> dict[str, int]:
        for file in self._files.values():
            file.flush()
        return {name: file.tell() for name, file in self._files.items()}

    def _cut(self) -> None:
        """Drop what was written after the last image that is done."""
        for name, file in self._files.items():
            file.seek(self._sizes[name])
            file.truncate()

    def annotated(
        self, image_id: str, path: Path, found: Instances, measured: ImageMeasured | None = None
    ) -> ImageEntry:
        """Write an image's objects in all formats; :meth:`add` then appends and notes what is returned."""
        if self.folders is None:
            return ImageEntry()
        numbers = () if measured is None else numbers_of(self.heads, measured.rows)
        return self.folders.write(image_id, path, found, self.counts.total() + 1, numbers)

    def entry(
        self,
        image_id: str,
        found: Instances,
        first: int,
        *,
        full: bool,
        rows: Mapping[str, Sequence[Sequence[object]]] | None = None,
    ) -> ImageEntry:
        """An image's objects and areas for :meth:`add`; every class has its row, with 0 too.

        Nothing here depends on the images before, besides ``first``, so threads may do it in any order.

        Args:
            image_id: its name.
            found: its objects.
            first: the row of its first object.
            full: there may be more than can be reported.
            rows: of further tables, by the tables' names.
        """
        counts, areas = Counter(found.names), found.area_rows()
        objects = self.predictions.text(self.image_ids[image_id], found, first) if self.class_names else ""
        texts = {
            "predictions.json": objects,
            "objects.csv": table([number, image_id, *row] for number, row in enumerate(found.rows(), first)),
            "counts.csv": table([image_id, name, counts[name]] for name in self.class_names),
            "areas.csv": table([image_id, *row] for row in areas),
        }
        texts |= {name: table(own) for name, own in (rows or {}).items()}
        facts = {
            "image": image_id,
            "size": list(found.size),
            "objects": len(found),
            "counts": dict(counts),
            "pixels": {name: int(pixels) for name, pixels, _ in areas},
            "full": full,
            "cut": 0 if found.cut is None else int(found.cut.sum()),
        }
        return ImageEntry(texts, facts)

    def add(
        self,
        entry: ImageEntry,
        annotations: ImageEntry,
        *,
        failed: Sequence[str] = (),
        partition: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one image.

        Args:
            entry: what :meth:`entry` returned.
            annotations: what :meth:`annotated` returned.
            failed: what could not be written of it.
            partition: its entries in ``panoptic.json``.
        """
        for name, text in (*entry.texts.items(), *annotations.texts.items()):
            self._write(name, text)
        self._note(
            entry.facts
            | {
                "failed": list(failed),
                "partition": partition,
                "lost": annotations.lost,
                "unwritten": annotations.unwritten,
                "sizes": self._ends(),
            }
        )

    def pixel_fractions(self) -> dict[str, float]:
        """The fraction of all pixels so far that each class has."""
        total = max(1, self.pixels.total())
        return {name: pixels / total for name, pixels in self.pixels.items()}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A full disk fails here again; the first error is the one to be seen.
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            try:
                self._finish(finished=kind is None)
            finally:
                for file in (*self._files.values(), self._journal):
                    with contextlib.suppress(OSError):
                        file.close()

    def _finish(self, *, finished: bool) -> None:
        self._cut()
        self._write("predictions.json", self.predictions.end())
        for name, text in ({} if self.folders is None else self.folders.end()).items():
            self._write(name, text)
        for name, file in self._files.items():
            file.close()
            _part(self.out / name).replace(self.out / name)
        run = {**self.run, "images": self.images, "finished": finished}
        part = _part(self.out / RUN)
        part.write_text(json.dumps(run, indent=1), encoding="utf-8")
        part.replace(self.out / RUN)
        if finished and self.folders is not None:
            self.folders.tidy()
        if finished and self.measurer is not None:
            self.measurer.finish(self.out)
        if finished:  # only now: what is stopped before is continued
            self._journal.close()
            (self.out / PROGRESS).unlink()


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _holds_a_lock_alone(out: Path) -> bool:
    """Whether a prediction was killed before it began."""
    return out.is_dir() and {path.name for path in out.iterdir()} <= {LOCK}


def _journal(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal."""
    rows: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # cut short by a kill
                break
    return rows
