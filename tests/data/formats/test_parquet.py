"""Parquet shards: what is written is read back equal, and damage is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rcnn.data.convert import convert
from rcnn.data.formats import parquet_shards
from rcnn.data.formats.open import open_data
from rcnn.data.hold_out import choose_by_content
from rcnn.data.shapes import draw_shapes
from rcnn.data.shard_blocks import forget_blocks
from rcnn.data.twins import content_digests
from rcnn.training.split import fingerprint
from whole_data import assert_same_data, everything

pa = pytest.importorskip("pyarrow", reason="needs the extra bulk")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_shards, "SHARD_ROWS", 2)


@pytest.mark.usefixtures("small_shards")
def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    data = everything(tmp_path / "data")
    converted = convert(data, tmp_path / "out", to="parquet")
    assert converted.lost == {}
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [f"{n:08d}.parquet" for n in range(3)]
    back = open_data(tmp_path / "out")
    assert back.format == "parquet shards"
    assert_same_data(data, back)
    one_file = open_data(tmp_path / "out" / "00000001.parquet")
    assert [record.image_id for record in one_file.records] == ["x", 10]
    assert fingerprint(back, with_proposals=False) == fingerprint(data, with_proposals=False)
    # Held out are the same images, of files and of shards.
    held = [choose_by_content(d, content_digests(d.records), 0.4, 0) for d in (data, back)]
    assert held[0] == held[1]
    again = convert(back, tmp_path / "again", to="parquet")
    assert again.lost == {}
    assert_same_data(data, open_data(tmp_path / "again"))


def test_boxes_alone(tmp_path: Path) -> None:
    shapes = draw_shapes(3, size=(40, 60)).write(tmp_path / "data")
    data = open_data(shapes).without_masks()
    convert(data, tmp_path / "out", to="parquet")
    assert_same_data(data, open_data(tmp_path / "out"))


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp"])
def test_image_files_of_any_kind_need_no_file_of_their_own(ending: str, tmp_path: Path) -> None:
    folder = draw_shapes(2, size=(40, 60)).write(tmp_path / "data")
    data = open_data(folder)
    records = []
    for record in data.records:
        path = record.path.with_suffix(ending)
        Image.fromarray(record.load_image()).save(path, lossless=True)
        records.append(replace(record, path=path, truth=replace(record.truth, path=path)))
    data = replace(data, records=records)
    convert(data, tmp_path / "out", to="parquet")
    assert_same_data(data, open_data(tmp_path / "out"))


def test_an_image_is_fetched_with_a_few_megabytes_of_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_shapes(9, size=(40, 60)).write(tmp_path / "data")
    data = open_data(tmp_path / "data")
    largest = max(record.path.stat().st_size for record in data.records)
    monkeypatch.setattr(parquet_shards, "BLOCK_BYTES", 3 * largest)
    convert(data, tmp_path / "out", to="parquet")
    file = pq.ParquetFile(tmp_path / "out" / "00000000.parquet").metadata
    groups = [file.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert len(groups) in (2, 3)
    assert max(groups) <= 5
    assert_same_data(data, open_data(tmp_path / "out"))


def damaged(table: Any, kind: str) -> Any:
    rows = table.to_pylist()
    if kind == "label":
        rows[0]["labels"][0] = 99
    elif kind == "box outside":
        rows[0]["boxes"][2] = 1e6
    elif kind == "box short":
        rows[0]["boxes"] = rows[0]["boxes"][1:]
    elif kind == "no size":
        rows[0]["height"] = None
    elif kind == "name":
        rows[0]["name"] = b"../a.png"
    elif kind == "id":
        rows[0]["id"] = "[1]"
    elif kind == "digest":
        rows[0]["digest"] = "0" * 31
    elif kind == "digest with a blank":
        rows[0]["digest"] = "0" * 30 + " 0"
    elif kind == "areas":
        rows[0]["areas"] = [1.0] * 99
    return pa.Table.from_pylist(rows, schema=table.schema)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    convert(
        draw_shapes(3, size=(40, 60), class_names=("disk", "square")).write(tmp_path / "data"),
        tmp_path / "out",
        to="parquet",
    )
    return tmp_path / "out" / "00000000.parquet"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("label", "a label is not one of 2 classes"),
        ("box outside", "a box is empty or lies outside"),
        ("box short", "boxes are not four numbers per label"),
        ("no size", "a value is missing"),
        ("name", "a name is not that of a file"),
        ("id", "an id neither a number nor a text"),
        ("areas", "areas do not fit the objects"),
        ("digest", "a digest is not 32 hexadecimal digits"),
        ("digest with a blank", "a digest is not 32 hexadecimal digits"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(kind: str, said: str, shard: Path) -> None:
    pq.write_table(damaged(pq.read_table(shard), kind), shard)
    with pytest.raises(ValueError, match=rf"00000000.parquet: in group 0 of its rows, .*{said}"):
        open_data(shard.parent)


def test_masks_that_do_not_fit_are_refused_where_they_are_read(shard: Path) -> None:
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[0]["masks"][0] = [5]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    forget_blocks()
    data = open_data(shard.parent)
    with pytest.raises(ValueError, match=r"00000000.parquet: row 0 of group 0: its masks do not fit"):
        data.records[0].load_truth()
    data.records[1].load_truth()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["image"]), "no column image of type large_binary: it is no shard of rcnn"),
        (lambda t: t.replace_schema_metadata({b"rcnn.data": b"{"}), "its metadata are not those of a shard"),
        (
            lambda t: t.replace_schema_metadata({b"rcnn.data": json.dumps({"version": 9}).encode()}),
            "not those of a shard .version 9",
        ),
    ],
)
def test_other_files_are_refused(change: Any, message: str, shard: Path) -> None:
    pq.write_table(change(pq.read_table(shard)), shard)
    with pytest.raises(ValueError, match=message):
        open_data(shard.parent, format="parquet")


def test_a_truncated_file(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"00000000.parquet: not readable as Parquet"):
        open_data(shard.parent, format="parquet")


def test_shards_of_two_data_sets(shard: Path, tmp_path: Path) -> None:
    other = draw_shapes(2, size=(40, 60), class_names=("star",)).write(tmp_path / "stars")
    convert(other, tmp_path / "more", to="parquet")
    (tmp_path / "more" / "00000000.parquet").rename(shard.with_name("00000001.parquet"))
    with pytest.raises(ValueError, match=r"00000001.parquet: its classes or keypoints are not those of"):
        open_data(shard.parent)


def test_an_image_that_cannot_be_decoded_is_named(shard: Path) -> None:
    table = pq.read_table(shard)
    rows = table.to_pylist()
    name = rows[1]["name"].decode()
    rows[1]["image"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    forget_blocks()
    with pytest.raises(ValueError, match=rf"00000000.parquet.{name}: this is not an image"):
        open_data(shard.parent).records[1].load_image()
