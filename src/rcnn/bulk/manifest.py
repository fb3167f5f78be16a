"""The list of images of a job: read from whatever a user has, kept as ``manifest.parquet``.

Differs from a folder given to :func:`rcnn.inference.writers.predict_to_files`: images are named by their
addresses, not by names below the folder, so lists of several stores can be put together.
"""

from __future__ import annotations

import fnmatch
import glob
import gzip
import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_plus

from rcnn.bulk.storage import Place, address_of, is_remote, local_path, path_of, pyarrow_modules
from rcnn.inference.sources import find_images
from rcnn.io.images import IMAGE_ENDINGS
from rcnn.io.json_text import object_of

MANIFEST = "manifest.parquet"
COLUMNS = (
    "path", "uri", "url", "address", "image", "image_path", "filepath", "file_path", "file_name", "filename",
    "file",
)  # fmt: skip
# The columns of a store's inventory, and the scheme of the store that names them so.
INVENTORIES = {"key": "s3://", "name": "gs://"}
LISTS = (".txt", ".lst", ".list")
TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Listed:
    """The images of a list.

    Attributes:
        addresses: an absolute path or an address for each image, each once, in the list's order.
        repeated: entries that were left out because they name an image again.
    """

    addresses: tuple[str, ...]
    repeated: int

    @property
    def digest(self) -> str:
        """What distinguishes this list from others."""
        digest = hashlib.sha256()
        for address in self.addresses:
            digest.update(address.encode() + b"\n")
        return digest.hexdigest()


def list_images(sources: Sequence[str]) -> Listed:
    """The images that ``sources`` name.

    Each is an image; a folder, searched at every depth; a glob pattern; a text file with an address per line;
    a CSV, TSV or Parquet file (or folder of Parquet files) with a column of addresses, or with the columns
    ``bucket`` and ``key`` (S3) or ``name`` (Google) of an inventory; or the ``manifest.json`` of an S3
    inventory. All may be remote. Relative addresses in a list are relative to its folder.

    Raises:
        FileNotFoundError: a source that does not exist.
        ValueError: a source without images, or a list that has no column of addresses.
    """
    named = list(itertools.chain.from_iterable(map(_listed, sources)))
    addresses = tuple(dict.fromkeys(named))
    if not addresses:
        raise ValueError(f"{', '.join(sources)}: no images are listed; expected at least one")
    return Listed(addresses, len(named) - len(addresses))


def _listed(source: str) -> Iterable[str]:
    name = str(path_of(source)).lower().removesuffix(".gz")
    if _is_pattern(source):
        return _matching(source)
    place = Place.at(source)
    if place.is_folder():
        return _in_folder(source, place)
    if not place.is_file():
        raise FileNotFoundError(f"{source}: no such image, folder or list")
    if name.endswith(".parquet"):
        return _of_tables([place])
    if name.endswith(TABLES):
        return _of_table(source, place)
    if name.endswith(".json"):
        return _of_inventory(source, place)
    if name.endswith(LISTS):
        lines = (line.strip() for line in _text(place).splitlines())
        return [_absolute(line, place.parent) for line in lines if line and not line.startswith("#")]
    if not name.endswith(tuple(IMAGE_ENDINGS)):
        raise ValueError(
            f"{source}: neither an image nor a list of images; expected a name that ends in "
            f"{', '.join((*LISTS, *TABLES, '.parquet'))} or is that of an image"
        )
    return [address_of(local_path(source)) if place.is_local else str(place)]


def _is_pattern(source: str) -> bool:
    """Whether an address has signs of a pattern and is not the name of a file."""
    signs = "*[" if is_remote(source) else "*?["
    return any(sign in source for sign in signs) and (is_remote(source) or not local_path(source).exists())


def _in_folder(source: str, place: Place) -> list[str]:
    if place.is_local:
        found = place.files()
        if found and all(file.name.endswith(".parquet") for file in found):
            return list(_of_tables(found))
        return [address_of(path) for path in find_images([local_path(source)]).values()]
    files = place.files(recursive=True)
    if files and all(file.name.endswith(".parquet") for file in files):
        return list(_of_tables(files))
    shown = [str(file) for file in files if _is_shown_image(file.path.removeprefix(place.path))]
    if not shown:
        raise ValueError(f"{source}: no images in this folder; looked for {' '.join(sorted(IMAGE_ENDINGS))}")
    return shown


def _is_shown_image(path: str) -> bool:
    parts = PurePosixPath(path)
    return parts.suffix.lower() in IMAGE_ENDINGS and not any(p.startswith(".") for p in parts.parts)


def _matching(pattern: str) -> list[str]:
    """The images that match a glob pattern; ``**`` stands for folders at any depth."""
    if is_remote(pattern):
        address, sign, query = pattern.partition("?")
        fixed = address[: min(address.index(wild) for wild in "*[" if wild in address)]
        folder = Place.at(fixed.rpartition("/")[0] + sign + query)
        # Stores have no folders: * matches / too, as it does in their own tools.
        wanted = address.partition("://")[2]
        found = [str(f) for f in folder.files(recursive=True) if fnmatch.fnmatchcase(f.path, wanted)]
    else:
        found = [address_of(local_path(path)) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    found = [address for address in found if path_of(address).suffix.lower() in IMAGE_ENDINGS]
    if not found:
        raise FileNotFoundError(f"{pattern}: no image matches this pattern")
    return found


def _text(place: Place) -> str:
    content = place.read()
    try:
        return (gzip.decompress(content) if place.name.endswith(".gz") else content).decode("utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{place}: the list cannot be read ({error}); save it as UTF-8") from error


def _of_tables(files: Sequence[Place]) -> Iterator[str]:
    pa, _, pq = pyarrow_modules()
    for place in files:
        try:
            with place.filesystem.open_input_file(place.path) as file:
                parquet = pq.ParquetFile(file)
                chosen = _columns(str(place), parquet.schema_arrow.names)
                for batch in parquet.iter_batches(columns=list(chosen)):
                    yield from _addresses(
                        [c.to_pylist() for c in batch.select(list(chosen)).columns], chosen, place
                    )
        except pa.ArrowException as error:
            raise ValueError(f"{place}: not a Parquet file ({error})") from error


def _of_table(source: str, place: Place) -> Iterable[str]:
    import csv

    delimiter = "\t" if ".tsv" in source.lower() else ","
    rows = [row for row in csv.reader(io.StringIO(_text(place)), delimiter=delimiter) if row]
    if not rows:
        return []
    if len(rows[0]) == 1 and PurePosixPath(rows[0][0]).suffix.lower() in IMAGE_ENDINGS:  # without a header
        return _addresses([[row[0] for row in rows]], ("path",), place)
    chosen = _columns(source, rows[0])
    indices = [rows[0].index(name) for name in chosen]
    uneven = next((i for i, row in enumerate(rows, 1) if len(row) <= max(indices)), None)
    if uneven is not None:
        raise ValueError(
            f"{source}: line {uneven} has {len(rows[uneven - 1])} columns; the header has {len(rows[0])}"
        )
    return _addresses([[row[i] for row in rows[1:]] for i in indices], chosen, place)


def _of_inventory(source: str, place: Place) -> Iterator[str]:
    """The objects of an S3 inventory: its ``manifest.json`` lists gzipped CSV files without headers."""
    try:
        content = object_of(place.read())
        columns = [name.strip().lower() for name in content["fileSchema"].split(",")]
        kind, files = content["fileFormat"], [str(entry["key"]) for entry in content["files"]]
        bucket = str(content["destinationBucket"]).rpartition(":")[2]
        indices = [columns.index("bucket"), columns.index("key")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{source}: expected a list of images, or the manifest.json of an S3 inventory in CSV ({error!r})"
        ) from error
    if kind != "CSV":
        raise ValueError(
            f"{source}: an inventory in {kind}; give its Parquet files themselves, or ask S3 for CSV"
        )
    import csv

    for key in files:
        rows = [row for row in csv.reader(io.StringIO(_text(_beside(place, bucket, key)))) if row]
        yield from _addresses(
            [[row[indices[0]] for row in rows], [unquote_plus(row[indices[1]]) for row in rows]],
            ("bucket", "key"), place,
        )  # fmt: skip


def _beside(place: Place, bucket: str, key: str) -> Place:
    """A data file of an inventory: in its bucket or, where the inventory was copied, below its folder."""
    if place.is_local:
        return Place.at(str(local_path(place.path).parent / "data" / PurePosixPath(key).name))
    return place.with_path(f"{bucket}/{key}")


def _columns(source: str, names: Sequence[str]) -> tuple[str, ...]:
    """The column of addresses among those of a table, or the two of an inventory."""
    known = {name.lower(): name for name in names}
    inventory = next((key for key in INVENTORIES if key in known and "bucket" in known), None)
    if inventory is not None:
        return known["bucket"], known[inventory]
    found = next((known[name] for name in COLUMNS if name in known), None)
    if found is None:
        raise ValueError(
            f"{source}: columns {', '.join(names)}; expected one of {', '.join(COLUMNS)}, or bucket and key"
        )
    return (found,)


def _addresses(columns: Sequence[Sequence[Any]], names: Sequence[str], place: Place) -> list[str]:
    if len(columns) == 1:
        return [_absolute(str(value), place.parent) for value in columns[0] if value]
    scheme = INVENTORIES[names[1].lower()]
    pairs = zip(*columns, strict=True)
    addresses = (f"{scheme}{bucket}/{key}" for bucket, key in pairs)
    return [address for address in addresses if path_of(address).suffix.lower() in IMAGE_ENDINGS]


def _absolute(address: str, folder: Place) -> str:
    if "://" in address:
        return address
    if folder.is_local:
        return address_of(local_path(folder.path) / address)
    return str(folder / address) if not address.startswith("/") else address


def write_manifest(listed: Listed, place: Place, rows_per_shard: int) -> None:
    """Keep the list, with one row group per shard."""
    pa, _, pq = pyarrow_modules()
    table = pa.table({"path": pa.array(listed.addresses, pa.string())})
    content = io.BytesIO()
    pq.write_table(table, content, row_group_size=rows_per_shard, compression="zstd")
    place.write(content.getvalue())


def shard_addresses(place: Place, shard: int) -> list[str]:
    """The images of one shard of a kept manifest."""
    _, _, pq = pyarrow_modules()
    with place.filesystem.open_input_file(place.path) as file:
        addresses: list[str] = pq.ParquetFile(file).read_row_group(shard)["path"].to_pylist()
    return addresses
