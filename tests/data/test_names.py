"""The law of ``rcnn.data.names``: all writers, all formats, names of many kinds of files and classes."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dark import detector
from rcnn.data.check import check
from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset
from rcnn.data.fixing import fix_data
from rcnn.data.formats.open import open_data
from rcnn.data.formats.registry import writable
from rcnn.data.merging import merge_data
from rcnn.data.names import refuse_names
from rcnn.data.show import show
from rcnn.data.splitting import split_data
from rcnn.evaluation.data_page import data_stats
from rcnn.evaluation.evaluator import measure_predictions
from rcnn.evaluation.report import write_report
from rcnn.inference.writers import predict_to_files
from rcnn.io.escaping import from_csv
from tiny import tiny_shapes

NAMES = {
    "no UTF-8": os.fsdecode(b"caf\xe9"), "blank before": " a", "blank after": "a ", "only a blank": " ",
    "no-break space": "\xa0a\xa0", "carriage return": "a\rb", "line break": "a\nb", "tab": "a\tb",
    "next line": "a\x85b", "line separator": "a\u2028b", "control": "a\x01b", "escape": "a\x1b[31mb",
    "quotes": "a\"b'c", "comma": "a,b;c", "markup": "a<b>&c", "formula": "=1+1", "address": "#a %b?c",
    "percent": "%20a", "backslash": "a\\b", "colon": "a: b", "dash": "- a", "braces": "{a}",
    "decomposed": "e\u0301", "YAML's null": "null", "number": "12", "long": "x" * 251, "long, é": "é" * 125,
}  # fmt: skip
# What no file is called.
CLASSES = {**NAMES, "empty": "", "300 characters": "x" * 300, "nothing": "a\x00b", "slash": "a/b"}
FORMATS = writable()
WITHOUT_CLASSES = ("masks", "labels")

Write = Callable[[Dataset, Path, str], object]
WRITERS: dict[str, Write] = {
    "convert": lambda data, out, to: convert(data, out, to=to),
    "split": lambda data, out, to: split_data(data, out, to=to, val=0.3),
    "merge": lambda data, out, to: merge_data(
        [data.subset([0]), data.subset(range(1, len(data)))], out, to=to
    ),
    "fix": lambda data, out, to: fix_data(data, out, to=to),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """An image for each name, no two alike."""
    folder = tmp_path_factory.mktemp("names") / "data"
    shapes = open_data(tiny_shapes(len(NAMES)).write(folder))
    records = []
    for name, record in zip(NAMES.values(), shapes.records, strict=True):
        path = folder / "images" / f"{name}.png"
        path.write_bytes(record.path.read_bytes())
        records.append(replace(record, path=path))
    return replace(shapes, records=records)


def held(data: Dataset, to: str) -> bool:
    try:
        refuse_names([data], to)
    except ValueError:
        return False
    return True


def names_read(out: Path, to: str) -> set[str]:
    found = set()
    for part in [folder for folder in sorted(out.iterdir()) if folder.name in ("train", "val")] or [out]:
        back = open_data(part, format=to)
        assert not [problem for problem in back.problems if problem.severity == "error"]
        found |= {record.path.name for record in back.records if len(record.truth)}
    return found


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("to", FORMATS)
def test_names_of_files_come_back(to: str, writer: str, data: Dataset, tmp_path: Path) -> None:
    """Those that the format can hold, all at once."""
    kept = [index for index in range(len(data)) if held(data.subset([index]), to)]
    assert len(kept) >= len(NAMES) // 2
    some = data.subset(kept)
    WRITERS[writer](some, tmp_path / "out", to)
    expected = {record.path.name for record in some.records}
    assert names_read(tmp_path / "out", to) == expected


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("to", FORMATS)
def test_other_names_of_files_are_refused_before_anything_is_written(
    to: str, writer: str, data: Dataset, tmp_path: Path
) -> None:
    good = next(index for index in range(len(data)) if held(data.subset([index]), to))
    for index in range(len(data)):
        if not held(data.subset([index]), to):
            some = data.subset([index, good, (good + 1) % len(data)])
            with pytest.raises(ValueError, match=f"which --to {to} cannot hold; rename the file"):
                WRITERS[writer](some, tmp_path / "out", to)
    assert not list(tmp_path.iterdir())


def with_class(data: Dataset, name: str) -> Dataset:
    names = (name, *data.class_names[1:])

    def renamed(record: Any) -> Any:
        return replace(record, truth=replace(record.truth, class_names=names))

    return data.mapped(renamed, class_names=names)


@pytest.mark.parametrize("to", [to for to in FORMATS if to not in WITHOUT_CLASSES])
def test_names_of_classes_come_back_or_are_refused(to: str, data: Dataset, tmp_path: Path) -> None:
    plain = [
        index for index in range(len(data)) if data.records[index].path.stem in ("null", "12", "e\u0301")
    ]
    wrong, refused = {}, []
    for kind, name in CLASSES.items():
        one, out = with_class(data.subset(plain), name), tmp_path / kind
        try:
            convert(one, out, to=to)
        except ValueError as error:
            refused.append(kind)
            if out.exists() or "rename the class" not in str(error):
                wrong[kind] = str(error)
            continue
        back = open_data(out, format=to)
        used = sorted(one.class_names[label] for record in one.records for label in record.truth.labels)
        read = sorted(back.class_names[label] for record in back.records for label in record.truth.labels)
        if read != used or any(problem.severity == "error" for problem in back.problems):
            wrong[kind] = ascii(back.class_names)
    assert not wrong
    assert len(refused) < len(CLASSES) // 2


def test_what_a_prediction_writes(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "found"
    (tmp_path / "images").mkdir()
    for record in data.records:
        (tmp_path / "images" / record.path.name).write_bytes(record.path.read_bytes())
    predict_to_files(detector(), [tmp_path / "images"], out)
    expected = {record.path.name for record in data.records}
    content = json.loads((out / "predictions.json").read_bytes())
    assert {image["file_name"] for image in content["images"]} == expected
    for name in ("objects.csv", "counts.csv"):
        with (out / name).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            found = {from_csv(row["image"]) for row in csv.DictReader(file)}
        assert found <= expected
        assert name == "objects.csv" or found == expected
    assert {path.name for path in (out / "overlays").iterdir()} == expected


def test_pages_pictures_and_checks(data: Dataset, tmp_path: Path) -> None:
    few = data.subset(index for index, kind in enumerate(NAMES) if kind in ("no UTF-8", "escape", "markup"))
    for kind in ("no UTF-8", "300 characters", "markup"):
        one = with_class(few, CLASSES[kind])
        assert str(check(one, decode=False))
        found = [
            replace(truth, scores=np.ones(len(truth), np.float32))
            for truth in (record.load_truth() for record in one.records)
        ]
        evaluation = measure_predictions(one, one, found)
        for page in (
            data_stats([one], tmp_path / "stats.html"),
            write_report(
                tmp_path / "report.html", title=kind, facts={CLASSES[kind]: CLASSES[kind]}, history=[],
                evaluation=evaluation, dataset=one, predictions=found, seconds={},
            ),
        ):  # fmt: skip
            text = page.read_bytes().decode("utf-8")
            assert "\x1b" not in text
            assert "<b>&c" not in text
    assert show(data, tmp_path / "shown", count=len(data)).images == len(data)


def test_check_tells_of_names_that_are_not_utf_8(data: Dataset) -> None:
    told = [problem for problem in check(data, decode=False).problems if "not UTF-8" in problem.what]
    assert [problem.severity for problem in told] == ["warning"]
    assert "1 images have names that are not UTF-8: caf\udce9.png." in told[0].what
