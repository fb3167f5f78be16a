"""docs/coming-from.md: a configuration and checkpoint of Detectron2, and torchvision's tutorial, migrated."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torchvision import tv_tensors
from typer.testing import CliRunner

import rcnn
from conftest import ROOT
from examples import examples
from rcnn.cli import app
from rcnn.importers.detectron2_keys import DEFAULTS
from their_arithmetic import their_detections
from their_states import detectron2, drawn, rgb_image
from tiny import tiny_recipe, tiny_shapes

PAGE = ROOT / "docs" / "coming-from.md"


def block(words: str) -> str:
    """The example of the page that has these words."""
    (found,) = (example.code for example in examples(PAGE) if words in example.code)
    return found


def dump(**changed: Any) -> dict[str, Any]:
    """A configuration as Detectron2's trainer dumps it: every key, some changed, and those of training."""
    values = DEFAULTS | {
        "VERSION": 2,
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128], [256]],
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.NUM_CLASSES": 3,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "INPUT.MIN_SIZE_TEST": 96,
        "TEST.DETECTIONS_PER_IMAGE": 20,
        "MODEL.RETINANET.NUM_CLASSES": 80,
        "SOLVER.BASE_LR": 0.00025,
        "SOLVER.MAX_ITER": 300,
        **changed,
    }
    tables: dict[str, Any] = {}
    for key, value in values.items():
        *steps, last = key.split(".")
        table = tables
        for step in steps:
            table = table.setdefault(step, {})
        table[last] = value
    return tables


@torch.no_grad()
def test_a_training_of_detectron2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's two commands: the same detections, and every key that is left behind by name."""
    monkeypatch.chdir(tmp_path)
    Path("output").mkdir()
    Path("images").mkdir()
    state, config = detectron2(drawn(2), classes=3), dump()
    torch.save({"model": state, "iteration": 299}, "output/model_final.pth")
    Path("output/config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    Path("names.txt").write_text("a\nb\nc\n", "utf-8")
    pixels = (rgb_image() * 255).round()
    Image.fromarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8)).save("images/a.png")
    printed = ""
    for line in block("--config output/config.yaml").splitlines():
        result = CliRunner().invoke(app, line.split()[1:], env={"COLUMNS": "200", "TERM": "dumb"})
        assert result.exit_code == 0, result.output
        printed += " ".join(result.output.split())
    for key in ("SOLVER.BASE_LR", "SOLVER.MAX_ITER", "MODEL.RETINANET.NUM_CLASSES"):
        assert key in printed
    detector = rcnn.load("cells.safetensors")
    boxes, scores, labels = their_detections(pixels.flip(0), state, config)  # BGR
    (found,) = detector.predict("images/a.png")
    assert len(found) == len(boxes) > 5
    assert found.labels.tolist() == labels.tolist()
    assert_close(torch.from_numpy(found.scores), scores, rtol=1e-3, atol=1e-4)
    assert_close(torch.from_numpy(found.boxes), boxes, rtol=1e-3, atol=5e-2)


class PennFudanDataset(torch.utils.data.Dataset[Any]):
    """As in the tutorial: photographs, and beside each a map of numbers, one per person."""

    def __init__(self, root: str, transforms: Any) -> None:
        self.root, self.transforms = Path(root), transforms
        self.images = sorted((self.root / "PNGImages").iterdir())
        self.masks = sorted((self.root / "PedMasks").iterdir())

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        image = tv_tensors.Image(Image.open(self.images[index]).convert("RGB"))
        mask = torch.from_numpy(np.array(Image.open(self.masks[index])))[None]
        numbers = torch.unique(mask)[1:]
        masks = (mask == numbers[:, None, None]).to(dtype=torch.uint8)
        boxes = torchvision.ops.boxes.masks_to_boxes(masks)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:]),
            "masks": tv_tensors.Mask(masks),
            "labels": torch.ones((len(numbers),), dtype=torch.int64),
            "image_id": index,
            "area": (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 2] - boxes[:, 0]),
            "iscrowd": torch.zeros((len(numbers),), dtype=torch.int64),
        }
        return self.transforms(image, target)

    def __len__(self) -> int:
        return len(self.images)


def get_transform(train: bool) -> Any:
    """The tutorial's, without the random flip."""
    from torchvision.transforms import v2

    assert not train
    return v2.Compose([v2.ToDtype(torch.float, scale=True), v2.ToPureTensor()])


def write_people(folder: Path) -> None:
    (folder / "PNGImages").mkdir(parents=True)
    (folder / "PedMasks").mkdir()
    for i, sample in enumerate(tiny_shapes(8)):
        assert sample.truth.masks is not None
        dense = sample.truth.masks.dense()
        numbers = (dense * np.arange(1, len(dense) + 1)[:, None, None]).max(0).astype(np.uint8)
        Image.fromarray(sample.image).save(folder / "PNGImages" / f"{i}.png")
        Image.fromarray(numbers).save(folder / "PedMasks" / f"{i}_mask.png")
    Image.fromarray(tiny_shapes(1)[0].image).save(folder.parents[1] / "street.png")


def test_torchvisions_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data class as it is, and the page's lines in place of the rest; with a smaller recipe."""
    monkeypatch.chdir(tmp_path)
    write_people(tmp_path / "data" / "PennFudanPed")
    code = block("PennFudanDataset(").replace('model="mask_rcnn", epochs=10', "recipe=small, epochs=1")
    names = {
        "rcnn": rcnn, "small": tiny_recipe(), "get_transform": get_transform,
        "PennFudanDataset": PennFudanDataset,
    }  # fmt: skip
    exec(compile(code, PAGE.name, "exec"), names)
    run: Any = names["run"]
    detector = rcnn.load(run)
    assert detector.class_names == ("person",)
    assert Path(run) == Path("runs/people")
    assert isinstance(names["found"], rcnn.Instances)


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The tutorial's model, at a size at which it predicts quickly, with weights that find something."""
    torch.manual_seed(3)
    return torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, min_size=96, max_size=160,
        box_score_thresh=0.05, box_detections_per_img=20,
    ).eval()  # fmt: skip


@torch.no_grad()
def test_a_model_of_torchvision(theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's command; then the same boxes, labels one lower, and scores."""
    monkeypatch.chdir(tmp_path)
    torch.save(theirs.state_dict(), "model.pth")
    Path("names.txt").write_text("person\n", "utf-8")
    sizes = ["--set", "transform.short_side=96", "--set", "transform.max_long_side=160"]
    words = block("--source torchvision").split()[1:]
    result = CliRunner().invoke(app, [*words, *sizes], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    image = rgb_image()
    pixels = (image * 255).round().to(torch.uint8)
    (expected,) = theirs([pixels.float() / 255])
    (found,) = rcnn.load("people.safetensors", precision="float32").predict(
        pixels.permute(1, 2, 0).numpy(), min_score=0.05, max_detections=20
    )
    assert len(found) == len(expected["boxes"]) == 20
    assert (found.labels + 1).tolist() == expected["labels"].tolist()
    assert_same(found.scores, expected["scores"], 1e-4)
    assert_same(found.boxes, expected["boxes"], 1e-2)


def assert_same(ours: np.ndarray, theirs: Tensor, tolerance: float) -> None:
    assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=tolerance)


def test_every_task_has_both_lines() -> None:
    rows = re.findall(r"^\| (?!task|---)(.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(rows) > 30
    for row in rows:
        cells = re.split(r" \| ", row)
        assert len(cells) == 3, row
        assert "`" in cells[1] or cells[1] == "MMDeploy", row
