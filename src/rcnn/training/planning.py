"""The recipe of a run: planned from the data or passed by the user, with settings applied, and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rcnn.models import model_class
from rcnn.parts.pretrained import NORMALISATIONS, backbone_normalisation
from rcnn.training.defaults import Reason, describe_schedule, plan
from rcnn.training.options import TrainOptions
from rcnn.training.recipe import Recipe, with_settings
from rcnn.training.schemes import scheme_of
from rcnn.training.split import Split


def recipe_of_run(options: TrainOptions, given: Recipe | None, split: Split) -> tuple[Recipe, list[Reason]]:
    """The recipe to train, all settings applied, and the reasons for it."""
    if given is not None:
        name = options.recipe if isinstance(options.recipe, str | Path) else given.model
        recipe, reasons = given, [Reason("recipe", str(name))]
    else:
        recipe, reasons = plan(
            split.train, model=options.model, backbone=options.backbone, minutes=options.minutes,
            epochs=options.epochs, seed=options.seed or 0, workers=options.workers,
        )  # fmt: skip
    recipe = with_settings(recipe, options.settings)
    backbone = recipe.settings.backbone.name
    # Settings may have changed what was planned.
    planned = (describe_schedule(recipe.train), Reason("backbone", backbone, "ImageNet weights"))
    current = {reason.what: reason for reason in planned}
    reasons = [current.get(reason.what, reason) for reason in reasons]
    if not any(text.strip().startswith(("transform.mean", "transform.std")) for text in options.settings):
        # The backbone may be another one now, and VGG-16 comes with two sets of weights.
        normalised = with_backbone_normalisation(recipe)
        if normalised != recipe:
            reasons.append(Reason("input", f"normalised as the weights of {backbone} found here expect"))
        recipe = normalised
    return recipe, [*reasons, *(Reason("setting", text) for text in options.settings)]


def with_backbone_normalisation(recipe: Recipe) -> Recipe:
    """The recipe with mean and std of its backbone's weights: VGG-16 comes with two sets of them.

    Values that are no backbone's stay, such as those of the detector that a run started from.
    """
    if (recipe.transform.mean, recipe.transform.std) not in NORMALISATIONS:
        return recipe
    mean, std = backbone_normalisation(recipe.settings.backbone.name)
    return replace(recipe, transform=replace(recipe.transform, mean=mean, std=std))


def check_recipe(recipe: Recipe, split: Split) -> None:
    """Refuse a recipe that cannot be trained, or not on these data.

    Raises:
        ValueError: it names the setting or the data, and what to do.
    """
    train, model = recipe.train, model_class(recipe.model)
    if (train.minutes is None) == (train.epochs is None):
        raise ValueError(
            f"train.minutes is {train.minutes} and train.epochs is {train.epochs}: set exactly one of them"
        )
    length = train.minutes or train.epochs or 0.0
    if not length > 0:
        raise ValueError(f"cannot train for {length:g} minutes or epochs: set a number above 0")
    model.check_settings(recipe.settings)
    scheme_of(recipe).check(recipe)
    for part in (split.train, split.val):
        model.check_data(recipe.settings, part, name=recipe.model, trains=part is split.train)
