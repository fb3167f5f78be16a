"""Everything that one page works on, and what its requests ask of it; errors are the package's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from rcnn.data.check import check
from rcnn.draw import palette, semantic_colours
from rcnn.inference.next_images import MAX_SIDE, doubt_of, spread_out, statistics
from rcnn.loading import sample_images
from rcnn.serve.app.collection import Collection, Picture
from rcnn.serve.app.corrections import Corrections, Draft, beginning
from rcnn.serve.app.downloads import choices, written
from rcnn.serve.app.finder import Finder, WorkingModel
from rcnn.serve.app.objects import Object, as_truth, instances_of, objects_of
from rcnn.serve.app.pixels import THUMBNAIL, Pyramid, PyramidCache, View, as_jpeg
from rcnn.serve.app.trainings import Trainings
from rcnn.structures import Instances, Size
from rcnn.training.run_folder import REPORT

Json = dict[str, Any]
PREFIX_FOUND, PREFIX_DATA = "m", "d"  # of the ids of objects that a model found, and of a data set's
MAX_PROBLEMS = 500
MOST_MINUTES = 10_000
LARGEST_MAP = 4096  # pixels of a side: browsers draw no larger picture


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
    _pixels: PyramidCache = field(default_factory=PyramidCache)
    _thumbnails: dict[int, bytes] = field(default_factory=dict)
    _looks: dict[int, Any] = field(default_factory=dict)

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
        classes = self.corrections.classes
        data = self.collection.dataset
        return {
            "title": self.title, "out": str(self.collection.out),
            "classes": classes, "colours": palette(len(classes)),
            "models": [model.describe() for model in self.finder.models], "current": self.finder.current,
            "progress": asdict(self.finder.progress), "counts": self.corrections.counts(),
            "images": len(self.collection.pictures), "is_data": data is not None,
            "has_samples": bool(self._samples), "downloads": choices(),
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
            count = len(draft.objects)
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
        size: Size = (pyramid.levels[0].shape[0], pyramid.levels[0].shape[1])
        draft = self.corrections.draft(picture)
        truth = self.corrections.truth(picture) if draft is None else None
        return {
            **pyramid.describe(), "number": picture.number, "name": picture.name,
            "status": self.corrections.status(picture),
            "draft": None if draft is None else self.draft_json(draft, size),
            "data": None if truth is None else self._found_json(truth, PREFIX_DATA),
        }  # fmt: skip

    def found(self, picture: Picture, index: int | None) -> Json:
        """What a model finds in an image."""
        return self._found_json(self._find(picture, self.finder.model(index)), PREFIX_FOUND)

    def _find(self, picture: Picture, model: WorkingModel) -> Instances:
        return self.finder.find(picture, model)

    def _found_json(self, found: Instances, prefix: str) -> Json:
        objects = objects_of(found, prefix)
        _add_measures(objects, found)
        semantic = found.semantic is not None
        names = list(found.semantic_names)
        colours = semantic_colours(names) if semantic else []
        return {
            "objects": objects, "has_map": semantic, "map_names": names,
            "map_colours": [[] if colour is None else list(colour) for colour in colours],
            "areas": found.area_rows() if semantic else [],
        }  # fmt: skip

    def measurements(self, picture: Picture, index: int | None) -> Json:
        """All measurements of the objects of an image, by their ids; see :func:`rcnn.measure`.

        Args:
            picture: the image.
            index: of the model whose objects they are; None: corrected or annotated ones.
        """
        from rcnn.measuring.measurements import measure

        draft, truth = self.corrections.draft(picture), self.corrections.truth(picture)
        if index is not None:
            found = self._find(picture, self.finder.model(index))
            ids = [f"{PREFIX_FOUND}{number}" for number in range(len(found))]
        elif draft is not None:
            classes = self.corrections.classes
            found = instances_of(list(draft.objects.values()), draft.size, classes, self.skeleton)
            ids = list(draft.objects)
        elif truth is not None:
            found, ids = truth, [f"{PREFIX_DATA}{number}" for number in range(len(truth))]
        else:
            return {"names": [], "values": {}}
        measured = measure(picture.path, found, reading=self.collection.reading)
        names = [name for name, column in measured.columns.items() if column.dtype.kind in "iufb"]
        names = [name for name in names if name not in ("row", "score")]
        columns = [measured.columns[name].astype(float).tolist() for name in names]
        values = [[v if math.isfinite(v) else None for v in row] for row in zip(*columns, strict=True)]
        return {"names": names, "values": dict(zip(ids, values, strict=True))}

    def semantic(self, picture: Picture, index: int | None) -> Any:
        """The class of every pixel as uint8 ``[h, w]``, at most 4096 pixels wide or high; 255 is void."""
        truth = self.corrections.truth(picture) if index is None else None
        found = truth if truth is not None else self._find(picture, self.finder.model(index))
        if found.semantic is None:
            raise ValueError(f"{picture.name}: there are no classes of pixels")
        step = max(1, -(-max(found.size) // LARGEST_MAP))
        return np.ascontiguousarray(found.semantic[::step, ::step].astype(np.uint8))

    def draft_json(self, draft: Draft, size: Size) -> Json:
        """A draft as the page has it, its objects measured."""
        objects = [dict(one) for one in draft.objects.values()]
        if objects:
            _add_measures(objects, instances_of(objects, size, self.corrections.classes, self.skeleton))
        return {"revision": draft.revision, "objects": objects, "status": draft.status}

    def change(self, picture: Picture, body: Mapping[str, Any]) -> Json:
        """Apply the changes of a page to an image's draft."""
        size = self._size(picture)
        draft, conflicts = self.corrections.change(
            picture, size, body.get("changes", ()), lambda: self._beginning(picture, body)
        )
        return {**self.draft_json(draft, size), "conflicts": conflicts}

    def mark(self, picture: Picture, body: Mapping[str, Any]) -> Json:
        """Mark an image done or not."""
        size, done = self._size(picture), bool(body.get("done"))
        draft = self.corrections.mark(picture, size, done, lambda: self._beginning(picture, body))
        return self.draft_json(draft, size)

    def revert(self, picture: Picture, body: Mapping[str, Any]) -> Json:
        """Forget the corrections of an image."""
        self.corrections.revert(picture)
        return self.describe(picture)

    def add_class(self, body: Mapping[str, Any]) -> Json:
        """Add a class."""
        return {"classes": self.corrections.add_class(str(body.get("name", "")))}

    def choose_model(self, body: Mapping[str, Any]) -> Json:
        """Put another model to work."""
        self.finder.choose(int(body["index"]))
        return self.state()

    def _size(self, picture: Picture) -> Size:
        height, width = self.pyramid(picture).levels[0].shape[:2]
        return height, width

    def _beginning(self, picture: Picture, body: Mapping[str, Any]) -> list[Object]:
        """What the person saw when the first thing was changed."""
        truth = self.corrections.truth(picture)
        if truth is not None:
            return beginning(truth, 0.0, PREFIX_DATA)
        if not self.finder.models:
            return []
        model = self.finder.model(body.get("model"))
        score = body.get("min_score")
        lowest = model.detector.min_score if score is None else float(score)
        for name in model.detector.class_names:
            self.corrections.add_class(name)
        return beginning(self._find(picture, model), lowest, PREFIX_FOUND)

    def shown(self, picture: Picture, min_score: float | None) -> Instances | None:
        """The objects of an image as they are shown: corrected, annotated or found; None: none are known."""
        draft = self.corrections.draft(picture)
        classes = self.corrections.classes
        if draft is not None:
            found = as_truth(instances_of(list(draft.objects.values()), draft.size, classes, self.skeleton))
            return replace(found, path=picture.path)
        truth = self.corrections.truth(picture)
        if truth is not None:
            return replace(truth, path=picture.path)
        model = self.finder.model() if self.finder.models else None
        known = None if model is None else model.found.get(picture.number)
        if known is None or model is None:
            return None
        lowest = model.detector.min_score if min_score is None else min_score
        chosen = known if known.scores is None else known[known.scores >= lowest]
        return replace(chosen, path=picture.path)

    def download(self, to: str, number: int | None, min_score: float | None) -> Path:
        """A file with what is shown of one image, or of all that have been looked at."""
        chosen = self.collection.pictures if number is None else [self.picture(number)]
        shown = [(picture, self.shown(picture, min_score)) for picture in chosen]
        known = [(picture, found) for picture, found in shown if found is not None]
        return written(known, to, lambda picture: self.pyramid(picture).whole(View()))

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
        minutes = float(body.get("minutes", 5))
        if not 0 < minutes <= MOST_MINUTES:
            raise ValueError(f"minutes {minutes:g}: expected more than 0 and at most {MOST_MINUTES}")
        if not self.corrections.write_data():
            raise ValueError("no image is done yet: correct one, and press Image done")
        source = [] if not self.finder.models else ["--from", self.finder.model().source]
        return self.trainings.start(
            self.corrections.data_file, [*source, "--minutes", f"{minutes:g}"]
        ).describe()

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
        for name in model.detector.class_names:
            self.corrections.add_class(name)
        return self.state()

    def explain(self, picture: Picture, body: Mapping[str, Any]) -> Json:
        """How the model at work found or missed what is at a place, stage by stage."""
        from rcnn.evaluation.explain.explain import explain

        model = self.finder.model()
        at = [float(value) for value in body.get("at", ())]
        score = body.get("min_score")
        with self.finder.using():
            image = self.collection.read_for(picture, model.detector.reading, model.detector.channels)
            found = explain(
                cast("Any", model.detector), image, at=cast("Any", tuple(at)),
                class_name=body.get("class"), min_score=None if score is None else float(score),
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


def _add_measures(objects: list[Json], found: Instances) -> None:
    """The area and the centroid of each object, in pixels."""
    for one, row in zip(objects, found.measures()[:, 4:].round(1).tolist(), strict=True):
        one["measures"] = dict(zip(("area", "x", "y"), row, strict=True))
