"""Division into parts: nothing lost, nothing twice, the images that training would hold out."""

from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from annotated_images import image, put
from rcnn.cli import app
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data, open_splits
from rcnn.data.problems import DataError
from rcnn.data.splitting import split_data


def cells(folder: Path, count: int = 20, *, rare: int | None = None, copies: tuple[int, ...] = ()) -> Dataset:
    """A COCO set of ``count`` images with one object each; ``rare`` is the only image with its class."""
    names = [f"{i:02d}.png" for i in range(count)]
    image(folder, *names)
    for i in copies:
        (folder / names[i]).write_bytes((folder / names[copies[0]]).read_bytes())
    content = {
        "images": [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 2 if i == rare else 1, "bbox": [4, 4, 10 + i % 5, 8]}
            for i in range(count)
        ],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "rare"}],
    }
    return open_data(put(folder, "a.json", content))


def names(data: Dataset) -> list[str]:
    return [record.path.name for record in data.records]


def test_every_image_is_in_one_part_with_its_objects(tmp_path: Path) -> None:
    data = cells(tmp_path / "in")
    made = split_data(data, tmp_path / "out", val=0.2, test=0.1)
    assert made.images == {"train": 14, "val": 4, "test": 2}
    parts = open_splits(tmp_path / "out")
    assert list(parts) == ["train", "val", "test"]
    assert Counter(n for part in parts.values() for n in names(part)) == Counter(names(data))
    boxes = {r.path.name: r.truth.boxes.tolist() for r in data.records}
    assert all(r.truth.boxes.tolist() == boxes[r.path.name] for p in parts.values() for r in p.records)
    assert made.objects["val"] == {"cell": 4, "rare": 0}


def test_the_only_image_with_a_class_stays_in_train(tmp_path: Path) -> None:
    data = cells(tmp_path / "in", 6, rare=3)
    for seed in range(8):
        made = split_data(data, tmp_path / f"out{seed}", val=0.3, test=0.3, seed=seed)
        assert made.objects["train"]["rare"] == 1


def test_copies_of_an_image_stay_together(tmp_path: Path) -> None:
    data = cells(tmp_path / "in", 12, copies=(1, 4, 7, 8))
    for seed in range(8):
        made = split_data(data, tmp_path / f"out{seed}", val=0.4, seed=seed)
        parts = [set(names(part)) for part in open_splits(tmp_path / f"out{seed}").values()]
        assert sum(bool({"01.png", "04.png", "07.png", "08.png"} & part) for part in parts) == 1
        assert all(set(group) <= parts[0] for group in made.kept_together)


def test_the_format_is_the_data_sets_own_where_it_can_be_written(tmp_path: Path) -> None:
    data = cells(tmp_path / "in")
    split_data(data, tmp_path / "yolo", to="yolo")
    made = split_data(open_data(tmp_path / "yolo" / "train"), tmp_path / "again")
    assert made.format == "yolo"
    assert (tmp_path / "again" / "val" / "data.yaml").is_file()


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"val": 1.2}, r"--val 1\.2: expected a fraction from 0 to 1"),
        ({"val": 0.0}, "nothing to split off"),
        ({"val": 0.6, "test": 0.4}, "nothing is left for training"),
        ({"val": -0.1}, "expected a fraction"),
    ],
)
def test_fractions_that_make_no_sense(tmp_path: Path, fractions: dict[str, float], message: str) -> None:
    data = cells(tmp_path / "in", 4)
    with pytest.raises(ValueError, match=message):
        split_data(data, tmp_path / "out", **fractions)
    assert not (tmp_path / "out").exists()


def test_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 images cannot be divided into 3 parts"):
        split_data(cells(tmp_path / "in", 2), tmp_path / "out", test=0.2)


def test_nothing_but_copies(tmp_path: Path) -> None:
    data = cells(tmp_path / "in", 3, copies=(0, 1, 2))
    with pytest.raises(ValueError, match="no image is left for val"):
        split_data(data, tmp_path / "out")


def test_bad_images_are_refused_or_skipped(tmp_path: Path) -> None:
    data = cells(tmp_path / "in")
    (tmp_path / "in" / "05.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"05\.png"):
        split_data(data, tmp_path / "out")
    made = split_data(data, tmp_path / "out", skip_bad=True)
    assert sum(made.images.values()) == 19
    assert [problem.file.name for problem in made.skipped] == ["05.png"]


def test_the_command(tmp_path: Path) -> None:
    cells(tmp_path / "in")
    command = ["data", "split", str(tmp_path / "in"), str(tmp_path / "out"), "--test", "0.1", "--seed", "3"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'out' / 'val'}: 3 images; cell 3" in result.output
    assert CliRunner().invoke(app, ["data", "check", str(tmp_path / "out")]).exit_code == 0
    again = CliRunner().invoke(app, command)
    assert "not an empty folder" in again.output
