"""Lists of images as people have them."""

import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rcnn.bulk.manifest import list_images, shard_addresses, write_manifest
from rcnn.bulk.storage import Place, local_path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name in ("a.png", "b/c.jpg", "b/d.tif"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / name)
    (folder / "notes.md").write_text("no image")
    return folder


def names(folder: Path, *sources: str | Path) -> list[str]:
    listed = list_images([str(source) for source in sources]).addresses
    return [local_path(address).relative_to(folder).as_posix() for address in listed]


def test_folders_images_and_patterns(pictures: Path) -> None:
    assert names(pictures, pictures) == ["a.png", "b/c.jpg", "b/d.tif"]
    assert names(pictures, pictures / "a.png") == ["a.png"]
    assert names(pictures, pictures / "*.png") == ["a.png"]
    assert names(pictures, pictures / "**" / "*") == ["a.png", "b/c.jpg", "b/d.tif"]


def test_an_image_named_twice_counts_once(pictures: Path) -> None:
    listed = list_images([str(pictures / "a.png"), str(pictures), str(pictures / "a.png")])
    assert (len(listed.addresses), listed.repeated) == (3, 2)


def test_a_name_with_signs_of_patterns_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a[1].png"
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path)
    assert names(tmp_path, path) == ["a[1].png"]


def test_text_is_relative_to_its_own_folder(pictures: Path) -> None:
    text = pictures / "list.txt"
    text.write_text(
        f"# a comment\na.png\n\n{pictures / 'b' / 'c.jpg'}\ns3://far/away.png\n", encoding="utf-8"
    )
    assert list_images([str(text)]).addresses == (
        str(pictures / "a.png"), str(pictures / "b/c.jpg"), "s3://far/away.png",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("with a header.csv", "id,Image_Path,note\n1,a.png,\n2,b/c.jpg,x\n"),
        ("without.csv", "a.png\nb/c.jpg\n"),
        ("tabs.tsv", "url\tnote\na.png\t1\nb/c.jpg\t2\n"),
        ("quoted.csv", '"file_name"\n"a.png"\n"b/c.jpg"\n'),
    ],
)
def test_tables_of_text(pictures: Path, name: str, text: str) -> None:
    (pictures / name).write_text(text, encoding="utf-8")
    assert names(pictures, pictures / name) == ["a.png", "b/c.jpg"]
    packed = pictures / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert names(pictures, packed) == ["a.png", "b/c.jpg"]


def test_tables_of_parquet(pictures: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2], "uri": ["a.png", "b/c.jpg"]}), pictures / "one.parquet")
    assert names(pictures, pictures / "one.parquet") == ["a.png", "b/c.jpg"]
    parts = pictures / "parts"
    parts.mkdir()
    for number, name in enumerate(("a.png", "d.jpg")):
        pq.write_table(pa.table({"path": [name]}), parts / f"{number}.parquet")
    assert names(pictures, parts) == ["parts/a.png", "parts/d.jpg"]


def test_inventories(tmp_path: Path) -> None:
    inventory = tmp_path / "2026-01-01"
    (tmp_path / "data").mkdir()
    inventory.mkdir()
    lines = '"plates","a+b%2F1.png","7"\n"plates","notes.txt","7"\n'
    (inventory / "data").mkdir()
    (inventory / "data" / "x.csv.gz").write_bytes(gzip.compress(lines.encode()))
    manifest = {
        "sourceBucket": "plates", "destinationBucket": "arn:aws:s3:::inventories", "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size", "files": [{"key": "inv/data/x.csv.gz"}],
    }  # fmt: skip
    (inventory / "manifest.json").write_text(json.dumps(manifest))
    assert list_images([str(inventory / "manifest.json")]).addresses == ("s3://plates/a b/1.png",)
    table = tmp_path / "google.csv"
    table.write_text("bucket,name,size\nplates,x/1.png,3\n")
    assert list_images([str(table)]).addresses == ("gs://plates/x/1.png",)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_names_that_are_not_utf_8_stay_themselves(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 1%.png"))
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path)
    (address,) = list_images([str(tmp_path)]).addresses
    assert local_path(address) == path
    place = Place.at(str(tmp_path / "m.parquet"))
    write_manifest(list_images([str(tmp_path)]), place, 10)
    assert shard_addresses(place, 0) == [address]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "id,label\n1,x\n", "columns id, label; expected one of path, uri"),
        ("a.csv", "path,n\na.png,1\nb\n,2\n", "no images"),
        ("a.csv", "n,path\n1,a.png\n2\n", "line 3 has 1 columns; the header has 2"),
        ("a.txt", "\n\n", "no images are listed"),
        ("a.json", "{}", "manifest.json of an S3 inventory"),
        ("a.parquet", "no parquet", "not a Parquet file"),
        ("a.docx", "x", "neither an image nor a list"),
        ("a.txt", "caf\xe9\n", "save it as UTF-8"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="latin-1")
    if "no images" in said and name == "a.csv":
        path.write_text("path\n", encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        list_images([str(path)])


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such image, folder or list"):
        list_images([str(tmp_path / "x.txt")])
    with pytest.raises(FileNotFoundError, match="no image matches"):
        list_images([str(tmp_path / "*.png")])


def test_a_long_list_becomes_one_row_group_per_shard(tmp_path: Path) -> None:
    table = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": [f"s3://b/{i}.png" for i in range(100_000)]}), table)
    listed = list_images([str(table)])
    place = Place.at(str(tmp_path / "manifest.parquet"))
    write_manifest(listed, place, 1000)
    assert pq.ParquetFile(place.path).metadata.num_row_groups == 100
    assert shard_addresses(place, 99)[-1] == "s3://b/99999.png"
