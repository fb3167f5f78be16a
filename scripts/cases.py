#!/usr/bin/env python3
"""Open small data sets as people really have them, and say how each was read.

    python scripts/cases.py [FOLDER] [--only PREFIX] [--verbose]

FOLDER (default: ../shared/cases) holds scripts, each with a function ``build(folder)`` that writes one data
set and returns ``data``, the path a user names, and ``args``; and ``wild_layouts.py``, which writes many
folders. ``cases.toml`` next to this script says what is right for each. Every data set is opened and checked
as ``rcnn data check`` does it, in one process:

    right      the objects, boxes and areas are those expected, and what must be said is said
    warned     other objects, but a warning says what was found
    refused    an error that names what the table asks for
    unhelpful  an error that does not
    silent     other objects, and no word
    crash      an exception that is no error of the package
"""

from __future__ import annotations

import argparse
import importlib
import io
import re
import subprocess
import sys
import tempfile
import tomllib
import warnings
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("right", "warned", "refused", "unhelpful", "silent", "crash")
TOLERANCE = 0.02  # pixels: text files round
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One data set: where it is, how it is opened, and what is right."""

    name: str
    path: Path
    images: Path | None
    wanted: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a case was read: one of ``KINDS``, and what was found."""

    kind: str
    found: str


def main() -> int:
    """Build all cases, open them, and print a table and a summary. 0 if none is silent or a crash."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", default=HERE.parent / "../shared/cases", type=Path)
    parser.add_argument("--only", default="", help="names that begin so")
    parser.add_argument("--verbose", action="store_true", help="print the messages of all cases, uncut")
    options = parser.parse_args()
    if not options.folder.is_dir():
        print(f"skipped: {options.folder} does not exist; name the folder of the case scripts.")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        table = tomllib.loads((HERE / "cases.toml").read_text("utf-8"))
        outcomes = {}
        for case in built_cases(options.folder.resolve(), Path(folder), table, options.only):
            outcomes[case.name] = case if isinstance(case, Outcome) else judged(case)
            outcome = outcomes[case.name]
            text = outcome.found if options.verbose else " ".join(outcome.found.split())[:150]
            print(f"{case.name:32} {outcome.kind:10} {text}", flush=True)
    summary(outcomes)
    return int(any(outcome.kind in ("silent", "crash") for outcome in outcomes.values()))


def built_cases(scripts: Path, folder: Path, table: dict[str, Any], only: str) -> Any:
    """The cases, built one after the other below ``folder``."""
    sys.path.insert(0, str(scripts))
    for script in sorted(scripts.glob("[!_]*.py")):
        if script.stem == "wild_layouts" or not script.stem.startswith(only):
            continue
        module = stand_in(script.stem) or importlib.import_module(script.stem)
        place = folder / script.stem / "data"
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = module.build(place)
        given = list(map(str, made.get("args", ())))
        images = Path(given[given.index("--images") + 1]) if "--images" in given else None
        yield Case(script.stem, Path(made["data"]), images, table.get(script.stem, {}))
    if "wild".startswith(only) or only.startswith("wild"):
        yield from wild_cases(scripts, folder / "wild", table, only)


def wild_cases(scripts: Path, folder: Path, table: dict[str, Any], only: str) -> Any:
    """The folders that ``wild_layouts.py`` writes."""
    folder.mkdir()
    command = [sys.executable, str(scripts / "wild_layouts.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    for place in sorted(folder.iterdir()):
        name = f"wild/{place.name}"
        if name.startswith(only):
            wanted = table.get(name, {})
            yield Case(name, place / wanted.get("data", "."), None, wanted)


def stand_in(name: str) -> Any:
    """Two scripts refer to modules that are not there, one builds none; these do what they describe."""
    import types

    from _common import B1, B2, js, labelme, pic, pts, put, save, shape, voc_xml

    def labelme_in_two_folders(root: Path) -> dict[str, Any]:
        for stem in "ab":
            save(root / "images" / f"{stem}.jpg", pic())
            shapes = [shape("cell", pts(B1)), shape("cell", pts(B2))]
            js(root / "json" / f"{stem}.json", labelme(f"{stem}.jpg", shapes))
        return {"data": root / "json", "args": ["--images", root / "images"]}

    def voc_in_nested_folders(root: Path) -> dict[str, Any]:
        names = [f"{part}/{stem}" for part in ("one", "two") for stem in "ab"]
        for stem in names:
            save(root / "JPEGImages" / f"{stem}.jpg", pic())
            put(root / "Annotations" / f"{stem}.xml", voc_xml(f"{stem}.jpg"))
        put(root / "ImageSets/Main/default.txt", "\n".join(names))
        return {"data": root / "ImageSets/Main/default.txt"}

    def tiffs_of_16_bits(root: Path) -> dict[str, Any]:
        from _tif import LAB, tif

        pixels = np.full((48, 64, 3), (40000, 30000, 12000), np.uint16)
        pixels[:4] = 0
        for stem, compression in (("plain", None), ("deflated", "deflate")):
            shared = {"photometric": "rgb", "compression": compression}
            tif(root / f"images/contiguous_{stem}.tif", pixels, **shared)
            planes = pixels.transpose(2, 0, 1)
            tif(root / f"images/planar_{stem}.tif", planes, planarconfig="separate", **shared)
            for layout in ("contiguous", "planar"):
                tif(root / f"labels/{layout}_{stem}.tif", LAB("uint16"))
        return {"data": root}

    builds = {
        "tif_16bit_rgb_check": tiffs_of_16_bits,
        "lm_two_folders_images_opt": labelme_in_two_folders,
        "voc_cvat_nested_list": voc_in_nested_folders,
    }
    return types.SimpleNamespace(build=builds[name]) if name in builds else None


def judged(case: Case) -> Outcome:
    """Open and check a case, and compare it with what is right."""
    try:
        splits = opened(case)
        reports = check_all(splits)
    except ValueError as error:
        return refusal(case, str(error))
    except Exception as error:  # whatever it is: a user would see a traceback
        return Outcome("crash", f"{type(error).__name__}: {error}")
    errors = [str(problem) for report in reports for problem in report.errors]
    said = "\n".join(str(problem) for report in reports for problem in report.warnings)
    if errors:
        return refusal(case, "\n".join(errors))
    differences = [line for line in compared(case, splits) if line]
    spoken = bool(re.search(case.wanted["warns"], said, re.I | re.S)) if "warns" in case.wanted else None
    found = "; ".join([described(splits), *differences, *said.splitlines()])
    if not case.wanted:
        return Outcome("silent", f"not in cases.toml: {found}")
    checked = any(key in case.wanted for key in ("objects", "boxes", "areas", "splits", "classes"))
    if checked and not differences and spoken is not False:
        return Outcome("right", found)
    return Outcome("warned" if spoken else "silent", found)


def opened(case: Case) -> dict[str, Any]:
    """The splits of a case by name, as ``rcnn data check`` opens them."""
    from rcnn.data.formats.open import open_splits

    return dict(open_splits(case.path, case.images))


def check_all(splits: dict[str, Any]) -> list[Any]:
    """The reports of all splits."""
    from rcnn.data.check import check

    return [check(dataset) for dataset in splits.values()]


def refusal(case: Case, message: str) -> Outcome:
    """An error: helpful if it says what the table asks for."""
    wanted = case.wanted.get("refuses")
    helpful = wanted is not None and re.search(wanted, message, re.I | re.S)
    return Outcome("refused" if helpful else "unhelpful", message)


def compared(case: Case, splits: dict[str, Any]) -> list[str]:
    """The differences between what was read and what is right."""
    wanted = case.wanted
    datasets = list(splits.values())
    records = [record for dataset in datasets for record in dataset.records]
    first = records[0].load_truth() if records else None
    differences = []
    if "splits" in wanted and list(splits) != wanted["splits"]:
        differences.append(f"splits {', '.join(splits) or 'none'}")
    counts = [sum(len(record.truth) for record in records)]
    if "objects" in wanted and counts[0] not in np.atleast_1d(wanted["objects"]):
        differences.append(f"{counts[0]} objects, expected {wanted['objects']}")
    if "images" in wanted and len(records) != wanted["images"]:
        differences.append(f"{len(records)} images, expected {wanted['images']}")
    if "classes" in wanted and list(datasets[0].class_names) != wanted["classes"]:
        differences.append(f"classes {', '.join(datasets[0].class_names)}")
    if "boxes" in wanted:
        right = np.array([list(map(float, box.split())) for box in wanted["boxes"].split(";")])
        boxes = np.zeros((0, 4)) if first is None else first.boxes
        near = wanted.get("tolerance", TOLERANCE)
        if boxes.shape != right.shape or np.abs(in_order(boxes) - in_order(right)).max() > near:
            differences.append(f"boxes {boxes.round(2).tolist()}")
    if "pixel" in wanted:
        pixels = [record.load_image()[10, 10].tolist() for record in records]
        differences += [f"pixel {p}" for p in pixels if np.abs(np.subtract(p, wanted["pixel"])).max() > 1]
    if "channels" in wanted:
        found = {record.load_image().shape[2] for record in records}
        differences += [f"{n} channels" for n in found if n != wanted["channels"]]
    if "areas" in wanted:
        areas = [] if first is None or first.masks is None else sorted(first.masks.areas().tolist())
        if areas != sorted(wanted["areas"]):
            differences.append(f"mask areas {areas}")
    return differences


def in_order(boxes: Any) -> Any:
    """Boxes sorted by their corners."""
    return np.array(sorted(boxes.tolist()))


def described(splits: dict[str, Any]) -> str:
    """What was opened, in a few words."""
    parts = []
    for name, dataset in splits.items():
        objects = sum(len(record.truth) for record in dataset.records)
        parts.append(f"{name} {dataset.format}, {len(dataset)} images, {objects} objects".strip())
    return " + ".join(parts)


def summary(outcomes: dict[str, Outcome]) -> None:
    """Counts by kind, for all and for the first word of the names."""
    groups: dict[str, Counter[str]] = {}
    for name, outcome in outcomes.items():
        groups.setdefault(re.split("[_/]", name)[0], Counter())[outcome.kind] += 1
    print("\n" + " ".join(["group".ljust(10), *(kind.rjust(9) for kind in KINDS), "    total"]))
    for group, counts in [*groups.items(), ("all", sum(groups.values(), Counter()))]:
        cells = [str(counts[kind]).rjust(9) for kind in KINDS]
        print(" ".join([group.ljust(10), *cells, str(counts.total()).rjust(9)]))
    clear = sum(outcome.kind in ("right", "warned", "refused") for outcome in outcomes.values())
    print(f"right, or one clear sentence: {clear} of {len(outcomes)}, {clear / max(len(outcomes), 1):.0%}")


if __name__ == "__main__":
    sys.exit(main())
