"""Names are text: in a terminal, a table, a page and a spreadsheet."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import rcnn
from rcnn.cli import console as cli_console
from rcnn.data.convert import convert
from rcnn.data.formats.open import open_data
from rcnn.evaluation.evaluator import evaluate_results
from rcnn.evaluation.report import write_report
from rcnn.io.escaping import for_csv, for_terminal, from_csv
from rcnn.metrics.shown import MetricTable
from rcnn.structures.instances import table
from rcnn.training.progress import RunLog, say
from tiny import tiny_shapes

SOURCES = Path(rcnn.__file__).parent
EVIL = (
    "cell [dead]", "[/bold]", "[red]", "a\x1b[31mb", "a\x9b2J", "line\nbreak", "back\rspace", "\u202eevil",
    "caf\udce9.jpg", "\x00", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&amp;",
    "'quoted'", "=1+1", "+cmd|' /C calc'!A0", "-1+1", "@SUM(A1)", "'=1", "''@a", "\tx",
    "$\\frac$", "{name}", "%s", "",
)  # fmt: skip
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def terminal() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False, soft_wrap=True)


def shown(console: Any) -> str:
    return str(console.file.getvalue())


@pytest.mark.parametrize("name", EVIL)
def test_no_character_acts_in_a_terminal(name: str) -> None:
    for lines in (False, True):
        assert not CONTROLS.search(for_terminal(name, lines=lines))
    assert "\n" not in for_terminal(name)
    assert for_terminal("Zelle é 細胞 🙂") == "Zelle é 細胞 🙂"


@pytest.mark.parametrize("name", EVIL)
def test_every_printer_shows_a_name_whole(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    safe, of_line = for_terminal(name), for_terminal(name, lines=True)
    cells = MetricTable(name, (name, name), [(name, 0.5)], caption=name).rich()
    printers: dict[str, Any] = {
        "a table": lambda console: console.print(cells),
        "a line": lambda console: say(console, f"class {name}."),
        "the log": lambda console: RunLog(tmp_path / "log.txt", console, quiet=False).say(f"class {name}."),
    }
    for printer, show in printers.items():
        console = terminal()
        show(console)
        expected = of_line if printer != "a table" else safe
        assert expected.strip() in shown(console), printer
        assert not CONTROLS.search(shown(console)), printer
    assert not CONTROLS.search((tmp_path / "log.txt").read_text())
    cli_console.print_text(f"class {name}.")
    cli_console.print_error(f"class {name}.")
    cli_console.print_table(cells)
    output, errors = capsys.readouterr()
    assert f"class {of_line}." in output
    assert f"class {of_line}.".expandtabs() in errors.expandtabs()
    assert not CONTROLS.search(output + errors)


def test_there_are_no_other_printers() -> None:
    """What is printed passes through the functions above; tables of rich have cells made by ``plain``."""
    doors = {"cli/console.py", "training/progress.py", "metrics/shown.py"}
    others: list[str] = []
    for file in SOURCES.rglob("*.py"):
        place = file.relative_to(SOURCES).as_posix()
        for line in file.read_text("utf-8").splitlines():
            prints = re.search(r"(?<![\w.])print\(|\.print\(|\becho\(|stdout\.write\(|stderr\.write\(", line)
            is_table = re.search(r"\bconsole\.print\(evaluation\.table\(\)\)", line)
            rows = re.search(r"add_row\(|add_column\(|\bTable\(", line) and "plain" not in line
            if place not in doors and ((prints and not is_table) or rows):
                others.append(f"{place}: {line.strip()}")
    # The figures of a benchmark have rows of our own words.
    assert [line for line in others if not line.startswith("inference/benchmark.py")] == []


@pytest.mark.parametrize("name", EVIL)
def test_spreadsheets_compute_nothing(name: str) -> None:
    cell = for_csv(name)
    assert isinstance(cell, str)
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert from_csv(cell) == name


@pytest.mark.parametrize("value", ["-1.5", "+2", "-.5e-3", "0.25", -3, 2.5])
def test_numbers_stay_numbers(value: object) -> None:
    assert for_csv(value) == value


def test_tables_are_marked() -> None:
    (row,) = csv.reader(io.StringIO(table([["=1+1", "-2.50", "a"]])))
    assert row == ["'=1+1", "-2.50", "a"]


NAMES = ("=1+1", "[/bold]", "a\x1b[31m", "<script>alert(1)</script>")


def renamed(file: Path, names: tuple[str, ...]) -> Path:
    """The COCO file with other names of its categories."""
    content = json.loads(file.read_text())
    for category, name in zip(content["categories"], names, strict=False):
        category["name"] = name
    file.write_text(json.dumps(content))
    return file


def test_names_come_back_from_a_table_as_they_were(tmp_path: Path) -> None:
    file = renamed(tiny_shapes(4).write(tmp_path / "shapes"), ("=1+1", "'-x"))
    dataset = open_data(file)
    convert(dataset, tmp_path / "csv", to="csv")
    text = (tmp_path / "csv" / "annotations.csv").read_text()
    assert ",=1" not in text
    assert ",'=1" in text
    assert set(open_data(tmp_path / "csv" / "annotations.csv").class_names) == set(dataset.class_names)


def test_a_report_and_an_evaluation_of_evil_names(tmp_path: Path) -> None:
    file = tiny_shapes(3).write(tmp_path / "shapes")
    content = json.loads(file.read_text())
    for category, name in zip(content["categories"], EVIL[1:], strict=False):
        category["name"] = ("[/bold]<script>alert(1)</script>$\\frac$\x1b[31m" + name).replace("\x00", "")
    for number, entry in enumerate(content["images"]):
        old = file.parent / entry["file_name"]
        new = old.with_name(f"[red]<b>{number}.png")
        (old if old.is_file() else next(file.parent.rglob(old.name))).rename(file.parent / new.name)
        entry["file_name"] = new.name
    file.write_text(json.dumps(content))
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in content["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    evaluation, found = evaluate_results(tmp_path / "results.json", file)
    console = terminal()
    console.print(evaluation.table())
    assert "[/bold]" in shown(console)
    assert not CONTROLS.search(shown(console))
    page = write_report(
        tmp_path / "report.html", title="<b>0", facts={"[a]": "<b>0"}, history=[], evaluation=evaluation,
        dataset=open_data(file), predictions=found, seconds={},
    ).read_text("utf-8")  # fmt: skip
    assert "<script>alert" not in page
    assert "<b>0" not in page
