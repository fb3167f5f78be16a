"""Everything that one page works on, and what its requests ask of it; errors are the package's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from rcnn.data.check import check
from rcnn.draw import BACKGROUND, palette
from rcnn.inference.next_images import MAX_SIDE, doubt_of, spread_out, statistics
from rcnn.loading import sample_images
from rcnn.serve.app.collection import Collection, Picture
from rcnn.serve.app.corrections import Corrections
from rcnn.serve.app.downloads import choices, written
from rcnn.serve.app.finder import Finder, WorkingModel
from rcnn.serve.app.objects import number_in, numbers_of
from rcnn.serve.app.pixels import THUMBNAIL, Pyramid, PyramidCache, View, as_jpeg
from rcnn.serve.app.results import Results
from rcnn.serve.app.trainings import Trainings
from rcnn.structures import Size
from rcnn.training.run_folder import REPORT

Json = dict[str, Any]
MAX_PROBLEMS = 500
MOST_MINUTES = 10_000


@dataclass
class Workspace:
    """The images, models, corrections and trainings of one page.

    Attributes:
        collection: the images.
        finder: the models and what they find.
        corrections: what a person changed.
        trainings: the runs.
        title: what is shown as the name of it all.
    """

    collection: Collection
    finder: Finder
    corrections: Corrections
    trainings: Trainings
    title: str
    results: Results = field(init=False)
    _pixels: PyramidCache = field(default_factory=PyramidCache)
    _thumbnails: dict[int, bytes] = field(default_factory=dict)
    _looks: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Put the parts together that tell what is known of an image."""
        self.results = Results(self.collection, self.finder, self.corrections)

    def picture(self, number: int) -> Picture:
        """An image by its number.

        Raises:
            ValueError: there is none.
        """
        if not 0 <= number < len(self.collection.pictures):
            raise ValueError(f"image {number}: there are {len(self.collection.pictures)}, counted from 0")
        return self.collection.pictures[number]

    def state(self) -> Json:
        """What the page shows of the whole."""
        classes, pixels = self.corrections.classes, self.corrections.pixel_classes
        data = self.collection.dataset
        colours = palette(len(classes) + len(pixels))
        return {
            "title": self.title, "out": str(self.collection.out),
            "classes": classes, "colours": colours[: len(classes)],
            "pixel_classes": pixels, "pixel_colours": [
                None if name.casefold() == BACKGROUND else colour
                for name, colour in zip(pixels, colours[len(classes) :], strict=True)
            ],
            "models": [model.describe() for model in self.finder.models], "current": self.finder.current,
            "progress": asdict(self.finder.progress), "counts": self.corrections.counts(),
            "images": len(self.collection.pictures), "is_data": data is not None,
            "has_samples": bool(self._samples), "downloads": choices(has_pixels=bool(pixels)),
            "points": [] if self.skeleton is None else list(self.skeleton.names),
            "bones": [] if self.skeleton is None else [list(bone) for bone in self.skeleton.bones],
            "trainings": [
                {"name": run.folder.name, "state": run.state, "fraction": run.fraction}
                for run in self.trainings.runs
            ],
        }  # fmt: skip

    @property
    def skeleton(self) -> Any:
        """What keypoints are, where there are any."""
        return self.corrections.skeleton

    @cached_property
    def _samples(self) -> list[Path]:
        return [path for model in self.finder.models for path in sample_images(model.source)]

    def images(self, min_score: float | None) -> list[Json]:
        """The images of the strip, with counts of what is shown of each."""
        model = self.finder.models[self.finder.current] if self.finder.models else None
        return [self._listed(picture, model, min_score) for picture in self.collection.pictures]

    def _listed(self, picture: Picture, model: WorkingModel | None, min_score: float | None) -> Json:
        draft = self.corrections.draft(picture)
        found = None if model is None else model.found.get(picture.number)
        count = None
        if draft is not None:
            count = draft.count
        elif picture.record is not None:
            count = len(picture.record.truth)
        elif found is not None and model is not None:
            lowest = model.detector.min_score if min_score is None else min_score
            count = len(found) if found.scores is None else int((found.scores >= lowest).sum())
        failed = "" if model is None else model.failed.get(picture.number, "")
        return {
            "number": picture.number, "name": picture.name, "count": count,
            "status": self.corrections.status(picture), "failed": failed,
        }  # fmt: skip

    def pyramid(self, picture: Picture) -> Pyramid:
        """The decoded image."""
        return self._pixels.get(picture.number, lambda: self.collection.read(picture))

    def thumbnail(self, picture: Picture) -> bytes:
        """A small JPEG of an image, kept."""
        if picture.number not in self._thumbnails:
            small = self.pyramid(picture).small(THUMBNAIL, View())
            self._thumbnails[picture.number] = as_jpeg(small)
        return self._thumbnails[picture.number]

    def describe(self, picture: Picture) -> Json:
        """An image's size, channels and depth, its corrections and what the data set says of it."""
        pyramid = self.pyramid(picture)
        draft = self.corrections.draft(picture)
        return {
            **pyramid.describe(), "number": picture.number, "name": picture.name,
            "status": self.corrections.status(picture),
            "draft": None if draft is None else self.results.draft_json(draft),
            "data": self.results.annotated(picture) if draft is None else None,
        }  # fmt: skip

    def change(self, picture: Picture, body: Mapping[str, Any]) -> Json:
        """Apply the changes of a page to an image's draft."""
        size = self._size(picture)
        draft, conflicts = self.corrections.change(
            picture, size, body.get("changes", ()), lambda: self.results.beginning(picture, body)
        )
        return {**self.results.draft_json(draft), "conflicts": conflicts}

    def mark(self, picture: Picture, body: Mapping[str, Any]) -> Json:
        """Mark an image done or not."""
        size, done = self._size(picture), bool(body.get("done"))
        draft = self.corrections.mark(picture, size, done, lambda: self.results.beginning(picture, body))
        return self.results.draft_json(draft)

    def revert(self, picture: Picture, body: Mapping[str, Any]) -> Json:
        """Forget the corrections of an image."""
        self.corrections.revert(picture)
        return self.describe(picture)

    def add_class(self, body: Mapping[str, Any]) -> Json:
        """Add a class of objects, or of pixels."""
        return {"name": self.corrections.add_class(str(body.get("name", "")), bool(body.get("pixels")))}

    def choose_model(self, body: Mapping[str, Any]) -> Json:
        """Put another model to work."""
        index = number_in(body, "index")
        self.finder.choose(-1 if index is None else int(index))
        return self.state()

    def _size(self, picture: Picture) -> Size:
        height, width = self.pyramid(picture).levels[0].shape[:2]
        return height, width

    def download(self, to: str, number: int | None, min_score: float | None) -> Path:
        """A file with what is shown of one image, or of all that have been looked at."""
        chosen = self.collection.pictures if number is None else [self.picture(number)]
        shown = [(picture, self.results.shown(picture, min_score)) for picture in chosen]
        known = [(picture, found) for picture, found in shown if found is not None]
        classes = self.corrections.all_classes
        return written(known, to, classes, lambda picture: self.pyramid(picture).whole(View()))

    def report(self, index: int | None) -> Path:
        """The report of the run that a model comes from.

        Raises:
            ValueError: there is none.
        """
        file = Path(self.finder.model(index).source) / REPORT
        if not file.is_file():
            raise ValueError(f"{file}: there is no report; rcnn report RUN writes it again")
        return file

    def drop(self, name: str, content: bytes) -> Json:
        """Take in an image that was dropped into the page."""
        picture = self.collection.drop(name, content)
        return {"number": picture.number, "name": picture.name}

    def add_samples(self) -> Json:
        """Take in the photographs that come with the model."""
        added = [self.collection.drop(path.name, path.read_bytes()) for path in self._samples]
        if not added:
            raise ValueError("no photographs come with this model; drop images of your own")
        return {"number": added[0].number}

    def problems(self) -> Json:
        """What ``rcnn data check`` says of the data set that was opened."""
        if self.collection.dataset is None:
            return {"problems": [], "summary": ""}
        return self._checked

    @cached_property
    def _checked(self) -> Json:
        report = check(self.collection.dataset) if self.collection.dataset is not None else None
        assert report is not None
        places = {picture.path: picture.number for picture in self.collection.pictures}
        rows = [
            {
                "severity": one.severity, "what": one.what, "advice": one.advice, "place": one.place,
                "number": places.get(one.file),
            }
            for one in report.problems[:MAX_PROBLEMS]
        ]  # fmt: skip
        return {"problems": rows, "summary": str(report), "total": len(report.problems)}

    def train(self, body: Mapping[str, Any]) -> Json:
        """Start to train on what is done, from the model at work.

        Raises:
            ValueError: nothing is done, or a training is running.
        """
        minutes = number_in(body, "minutes")
        if minutes is None or not 0 < minutes <= MOST_MINUTES:
            raise ValueError(f"minutes {minutes}: expected more than 0 and at most {MOST_MINUTES}")
        if not self.corrections.write_data():
            raise ValueError("no image is done yet: correct one, and press Image done")
        model = self.finder.model() if self.finder.models else None
        source = [] if model is None else ["--from", model.source]
        return self.trainings.start(self._data(model), [*source, "--minutes", f"{minutes:g}"]).describe()

    def _data(self, model: WorkingModel | None) -> Path:
        """The file that a model learns from: with pixel classes where it finds any."""
        files, classes = self.corrections.files, self.corrections.all_classes
        finds_pixels = bool(classes.pixels) if model is None else bool(model.detector.semantic_names)
        return files.panoptic_file if finds_pixels and classes.pixels else files.objects_file

    def training(self, name: str) -> Json:
        """A run: its state, its curves, and what it said."""
        return self.trainings.named(name).describe()

    def stop_training(self, body: Mapping[str, Any]) -> Json:
        """Ask the training to stop; it can be resumed."""
        run = self.trainings.stop()
        return {} if run is None else run.describe()

    def resume_training(self, body: Mapping[str, Any]) -> Json:
        """Go on with a training that was stopped."""
        return self.trainings.resume(str(body.get("name"))).describe()

    def use_training(self, body: Mapping[str, Any]) -> Json:
        """Put the model of a run to work."""
        run = self.trainings.named(str(body.get("name")))
        if run.model is None:
            raise ValueError(f"{run.folder.name}: there is no model yet")
        model = self.finder.add(str(run.model), run.folder.name)
        self.corrections.add_classes(model.detector.class_names, model.detector.semantic_names)
        return self.state()

    def explain(self, picture: Picture, body: Mapping[str, Any]) -> Json:
        """How the model at work found or missed what is at a place, stage by stage."""
        from rcnn.evaluation.explain.explain import explain

        model = self.finder.model()
        given, name = body.get("at"), body.get("class")
        at = numbers_of(given, 4 if isinstance(given, list) and len(given) > 2 else 2, "at")
        if name is not None and not isinstance(name, str):
            raise ValueError(f"class: expected a name; found {name!r:.80}")
        with self.finder.using():
            image = self.collection.read_for(picture, model.detector.reading, model.detector.channels)
            found = explain(
                cast("Any", model.detector), image, at=cast("Any", tuple(at)),
                class_name=name, min_score=number_in(body, "min_score"),
            )  # fmt: skip
        return found.to_json()

    def next(self, number: int) -> Json:
        """The image that is most worth annotating after this one, of those looked at; see ``rcnn next``."""
        model = self.finder.models[self.finder.current] if self.finder.models else None
        pictures = [one for one in self.collection.pictures if one.number != number]
        done = [one for one in pictures if self.corrections.status(one) in ("done", "data")]
        open_ones = [one for one in pictures if one not in done]
        looked = [one for one in open_ones if model is not None and one.number in model.found]
        if model is None or not looked:
            return {"number": open_ones[0].number if open_ones else None}
        doubts = [doubt_of(model.found[one.number], model.detector.min_score) for one in looked]
        looks = np.stack([self._look(one) for one in looked])
        known = [self._look(one) for one in done]
        ((place, _),) = spread_out(np.array(doubts), looks, 1, known=known)
        return {"number": looked[place].number}

    def _look(self, picture: Picture) -> Any:
        if picture.number not in self._looks:
            self._looks[picture.number] = statistics(self.pyramid(picture).small(MAX_SIDE, View()))
        return self._looks[picture.number]

    def close(self) -> None:
        """Stop what is running; everything that was changed is on the disk already."""
        self.finder.close()
        self.trainings.close()
        self.corrections.close()
