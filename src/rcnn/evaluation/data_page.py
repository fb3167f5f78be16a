"""What is in a data set, as one self-contained HTML page: what is suspicious first, then what is usual.

Like the report of a run, the page needs no network and no scripts, and stays at a few megabytes for any data
set, since the numbers of pictures are limited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_splits
from rcnn.data.output_folder import Progress, part_of_progress
from rcnn.data.twins import Looks, connected, content_digest, groups_of_equal, looks_of, near_pairs
from rcnn.evaluation.data_charts import busiest, histogram, position_map, size_scatter
from rcnn.evaluation.page import Row, card_pair, html_page, html_table, jpeg, plural, table_card
from rcnn.evaluation.pictures import cropped
from rcnn.evaluation.suspects import KINDS, Objects, Suspect, find_suspects
from rcnn.io.atomic import write_atomically
from rcnn.io.destinations import refuse_unwritable_file
from rcnn.io.images import ImageError
from rcnn.lettering import Colour
from rcnn.metrics import DASH
from rcnn.structures import Instances, Size

MAX_CROPS = 10  # of each kind of suspicious objects
MAX_PAIRS = 10  # of images that occur more than once
MAX_PROBLEMS = 12
MAX_COMPARED = 20_000  # images of a data set that are compared with one another
LONGEST_NAME = 44  # characters
THUMBNAIL = 230
SUSPECT_COLOUR: Colour = (255, 64, 32)
OTHER_COLOUR: Colour = (0, 190, 255)


@dataclass(frozen=True)
class Part:
    """One data set, or one split of it.

    Attributes:
        name: what the page calls it.
        dataset: the data set.
    """

    name: str
    dataset: Dataset

    @cached_property
    def objects(self) -> Objects:
        """Its objects without crowds."""
        return Objects.of(self.dataset)

    @cached_property
    def suspects(self) -> list[Suspect]:
        """Its suspicious objects."""
        return find_suspects(self.dataset, self.objects)

    @cached_property
    def counts(self) -> npt.NDArray[np.float64]:
        """``[I]``: the number of objects of each image."""
        return np.bincount(self.objects.images, minlength=len(self.dataset)).astype(np.float64)


@dataclass(frozen=True)
class Twins:
    """Images that occur more than once; an image is the index of its part and its index there.

    Attributes:
        equal: groups of images with the same content.
        near: groups of images that look alike.
        compared: number of images that were compared.
        total: number of images.
    """

    equal: list[list[tuple[int, int]]]
    near: list[list[tuple[int, int]]]
    compared: int
    total: int


def data_stats(
    data: Dataset | str | Path | Sequence[Dataset | str | Path],
    out: str | Path,
    *,
    progress: Progress | None = None,
) -> Path:
    """Write a page about data sets: what to look at first, classes, sizes, shapes, positions, duplicates.

    Args:
        data: an opened data set, or a path that :func:`rcnn.open_data` reads; or several, which are compared.
            All splits of a folder are opened.
        out: the HTML file; its folder is created if it is missing.
        progress: called with the number of images looked at and in total.

    Returns:
        The file. After an error it is what it was before.

    Raises:
        ValueError: data that cannot be opened, or without a single image or object; a file that cannot be
            written.
    """
    path = Path(out)
    refuse_unwritable_file(path)
    parts = _parts([data] if isinstance(data, Dataset | str | Path) else data)
    if not any(len(part.objects) for part in parts):
        raise ValueError(f"{parts[0].dataset.source}: no image has an object; there is nothing to show.")
    twins = _find_twins(parts, progress)
    body = [
        _tiles(parts, twins), _suspicious(parts), _duplicates(parts, twins), _classes(parts), _shapes(parts),
        _images(parts), _problems(parts),
    ]  # fmt: skip
    title = " and ".join(dict.fromkeys(part.name.partition(": ")[0] for part in parts))
    write_atomically(path, html_page(title, "\n".join(filter(None, body))).encode())
    return path


def _parts(sources: Sequence[Dataset | str | Path]) -> list[Part]:
    parts = []
    for source in sources:
        place = source.source if isinstance(source, Dataset) else Path(source)
        for split, dataset in open_splits(source).items():
            if len(dataset):
                parts.append(Part(f"{place.name}: {split}" if split else str(place.name), dataset))
            elif not split:
                raise ValueError(f"{place}: no usable image; list the problems with rcnn data check {place}")
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        parts = [Part(str(part.dataset.source), part.dataset) for part in parts]
    return parts


def _find_twins(parts: Sequence[Part], progress: Progress | None) -> Twins:
    """Images with the same content, and images that look alike, within and across the parts."""
    total = sum(len(part.dataset) for part in parts)
    places: list[tuple[int, int]] = []
    digests: list[str] = []
    looks: list[Looks | None] = []
    for number, part in enumerate(parts):
        count = max(1, min(len(part.dataset), MAX_COMPARED * len(part.dataset) // total))
        indices = part.dataset.evenly_spaced(count)
        records = [part.dataset.records[index] for index in indices]
        looks += looks_of(records, part_of_progress(progress, len(places), min(total, MAX_COMPARED)))
        for index, record in zip(indices, records, strict=True):
            places.append((number, index))
            try:
                digests.append(content_digest(record))
            except ImageError:
                digests.append("")
    equal = groups_of_equal(digests)
    known = {frozenset((a, b)) for group in equal for a in group for b in group if a != b}
    near = connected(pair for pair in near_pairs(looks) if frozenset(pair) not in known)
    groups = [[[places[i] for i in group] for group in found] for found in (equal, near)]
    for found in groups:  # what is in several parts first
        found.sort(key=lambda group: len({part for part, _ in group}) == 1)
    return Twins(groups[0], groups[1], len(places), total)


# Sections, in the order of the page


def _tiles(parts: Sequence[Part], twins: Twins) -> str:
    images = sum(len(part.dataset) for part in parts)
    empty = sum(int((part.counts == 0).sum()) for part in parts)
    torn = sum(len({part for part, _ in group}) > 1 for group in (*twins.equal, *twins.near))
    names = {name.casefold() for part in parts for name in part.dataset.class_names}
    tiles = [
        (f"{images:,}", "images" + (f" in {len(parts)} parts" if len(parts) > 1 else "")),
        (f"{sum(len(part.objects) for part in parts):,}", "objects"),
        (f"{len(names):,}", "classes" if len(names) != 1 else "class"),
        (f"{empty:,}", "images without objects"),
        (f"{sum(len(part.suspects) for part in parts):,}", "suspicious objects"),
        (f"{len(twins.equal) + len(twins.near):,}", "groups of equal or similar images"),
    ]
    tiles += [(f"{torn:,}", "of these groups in different parts")] if len(parts) > 1 else []
    boxes = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(t)}</span></div>' for v, t in tiles)
    return f'<div class="tiles">{boxes}</div>'


def _suspicious(parts: Sequence[Part]) -> str:
    """Crops of the most suspicious objects of each kind."""
    cards = []
    for kind, title in KINDS.items():
        found = [(part, one) for part in parts for one in part.suspects if one.kind == kind]
        found.sort(key=lambda pair: -pair[1].degree)
        crops = [_crop_figure(part, suspect, len(parts) > 1) for part, suspect in found[:MAX_CROPS]]
        if found:
            shown = f", the {len(crops)} most unusual" if len(found) > len(crops) else ""
            cards.append(
                f'<section class="card"><h3>{title}: {len(found):,}{shown}</h3>'
                f'<div class="crops">{"".join(crops)}</div></section>'
            )
    if not cards:
        return "<h2>Look at these first</h2><p>No object is unusual in size, shape or place.</p>"
    text = (
        "Objects that differ much from others of their class, or share their place with another. Many of "
        "them are right: this is where to look for clicks by accident, wrong classes and objects drawn twice."
    )
    return f"<h2>Look at these first</h2><p>{text}</p>{''.join(cards)}"


def _crop_figure(part: Part, suspect: Suspect, names_part: bool) -> str:
    record = part.dataset.records[suspect.image]
    where = f"{part.name}, " if names_part else ""
    name = f"{where}{record.path.name}, object {suspect.index + 1}"
    try:
        image = record.load_image()
    except ImageError as error:
        return f"<figure><p>{escape(str(error))}</p></figure>"
    picture = _crop(image, record.truth, suspect)
    text = f"<b>{escape(suspect.reason)}</b><span>{_short(name)}</span>"
    return f'<figure><img src="{jpeg(picture)}" alt="{escape(suspect.reason)}">{text}</figure>'


def _crop(image: npt.NDArray[np.uint8], truth: Instances, suspect: Suspect) -> Image.Image:
    """The object in its surroundings, outlined, with the other one if there is one."""
    rows = [suspect.index] + ([] if suspect.other is None else [suspect.other])
    return cropped(image, truth.boxes[rows], (SUSPECT_COLOUR, OTHER_COLOUR)[: len(rows)])


def _short(name: str) -> str:
    """A name that fits below a small picture; the whole one is shown where the pointer rests."""
    if len(name) <= LONGEST_NAME:
        return escape(name)
    half = LONGEST_NAME // 2
    return f'<span title="{escape(name)}">{escape(name[:half])}…{escape(name[-half:])}</span>'


def _duplicates(parts: Sequence[Part], twins: Twins) -> str:
    cards = []
    for title, groups in (
        ("The same content", twins.equal),
        ("Nearly the same picture", twins.near),
    ):
        torn = sum(len({part for part, _ in group}) > 1 for group in groups)
        shown = f", {torn} of them in different parts" if torn else ""
        if groups:
            pictures = "".join(_pair_figure(parts, group) for group in groups[:MAX_PAIRS])
            cards.append(
                f'<section class="card"><h3>{title}: {len(groups):,}{shown}</h3>'
                f'<div class="pairs">{pictures}</div></section>'
            )
    if twins.compared < twins.total:
        cards.append(f"<p>{twins.compared:,} of {twins.total:,} images were compared, evenly spaced.</p>")
    if not cards:
        return ""
    text = (
        "An image that is in training and in validation data makes results look better than they are. "
        "<code>rcnn data split</code> keeps copies together, <code>rcnn data merge</code> keeps each once."
    )
    return f"<h2>Images that occur more than once</h2><p>{text}</p>{''.join(cards)}"


def _pair_figure(parts: Sequence[Part], group: Sequence[tuple[int, int]]) -> str:
    """Two images of a group next to each other, from different parts if it has such."""
    first = group[0]
    second = next((place for place in group if place[0] != first[0]), group[1])
    cells = []
    for number, index in (first, second):
        record = parts[number].dataset.records[index]
        where = f"{parts[number].name}, " if len(parts) > 1 else ""
        count = plural(len(record.truth), "object")
        caption = f"<b>{_short(where + record.path.name)}</b><span>{count}</span>"
        picture = record.truth.overlay(record.load_image(), labels=False)
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        cells.append(f'<figure><img src="{jpeg(picture)}" alt="">{caption}</figure>')
    more = f"<p>and {len(group) - 2} more</p>" if len(group) > 2 else ""
    return f'<div class="couple">{"".join(cells)}{more}</div>'


def _classes(parts: Sequence[Part]) -> str:
    """A table of the classes, the most frequent first."""
    names = {name.casefold(): name for part in reversed(parts) for name in part.dataset.class_names}
    counts = [_by_class(part, part.objects.labels) for part in parts]
    images = sum((_images_by_class(part) for part in parts), Counter[str]())
    sizes = _series_by_class(parts)
    total = sum(counts, Counter[str]())
    every = max(1, sum(total.values()))
    head = ["class", "objects", *([part.name for part in parts] if len(parts) > 1 else []), "fraction",
            "images", "median size, pixels"]  # fmt: skip
    rows: list[Row] = []
    fractions = {key: count / every for key, count in total.items()}
    for key in sorted(names, key=lambda key: (-total[key], key)):
        size = f"{np.median(sizes[key]):.0f}" if len(sizes.get(key, ())) else DASH
        each = [f"{count[key]:,}" for count in counts] if len(parts) > 1 else []
        rows.append([names[key], f"{total[key]:,}", *each, fractions[key], f"{images[key]:,}", size])
    table = html_table(head, rows, bars={len(head) - 3: max(fractions.values()) or 1.0})
    return f"<h2>Classes</h2>{table_card('Objects by class', table)}"


def _by_class(part: Part, labels: npt.NDArray[np.int64]) -> Counter[str]:
    found = Counter(labels.tolist())
    counts = Counter[str]()
    for label, name in enumerate(part.dataset.class_names):
        counts[name.casefold()] += found[label]
    return counts


def _images_by_class(part: Part) -> Counter[str]:
    """The number of images that show each class."""
    pairs = np.unique(np.stack([part.objects.images, part.objects.labels], 1), axis=0)
    return _by_class(part, pairs[:, 1])


def _series_by_class(parts: Sequence[Part]) -> dict[str, npt.NDArray[np.float64]]:
    """The sizes of the objects of each class."""
    found: dict[str, list[npt.NDArray[np.float64]]] = {}
    for part in parts:
        for label, name in enumerate(part.dataset.class_names):
            own = part.objects.labels == label
            found.setdefault(name.casefold(), []).append(part.objects.extents[own])
    return {name: np.concatenate(values) for name, values in found.items()}


def _shapes(parts: Sequence[Part]) -> str:
    """Charts of the objects: compared between parts, otherwise between classes."""
    objects = [part.objects for part in parts]
    if len(parts) > 1:
        sizes = {part.name: part.objects.extents for part in parts}
        ratios = {part.name: part.objects.sides[:, 0] / part.objects.sides[:, 1] for part in parts}
    else:
        names = {name.casefold(): name for name in parts[0].dataset.class_names}
        sizes = {names[key]: values for key, values in _series_by_class(parts).items()}
        of = objects[0]
        ratios = {
            name: of.sides[of.labels == label, 0] / of.sides[of.labels == label, 1]
            for label, name in enumerate(parts[0].dataset.class_names)
        }
    centres = np.concatenate(
        [(of.boxes[:, :2] + of.boxes[:, 2:]) / 2 / of.image_sizes[:, ::-1] for of in objects]
    )
    (height, width), _ = _image_sizes(parts).most_common(1)[0]
    cards = [
        ("Sizes", histogram(busiest(sizes), "sizes", "square root of the box area, pixels", log=True)),
        ("Width by height", histogram(busiest(ratios), "ratios", "width / height", log=True)),
        ("Positions of the centres", position_map(centres, width / height, "positions")),
        (
            "Objects per image",
            histogram(
                busiest({part.name: part.counts for part in parts}), "counts", "objects", ylabel="% of images"
            ),
        ),
    ]
    return f"<h2>Objects</h2>{card_pair(cards)}"


def _image_sizes(parts: Sequence[Part]) -> Counter[Size]:
    return Counter(record.truth.size for part in parts for record in part.dataset.records)


def _images(parts: Sequence[Part]) -> str:
    sizes = _image_sizes(parts)
    total = sum(sizes.values())
    rows: list[Row] = [
        [f"{width} x {height}", f"{count:,}", count / total]
        for (height, width), count in sizes.most_common(12)
    ]
    rest = total - sum(count for _, count in sizes.most_common(12))
    rows += [[f"{len(sizes) - 12} other sizes", f"{rest:,}", rest / total]] if rest else []
    table = html_table(["width x height", "images", "fraction"], rows, bars={2: 1.0})
    cards = [("Image sizes", table)]
    cards += [("Widths and heights", size_scatter(sizes, "image-sizes"))] if len(sizes) > 1 else []
    return f"<h2>Images</h2>{card_pair(cards)}"


def _problems(parts: Sequence[Part]) -> str:
    """What the readers found; ``rcnn data check`` says more."""
    every = [problem for part in parts for problem in part.dataset.problems]
    if not every:
        return ""
    every.sort(key=lambda problem: problem.severity != "error")
    lines = "".join(f"<li>{escape(str(problem))}</li>" for problem in every[:MAX_PROBLEMS])
    more = len(every) - MAX_PROBLEMS
    rest = f"<p>and {more:,} more: <code>rcnn data check</code> lists all.</p>" if more > 0 else ""
    return f'<h2>Problems</h2><section class="card"><ul>{lines}</ul>{rest}</section>'
