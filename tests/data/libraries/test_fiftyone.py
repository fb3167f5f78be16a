"""FiftyOne's data sets, by stand-ins that have what is used of them: samples, fields and labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, areas, boxes, errors, image
from rcnn.data.formats.open import open_data


class Label:
    """Anything with these attributes."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Detections(Label):
    pass


class Polylines(Label):
    pass


class Sample:
    def __init__(self, path: Path, **fields: Any) -> None:
        self.filepath, self.id, self.fields = str(path), path.stem, {"tags": [], **fields}

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(self.fields)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


class Samples:
    media_type = "image"

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples

    def iter_samples(self) -> Any:
        return iter(self.samples)


def detection(
    box: tuple[float, ...] = FIRST, label: str | None = "cat", mask: Any = None, **more: Any
) -> Label:
    x1, y1, x2, y2 = box
    fractions = [x1 / WIDTH, y1 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]
    return Label(label=label, bounding_box=fractions, mask=mask, **more)


def sample(folder: Path, *found: Label, name: str = "a.png", **more: Any) -> Sample:
    image(folder, name)
    return Sample(folder / name, **({"ground_truth": Detections(detections=list(found))} | more))


def test_boxes_masks_and_crowds(tmp_path: Path) -> None:
    mask = np.ones((14, 16), np.bool_)
    mask[:7] = False
    small = np.array([[True, False]])
    found = [
        detection(mask=mask),
        detection(SECOND, "dog", small, iscrowd=True),
    ]
    data = open_data(Samples(sample(tmp_path, *found), sample(tmp_path, name="b.png")))
    assert (data.class_names, data.problems) == (("cat", "dog"), ())
    assert boxes(data) == {"a.png": [("cat", FIRST), ("dog", SECOND)], "b.png": []}
    assert areas(data) == [112, 220]
    assert data[0].truth.crowd.tolist() == [False, True]


def test_polylines(tmp_path: Path) -> None:
    points = [[(x / WIDTH, y / HEIGHT) for x, y in ((8, 6), (24, 6), (24, 20), (8, 20))]]
    lines = [
        Label(label="cat", points=points, closed=True, filled=False),
        Label(label="cat", points=points, closed=False, filled=False),
    ]
    data = open_data(Samples(sample(tmp_path, ground_truth=Polylines(polylines=lines))))
    assert boxes(data) == {"a.png": [("cat", FIRST)]}
    assert areas(data) == [224]
    assert [p.what for p in data.problems] == ["1 open polylines."]


def test_the_field(tmp_path: Path) -> None:
    other = Detections(detections=[detection(SECOND)])
    data = open_data(Samples(sample(tmp_path, detection(), predictions=other)))
    assert boxes(data) == {"a.png": [("cat", FIRST)]}
    only = Samples(
        sample(tmp_path, ground_truth=None, mine=other), sample(tmp_path, name="b.png", ground_truth=None)
    )
    data = open_data(only)
    assert boxes(data) == {"a.png": [("cat", SECOND)]}
    assert [p.what for p in data.problems] == ["1 samples have no mine: b.png."]
    with pytest.raises(
        ValueError, match=r"the fields x, y have objects; choose one: items\.select_fields\('x'\)"
    ):
        open_data(Samples(sample(tmp_path, ground_truth=None, x=other, y=other)))
    with pytest.raises(ValueError, match="no field has detections or polylines"):
        open_data(Samples(sample(tmp_path, ground_truth=None)))


def test_faults_are_named(tmp_path: Path) -> None:
    broken = Label(label="cat", bounding_box=[1, 2], mask=None)
    gone = Sample(tmp_path / "absent.png", ground_truth=Detections(detections=[]))
    data = open_data(Samples(sample(tmp_path, broken, detection(label=None)), gone))
    found = "\n".join(errors(data))
    for message in ("Expected a bounding_box of four numbers", "The object has no class", "no such file"):
        assert message in found
    with pytest.raises(ValueError, match="objects of the classes cat, not in class_names"):
        open_data(Samples(sample(tmp_path, detection())), class_names=["dog"])
    videos = Samples()
    videos.media_type = "video"
    with pytest.raises(ValueError, match="its media type is video"):
        open_data(videos)
