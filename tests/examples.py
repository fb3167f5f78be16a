"""The examples in README.md and docs/: fenced blocks of Python and shell, and why some are not run."""

import re
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("python", "bash")
NOT_RUN = ("", "toml", "json", "text")  # languages of blocks that are no examples to run
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.*?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Example:
    """A fenced block.

    Attributes:
        page: the file it is in.
        language: what stands after the fence.
        code: its lines.
        reason: why it is not run, from the comment ``<!-- not run: REASON -->`` above it; none: it is run.
    """

    page: Path
    language: str
    code: str
    reason: str | None = None

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block: without comments, each on a line of its own."""
        text = re.sub(r"(^|\s)#.*$", "", self.code.replace("\\\n", " "), flags=re.M)
        return [part.strip() for line in text.splitlines() for part in line.split(" && ") if part.strip()]


def examples(page: Path, language: str | None = None) -> list[Example]:
    """The blocks of a page, in order; only those of a language if one is given."""
    text = page.read_text(encoding="utf-8")
    found = [Example(page, b["language"], b["code"], b["reason"]) for b in _BLOCK.finditer(text)]
    return [example for example in found if language in (None, example.language)]
