"""The categories of a COCO file: which become classes, which are placeholders, which are one and the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from rcnn.data.builder import DatasetBuilder
from rcnn.data.formats.coco_forms import number, whole_number
from rcnn.data.formats.outlines import is_number

Entry = dict[str, Any]
NO_GROUP = ("", "none")


@dataclass(frozen=True)
class Categories:
    """The classes of a file.

    Attributes:
        names: in label order, which is the order of their ids.
        ids: the category id of each class; of merged categories, the lowest.
        labels: the label of each category id, merged ones included.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    labels: dict[int, int]


def read_categories(
    builder: DatasetBuilder, usable: Sequence[tuple[str, Entry]], used: AbstractSet[Any]
) -> Categories:
    """The classes that categories declare; whatever is dropped or merged is reported.

    Args:
        builder: collects the problems.
        usable: the usable categories of the file, with their places.
        used: the category ids that occur in annotations.
    """
    kept = [pair for pair in usable if not _is_placeholder(pair[1], usable, used)]
    for place, entry in usable:
        if (place, entry) not in kept:
            what = f"The category {entry['id']}, {entry['name']!r}, has no objects and only groups others."
            builder.warn(what, "It was left out, as a placeholder (Roboflow writes them).", place)
    named: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    for place, entry in sorted(kept, key=lambda pair: pair[1]["id"]):
        named[entry["name"]].append((place, entry))
    for name, same in named.items():
        _report_equal_names(builder, name, same)
    labels = {entry["id"]: label for label, same in enumerate(named.values()) for _, entry in same}
    ids = tuple(same[0][1]["id"] for same in named.values())
    return Categories(tuple(named), ids, labels)


def usable_categories(builder: DatasetBuilder, entries: Sequence[Any]) -> Iterator[tuple[str, Entry]]:
    """Yield the usable categories with their places in the file, and report the others."""
    seen: set[int] = set()
    for index, found in enumerate(entries):
        place = f"categories[{index}]"
        entry = {**found, "id": whole_number(found.get("id"))} if isinstance(found, dict) else {}
        name = _name(entry.get("name"))
        if name is None or isinstance(entry["id"], bool) or not isinstance(entry["id"], int):
            what = f"A category needs an integer id and a text as name; found {found!r:.80}."
            builder.report(what, "Complete it.", place)
        elif entry["id"] in seen:
            builder.report(f"The category id {entry['id']} occurs twice.", "Give each its own.", place)
        else:
            seen.add(entry["id"])
            yield place, {**entry, "name": name}


def _name(found: Any) -> str | None:
    """A class name without blanks at its ends; numbers are names, too."""
    text = str(found).strip() if isinstance(found, str) or is_number(number(found)) else ""
    return text or None


def _group(entry: Entry) -> str:
    return str(entry.get("supercategory") or "").strip()


def _is_placeholder(entry: Entry, all_of_them: Sequence[tuple[str, Entry]], used: AbstractSet[Any]) -> bool:
    """Whether a category has no objects, belongs to no group, and is itself the group of another."""
    groups = {_group(other) for _, other in all_of_them if other is not entry}
    return entry["id"] not in used and _group(entry).lower() in NO_GROUP and entry["name"] in groups


def _report_equal_names(builder: DatasetBuilder, name: str, same: Sequence[tuple[str, Entry]]) -> None:
    if len(same) == 1:
        return
    ids = " and ".join(str(entry["id"]) for _, entry in same)
    groups = {_group(entry) for _, entry in same} - set(NO_GROUP)
    if len(groups) < 2:
        what = f"The categories {ids} are both named {name!r}."
        builder.warn(what, "They were merged into one class.", same[0][0])
        return
    what = f"The categories {ids} are both named {name!r}, in the groups {', '.join(sorted(groups))}."
    builder.report(what, "Rename one of them, or give both the same supercategory.", same[0][0])
