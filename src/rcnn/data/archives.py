"""Download published data sets: the archives of Pascal VOC."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rcnn.config import did_you_mean
from rcnn.io.download import download


@dataclass(frozen=True)
class Archive:
    """A tar file: its URL, its checksum as in :func:`rcnn.io.download.download`, and its size."""

    url: str
    checksum: str
    megabytes: int


SERVER = "https://thor.robots.ox.ac.uk/pascal/VOC"
VOC07_TRAINVAL = Archive(
    f"{SERVER}/voc2007/VOCtrainval_06-Nov-2007.tar", "md5:c52e279531787c972589f7e41ab4ae64", 460
)
VOC07_TEST = Archive(f"{SERVER}/voc2007/VOCtest_06-Nov-2007.tar", "md5:b6e924de25625d8de591ea690078ad9f", 451)
VOC12_TRAINVAL = Archive(
    f"{SERVER}/voc2012/VOCtrainval_11-May-2012.tar", "md5:6cd6e144f989b92b3379bac3b3de84fd", 2000
)
UNION = "voc0712"
# Each becomes the folder DIR/VOCdevkit/VOC<year>; the papers train on both years.
PUBLISHED: dict[str, tuple[Archive, ...]] = {
    "voc2007": (VOC07_TRAINVAL, VOC07_TEST),
    "voc2012": (VOC12_TRAINVAL,),
    UNION: (VOC07_TRAINVAL, VOC07_TEST, VOC12_TRAINVAL),
}


def get_data(name: str, out: str | Path, say: Callable[[str], None] = print) -> Path:
    """Download and unpack a published data set.

    The next call resumes an interrupted download. The folder of a year appears when it is complete; an
    existing one is left unchanged. The archives stay in ``out`` and may be deleted.

    Args:
        name: a key of :data:`PUBLISHED`.
        out: the output folder; created if missing.
        say: called with progress messages.

    Returns:
        Its folder, ``out/VOCdevkit/VOC2007`` for ``voc2007``. Open one of its splits by its list, such as
        ``ImageSets/Main/trainval.txt`` in that folder.

    Raises:
        ValueError: no such data set, or the downloaded file is not the published archive.
        OSError: no network, or the disk is full.
    """
    if name not in PUBLISHED:
        raise ValueError(
            f"data set {name!r}: {did_you_mean(name, PUBLISHED)}expected one of {', '.join(PUBLISHED)}"
        )
    out = Path(out)
    devkit, part = out / "VOCdevkit", out / ".VOCdevkit.part"
    result = devkit / name.upper()
    if result.exists():
        say(f"{result} already exists")
        return result
    shutil.rmtree(part, ignore_errors=True)
    for archive in PUBLISHED[name]:
        say(f"downloading {archive.url} ({archive.megabytes} MB)")
        file = download(archive.url, archive.checksum, out)
        say(f"unpacking {file.name}")
        _unpack(file, part)
    for year in sorted((part / "VOCdevkit").iterdir()):
        if not (devkit / year.name).exists():
            devkit.mkdir(exist_ok=True)
            year.replace(devkit / year.name)
    shutil.rmtree(part)
    if name == UNION:
        _join_years(devkit, result)
    return result


def _unpack(file: Path, folder: Path) -> None:
    try:
        with tarfile.open(file) as archive:
            # Refuses names that lead out of the folder, from Python 3.11.4 on.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(folder)
    except tarfile.TarError as error:
        raise ValueError(f"{file} cannot be unpacked ({error}): delete it and try again") from error


def _join_years(devkit: Path, folder: Path) -> None:
    """Join 2007 and 2012 in a folder of links: trainval of both, test of 2007 (2012's has no annotations)."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    years = (devkit / "VOC2007", devkit / "VOC2012")
    for kind in ("Annotations", "JPEGImages"):
        (part / kind).mkdir(parents=True)
        for year in years:
            for file in (year / kind).iterdir():
                _link(file, part / kind / file.name)
    lists = part / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, sources in (("trainval", years), ("test", years[:1])):
        listed = [(year / "ImageSets" / "Main" / f"{split}.txt").read_text("utf-8") for year in sources]
        (lists / f"{split}.txt").write_text("".join(text.rstrip("\n") + "\n" for text in listed), "utf-8")
    part.replace(folder)


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, link)
