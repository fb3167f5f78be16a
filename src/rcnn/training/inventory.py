"""Everything that has a name: models, backbones, recipes, trained models and where their weights are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rcnn.catalogue import BACKBONES, MODELS, PUBLISHED
from rcnn.loading import shipped
from rcnn.training.recipe import recipe_summaries


@dataclass(frozen=True)
class Inventory:
    """What can be named on the command line and in Python.

    Attributes:
        models: the models to train, ``rcnn.train(..., model=NAME)``: name to task.
        backbones: ``rcnn.train(..., backbone=NAME)``: name to the source of its ImageNet weights.
        recipes: ``rcnn.train(..., recipe=NAME)``: name to model and backbone.
        shipped: the trained models in this package, ``rcnn.load(NAME)``: name to file.
        published: trained models that are downloaded, ``rcnn.load(NAME)``: name to the address of their
            weights.
    """

    models: dict[str, str]
    backbones: dict[str, str]
    recipes: dict[str, tuple[str, str]]
    shipped: dict[str, Path]
    published: dict[str, str]


def list_models() -> Inventory:
    """List models, backbones, recipes and trained models by name. Works without torch.

    Returns:
        Their names, each with what is known of it. The tables are copies: changing them changes nothing.
    """
    return Inventory(dict(MODELS), dict(BACKBONES), recipe_summaries(), shipped(), dict(PUBLISHED))
