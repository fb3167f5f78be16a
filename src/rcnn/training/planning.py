"""The recipe of a run: planned from the data or passed by the user, with settings applied, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rcnn.data.dataset import Dataset
from rcnn.io.images import image_header
from rcnn.io.reading import Reading
from rcnn.models import model_class
from rcnn.parts.pretrained import NORMALISATIONS, backbone_normalisation
from rcnn.processes.group import from_first_process, world_size
from rcnn.training.advice import choose_backbone, start_advice
from rcnn.training.defaults import FixedModel, Reason, describe_interpolation, describe_schedule, plan
from rcnn.training.options import TrainOptions
from rcnn.training.recipe import Recipe, with_settings
from rcnn.training.schemes import scheme_of
from rcnn.training.settings import TrainSettings
from rcnn.training.split import Split

NORMALISED_IMAGES = 64  # that mean and standard deviation are measured of
MIN_STD = 0.01  # of a channel that is the same everywhere


def recipe_of_run(
    options: TrainOptions,
    given: Recipe | None,
    split: Split,
    start: FixedModel | None = None,
    *,
    device: torch.device,
) -> tuple[Recipe, list[Reason]]:
    """The recipe to train, all settings applied, and the reasons for it.

    Args:
        options: what the user asked for.
        given: the recipe that was passed.
        split: the data.
        start: the model that training starts from, where that decides the recipe.
        device: where it is trained.
    """
    suits = ""  # why the backbone does
    if given is not None:
        name = options.recipe if isinstance(options.recipe, str | Path) else given.model
        recipe, reasons = given, [Reason("recipe", str(name))]
    else:
        backbone = options.backbone
        if start is None and backbone is None:
            backbone, suits = from_first_process(partial(choose_backbone, device))
        recipe, reasons = plan(
            split.train, start=start, model=options.model, backbone=backbone,
            minutes=options.minutes, epochs=options.epochs, seed=options.seed or 0, workers=options.workers,
        )  # fmt: skip
        recipe = replace(recipe, train=options.for_going_on(recipe.train))
        if suits:
            reasons += start_advice(recipe, split.train)
    if start is not None:
        recipe = with_settings(recipe, options.settings)
        schedule = describe_schedule(recipe.train)
        reasons = [schedule if reason.what == schedule.what else reason for reason in reasons]
        reasons += describe_interpolation(recipe.train)
        return recipe, [*reasons, *(Reason("setting", text) for text in options.settings)]
    recipe, of_images = with_images(recipe, split.train, options.settings)
    recipe = with_settings(recipe, options.settings)
    # Settings may have changed what was planned.
    changed = any(text.strip().startswith("model.backbone.name") for text in options.settings)
    backbone = recipe.settings.backbone.name
    weights = f"{suits}; ImageNet weights" if suits and not changed else "ImageNet weights"
    planned = (describe_schedule(recipe.train), Reason("backbone", backbone, weights))
    current = {reason.what: reason for reason in planned}
    reasons = [current.get(reason.what, reason) for reason in reasons]
    if not any(text.strip().startswith(("transform.mean", "transform.std")) for text in options.settings):
        # The backbone may be another one now, and VGG-16 comes with two sets of weights.
        normalised = with_backbone_normalisation(recipe)
        if normalised != recipe:
            reasons.append(Reason("input", f"normalised as the weights of {backbone} found here expect"))
        recipe = normalised
    of_images += describe_interpolation(recipe.train)
    return recipe, [*reasons, *of_images, *(Reason("setting", text) for text in options.settings)]


def with_images(recipe: Recipe, data: Dataset, settings: Sequence[str] = ()) -> tuple[Recipe, list[Reason]]:
    """The recipe for images that are read as the data set's are, with as many channels, and the reasons.

    Images of other than three channels are normalised by their own mean and standard deviation, unless the
    recipe or the settings have some.
    """
    reading = settled_reading(data)
    recipe = replace(recipe, transform=replace(recipe.transform, read=reading))
    channels = data.channels
    said = any(text.strip().startswith("transform.mean") for text in settings)
    if channels == len(recipe.transform.mean) or said:
        return recipe, []
    mean, std = measured_normalisation(data)
    # The first stage must learn from channels that it was not pretrained on.
    backbone = replace(recipe.settings.backbone, input_channels=channels, frozen_stages=0)
    changed = replace(
        recipe,
        settings=replace(recipe.settings, backbone=backbone),
        transform=replace(recipe.transform, mean=mean, std=std),
    )
    why = "normalised by the images' mean and std; the pretrained kernels are spread over them"
    return changed, [Reason("input channels", str(channels), why)]


def settled_reading(data: Dataset) -> Reading:
    """How the data set is read, and whether intensities of its images are scaled together, as colours are.

    Arrays that a model is given do not say what their channels are.
    """
    reading = data.reading
    if reading.jointly is not None or not data.records or data.records[0].image is not None:
        return reading
    return replace(reading, jointly=image_header(data.records[0].path, reading).is_rgb)


def measured_normalisation(data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of images in [0, 1]; from a sample of the images."""
    count, total, squares = 0, np.zeros(data.channels), np.zeros(data.channels)
    for image in data.images(NORMALISED_IMAGES):
        pixels = image.reshape(-1, image.shape[2]).astype(np.float64) / 255
        count += len(pixels)
        total += pixels.sum(0)
        squares += (pixels**2).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, MIN_STD**2))
    return tuple(np.round(mean, 4).tolist()), tuple(np.round(std, 4).tolist())


def with_backbone_normalisation(recipe: Recipe) -> Recipe:
    """The recipe with mean and std of its backbone's weights: VGG-16 comes with two sets of them.

    Values that are no backbone's stay, such as those of the detector that a run started from.
    """
    if (recipe.transform.mean, recipe.transform.std) not in NORMALISATIONS:
        return recipe
    mean, std = backbone_normalisation(recipe.settings.backbone.name)
    return replace(recipe, transform=replace(recipe.transform, mean=mean, std=std))


def check_batch_size(settings: TrainSettings) -> None:
    """Refuse batches that cannot be split among the processes.

    Raises:
        ValueError: it names both numbers.
    """
    if settings.batch_size % world_size():
        raise ValueError(
            f"train.batch_size {settings.batch_size} cannot be split among {world_size()} processes: "
            "choose a multiple of the number of processes (--batch-size)"
        )


def check_sync_bn(recipe: Recipe, device: torch.device) -> None:
    """Refuse batch norms over several processes where they cannot be computed, or there are none.

    Raises:
        ValueError: it names the setting.
    """
    if not recipe.train.sync_bn:
        return
    if recipe.settings.backbone.norm == "frozen":
        raise ValueError(
            "train.sync_bn: the batch norms of this recipe are fixed (model.backbone.norm=frozen): leave it "
            "out, or set model.backbone.norm=batch"
        )
    if world_size() > 1 and device.type != "cuda":
        raise ValueError("train.sync_bn: torch synchronises batch norms on GPUs only: leave it out")


def check_recipe(recipe: Recipe, split: Split) -> None:
    """Refuse a recipe that cannot be trained, or not on these data.

    Raises:
        ValueError: it names the setting or the data, and what to do.
    """
    check_batch_size(recipe.train)
    train, model = recipe.train, model_class(recipe.model)
    if (train.minutes is None) == (train.epochs is None):
        raise ValueError(
            f"train.minutes is {train.minutes} and train.epochs is {train.epochs}: set exactly one of them"
        )
    length = train.minutes or train.epochs or 0.0
    untrained = train.epochs == 0 and train.start is not None  # as it is, for these classes
    if not length > 0 and not untrained:
        raise ValueError(f"cannot train for {length:g} minutes or epochs: set a number above 0")
    if train.interpolation < 1 and train.start is None:
        raise ValueError(
            f"train.interpolation {train.interpolation:g} is a part of the way from a model to start from: "
            "give one with --from MODEL, or leave it out"
        )
    if train.keep_threshold and train.start is None:
        raise ValueError(
            "train.keep_threshold keeps that of a model to start from: give one with --from MODEL"
        )
    model.check_settings(recipe.settings)
    scheme_of(recipe).check(recipe)
    _check_channels(recipe, split.train)
    for part in (split.train, split.val):
        model.check_data(recipe.settings, part, name=recipe.model, trains=part is split.train)


def unswapped_flips(recipe: Recipe, data: Dataset) -> list[Reason]:
    """A line for the log where images are mirrored and no keypoint changes places with another."""
    augment, skeleton = recipe.augment, data.skeleton
    if not augment.flip or skeleton is None or not skeleton.lacks_partners or augment.flip_pairs is not None:
        return []
    why = "if left and right are told apart, name the pairs (augment.flip_pairs), or set augment.flip=false"
    return [Reason("mirroring", f"no keypoint of {', '.join(skeleton.names)} changes places", why)]


def _check_channels(recipe: Recipe, data: Dataset) -> None:
    """Refuse numbers of channels that differ between backbone, normalisation and images."""
    wanted, normalised = recipe.settings.backbone.input_channels, len(recipe.transform.mean)
    if wanted != normalised:
        raise ValueError(
            f"model.backbone.input_channels is {wanted}, but transform.mean has {normalised} numbers: "
            "expected one per channel"
        )
    if data.channels != wanted:
        raise ValueError(
            f"{data.source}: its images have {data.channels} channels, and the recipe is for {wanted}: "
            "choose channels with --channels, or change model.backbone.input_channels, transform.mean and "
            "transform.std"
        )
