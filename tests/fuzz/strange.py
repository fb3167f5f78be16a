"""Values that files should not have, and places in nested content to put them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

DIGITS, DEPTH = 100_000, 20_000
LONG_NUMBER, DEEP = "@LONG_NUMBER@", "@DEEP@"  # json cannot write these, so they are put in as texts first

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2.5, -0.0, 1e300, -1e300, 1e-300, float("nan"), float("inf"),
    float("-inf"), 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, LONG_NUMBER, DEEP, "", "x", "-1",
    "1e999", "nan", " ", "\0", "\ud800", "é\u202e\x1b[31m",
    "a" * 5000, "../../../etc/passwd", "/dev/zero", [], {},
    [[]], [None], ["x"], {"x": 1}, [1, 2, 3, 4], [[1, 2], [3]], [float("nan")] * 4, [1e300] * 6, [True],
    [[1, 2, 3, 4, 5, 6]], {"size": [-1, 5], "counts": [-3, 5]}, {"size": [48, 64], "counts": "x"},
    {"size": [2**31, 2**31], "counts": [2**62]},
)  # fmt: skip

TOKENS = (
    b"", b"x", b"-1", b"0", b"1e300", b"-1e300", b"nan", b"inf", b"-inf", b"1_0", b"0x10", b"1,5", b"1 2",
    b'"', b"'", b"\0", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"#", b"9" * DIGITS, b"9" * 5000, b"9" * 18,
    b"18446744073709551616", b"true", b"null", b"[]", b"{}", b"[1]", b"{a: 1}", b"[" * DEPTH, b"{a: " * 3000,
    b"2024-02-30", b"2024-01-01", b"99:99:99", b"2001-12-14t21:59:43.10-05:00", b".inf", b".nan", b"~",
    b"&a [*a]", b"&b {x: *b}", b"*zz", b"!!python/object:os.system x", b"!!timestamp x", b"!!binary x",
    b"!!set {a, b}", b"!!int x", b"<<", b"? [a]", b"- - -", b"0o17", b"1e999", b"../../../etc/passwd",
    b"/dev/zero", b"\r", b"\n", b"\t", b";", b"\xef\xbb\xbf", b"\xc2\x85",
)  # fmt: skip
"""What stands in texts of every kind (TOML, YAML, CSV, XML) in place of a word or number."""


def with_strange_value(content: Any, rng: random.Random) -> Any:
    """A copy of nested content in which one place is replaced, left out, doubled or taken from elsewhere."""
    other = copy.deepcopy(content)
    places = list(_places(other))
    if not places:
        return rng.choice(VALUES)
    parent, key = rng.choice(places)
    what = rng.randrange(8)
    if what == 0:
        del parent[key]
    elif what == 1:
        source, name = rng.choice(places)
        parent[key] = copy.deepcopy(source[name])
    elif what == 2 and isinstance(parent, list):
        parent.extend(copy.deepcopy(parent[key : key + 1]) * rng.choice((1, 1, 200)))
    elif what == 3 and isinstance(parent, dict):
        parent[rng.choice(("x", "", "id", "\ud800", "__class__"))] = parent.pop(key)
    elif what == 4 and isinstance(parent[key], int | float):
        parent[key] = parent[key] * rng.choice((-1, 0, 0.5, 1e6, 1e18)) + rng.choice((0, 1, 0.25))
    else:
        parent[key] = rng.choice(VALUES)
    return other


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in nested content with each of its keys; long lists by their ends alone."""
    if isinstance(content, dict | list):
        keys = list(content) if isinstance(content, dict) else range(len(content))
        for key in keys if len(keys) <= 40 else [*keys[:20], *keys[-20:]]:
            yield content, key
            yield from _places(content[key])


def as_json(content: Any) -> bytes:
    """JSON, with numbers and depths that Python's own writer refuses."""
    text = json.dumps(content, ensure_ascii=True)
    text = text.replace(f'"{LONG_NUMBER}"', "9" * DIGITS)
    return text.replace(f'"{DEEP}"', "[" * DEPTH + "]" * DEPTH).encode()
