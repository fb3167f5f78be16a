"""Going on from a model: the law that nothing changes where the classes are the same, and what is said."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torchvision.models import detection
from typer.testing import CliRunner

from rcnn.cli import app
from rcnn.data.classes import match_names, rename_classes
from rcnn.data.dataset import Dataset
from rcnn.data.digests import unpack_digests
from rcnn.data.formats.coco_keypoints import PERSON
from rcnn.importers.convert import import_weights
from rcnn.inference.detector import Detector
from rcnn.io.checkpoint import read_checkpoint
from rcnn.loading import load_detector
from rcnn.models import build_model, model_name
from rcnn.models.fast_rcnn import FastRCNN, FastRCNNSettings
from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
from rcnn.models.fcn import FCN, FCNSettings
from rcnn.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.models.model import Model
from rcnn.models.panoptic_fpn import PanopticFPN, PanopticFPNSettings
from rcnn.models.rcnn import RCNN, RCNNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import Regions
from rcnn.parts.box_head import CascadeSettings, PoolSettings
from rcnn.parts.interpolation import interpolate
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.structures import Instances, Skeleton
from rcnn.training.defaults import START_INTERPOLATION
from rcnn.training.recipe import load_run_recipe
from rcnn.training.run import train
from rcnn.training.settings import TrainSettings
from rcnn.training.split import HoldOut, Split, hold_out
from rcnn.training.start import Match, Start, match, take_weights
from rcnn.transform import Transform
from their_states import detectron2, drawn, mmdetection
from tiny import BOX, MASK, NAMES, SHARED, SIDE, tiny_network, tiny_recipe, tiny_shapes

CLASSES = ("disk", "square", "star")
STUFF = ("sky", "soil", "sea")
POINTS = ("nose", "left_ear", "right_ear", "tail")
CASCADE = replace(BOX, cascade=CascadeSettings())
KEYPOINT = KeypointHeadSettings(count=len(POINTS), convs=1, channels=8, pool=PoolSettings(size=4))
SEMANTIC = SemanticHeadSettings(channels=8, groups=2)
C4: dict[str, Any] = {
    "backbone": BackboneSettings("resnet18", (3,), frozen_stages=2),
    "fpn": None,
    "rpn": RPNSettings(sizes=((16, 32),), pre_nms=(50, 50), post_nms=(30, 30), count=32),
    "box": replace(BOX, layers="stage", pool=PoolSettings(size=4)),
}


def mask_rcnn(**mask: Any) -> tuple[type[Model], Any]:
    return MaskRCNN, MaskRCNNSettings(**SHARED, mask=replace(MASK, **mask))


def faster(**box: Any) -> tuple[type[Model], Any]:
    return FasterRCNN, FasterRCNNSettings(**{**SHARED, "box": replace(BOX, **box)})


def panoptic(things: Any) -> tuple[type[Model], Any]:
    semantic = replace(SEMANTIC, things=things)
    return PanopticFPN, PanopticFPNSettings(**SHARED, mask=MASK, semantic=semantic)


KINDS: dict[str, tuple[type[Model], Any]] = {
    "Fast R-CNN": (FastRCNN, FastRCNNSettings(SHARED["backbone"], fpn=SHARED["fpn"], box=BOX)),
    "Faster R-CNN": faster(),
    "one box for all classes": faster(class_agnostic=True),
    "box head with batch norm": faster(layers="conv"),
    "cascade": faster(cascade=CascadeSettings()),
    "Mask R-CNN": mask_rcnn(),
    "one mask for all classes": mask_rcnn(class_agnostic=True),
    "masks by softmax": mask_rcnn(activation="softmax"),
    "masks by fully connected layers": mask_rcnn(layers="mlp"),
    "Mask R-CNN, cascade": (MaskRCNN, MaskRCNNSettings(**{**SHARED, "box": CASCADE}, mask=MASK)),
    "Mask R-CNN, C4": (MaskRCNN, MaskRCNNSettings(**C4, mask=replace(MASK, convs=0))),
    "Keypoint R-CNN": (KeypointRCNN, KeypointRCNNSettings(**SHARED, keypoint=KEYPOINT, mask=MASK)),
    "Panoptic FPN": panoptic("other"),
    "Panoptic FPN, things apart": panoptic("each"),
    "FCN": (FCN, FCNSettings(SHARED["backbone"], kernel=3, channels=16, pool=False, alignment="centred")),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def lively(network: Any, seed: int = 1) -> Any:
    """Weights at which objectness, scores and boxes of all kinds differ, on features of a random backbone."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn((1, 3, 64, 64), generator=draw)
    network.eval()
    with torch.no_grad():
        maps = network.neck(network.backbone(images)) if hasattr(network, "neck") else [torch.ones(1)]
        scale = max(1e-3, *(float(level.abs().mean()) for level in maps))
        for name, tensor in network.named_parameters():
            if name.startswith("rpn.objectness"):
                tensor.normal_(std=1 / scale, generator=draw)
            elif "deltas" in name or "logits" in name or "scores" in name:
                tensor.normal_(std=0.1 / scale, generator=draw)
    return network


def detector_of(kind: type[Model], settings: Any) -> Detector:
    torch.manual_seed(0)
    names = () if kind is FCN else CLASSES
    stuff = (*names, *STUFF) if kind.needs_semantic else ()
    skeleton = Skeleton(POINTS) if kind.needs_keypoints else None
    network = lively(kind.build(settings, names, stuff, skeleton))
    return Detector(
        network, Transform(scale=1.25), names, 0.37, skeleton=skeleton,
        semantic_names=network.pixel_names(names, stuff),
    )  # fmt: skip


def data_of(
    class_names: tuple[str, ...], stuff: tuple[str, ...] = STUFF, points: tuple[str, ...] = POINTS
) -> Split:
    """Data without images: only names are matched."""
    data = Dataset(
        "none",
        Path("none"),
        class_names,
        (),
        semantic_names=(*class_names, *stuff),
        skeleton=Skeleton(points),
    )
    return Split(data, data, ())


def gone_on(start: Detector, split: Split, **how: Any) -> tuple[Detector, Match]:
    """The model that a training on the data begins with, and how its classes were matched."""
    begun = Start("first", start, whole=True)
    matched = match(begun, split, rename={}, keep=False) if not how else match(begun, split, **how)
    model, data = begun.model_for(matched), matched.split.train
    assert model is not None
    torch.manual_seed(5)
    network = build_model(model.name, model.settings, data.class_names, data.semantic_names, data.skeleton)
    take_weights(begun, matched, network)
    names = network.pixel_names(data.class_names, data.semantic_names)
    own = data.class_names if network.finds_objects else ()
    skeleton = data.skeleton if network.needs_keypoints else None
    return Detector(network.eval(), model.transform, own, semantic_names=names, skeleton=skeleton), matched


def picture(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), np.uint8)


BOXES = np.array([[3, 5, 30, 40], [10, 10, 60, 50], [0, 0, 64, 64]], np.float32)


def predict(detector: Detector) -> Instances:
    alone = replace(detector, precision="float32")
    (found,) = alone.predict(picture(), min_score=0.0, proposals=[BOXES])
    return found


def assert_same(one: Instances, two: Instances) -> None:
    assert len(one) == len(two)
    for name in ("boxes", "scores", "labels", "keypoints", "semantic"):
        first, second = getattr(one, name), getattr(two, name)
        assert (first is None) == (second is None), name
        if first is not None:
            assert np.array_equal(first, second), name
    if one.masks is not None:
        assert two.masks is not None
        assert all(np.array_equal(a, b) for a, b in zip(one.masks, two.masks, strict=True))


def logits_of(network: Any) -> list[torch.Tensor]:
    """The logits ``[R, K + 1]`` of every step, of the same regions in the same image."""
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand((40, 4), generator=draw) * 30
    regions = Regions(corners + torch.tensor([0.0, 0.0, 34.0, 34.0]), torch.zeros(40, dtype=torch.int64))
    image = torch.rand((1, 3, 64, 64), generator=draw)
    with torch.no_grad():
        return rows_of(network.box, network.neck(network.backbone(image)), regions)


def rows_of(head: Any, features: Any, regions: Regions) -> list[torch.Tensor]:
    """The logits of a box head, or of every step of a cascade."""
    return [step(features, regions)[0] for step in getattr(head, "steps", [head])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [CLASSES, ("star", "Disk", "square")], ids=["in order", "in another order"])
def test_the_same_classes_give_the_same_detections(kind: str, order: tuple[str, ...]) -> None:
    first = detector_of(*KINDS[kind])
    order = () if kind == "FCN" else order
    second, matched = gone_on(first, data_of(order, stuff=STUFF[::-1]))
    assert [name.casefold() for name in second.class_names] == list(first.class_names)
    assert [name.casefold() for name in second.semantic_names] == list(first.semantic_names)
    state = first.network.state_dict()
    assert [k for k, v in second.network.state_dict().items() if not torch.equal(v, state[k])] == []
    found = predict(first)
    assert len(found) > 0 or found.semantic is not None
    assert_same(found, predict(second))
    assert not [reason for reason in matched.reasons() if reason.why == "left out"]


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "FCN"])
@pytest.mark.parametrize("keep", [False, True])
def test_kept_classes_have_the_same_logits_for_the_same_regions(kind: str, keep: bool) -> None:
    first = detector_of(*KINDS[kind])
    second, matched = gone_on(first, data_of(("moon", "square"), ("sea", "ice")), rename={}, keep=keep)
    assert second.class_names == (("disk", "square", "star", "moon") if keep else ("square", "moon"))
    kept = [0, 1, 2] if keep else [1]
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand((40, 4), generator=draw) * 30
    regions = Regions(corners + torch.tensor([0.0, 0.0, 34.0, 34.0]), torch.zeros(40, dtype=torch.int64))
    image = torch.rand((1, 3, 64, 64), generator=draw)
    networks: list[Any] = [first.network, second.network]
    with torch.no_grad():
        features = [network.neck(network.backbone(image)) for network in networks]
        before, after = (
            rows_of(network.box, maps, regions) for network, maps in zip(networks, features, strict=True)
        )
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[:, [*kept, -1]], new[:, [*range(len(kept)), -1]])
        if hasattr(first.network, "mask") and kind != "masks by softmax":
            pooled = [n.box.stage(n.mask.pool(f, regions)) for n, f in zip(networks, features, strict=True)]
            labels = torch.full((40,), 1), torch.full((40,), kept.index(1))
            old, new = (
                n.mask.probabilities(n.mask.head(p, own), own)
                for n, p, own in zip(networks, pooled, labels, strict=True)
            )
            if kind == "masks by fully connected layers":
                torch.testing.assert_close(old, new)
            else:
                assert torch.equal(old, new)
    lines = [str(reason) for reason in matched.reasons()]
    assert "classes: square (known to the model)" in lines
    assert "classes: moon (new, with random weights)" in lines
    expected = (
        "classes: disk, star (kept without objects in the data)" if keep else "classes: disk, star (left out)"
    )
    assert expected in lines
    if first.network.needs_semantic:
        assert "pixel classes: sea (known to the model)" in lines


def test_classes_of_pixels_are_matched_too() -> None:
    for kind in ("FCN", "Panoptic FPN", "Panoptic FPN, things apart"):
        first = detector_of(*KINDS[kind])
        second, _ = gone_on(first, data_of(("square", "moon") if kind != "FCN" else (), ("ice", "sea")))
        layer = "scores.0" if kind == "FCN" else "semantic.logits"
        old, new = (dict(d.network.named_parameters())[f"{layer}.bias"] for d in (first, second))
        places = [second.semantic_names.index("sea"), second.semantic_names.index("ice")]
        assert new[places[0]] == old[first.semantic_names.index("sea")]
        assert new[places[1]] not in old
        if kind == "Panoptic FPN, things apart":
            assert second.semantic_names == ("square", "moon", "sea", "ice")
            assert new[0] == old[1]


@pytest.mark.parametrize("kind", ["FCN", "Panoptic FPN", "Panoptic FPN, things apart"])
def test_kept_classes_of_pixels_have_the_same_logits(kind: str) -> None:
    """But pixels of the classes that are left out get others, which the log says."""
    first = detector_of(*KINDS[kind])
    soil = first.semantic_names.index("soil")
    with torch.no_grad():  # so that some pixels are its own
        first.network.get_parameter(f"{'scores.0' if kind == 'FCN' else 'semantic.logits'}.bias")[soil] += 1
    second, matched = gone_on(first, data_of(() if kind == "FCN" else CLASSES, ("sea", "sky")))
    image = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        old, new = (
            network.logits(image)
            if kind == "FCN"
            else network.semantic(network.neck(network.backbone(image)))
            for network in (first.network, second.network)
        )
    for name in ("sea", "sky"):
        one, two = (d.semantic_names.index(name) for d in (first, second))
        torch.testing.assert_close(old[:, one], new[:, two], rtol=1e-5, atol=1e-5)
    lines = [str(reason) for reason in matched.reasons()]
    assert "pixel classes: soil (left out)" in lines
    assert any(line.startswith("pixels: those of kept classes may change, too") for line in lines)
    assert (old.argmax(1) == soil).any(), "else nothing would change"


def test_nothing_is_said_of_pixels_where_no_class_is_left_out() -> None:
    _, matched = gone_on(detector_of(*KINDS["FCN"]), data_of(()))
    assert not [reason for reason in matched.reasons() if reason.what == "pixels"]


def test_keypoints_are_matched_by_name() -> None:
    first = detector_of(*KINDS["Keypoint R-CNN"])
    second, matched = gone_on(first, data_of(CLASSES, points=("tail", "paw", "Nose")))
    old, new = (d.network.get_parameter("keypoint.logits.weight") for d in (first, second))
    assert torch.equal(new[:, [0, 2]], old[:, [3, 0]])
    assert second.network.settings.keypoint.count == 3
    lines = [str(reason) for reason in matched.reasons()]
    assert "keypoints: left_ear, right_ear (left out)" in lines
    assert "keypoints: paw (new, with random weights)" in lines


def torchvision_state(name: str) -> dict[str, torch.Tensor]:
    """A detector of torchvision with random weights."""
    torch.manual_seed(0)
    build = getattr(detection, name)
    return build(weights=None, weights_backbone=None, num_classes=len(CLASSES) + 1).state_dict()


IMPORTED: dict[str, tuple[str, Callable[[], Any]]] = {
    "Detectron2, boxes": ("detectron2", lambda: detectron2(drawn(), classes=3)),
    "Detectron2, masks, C4": ("detectron2", lambda: detectron2(drawn(), classes=3, mask=True, c4=True)),
    "Detectron2, cascade": ("detectron2", lambda: detectron2(drawn(), classes=3, mask=True, steps=3)),
    "Detectron2, new baseline": ("detectron2", lambda: detectron2(drawn(), classes=3, mask=True, norm=True)),
    "Detectron2, keypoints": ("detectron2", lambda: detectron2(drawn(), classes=3, keypoints=17)),
    "MMDetection, boxes": ("mmdetection", lambda: mmdetection(drawn(), classes=3)),
    "MMDetection, masks": ("mmdetection", lambda: mmdetection(drawn(), classes=3, mask=True)),
    "torchvision, boxes": ("torchvision", lambda: torchvision_state("fasterrcnn_resnet50_fpn")),
    "torchvision, masks, v2": ("torchvision", lambda: torchvision_state("maskrcnn_resnet50_fpn_v2")),
    "torchvision, keypoints": ("torchvision", lambda: torchvision_state("keypointrcnn_resnet50_fpn")),
}


def imported(name: str, folder: Path) -> Detector:
    """The model of another program, for small images."""
    program, make = IMPORTED[name]
    state = make()
    key = {"detectron2": "model", "mmdetection": "state_dict"}.get(program)
    torch.save(state if key is None else {key: state}, folder / "theirs.pth")
    names = folder / "names.txt"
    names.write_text("\n".join(CLASSES), encoding="utf-8")
    sizes = [[8, 16, 32, 64, 128]] if "C4" in name else [[8], [16], [32], [64], [128]]
    settings = ["transform.short_side=64", f"model.rpn.sizes={sizes}"]
    detector = import_weights(folder / "theirs.pth", program, classes=names, settings=settings).detector
    with torch.no_grad():  # boxes that stay in the image, of random weights
        for key, tensor in detector.network.named_parameters():
            if "deltas" in key:
                tensor *= 0.01
    return detector


QUICK = ("Detectron2, masks, C4", "Detectron2, cascade", "MMDetection, masks", "torchvision, masks, v2")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in IMPORTED]
)
def test_imported_models_go_on_with_their_conventions(name: str, tmp_path: Path) -> None:
    """Strides, normalisation and padding are not those of our own models, and no shape shows them."""
    first = imported(name, tmp_path)
    points = PERSON.names if first.network.needs_keypoints else POINTS
    second, _ = gone_on(first, data_of(("Star", "disk", "square"), points=points))
    assert second.network.settings == first.network.settings
    assert second.transform == first.transform
    found = predict(first)
    assert len(found) > 0
    assert_same(found, predict(second))
    fewer, _ = gone_on(first, data_of(("moon", "square"), points=points))
    before, after = (logits_of(network) for network in (first.network, fewer.network))
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:, [1, -1]], new[:, [0, -1]]), "square and the background"
        assert not torch.equal(old[:, 0], new[:, 1]), "moon is new"


# Matching


@pytest.mark.parametrize(
    ("own", "theirs", "names", "places", "reason"),
    [
        (("b", "a"), ("a", "b"), ("a", "b"), (0, 1), "in the model's order"),
        (("A",), ("a",), ("A",), (0,), "whatever the case, as the data spell it"),
        (("Cell", "cell"), ("cell",), ("cell", "Cell"), (0, None), "the exact name first"),
        (("a", "a"), ("a", "a"), ("a", "a"), (0, 1), "equal lists match by position"),
        ((), ("a",), (), (), "no classes"),
        (("c", "a"), ("b", "a"), ("a", "c"), (1, None), "new ones last"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names(own: Any, theirs: Any, names: Any, places: Any, reason: str) -> None:
    matched = match_names(own, theirs)
    assert (matched.names, matched.theirs) == (names, places), reason


def test_new_classes_go_all_the_way() -> None:
    """A part of it keeps what the model knows, but random rows have to be learnt."""
    begun = Start("first", detector_of(*KINDS["Keypoint R-CNN"]), whole=True)
    parts = {}
    for names, points in (
        (CLASSES, POINTS), (CLASSES[:1], POINTS), ((*CLASSES, "moon"), POINTS), (CLASSES, (*POINTS, "paw")),
    ):  # fmt: skip
        model = begun.model_for(match(begun, data_of(names, points=points), rename={}, keep=False))
        assert model is not None
        parts[names, points] = model.interpolation
    assert list(parts.values()) == [0.2, 0.2, 1, 1]


# From data to a run


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a scale and anchors that no plan chooses for these data."""
    recipe = tiny_recipe()
    network = lively(tiny_network(recipe))
    detector = Detector(network, Transform(scale=1.5), NAMES, 0.123)
    return detector.save(tmp_path_factory.mktemp("first") / "first.safetensors")


def said(data: Any, **options: Any) -> tuple[Path, str]:
    text = StringIO()
    settings = ["train.workers=0", *options.pop("settings", [])]
    return train(data, settings=settings, console=Console(file=text, width=500), **options), text.getvalue()


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "how",
    [
        {"epochs": 0},
        {"epochs": 1, "freeze": ["norms"], "settings": ["train.lr=0", "train.keep_threshold=true"]},
        {"epochs": 0, "start": None, "settings": ["train.start={first}"]},
    ],
    ids=["no epoch", "no learning rate", "by the setting"],
)
def test_a_run_that_learns_nothing_changes_nothing(how: Any, first: Path, tmp_path: Path) -> None:
    how = {"start": first, **how}
    how["settings"] = [text.format(first=first) for text in how.get("settings", [])]
    run, text = said(tiny_shapes(4), out=tmp_path / "run", **how)
    before, after = (load_detector(m, "cpu", precision="float32") for m in (first, run))
    assert (after.min_score, after.transform) == (before.min_score, before.transform)
    assert "input: resized by 1.5 (as in" in text
    assert "anchors: 16, 32 px (as in" in text
    assert "ImageNet" not in text
    for index in range(4):
        image = tiny_shapes(4)[index].image
        assert_same(*(d.predict(image, min_score=0.0)[0] for d in (before, after)))


def network_of(run: Path, name: str = "best") -> dict[str, torch.Tensor]:
    tensors, _ = read_checkpoint(run / f"{name}.safetensors")
    return {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}


@pytest.mark.usefixtures("no_report")
def test_the_result_is_a_part_of_the_way_from_the_model(first: Path, tmp_path: Path) -> None:
    """All of it is the trained weights, nothing of it the model's, and the default a fifth."""
    begun = weights(load_detector(first).network)
    found, trained = {}, []
    for name, settings in (("default", []), *((f"{x}", [f"train.interpolation={x}"]) for x in (0, 0.5, 1))):
        run, text = said(tiny_shapes(4), start=first, epochs=2, settings=settings, out=tmp_path / name)
        found[name] = network_of(run)
        trained.append(network_of(run, "last"))
        assert ("result: weights " in text) == (name != "1")
        same_evaluated(run)
    for other in trained[1:]:
        same_weights(other, trained[0])
    same_weights(found["0"], begun)
    same_weights(found["1"], trained[0])
    same_weights(found["0.5"], interpolate(begun, trained[0], 0.5))
    same_weights(found["default"], interpolate(begun, trained[0], START_INTERPOLATION))
    assert not torch.equal(begun["box.logits.weight"], trained[0]["box.logits.weight"])


@pytest.mark.usefixtures("no_report")
def test_random_weights_have_to_go_all_the_way(first: Path, tmp_path: Path) -> None:
    data = rename_classes(tiny_shapes(4), {"disk": "moon"})
    with pytest.raises(ValueError, match=r"some classes or tensors are not in it .*interpolation=1"):
        said(data, start=first, epochs=1, settings=["train.interpolation=0.5"], out=tmp_path / "run")
    run, text = said(data, start=first, epochs=0, out=tmp_path / "run")
    assert "result: weights" not in text
    assert load_run_recipe(run).train.interpolation == 1


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert [k for k in one if not torch.equal(one[k], other[k])] == []


def same_evaluated(run: Path) -> None:
    """The last checkpoint opens as what was evaluated, which is what was kept."""
    best, last = (load_detector(run / f"{name}.safetensors") for name in ("best", "last"))
    same_weights(weights(best.network), weights(last.network))
    copied = load_detector(last.save(run / "copy.safetensors"))
    same_weights(weights(last.network), weights(copied.network))


def weights(network: Model) -> dict[str, torch.Tensor]:
    return dict(network.state_dict())


@pytest.mark.usefixtures("no_report")
def test_other_classes_are_renamed_kept_and_resumed(first: Path, tmp_path: Path) -> None:
    """The interrupted run does not need the model that it started from."""
    data = rename_classes(tiny_shapes(6), {"disk": "cell", "square": "moon"})
    copy = tmp_path / "first.safetensors"
    copy.write_bytes(first.read_bytes())
    run, text = said(
        data, start=copy, rename={"cell": "disk"}, keep_classes=True, epochs=1, out=tmp_path / "run"
    )
    assert load_detector(run).class_names == ("disk", "square", "moon")
    assert "classes: square (kept without objects in the data)" in text
    assert "class by class" in text
    copy.unlink()
    train(data, resume=run, console=Console(file=StringIO()))
    (run / "last.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"first\.safetensors"):
        train(data, resume=run, console=Console(file=StringIO()))


@pytest.mark.usefixtures("no_report")
def test_a_recipe_takes_the_weights_alone_and_says_what_differs(first: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn", epochs=0.0)
    rpn = replace(recipe.settings.rpn, ratios=(1.0,))
    recipe = replace(recipe, settings=replace(recipe.settings, rpn=rpn))
    _, text = said(tiny_shapes(4), recipe=recipe, out=tmp_path / "run", settings=[f"train.start={first}"])
    assert f"setting: transform.scale=1.0 (1.5 in {first})" in text
    assert "setting: model.rpn.ratios=[1.0] ([0.5, 1.0, 2.0] in" in text
    assert "weights: 4 tensors that do not fit, with their initial weights (rpn.objectness.weight [1" in text
    assert "tensors without a place in the new model (mask.layers" in text


@pytest.mark.usefixtures("no_report")
def test_frozen_parts_do_not_train(first: Path, tmp_path: Path) -> None:
    run, _ = said(tiny_shapes(4), start=first, epochs=1, freeze=["backbone"], out=tmp_path / "run")
    before, after = (load_detector(m, "cpu").network.state_dict() for m in (first, run))
    changed = {key.partition(".")[0] for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {"neck", "rpn", "box", "mask"}


def test_statistics_move_unless_they_are_frozen(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn", epochs=1.0, lr=0.0)
    recipe = replace(recipe, settings=replace(recipe.settings, box=replace(BOX, layers="conv")))
    file = Detector(lively(tiny_network(recipe)), recipe.transform, NAMES).save(tmp_path / "a.safetensors")
    states = [load_detector(file, "cpu").network.state_dict()]
    for freeze in ((), ("norms",)):
        run, _ = said(
            tiny_shapes(4), recipe=recipe, freeze=freeze, out=tmp_path / f"run{len(freeze)}",
            settings=[f"train.start={file}"],
        )  # fmt: skip
        states.append(load_detector(run, "cpu").network.state_dict())
    moved = [{key for key in state if not torch.equal(state[key], states[0][key])} for state in states[1:]]
    assert any("running_mean" in key for key in moved[0])
    assert moved[1] == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "{first}", "recipe": "light_mask_rcnn"}, "--from .* brings a model of its own"),
        ({"start": "{first}", "model": "fcn"}, "has a model and a backbone of its own: remove --model"),
        ({"start": "{first}", "settings": ["train.start=nuclei"]}, "name two models"),
        ({"start": "{first}", "rename": {"disc": "disk"}}, "did you mean disk.* the data have no class disc"),
        ({"start": "{first}", "rename": {"disk": "dist"}}, "did you mean disk.* no class dist; .*DATA=MODEL"),
        ({"start": "{first}", "rename": {"disk": "square"}}, "the data have a class square already"),
        ({"settings": ["train.interpolation=0.5"]}, "a part of the way from a model .* --from MODEL"),
        ({"start": "{first}", "settings": ["train.interpolation=2"]}, "fraction of the way"),
        ({"start": "{first}", "freeze": ["neck"]}, r"train\.freeze.*neck"),
        ({"rename": {"disk": "square"}}, "--rename matches classes with those of a model"),
        ({"keep_classes": True}, "--keep-classes matches"),
        ({"epochs": 0}, "cannot train for 0"),
        ({"settings": ["train.keep_threshold=true"]}, "give one with --from"),
    ],
)  # fmt: skip
def test_what_is_refused(options: Any, message: str, first: Path, tmp_path: Path) -> None:
    options = {k: str(first) if v == "{first}" else v for k, v in options.items()}
    with pytest.raises(ValueError, match=message):
        said(tiny_shapes(3), **{"epochs": 1, **options}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_go_on_says_so_by_name(tmp_path: Path) -> None:
    alternating = FasterRCNNSettings(**SHARED, scheme="alternating")
    for network, words in (
        (
            RCNN(2, RCNNSettings(backbone=BackboneSettings("efficientnet_lite0", (4,)), pool=2, layers=0)),
            "SVMs",
        ),
        (FasterRCNN(2, alternating), "four steps of alternating training"),
    ):
        file = Detector(network, Transform(), NAMES).save(tmp_path / f"{model_name(network)}.safetensors")
        with pytest.raises(ValueError, match=rf"--from .*: .*{words}.*; train from ImageNet weights"):
            said(tiny_shapes(3), start=file, epochs=1, out=tmp_path / "run")


def test_from_the_command_line(first: Path, tmp_path: Path) -> None:
    data = rename_classes(tiny_shapes(4), {"disk": "cell"}).records and tiny_shapes(4).write(
        tmp_path / "data"
    )
    done = CliRunner().invoke(
        app, ["train", str(data), "--from", str(first), "--epochs", "0", "--out", str(tmp_path / "run"),
              "--set", "train.workers=0"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert load_detector(tmp_path / "run").min_score == 0.123
    done = CliRunner().invoke(app, ["train", "--resume", str(tmp_path / "run"), "--from", "nuclei"])
    assert done.exit_code == 1
    assert "remove --from" in done.output


def test_settings_of_old_recipes_are_unchanged() -> None:
    assert (TrainSettings().rename, TrainSettings().keep_classes, TrainSettings().freeze) == ((), False, ())


# Nothing leaks


def held_ids(run: Path) -> set[int]:
    text = (run / "log.txt").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if " held out with seed " in line)
    return {int(number) for number in line.rpartition(": ")[2].split(",")}


@pytest.mark.usefixtures("no_report")
def test_a_correction_round_validates_on_no_image_that_was_trained_on(tmp_path: Path) -> None:
    """Images are added, and the seed is another; of the first ones only those that were held out may be."""
    recipe = tiny_recipe("faster_rcnn", epochs=0.5)
    first, _ = said(tiny_shapes(20), recipe=recipe, out=tmp_path / "first")
    for seed in (0, 1, 2):
        run, text = said(tiny_shapes(30), start=first, seed=seed, epochs=0, out=tmp_path / f"{seed}")
        earlier = {number for number in held_ids(run) if number < 20}
        assert earlier <= held_ids(first)
        assert "was trained on" not in text
    info = load_detector(tmp_path / "0", "cpu").info
    assert len(unpack_digests(info["trained_on"])) >= 20 - len(held_ids(first))


@pytest.mark.usefixtures("no_report")
def test_validation_on_images_of_the_first_model_is_said(first: Path, tmp_path: Path) -> None:
    data = tiny_shapes(6)
    run, text = said(data, start=first, epochs=0, val=tiny_shapes(3, first=50), out=tmp_path / "a")
    assert f"val: {first} does not say which images it was trained on" in text
    _, text = said(tiny_shapes(2, first=60), start=run, epochs=0, val=data.subset([0, 1]), out=tmp_path / "b")
    assert f"val: {run} was trained on 2 of the 2 validation images, so the metrics are too good" in text
    assert "does not say which" in text, "what the first model was trained on is still unknown"
    _, text = said(data, start=run, epochs=0, out=tmp_path / "c")
    assert "was trained on" in text, "all images were trained on, and one of them is held out all the same"


@pytest.mark.usefixtures("no_report")
def test_a_run_that_did_not_store_its_images_keeps_its_split(tmp_path: Path) -> None:
    """As rcnn 0.1 and versions before this one wrote it: in a random order instead of by content."""
    data, recipe = tiny_shapes(12), tiny_recipe("faster_rcnn", epochs=0.5)
    run, _ = said(data, recipe=recipe, out=tmp_path / "run")
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    new = hold_out(data, (), HoldOut(0))
    train(data, resume=run, console=Console(file=StringIO()))
    old = hold_out(data, (), HoldOut(0, by_order=True))
    assert [r.image_id for r in old.val.records] != [r.image_id for r in new.val.records]
    del info["training_images"]
    (run / "run.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(ValueError, match="or start a new run"):
        train(data, resume=run, console=Console(file=StringIO()))
    info["split"] = old.fingerprints(with_proposals=False)
    (run / "run.json").write_text(json.dumps(info), encoding="utf-8")
    train(data, resume=run, console=Console(file=StringIO()))
