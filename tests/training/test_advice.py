"""Which backbone a plan takes on a device, when it advises a published detector, and what it says."""

from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from rcnn.catalogue import IMAGENET, PUBLISHED
from rcnn.data.dataset import Dataset
from rcnn.io import download
from rcnn.io.download import can_be_had
from rcnn.training import advice
from rcnn.training.advice import FOR_MODEL, GPU_BACKBONE, MAX_IMAGES, choose_backbone, start_advice
from rcnn.training.defaults import DEFAULT_BACKBONE, MIN_IMAGES_FOR_ORIENTATION, Reason
from rcnn.training.options import TrainOptions
from rcnn.training.planning import recipe_of_run
from rcnn.training.recipe import Recipe
from rcnn.training.split import Split
from tiny import tiny_recipe, tiny_shapes

CPU, GPU = torch.device("cpu"), torch.device("cuda")  # no GPU is needed to plan for one
MANY = MIN_IMAGES_FOR_ORIENTATION
RESNET = Path(IMAGENET[GPU_BACKBONE]).name


def photographs(*names: str, count: int = MANY) -> Dataset:
    shapes = tiny_shapes(1)
    return Dataset("none", Path("none"), names, [shapes.records[0]] * count)


def recipe(model: str = "mask_rcnn", *, turns: bool = False) -> Recipe:
    planned = replace(tiny_recipe(), model=model)
    return replace(planned, augment=replace(planned.augment, rotate90=turns))


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where weights are looked for; no server answers."""
    monkeypatch.setenv("RCNN_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_answers", lambda url: False)
    return tmp_path


# A detector to start from


def test_it_names_the_model_the_classes_and_the_way(folder: Path) -> None:
    (line,) = start_advice(recipe(), photographs("Dog", "gnome", "person"))
    assert line.value.startswith("--from maskrcnn_resnet50_fpn_v2_coco brings an RPN and heads")
    assert "2 of the 3 classes: person, Dog" in line.value
    assert line.value.endswith("slower than the light backbone")
    assert "downloaded from https://" in line.why
    assert "RCNN_WEIGHTS" in line.why
    name = PUBLISHED["maskrcnn_resnet50_fpn_v2_coco"].rsplit("/", 1)[-1]
    (folder / name).write_bytes(b"")
    (line,) = start_advice(recipe(), photographs("gnome"))
    assert line.why == "its weights are on this machine"
    assert "classes" not in line.value


def test_of_a_few_images_nobody_knows_whether_they_are_photographs() -> None:
    (line,) = start_advice(recipe(), photographs("dog", count=MANY - 1))
    assert line.value.startswith("if these are photographs, --from ")


def test_nothing_is_slower_than_the_same_backbone() -> None:
    planned = recipe()
    backbone = replace(planned.settings.backbone, name=GPU_BACKBONE)
    planned = replace(planned, settings=replace(planned.settings, backbone=backbone))
    (line,) = start_advice(planned, photographs("dog"))
    assert "slower" not in line.value


def test_it_is_silent_where_it_would_not_help() -> None:
    assert start_advice(recipe(turns=True), photographs("dog")) == []
    assert start_advice(recipe("fcn"), photographs("dog")) == []
    assert start_advice(recipe(), photographs("dog", count=MAX_IMAGES + 1)) == []


def test_every_name_is_published() -> None:
    assert set(FOR_MODEL.values()) <= set(PUBLISHED)


# The backbone of a plan


def planned(device: torch.device, **options: object) -> tuple[Recipe, dict[str, Reason]]:
    data = tiny_shapes(3)
    asked = TrainOptions(epochs=1, **options)  # type: ignore[arg-type]
    found, reasons = recipe_of_run(asked, None, Split(data, data, ()), device=device)
    return found, {reason.what: reason for reason in reasons}


def test_a_cpu_gets_the_light_backbone(folder: Path) -> None:
    (folder / RESNET).write_bytes(b"")
    found, reasons = planned(CPU)
    assert found.settings.backbone.name == DEFAULT_BACKBONE
    assert (
        str(reasons["backbone"]) == f"backbone: {DEFAULT_BACKBONE} (a light one for a CPU; ImageNet weights)"
    )


def test_a_gpu_gets_resnet_50_with_a_pyramid(folder: Path) -> None:
    (folder / RESNET).write_bytes(b"")
    found, reasons = planned(GPU)
    assert found.settings.backbone.name == "resnet50"
    assert found.settings.fpn is not None
    assert str(reasons["backbone"]) == "backbone: resnet50 (for a GPU (cuda); ImageNet weights)"
    assert "slower" not in str(reasons["advice"])


def test_a_gpu_without_its_weights_gets_the_light_one_and_says_why() -> None:
    found, reasons = planned(GPU)
    assert found.settings.backbone.name == DEFAULT_BACKBONE
    why = reasons["backbone"].why
    assert f"put {RESNET} into the folder that RCNN_WEIGHTS names" in why
    assert "does not answer" in why


@pytest.mark.parametrize(
    "options",
    [{"backbone": "resnet18"}, {"settings": ["model.backbone.name=resnet18"]}],
    ids=["named", "set"],
)
def test_the_users_own_backbone_stays(options: dict[str, object], folder: Path) -> None:
    (folder / RESNET).write_bytes(b"")
    found, reasons = planned(GPU, **options)
    assert found.settings.backbone.name == "resnet18"
    assert str(reasons["backbone"]) == "backbone: resnet18 (ImageNet weights)"


def test_a_model_to_start_from_keeps_its_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(device: torch.device) -> tuple[str, str]:
        raise AssertionError("a model to start from has a backbone")

    monkeypatch.setattr("rcnn.training.planning.choose_backbone", asked)
    data = tiny_shapes(3)
    given = tiny_recipe()
    found, _ = recipe_of_run(TrainOptions(recipe=given), given, Split(data, data, ()), device=GPU)
    assert found.settings.backbone == given.settings.backbone


# Whether a server has a file


class Server(BaseHTTPRequestHandler):
    """Has one file, and is only asked whether it has."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/there.pth" else 404)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Nothing on stderr."""


def test_can_be_had(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("RCNN_WEIGHTS", str(folder))
    monkeypatch.setenv("RCNN_CACHE", str(folder / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        assert can_be_had(f"{place}/there.pth")
        assert not can_be_had(f"{place}/elsewhere.pth")
        (folder / "elsewhere.pth").write_bytes(b"")
        assert can_be_had(f"{place}/elsewhere.pth"), "without asking the server"
        server.shutdown()
    assert not can_be_had(f"{place}/there.pth"), "nobody answers"


def test_the_choice_is_made_once_for_all_processes() -> None:
    assert choose_backbone(CPU)[0] == DEFAULT_BACKBONE
    assert advice.GPU_BACKBONE == "resnet50"
