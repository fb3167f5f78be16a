"""Every recipe of the package trains two steps on a tiny set in the exact format it was made for."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rcnn
from rcnn.data.external_proposals import write_proposals
from rcnn.data.formats.coco_keypoints import PERSON
from rcnn.data.shapes import draw_shapes
from rcnn.training.recipe import load_recipe, named_recipes

SIDE = 64
OBJECT = (
    "<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
)
FILE = (
    "<annotation><folder>VOC2007</folder><filename>{stem}.jpg</filename><size><width>{w}</width>"
    "<height>{h}</height><depth>3</depth></size><segmented>1</segmented>{objects}</annotation>"
)


def drawn(count, first=0):
    return draw_shapes(
        count,
        first=first,
        size=(SIDE, SIDE),
        class_names=("disk", "square"),
        objects=(2, 3),
        diameter=(16, 32),
    )


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """VOCdevkit/VOC2007 as it is published, with one difficult object."""
    folder = tmp_path_factory.mktemp("devkit") / "VOCdevkit" / "VOC2007"
    lists = ("ImageSets/Main", "ImageSets/Segmentation")
    for part in ("Annotations", "JPEGImages", *lists, "SegmentationClass", "SegmentationObject"):
        (folder / part).mkdir(parents=True)
    for number in range(3):
        sample, stem = drawn(3)[number], f"{number:06d}"
        Image.fromarray(sample.image).save(folder / "JPEGImages" / f"{stem}.jpg")
        objects, kinds, owners = "", np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        for index, (box, label) in enumerate(
            zip(sample.truth.boxes.tolist(), sample.truth.labels.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = (round(v) for v in box)
            objects += OBJECT.format(
                name=sample.truth.class_names[label],
                difficult=int(number == index == 0),
                x1=x1 + 1,
                y1=y1 + 1,
                x2=x2,
                y2=y2,
            )
            inside = sample.truth.masks[index]
            kinds[inside], owners[inside] = label + 1, index + 1
        text = FILE.format(stem=stem, w=SIDE, h=SIDE, objects=objects)
        (folder / "Annotations" / f"{stem}.xml").write_text(text, "utf-8")
        for part, values in (("SegmentationClass", kinds), ("SegmentationObject", owners)):
            picture = Image.fromarray(values).convert("P")
            picture.putpalette([(37 * i) % 256 for i in range(768)])
            picture.save(folder / part / f"{stem}.png")
    for split, stems in (("trainval", "000000\n000001\n"), ("test", "000002\n")):
        for part in lists:
            (folder / part / f"{split}.txt").write_text(stems, "utf-8")
    return folder / "ImageSets"


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    return drawn(2).write(folder / "train"), drawn(1, first=2).write(folder / "val")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """COCO's person_keypoints: one category with 17 joints, some of them not annotated."""
    folder = tmp_path_factory.mktemp("people")
    files = []
    for part, count, first in (("train", 2, 0), ("val", 1, 2)):
        file = drawn(count, first).write(folder / part)
        content = json.loads(file.read_text("utf-8"))
        bones = [[a + 1, b + 1] for a, b in PERSON.bones]
        content["categories"] = [{"id": 1, "name": "person", "keypoints": PERSON.names, "skeleton": bones}]
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            joints = [[x + w * k / 17, y + h * k / 17, k % 3] for k in range(17)]
            keypoints = [v for joint in joints for v in (joint if joint[2] else [0, 0, 0])]
            annotation |= {"category_id": 1, "keypoints": keypoints, "num_keypoints": 11}
        file.write_text(json.dumps(content), "utf-8")
        files.append(file)
    return files


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    """leftImg8bit and gtFine as published: a road, with cars and persons on it."""
    root = tmp_path_factory.mktemp("cityscapes")
    for split, numbers in (("train", (0, 1)), ("val", (2,))):
        for part in ("leftImg8bit", "gtFine"):
            (root / part / split / "aachen").mkdir(parents=True)
        for number in numbers:
            sample, stem = drawn(3)[number], f"aachen_{number:06d}_000019"
            image = root / "leftImg8bit" / split / "aachen" / f"{stem}_leftImg8bit.png"
            Image.fromarray(sample.image).save(image)
            ids = np.full((SIDE, SIDE), 7, np.uint16)
            for index, label in enumerate(sample.truth.labels.tolist()):
                ids[sample.truth.masks[index]] = (26, 24)[label] * 1000 + index
            kinds = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
            truth = root / "gtFine" / split / "aachen"
            Image.fromarray(ids).save(truth / f"{stem}_gtFine_instanceIds.png")
            Image.fromarray(kinds).save(truth / f"{stem}_gtFine_labelIds.png")
    return root / "gtFine" / "train", root / "gtFine" / "val"


@pytest.fixture(scope="module")
def cpm17(tmp_path_factory):
    """Tiles with a picture of integers each."""
    root = tmp_path_factory.mktemp("cpm17")
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for number in numbers:
            sample, name = drawn(3)[number], f"image_{number:02d}.png"
            Image.fromarray(sample.image).save(root / split / "images" / name)
            nuclei = np.zeros((SIDE, SIDE), np.uint16)
            for index in range(len(sample.truth)):
                nuclei[sample.truth.masks[index]] = index + 1
            Image.fromarray(nuclei).save(root / split / "labels" / name)
    return root / "train", root / "test"


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory):
    """COCO's panoptic files: a PNG an image, ids in colours."""
    folder = tmp_path_factory.mktemp("panoptic")
    look = {"truth": "both", "size": (SIDE, SIDE), "class_names": ("disk", "square"), "diameter": (16, 32)}
    look |= {"grounds": ("stripes", "checks"), "objects": (2, 3)}
    parts = draw_shapes(2, **look), draw_shapes(1, first=2, **look)
    return [part.write(folder / name) for part, name in zip(parts, ("train", "val"), strict=True)]


@pytest.fixture
def data(request, name):
    for kind in ("cityscapes", "cpm17", "panoptic"):
        if name.startswith(kind):
            return request.getfixturevalue(kind)
    if name.startswith("keypoint"):
        return request.getfixturevalue("people")
    if name.startswith("voc"):
        lists = request.getfixturevalue("voc") / ("Segmentation" if "fcn" in name else "Main")
        return lists / "trainval.txt", lists / "test.txt"
    return request.getfixturevalue("coco")


def boxes_of(number):
    """What a search might have found in a picture: its objects, and a quarter of it."""
    return np.concatenate([drawn(3)[number].truth.boxes, np.array([[0, 0, SIDE / 2, SIDE / 2]], np.float32)])


@pytest.mark.parametrize("name", named_recipes())
def test_two_steps(name, data, tmp_path, monkeypatch):
    # The ImageNet weights of most backbones are a download; whether they are found is another test's matter.
    for place in ("run.load_pretrained", "alternating.load_pretrained", "alternating.load_backbone_weights"):
        monkeypatch.setattr(f"rcnn.training.{place}", lambda *_: [])
    recipe = load_recipe(name)
    steps = 4 if getattr(recipe.settings, "scheme", "joint") == "alternating" else 1
    small = [f"transform.short_side={SIDE}", f"augment.crop={SIDE}", "train.batch_size=1", "train.workers=0"]
    proposals = None
    if recipe.model in ("rcnn", "fast_rcnn"):
        proposals = write_proposals(tmp_path / "p.npz", {f"{n:06d}": boxes_of(n) for n in range(3)})
    if recipe.model == "rcnn":
        pytest.importorskip("sklearn")
        small += ["model.channels=64", "model.context=4", "model.side=32", "model.pool=1"]
    elif recipe.model == "fcn":
        small.append("model.channels=64")
    elif recipe.settings.box.layers == "fc" and recipe.settings.box.channels == 4096:
        small.append("model.box.channels=64")  # or most of the time goes into writing 138 million weights
    train, val = data
    folder = rcnn.train(
        train, val=val, proposals=proposals, recipe=name, epochs=steps, out=tmp_path / "run", settings=small
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert max(row["iteration"] for row in rows) == 2 * steps
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    detector = rcnn.load(folder)
    assert type(detector.network).__name__.lower() == recipe.model.replace("_", "")
    assert Path(folder / "report.html").is_file()
