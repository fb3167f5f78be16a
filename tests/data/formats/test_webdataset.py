"""WebDataset's tar shards: what is written is read back equal, others' samples are read, damage is named."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.data.augment import Augment
from rcnn.data.check import check, refuse_or_skip
from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset, DrawnMasks
from rcnn.data.formats import webdataset_writer
from rcnn.data.formats.open import open_data, open_splits
from rcnn.data.hold_out import choose_by_content
from rcnn.data.loader import training_batches
from rcnn.data.shapes import draw_shapes
from rcnn.data.shard_order import shards_of
from rcnn.data.twins import content_digests
from rcnn.structures import Masks
from rcnn.training.split import fingerprint
from rcnn.transform import Transform
from whole_data import assert_same_data, everything

H, W = 40, 60


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset_writer, "SHARD_SAMPLES", 2)


# What rcnn writes


@pytest.mark.usefixtures("small_shards")
def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    data = everything(tmp_path / "data")
    converted = convert(data, tmp_path / "out", to="webdataset")
    assert converted.lost == {}
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [f"shard-{n:06d}.tar" for n in range(3)]
    back = open_data(tmp_path / "out")
    assert back.format == "webdataset"
    assert_same_data(data, back)
    assert_same_data(data, open_data(tmp_path / "out" / "shard-{000000..000002}.tar"))
    assert_same_data(data, open_data(tmp_path / "out" / "shard-*.tar"))
    one_file = open_data(tmp_path / "out" / "shard-000001.tar")
    assert [record.image_id for record in one_file.records] == ["x", 10]
    assert fingerprint(back, with_proposals=False) == fingerprint(data, with_proposals=False)
    held = [choose_by_content(d, content_digests(d.records), 0.4, 0) for d in (data, back)]
    assert held[0] == held[1], "held out are the same images, of files and of shards"


@pytest.mark.usefixtures("small_shards")
def test_shards_of_both_kinds_become_each_other(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra bulk")
    data = everything(tmp_path / "data")
    for before, to in (("data", "webdataset"), ("webdataset", "parquet"), ("parquet", "webdataset")):
        source = data if before == "data" else open_data(tmp_path / before)
        out = tmp_path / to if before != "parquet" else tmp_path / "again"
        assert convert(source, out, to=to).lost == {}
        assert_same_data(data, open_data(out))


def test_a_shard_is_a_tar_file_of_image_files_and_json(tmp_path: Path) -> None:
    folder = draw_shapes(2, size=(H, W)).write(tmp_path / "data")
    convert(folder, tmp_path / "out", to="webdataset")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        names = tar.getnames()
        assert names[0] == "__rcnn__", "which WebDataset skips"
        assert names[1:] == [f"{n:09d}.{ending}" for n in range(2) for ending in ("png", "json")]
        first = open_data(folder).records[0]
        assert read(tar, "000000000.png") == first.path.read_bytes()
        text = json.loads(read(tar, "000000000.json"))
    np.testing.assert_allclose(text["boxes"], first.truth.boxes)
    masks = Masks.from_rle([{"size": [H, W], "counts": counts} for counts in text["masks"]], (H, W))
    np.testing.assert_array_equal(masks.dense(), first.load_truth().masks)


def read(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    assert member is not None
    return member.read()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    shapes = draw_shapes(3, size=(H, W), class_names=("disk", "square")).write(tmp_path / "data")
    convert(shapes, tmp_path / "out", to="webdataset")
    return tmp_path / "out" / "shard-000000.tar"


Members = list[tuple[str, bytes]]


def contents(file: Path) -> Members:
    with tarfile.open(file) as tar:
        return [(name, read(tar, name)) for name in tar.getnames()]


def write_tar(file: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def changed(file: Path, **fields: Any) -> None:
    """Give the first sample other fields in its JSON."""
    members = contents(file)
    place = next(i for i, (name, _) in enumerate(members) if name == "000000000.json")
    found = json.loads(members[place][1])
    members[place] = ("000000000.json", json.dumps({**found, **fields}).encode())
    write_tar(file, members)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"labels": [99]}, "a label is not one of 2 classes"),
        ({"labels": ["disk"]}, "expected any number of values as labels"),
        ({"boxes": [[1, 2, 1e6, 9]]}, "a box is empty or lies outside"),
        ({"boxes": [[1, 2, 3]]}, "expected 1 x 4 values as boxes"),
        ({"boxes": [[1, 2, float("nan"), 9]]}, "a number is not finite"),
        ({"height": None}, "expected pixels as height; found None"),
        ({"width": 10**12}, "expected pixels as width"),
        ({"name": "../a.png"}, "a name is not that of a file"),
        ({"name": None}, "expected a text as name"),
        ({"id": [1]}, "an id neither a number nor a text"),
        ({"areas": [1.0] * 99}, "expected 1 values as areas"),
        ({"crowd": [2]}, "expected 1 values as crowd"),
        ({"digest": "0" * 31}, "a digest is not 32 hexadecimal digits"),
    ],
)
def test_samples_that_contradict_themselves_are_refused(fields: Any, said: str, shard: Path) -> None:
    base = {"labels": [0], "boxes": [[1, 2, 8, 9]], "masks": None, "areas": None, "crowd": None}
    changed(shard, **{**base, **fields})
    with pytest.raises(ValueError, match=rf"shard-000000.tar: sample 000000000: .*{said}"):
        open_data(shard.parent)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: [*m[:2], ("000000000.json", b"{"), *m[3:]], "000000000: .*write the shards again"),
        (lambda m: [m[0], *m[2:]], "000000000: It has no image."),
        (lambda m: [*m[:2], *m[3:]], "000000000: It has no json."),
        (lambda m: [*m[:2], m[1], *m[2:]], "000000000: It has 000000000.png twice."),
        (lambda m: [*m, *m[1:3]], "sample 000000000 is in the shards twice"),
        (lambda m: [("__rcnn__", b"{}"), *m[1:]], "its metadata are not those of a shard"),
        (lambda m: [("__rcnn__", b'{"version": 9}'), *m[1:]], "its metadata .*version 9"),
    ],
)
def test_damaged_shards_are_named(change: Callable[[Members], Members], said: str, shard: Path) -> None:
    write_tar(shard, change(contents(shard)))
    with pytest.raises(ValueError, match=f"shard-000000.tar: (?:sample )?{said}"):
        open_data(shard.parent)


def test_masks_that_do_not_fit_are_refused_where_they_are_read(shard: Path) -> None:
    changed(shard, masks=["abc"])
    data = open_data(shard.parent)
    with pytest.raises(ValueError, match=r"shard-000000.tar: sample 000000000: its masks do not fit"):
        data.records[0].load_truth()
    data.records[1].load_truth()


def test_shards_of_two_data_sets(shard: Path, tmp_path: Path) -> None:
    other = draw_shapes(2, size=(H, W), class_names=("star",)).write(tmp_path / "stars")
    convert(other, tmp_path / "more", to="webdataset")
    (tmp_path / "more" / "shard-000000.tar").rename(shard.with_name("shard-000001.tar"))
    with pytest.raises(ValueError, match=r"shard-000001.tar: its classes or keypoints are not those of"):
        open_data(shard.parent)


# Tar files


@pytest.mark.parametrize("kept", ["in the middle of an image", "between two samples", "without the end"])
def test_a_shard_that_was_cut_short(kept: str, shard: Path) -> None:
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    size = {
        "in the middle of an image": members[-2].offset_data + 40,
        "between two samples": members[-2].offset,
        "without the end": members[-1].offset_data + 512 * (-(-members[-1].size // 512)),
    }[kept]
    shard.write_bytes(shard.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"shard-000000.tar: (it was cut short|not readable as a tar file)"):
        open_data(shard.parent)


def test_a_damaged_header_does_not_end_a_shard_silently(shard: Path) -> None:
    with tarfile.open(shard) as tar:
        place = tar.getmembers()[3].offset
    content = bytearray(shard.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=rf"shard-000000.tar: it is damaged, or another .* at byte {place}"):
        open_data(shard.parent)


def test_two_files_in_one(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes() * 2)
    with pytest.raises(ValueError, match=r"shard-000000.tar: .*another tar file was appended"):
        open_data(shard.parent)


@pytest.mark.parametrize(
    ("name", "mode", "command"),
    [
        ("shard-000000.tar", "w:gz", "gunzip"),
        ("shard-000000.tar.gz", "w:gz", "gunzip"),
        ("shard-000000.tgz", "w:gz", "gunzip"),
        ("shard-000000.tar.xz", "w:xz", "unxz"),
    ],
)
def test_a_compressed_shard_is_refused_with_the_way(
    name: str, mode: Any, command: str, shard: Path, tmp_path: Path
) -> None:
    members = contents(shard)
    packed = tmp_path / "packed" / name
    packed.parent.mkdir()
    with tarfile.open(packed, mode) as tar:
        for called, content in members:
            member = tarfile.TarInfo(called)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match=rf"{name}: it is compressed .*{command} {name}"):
        open_data(packed.parent)


def test_a_shard_that_has_become_shorter(shard: Path) -> None:
    data = open_data(shard.parent)
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"shard-000000.tar: it has become shorter"):
        data.records[0].load_image()


# Names


@pytest.mark.usefixtures("small_shards")
def test_names_with_braces(tmp_path: Path) -> None:
    convert(draw_shapes(5, size=(H, W)).write(tmp_path / "data"), tmp_path / "out", to="webdataset")
    whole = [record.image_id for record in open_data(tmp_path / "out").records]
    for name in ("shard-{000000..000002}.tar", "shard-00000{0..2}.tar", "shard-{000000,000001,000002}.tar",
                 "shard-{00..00}000{0..2}.tar"):  # fmt: skip
        assert [r.image_id for r in open_data(tmp_path / "out" / name).records] == whole, name
    some = open_data(str(tmp_path / "out" / "shard-00000{1,2}.tar"))
    assert [record.image_id for record in some.records] == whole[2:]
    with pytest.raises(ValueError, match=r"2 of the 5 files that it names are not there: .*shard-000003.tar"):
        open_data(tmp_path / "out" / "shard-{000000..000004}.tar")
    with pytest.raises(ValueError, match=r"names more than 1,000,000 files"):
        open_data(tmp_path / "out" / "shard-{0..99999999}.tar")


def test_splits_in_one_folder(shard: Path) -> None:
    both = shard.with_name("train-000000.tar"), shard.with_name("val-000000.tar")
    both[1].write_bytes(shard.read_bytes())
    shard.rename(both[0])
    with pytest.raises(ValueError, match=r"has the splits train, val"):
        open_data(shard.parent)
    splits = open_splits(shard.parent)
    assert {name: len(data) for name, data in splits.items()} == {"train": 3, "val": 3}
    assert open_data(shard.with_name("train-*.tar")).records[0].path.parent == both[0]


# What others write


def picture(seed: int = 0, kind: str = "PNG", **more: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (H, W, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **more)
    return file.getvalue()


def samples(*texts: Any, ending: str = "json", folder: str = "") -> Members:
    members: Members = []
    for number, text in enumerate(texts):
        members += [(f"{folder}s{number}.png", picture(number))]
        members += [(f"{folder}s{number}.{ending}", json.dumps(text).encode())]
    return members


SQUARE = [[10, 5, 30, 5, 30, 25, 10, 25]]
RLE = {"size": [H, W], "counts": [H * 10 + 5, 20, H * W - H * 10 - 25]}


def opened(tmp_path: Path, members: Members, categories: Any = None) -> Dataset:
    write_tar(tmp_path / "data" / "set-0000.tar", members)
    if categories is not None:
        (tmp_path / "data" / "categories.json").write_text(json.dumps(categories))
    return open_data(tmp_path / "data")


def said(data: Dataset) -> list[str]:
    return [f"{p.severity}: {p.file.relative_to(data.source)}: {p.what}" for p in check(data).problems]


def test_samples_as_segment_anything_has_them(tmp_path: Path) -> None:
    """Without categories, with the size and a run-length code, in names that begin with ``./``."""
    text = {
        "image": {"image_id": 223750, "width": W, "height": H, "file_name": "sa_223750.jpg"},
        "annotations": [{"id": 5, "bbox": [10, 5, 1, 20], "area": 20, "segmentation": RLE, "crop_box": [0]}],
    }
    data = opened(tmp_path, [("./sa_223750.jpg", picture(0, "JPEG")), ("./sa_223750.json", dumped(text))])
    assert data.format == "webdataset"
    assert data.class_names == ("object",)
    (record,) = data.records
    assert (record.image_id, record.path.name, record.truth.size) == (223750, "sa_223750.jpg", (H, W))
    np.testing.assert_array_equal(record.truth.boxes, [[10, 5, 11, 25]])
    assert record.load_truth().masks.areas().tolist() == [20]
    assert record.load_image().shape == (H, W, 3)
    assert not check(data).errors


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_samples_with_a_list_of_annotations_as_webdatasets_own_example(tmp_path: Path) -> None:
    """``000025.captions.json``, ``000025.instances.json``, ``000025.jpg``: several files of JSON."""
    text = [{"id": 1, "image_id": 25, "category_id": 18, "bbox": [10, 5, 20, 20], "segmentation": SQUARE}]
    members = [
        ("val/000025.captions.json", dumped([{"caption": "a dog"}])),
        ("val/000025.instances.json", dumped(text)),
        ("val/000025.jpg", picture(0, "JPEG")),
        ("val/000030.captions.json", dumped([])),
        ("val/000030.instances.json", dumped([])),
        ("val/000030.jpg", picture(1, "JPEG")),
    ]
    data = opened(tmp_path, members, {"categories": [{"id": 1, "name": "cat"}, {"id": 18, "name": "dog"}]})
    assert (data.class_names, data.category_ids) == (("cat", "dog"), (1, 18))
    first, second = data.records
    assert first.path == tmp_path / "data" / "set-0000.tar" / "val" / "000025.jpg"
    assert (first.image_id, first.truth.labels.tolist()) == ("val/000025", [1])
    assert isinstance(first.masks, DrawnMasks), "outlines are drawn where training shows them"
    assert len(second.truth) == 0
    assert not check(data).errors


@pytest.mark.parametrize(
    "text",
    [
        {"objects": {"bbox": [[10, 5, 20, 20], [0, 0, 9, 9]], "category": ["dog", "cat"]}},
        {"annotations": [{"bbox": [10, 5, 20, 20], "label": "dog"}, {"bbox": [0, 0, 9, 9], "class": "cat"}]},
        [{"bbox": [10, 5, 20, 20], "category": "dog"}, {"bbox": [0, 0, 9, 9], "category": "cat"}],
        {"images": [{"id": 4, "width": W, "height": H}],
         "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}],
         "annotations": [{"bbox": [10, 5, 20, 20], "category_id": 3},
                         {"bbox": [0, 0, 9, 9], "category_id": 7}]},
    ],
    ids=["objects", "names", "list", "COCO file"],
)  # fmt: skip
def test_classes_by_name(text: Any, tmp_path: Path) -> None:
    data = opened(tmp_path, samples(text))
    assert data.class_names == ("dog", "cat")
    assert data.records[0].truth.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(data.records[0].truth.boxes, [[10, 5, 30, 25], [0, 0, 9, 9]])
    assert not check(data).errors


def test_numbers_without_names_are_not_taken_for_classes_with_names(tmp_path: Path) -> None:
    """A category_id means something only where it is declared."""
    box = [10, 5, 20, 20]
    texts = (
        [{"bbox": box, "category": "dog"}],
        [{"bbox": box, "category": "cat", "category_id": 1}],
        [{"bbox": box, "category_id": 1}],
        [{"bbox": box, "category": "dog", "category_id": 7}],
    )
    data = opened(tmp_path, samples(*texts))
    named = [data.class_names[record.truth.labels[0]] for record in data.records]
    assert named == ["dog", "cat", "1", "dog"]


def test_a_name_that_the_list_of_categories_lacks_is_an_error(tmp_path: Path) -> None:
    data = opened(
        tmp_path, samples([{"bbox": [10, 5, 20, 20], "category": "catt"}]), [{"id": 1, "name": "cat"}]
    )
    assert any("integer category_id; found 's0' and 'catt'" in line for line in said(data))


def test_shards_may_have_the_same_keys(tmp_path: Path) -> None:
    text = [{"bbox": [10, 5, 20, 20], "category": "dog"}]
    write_tar(tmp_path / "data" / "set-0001.tar", samples(text))
    data = opened(tmp_path, samples(text, text))
    assert [record.image_id for record in data.records] == ["s0", "s1", "set-0001/s0"]
    assert len({record.path for record in data.records}) == 3
    assert not any("more than once" in line for line in said(data))


def test_classes_are_numbers_where_nothing_names_them(tmp_path: Path) -> None:
    data = opened(tmp_path, samples([{"bbox": [10, 5, 20, 20], "category_id": 18}]))
    assert data.class_names == ("18",)
    assert any("there is no categories.json beside the shards" in line for line in said(data))


def test_training_batches_of_others_samples(tmp_path: Path) -> None:
    """In the order of shards; each image with its outlines drawn in the view that is shown."""
    text = {"annotations": [{"bbox": [10, 5, 20, 20], "segmentation": SQUARE, "category": "dog"}]}
    data = opened(tmp_path, samples(*[text] * 6))
    assert shards_of(data.records).tolist() == [0] * 6
    assert len(set(content_digests(data.records))) == 6
    augment = Augment(crop=64, flip=False, repeat=0.0)
    made = training_batches(data, augment, Transform(), batch_size=3, seed=0)
    shown = [sample for _ in range(2) for sample in next(made)]
    assert sorted(sample.image_id for sample in shown) == [f"s{number}" for number in range(6)]
    for sample in shown:
        assert sample.targets.masks is not None
        assert len(sample.targets.boxes) == 1


def test_faults_name_the_sample(tmp_path: Path) -> None:
    good = [{"bbox": [10, 5, 20, 20], "category_id": 1}]
    members = [
        *samples(good, folder="good/"),
        *samples(good, [{"bbox": [30, 5, -20, 20], "category_id": 1}], [{"bbox": good, "category_id": 9}]),
        ("e.png", picture(7)), ("e.json", b"{"),
        ("f.png", picture(8)), ("f.json", b'{"caption": "a dog"}'),
        ("g.json", dumped(good)),
        ("h.png", picture(9)),
        ("i.png", b"no picture"), ("i.json", dumped(good)),
        ("j.png", picture(10)), ("j.jpg", picture(11, "JPEG")), ("j.json", dumped(good)),
        ("s0.png", picture(0)), ("s0.json", dumped(good)),
    ]  # fmt: skip
    data = opened(tmp_path, members, [{"id": 1, "name": "dog"}])
    lines = "\n".join(said(data))
    for expected in (
        "error: set-0000.tar/s1.png: The box x1 y1 x2 y2 = 30 5 10 25 has a negative width or height.",
        "error: set-0000.tar/s2.png: There is no category with the id 9.",
        "error: set-0000.tar/e.png: Its annotations are not JSON",
        "error: set-0000.tar/f.png: Expected a list of COCO's annotations, or an object with annotations",
        "error: set-0000.tar/g: It has annotations and no image.",
        "warning: .: 1 samples have an image and no JSON: h.",
        "error: set-0000.tar/i.png: this is not an image of a known format",
        "error: set-0000.tar/j.png: It has several images: png, jpg; expected one.",
        "error: set-0000.tar/s0.png: The key s0 occurs again in this shard.",
    ):
        assert expected in lines, lines
    usable, _ = refuse_or_skip(data, True)
    assert [record.path.parent.name for record in usable.records] == ["good"]
    assert usable.left_out is not None
    assert (usable.left_out.images, usable.left_out.all_images) == (8, 9)
