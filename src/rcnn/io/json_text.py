"""Read JSON of unknown origin: every fault is a :class:`ValueError`.

``json.loads`` also raises a RecursionError for values that are nested too deeply.
"""

from __future__ import annotations

import json
from typing import Any


def parse_json(content: str | bytes) -> Any:
    """The value that a text of JSON holds.

    Args:
        content: text, or bytes in UTF-8, UTF-16 or UTF-32.

    Raises:
        ValueError: not JSON, nested too deeply, or an integer of thousands of digits. The message does not
            name the file.
    """
    try:
        return json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    except ValueError as error:  # Python's limit of digits
        raise ValueError("it has an integer of thousands of digits") from error


def object_of(content: str | bytes) -> dict[str, Any]:
    """The object that a text of JSON holds; raises as :func:`parse_json`, and for any other value."""
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object; found {type(value).__name__}")
    return value
