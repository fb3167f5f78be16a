"""What tests of the page share."""

from collections.abc import Iterator
from typing import Any

import pytest

from browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, started once per file; the tests are skipped where there is none."""
    with chromium() as found:
        yield found
