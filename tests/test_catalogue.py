"""The tables that are read without torch agree with the classes, builders and weights that they name."""

from rcnn import catalogue
from rcnn.importers import torchvision
from rcnn.models import MODELS
from rcnn.parts.backbone import BACKBONES
from rcnn.training.recipe import load_recipe, recipe_summaries


def test_models() -> None:
    assert list(catalogue.MODELS) == list(MODELS)


def test_backbones() -> None:
    assert list(catalogue.BACKBONES) == list(BACKBONES)


def test_published_weights() -> None:
    addresses = {f"{name}_coco": str(torchvision._coco(name).url) for name in torchvision.DETECTORS}
    assert addresses == catalogue.PUBLISHED == torchvision.published()


def test_recipes() -> None:
    for name, (model, backbone) in recipe_summaries().items():
        recipe = load_recipe(name)
        assert (recipe.model, recipe.settings.backbone.name) == (model, backbone), name
