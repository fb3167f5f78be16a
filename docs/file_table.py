"""Writes the table of files in docs/architecture.md from the first lines of the modules' docstrings.

python docs/file_table.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- file table: python docs/file_table.py -->", "<!-- end of the file table -->"


def table() -> str:
    """One row per module of the package: its path and the first sentence of its docstring."""
    source = ROOT / "src" / "rcnn"
    rows = ["| file | what it is |", "|---|---|"]
    paths = sorted(source.rglob("*.py"), key=lambda path: (path.parent != source, path.as_posix()))
    for path in paths:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        about = " ".join(docstring.partition("\n\n")[0].split()).replace("|", "\\|")
        if path.name != "__init__.py":
            rows.append(f"| `{path.relative_to(source).as_posix()}` | {about} |")
    return "\n".join(rows)


def page() -> str:
    """The page with the table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
