"""What the user of ``rcnn.train`` asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from rcnn.config import build_settings, override_tables, parse_assignments
from rcnn.data.dataset import Dataset
from rcnn.io.reading import Reading
from rcnn.io.renamed import current_settings
from rcnn.training.recipe import Recipe, load_recipe
from rcnn.training.settings import TrainSettings
from rcnn.training.split import Sources
from rcnn.transform import Transform


@dataclass(frozen=True)
class TrainOptions:
    """The arguments of :func:`rcnn.train`, which describes them.

    Attributes:
        sources: where the data come from.
        model: the name or dotted path of a model.
        backbone: the name or dotted path of a backbone.
        recipe: to be trained instead of one chosen from the data.
        minutes: training time.
        epochs: passes over the training images.
        out: the run folder.
        seed: random seed.
        settings: changes to the recipe.
        skip_bad: leave out images with errors.
        resume: the folder of an interrupted run.
        start: the trained model to start from.
        rename: what the data call a class: what ``start`` calls it.
        keep_classes: keep the classes of ``start`` that the data do not have.
        freeze: what does not train.
        workers: processes that prepare batches.
        device: where to train.
        callbacks: objects, or dotted paths of such.
        log: names of callbacks.
        trust: packages whose code a recipe file may name.
        console: where to print.
        json_log: print JSON objects instead.
    """

    sources: Sources = field(default_factory=Sources)
    model: str | None = None
    backbone: str | None = None
    recipe: str | Path | Recipe | None = None
    minutes: float | None = None
    epochs: float | None = None
    out: str | Path | None = None
    seed: int | None = None
    settings: Sequence[str] = ()
    skip_bad: bool = False
    resume: str | Path | None = None
    start: str | Path | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    keep_classes: bool = False
    freeze: Sequence[str] = ()
    workers: int | None = None
    device: str | None = None
    callbacks: Sequence[object] = ()
    log: Sequence[str] = ()
    trust: bool | Iterable[str] = ()
    console: Console = field(default_factory=lambda: Console(soft_wrap=True))
    json_log: bool = False

    def reading(self, own: Transform | None) -> Reading:
        """How image files are read: as a transform or the opened data set says, with the settings applied.

        Args:
            own: of the recipe, or of the model to start from; None: neither is given.

        Raises:
            ValueError: a setting that is unknown or of a wrong type.
        """
        data = self.sources.data
        base = Transform(read=data.reading) if isinstance(data, Dataset) else Transform()
        base = base if own is None else own
        asked = [text for text in self.settings if text.strip().startswith("transform.read")]
        changed: Transform = override_tables({"transform": base}, parse_assignments(asked))["transform"]
        return changed.read

    def check(self) -> None:
        """Refuse what contradicts itself, before anything is opened.

        Raises:
            ValueError: it names the options and what to do.
        """
        if self.sources.data is None:
            raise ValueError("train needs a data set, or the folder of a run to resume")
        if self.minutes is not None and self.epochs is not None:
            raise ValueError(f"both minutes ({self.minutes:g}) and epochs ({self.epochs:g}): choose one")
        if self.recipe is not None and (self.model or self.backbone):
            raise ValueError(
                "a recipe names its own model and backbone: remove --model and --backbone, or change the "
                "backbone with --set"
            )
        if self.recipe is not None and self.start is not None:
            raise ValueError(
                f"--from {self.start} brings a model of its own, and --recipe another: remove one of them; "
                "to take only the weights, give --recipe FILE --set train.start=MODEL"
            )
        if any(text.partition("=")[0].strip() == "train.seed" for text in self.settings):
            raise ValueError("--set train.seed: use --seed, which also decides the held-out images")

    def own_recipe(self) -> Recipe | None:
        """The recipe that was passed, with length, seed and workers of the other options.

        Raises:
            ValueError: the recipe cannot be used.
            FileNotFoundError: there is no such recipe.
        """
        if self.recipe is None:
            return None
        given = self.recipe if isinstance(self.recipe, Recipe) else load_recipe(self.recipe, self.trust)
        train = given.train
        if self.minutes is not None or self.epochs is not None:
            train = replace(train, minutes=self.minutes, epochs=self.epochs)
        train = replace(train, seed=train.seed if self.seed is None else self.seed)
        train = replace(train, workers=train.workers if self.workers is None else self.workers)
        return replace(given, train=self.for_going_on(train))

    def for_going_on(self, train: TrainSettings) -> TrainSettings:
        """The settings with those of the options about the model to start from."""
        return replace(
            train,
            start=train.start if self.start is None else str(self.start),
            rename=tuple(self.rename.items()) or train.rename,
            keep_classes=self.keep_classes or train.keep_classes,
            freeze=self._frozen() or train.freeze,
        )

    def _frozen(self) -> tuple[Literal["backbone", "norms"], ...]:
        return build_settings(TrainSettings(), {"freeze": list(self.freeze)}, "train").freeze

    def settled(self, given: Recipe | None) -> TrainSettings:
        """The settings of the training as far as they are known before the data are opened.

        Raises:
            ValueError: a setting that is unknown or of a wrong type.
        """
        base = self.for_going_on(TrainSettings()) if given is None else given.train
        asked = [text for text in self.settings if text.strip().startswith("train.")]
        settled: TrainSettings = override_tables(
            {"train": base}, current_settings(parse_assignments(asked), warn=False)
        )["train"]
        return settled

    def split_seed(self, given: Recipe | None) -> int:
        """The seed of the split: that of the recipe, so that a run's recipe gives the same run again.

        Raises:
            ValueError: a seed outside its range.
        """
        return given.train.seed if given else TrainSettings(seed=self.seed or 0).seed
