"""CVAT's masks in colours: objects, classes and maps, lists, and masks that disagree."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, areas, boxes, errors, image, put
from rcnn.data.formats.open import open_data

CAT, DOG, RED, GREEN = (250, 50, 83), (50, 183, 250), (128, 0, 0), (0, 128, 0)


def painted(*parts: tuple[tuple[int, int, int, int], tuple[int, int, int]]) -> Image.Image:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for (x1, y1, x2, y2), colour in parts:
        pixels[y1:y2, x1:x2] = colour
    return Image.fromarray(pixels)


def export(folder: Path, *names: str, images: str = "JPEGImages") -> Path:
    image(folder / images, *(f"{name}.jpg" for name in names))
    for name in names:
        for part, colours in (("Class", (CAT, DOG)), ("Object", (RED, GREEN))):
            path = folder / f"Segmentation{part}" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            painted((FIRST, colours[0]), (SECOND, colours[1])).save(path)
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    put(folder, "labelmap.txt", "\n".join([*lines, "cat:250,50,83::", "dog:50,183,250::", "cow:1,1,1::"]))
    put(folder, "ImageSets/Segmentation/default.txt", "\n".join(names) + "\n")
    return folder


def test_objects_and_maps(tmp_path: Path) -> None:
    folder = export(tmp_path, "a", "b")
    for path in (folder, folder / "ImageSets" / "Segmentation" / "default.txt"):
        data = pickle.loads(pickle.dumps(open_data(path)))
        assert (data.format, data.class_names, data.problems) == ("cvat masks", ("cat", "dog", "cow"), ())
        assert [sorted(found) for found in boxes(data).values()] == [[("cat", FIRST), ("dog", SECOND)]] * 2
        assert sorted(areas(data)) == [224, 440]
        assert data.semantic_names == ("cat", "dog", "cow", "background")
        counts = np.bincount(data[0].truth.semantic.reshape(-1)).tolist()
        assert counts == [224, 440, 0, HEIGHT * WIDTH - 664]


def test_images_elsewhere_and_several_lists(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", "a", images="../photos")
    with pytest.raises(ValueError, match=r"no JPEGImages/\. Export the images, too"):
        open_data(folder)
    assert len(open_data(folder, tmp_path / "photos")) == 1
    put(folder, "ImageSets/Segmentation/val.txt", "a\nz\n")
    with pytest.raises(ValueError, match=r"several lists; name one of them: .*default\.txt, .*val\.txt"):
        open_data(folder, tmp_path / "photos")
    chosen = open_data(folder / "ImageSets" / "Segmentation" / "val.txt", tmp_path / "photos")
    assert "1 of 2 images are missing: z" in errors(chosen)[0]


def test_masks_that_disagree_are_named(tmp_path: Path) -> None:
    folder = export(tmp_path, "a", "b", "c", "d")
    painted((FIRST, CAT), (SECOND, (9, 9, 9))).save(folder / "SegmentationClass" / "a.png")
    painted((FIRST, CAT)).save(folder / "SegmentationClass" / "b.png")
    painted((FIRST, CAT)).resize((30, 20)).save(folder / "SegmentationObject" / "c.png")
    (folder / "SegmentationObject" / "d.png").unlink()
    data = open_data(folder)
    assert [r.path.name for r in data.records] == ["b.jpg"]
    found = "\n".join(errors(data))
    for message in (
        "440 pixels have the colour 9,9,9, not in labelmap.txt",
        "has no pixel of a class in SegmentationClass",
        "it has 30 by 20 pixels, its image 64 by 48",
        "d.png: there is no such file",
    ):
        assert message in found


@pytest.mark.parametrize("line", ["cat", "cat:1,2::", "cat:1,2,300::", "cat:250,50,83::\ndog:250,50,83::"])
def test_label_maps_that_are_refused(tmp_path: Path, line: str) -> None:
    put(export(tmp_path, "a"), "labelmap.txt", line)
    with pytest.raises(ValueError, match=r"labelmap\.txt.*: expected"):
        open_data(tmp_path)
