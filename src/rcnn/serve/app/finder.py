"""The models of the page and what they find; one image at a time, the one that is looked at before others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.loading import load
from rcnn.serve.app.collection import Collection, Picture
from rcnn.serve.app.partition import partitioned
from rcnn.structures import Instances
from rcnn.training.run_folder import REPORT

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

LOWEST = 0.05  # scores below are not shown: nearly all of them are wrong
"""The lowest score that is asked for; the page's slider begins here."""


@dataclass
class WorkingModel:
    """A model that is loaded.

    Attributes:
        name: as it is shown.
        source: what ``rcnn.load`` opens.
        detector: the model.
        found: what it found, by the number of the image; of a panoptic model the partition.
        failed: why it could not look at an image, by its number.
    """

    name: str
    source: str
    detector: Detector | ExportedDetector
    found: dict[int, Instances] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """What the page has to know."""
        skeleton, merge = self.detector.skeleton, self.detector.merge
        return {
            "name": self.name, "source": self.source, "classes": list(self.detector.class_names),
            "min_score": self.detector.min_score, "lowest": min(LOWEST, self.detector.min_score),
            "min_stuff_area": 0 if merge is None else merge.min_stuff_area,
            "points": [] if skeleton is None else list(skeleton.names),
            "bones": [] if skeleton is None else [list(bone) for bone in skeleton.bones],
            "found": len(self.found), "has_report": (Path(self.source) / REPORT).is_file(),
        }  # fmt: skip


@dataclass
class Progress:
    """How far a job is.

    Attributes:
        state: ``idle``, ``running``, ``done`` or ``cancelled``.
        done: images done.
        total: images to do.
        failed: messages of images that could not be used.
    """

    state: str = "idle"
    done: int = 0
    total: int = 0
    failed: list[str] = field(default_factory=list)


class Finder:
    """Predicts, for requests of the page and for the job that goes through all images.

    Attributes:
        models: in the order in which they came; the last is the newest.
        current: the index of the one at work.
        progress: of the job.
    """

    def __init__(self, collection: Collection, open_model: Callable[[str], Any] = load) -> None:
        self._collection, self._open = collection, open_model
        self._using = threading.Lock()
        self._wanted = 0
        self._free = threading.Condition()
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self.models: list[WorkingModel] = []
        self.current = -1
        self.progress = Progress()

    def add(self, source: str, name: str = "") -> WorkingModel:
        """Load a model and put it to work; one that is loaded already is only put to work.

        Raises:
            ValueError: as ``rcnn.load``.
        """
        for index, model in enumerate(self.models):
            if model.source == source:
                self.current = index
                return model
        with self._using:
            detector = self._open(source)
        self.models.append(WorkingModel(name or source, source, detector))
        self.current = len(self.models) - 1
        return self.models[-1]

    def choose(self, index: int) -> WorkingModel:
        """Put a loaded model to work.

        Raises:
            ValueError: there is no such model.
        """
        self.current = self.models.index(self.model(index))
        return self.models[self.current]

    def model(self, index: int | None = None) -> WorkingModel:
        """A loaded model; None: the one at work.

        Raises:
            ValueError: there is none.
        """
        chosen = self.current if index is None else index
        if not 0 <= chosen < len(self.models):
            raise ValueError("no model is loaded; start with rcnn app MODEL FOLDER, or train one here")
        return self.models[chosen]

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Inside, nobody else uses a model; the job waits."""
        with self._free:
            self._wanted += 1
        try:
            with self._using:
                yield
        finally:
            with self._free:
                self._wanted -= 1
                self._free.notify_all()

    def find(self, picture: Picture, model: WorkingModel) -> Instances:
        """What a model finds in an image, kept from the first time on; the job waits meanwhile.

        Raises:
            ValueError: the image cannot be read.
        """
        with self.using():
            return self._find(picture, model)

    def _find(self, picture: Picture, model: WorkingModel) -> Instances:
        """The same for who uses the models alone."""
        found = model.found.get(picture.number)
        if found is None:
            detector = model.detector
            try:
                image = self._collection.read_for(picture, detector.reading, detector.channels)
                found = detector.predict(image, min_score=min(LOWEST, detector.min_score))[0]
                found = found if detector.merge is None else partitioned(found, detector.merge)
            except Exception as error:
                model.failed[picture.number] = str(error) or type(error).__name__
                raise
            model.found[picture.number] = found
        return found

    def start(self) -> Progress:
        """Look for objects in all images that the model at work has not seen; nothing if that is going on."""
        if self._thread is not None and self._thread.is_alive():
            return self.progress
        model = self.model()
        todo = [one for one in self._collection.pictures if one.number not in model.found]
        self.progress = Progress("running", 0, len(todo))
        self._cancelled.clear()
        self._thread = threading.Thread(target=self._run, args=(model, todo, self.progress), daemon=True)
        self._thread.start()
        return self.progress

    def cancel(self) -> Progress:
        """Stop the job after the image at hand; what was found stays."""
        self._cancelled.set()
        return self.progress

    def close(self) -> None:
        """Stop the job and wait for it."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, model: WorkingModel, todo: list[Picture], progress: Progress) -> None:
        for picture in todo:
            with self._free:
                self._free.wait_for(lambda: self._wanted == 0 or self._cancelled.is_set())
            if self._cancelled.is_set():
                progress.state = "cancelled"
                return
            try:
                with self._using:
                    self._find(picture, model)
            except Exception as error:  # whatever a decoder raises must not lose the other images
                progress.failed.append(f"{picture.name}: {error}")
            progress.done += 1
        progress.state = "done"
