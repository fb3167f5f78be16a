"""YAML of plain values, bounded: nothing in a file is built by a class that it names, and none of it expands.

An alias repeats what an anchor marks, and aliases of aliases repeat it many times over: what a file stands
for when all of them are written out is counted before it is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

LONGEST = 2_000_000  # characters; reading takes about ten seconds for each million
MOST_VALUES = 1_000_000  # with all aliases written out


def parse_yaml(text: str, path: Path, *, as_texts: bool = False) -> Any:
    """The content of a YAML document.

    Args:
        text: the document.
        path: the file, for messages.
        as_texts: keep every scalar as it is written, instead of ``No`` as False and ``1`` as a number.

    Raises:
        ValueError: no YAML, a tag other than those of plain values, or too large.
    """
    import yaml

    if len(text) > LONGEST:
        raise ValueError(f"{path}: a YAML file of {len(text):,} characters; expected at most {LONGEST:,}.")
    loader: Any = None
    try:
        loader = (yaml.BaseLoader if as_texts else yaml.SafeLoader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (count := _written_out(node, {}, set())) > MOST_VALUES:
            raise ValueError(f"its aliases stand for {count:,} values; expected at most {MOST_VALUES:,}")
        return loader.construct_document(node)
    except Exception as error:  # PyYAML's constructors raise anything for malformed tagged values
        raise ValueError(f"{path}: this is not YAML of plain values ({error}). Fix it.") from error
    finally:
        if loader is not None:
            loader.dispose()


def _written_out(node: Any, counts: dict[int, int], above: set[int]) -> int:
    """The number of values in a node with its aliases written out.

    Raises:
        RecursionError: a node contains itself.
    """
    if id(node) in counts:
        return counts[id(node)]
    if id(node) in above:
        raise RecursionError("it contains itself")
    children = node.value if isinstance(node.value, list) else []
    parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
    above.add(id(node))
    counts[id(node)] = 1 + sum(_written_out(part, counts, above) for part in parts)
    above.remove(id(node))
    return counts[id(node)]
