"""One door for weights of other programs: a file of theirs in, a model of ours out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rcnn.config import did_you_mean, is_dotted_path, override_tables, parse_assignments, resolve
from rcnn.data.formats.coco_keypoints import PERSON
from rcnn.importers import detectron2, mmdetection, torchvision
from rcnn.importers.detectron2_config import Detectron2Config, read_config, with_config
from rcnn.importers.recognise import RecognisedModel, architecture, build, num_classes
from rcnn.importers.unpickle import read_weights
from rcnn.inference.detector import Detector
from rcnn.io.download import find_weights, read_tensors
from rcnn.io.renamed import current_settings
from rcnn.models.keypoint_rcnn import KeypointRCNNSettings

Read = Callable[[Mapping[str, Any], str], RecognisedModel]

SOURCES: dict[str, Read] = {
    "torchvision": torchvision.read,
    "detectron2": detectron2.read,
    "mmdetection": mmdetection.read,
}
"""Programs by name. A row takes the content of a file and its name, and recognises our model in it."""


@dataclass(frozen=True)
class Imported:
    """A detector out of another program's file, and what there is to say about it."""

    detector: Detector
    notes: tuple[str, ...]


def import_weights(
    path: str | Path,
    source: str,
    *,
    classes: str | Path | None = None,
    channels: str | None = None,
    settings: Sequence[str] = (),
    config: str | Path | None = None,
) -> Imported:
    """Open a detector that another program trained.

    Args:
        path: its file; read without running code that it holds.
        source: the program, a key of ``SOURCES``; or the dotted path of such a function of your own.
        classes: a text file with one class name per line, in the order of the weights and without the
            background. None: the file's own, or COCO's 80 where there are 80.
        channels: the order of colours that the network was trained on; None: as the program usually has it.
        settings: changes such as ``model.backbone.stride_at=3x3`` or ``transform.short_side=600``, where a
            model was trained otherwise than its program's usual ones.
        config: Detectron2's ``config.yaml`` of that training; all settings come from it, and each of its keys
            that is not carried is named in the notes. Without it they are those of Detectron2's model zoo.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that cannot be read, no detector of ours, or names that are missing; it says what.
    """
    if source not in SOURCES and not is_dotted_path(source):
        raise ValueError(
            f"--source {source}: {did_you_mean(source, SOURCES)}expected one of {', '.join(SOURCES)}, or a "
            "dotted path"
        )
    read: Read = SOURCES[source] if source in SOURCES else resolve(source)
    what = str(path)
    configured = None if config is None else _read_config(config, source)
    found = read(read_weights(path), what)
    found = found if configured is None else with_config(found, configured, what)
    if channels is not None:
        if channels not in ("rgb", "bgr"):
            raise ValueError(f"--channels {channels}: expected rgb or bgr")
        order: Any = channels
        found = replace(found, conventions=replace(found.conventions, channels=order))
    found = _changed(found, settings)
    names = _class_names(found, classes, what)
    detector = _detector(found, names, what, source=f"{source}: {Path(path).name}")
    kind = "a pyramid" if found.settings.fpn else "a single map"
    title = f"{architecture(found.settings)}: {found.settings.backbone.name}, {kind}, {len(names)} classes"
    return Imported(detector, (title, *found.notes, *(f"setting: {text}" for text in settings)))


def _read_config(config: str | Path, source: str) -> Detectron2Config:
    if source != "detectron2":
        raise ValueError(
            f"--config {config}: configurations are read for detectron2, not for {source} (checkpoints of "
            "MMDetection carry theirs); leave it out, and use --set"
        )
    return read_config(config)


def load_published(name: str) -> Detector:
    """A detector with torchvision's published weights, trained on COCO.

    It knows the 80 classes of COCO. The weights have 90: the ten that COCO never annotated are left out, so a
    score can be higher than torchvision's by the little they took.

    Args:
        name: one of :func:`rcnn.importers.torchvision.published`.

    Raises:
        KeyError: no such name.
        ValueError: the file is damaged.
        OSError: it could not be downloaded.
    """
    addresses = torchvision.published()
    if name not in addresses:
        hint = did_you_mean(name, addresses)
        raise KeyError(f"{name!r} is not published; {hint}expected one of {', '.join(addresses)}")
    url = addresses[name]
    found = torchvision.read(read_tensors(find_weights(url)), url)
    return _detector(found, _class_names(found, None, url), url, source=url)


def _detector(found: RecognisedModel, names: tuple[str, ...], what: str, *, source: str) -> Detector:
    """The detector of a file, with the category ids of COCO and the joints of people where it finds these."""
    ids, coco = torchvision.coco_labels()
    people = isinstance(found.settings, KeypointRCNNSettings) and found.settings.keypoint.count == 17
    return Detector(
        build(found, what),
        found.transform,
        names,
        min_score=Detector.min_score if found.min_score is None else found.min_score,
        info={"source": source} | ({"category_ids": ids} if names == coco else {}),
        skeleton=PERSON if people else None,
    )


def _changed(found: RecognisedModel, assignments: Sequence[str]) -> RecognisedModel:
    """What a file is, with some settings changed."""
    tables = {"model": found.settings, "transform": found.transform}
    changed = override_tables(tables, current_settings(parse_assignments(assignments)))
    return replace(found, settings=changed["model"], transform=changed["transform"])


def _class_names(found: RecognisedModel, classes: str | Path | None, what: str) -> tuple[str, ...]:
    """One name for each class of the classifier."""
    count = num_classes(found.state, what)
    _, coco = torchvision.coco_labels()
    if classes is not None:
        lines = Path(classes).read_text(encoding="utf-8").splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
        where = str(classes)
    elif found.class_names is not None:
        names, where = found.class_names, "the file's own list"
    elif count == len(coco):
        return coco
    elif count == 1 and isinstance(found.settings, KeypointRCNNSettings):
        return ("person",)
    else:
        raise ValueError(
            f"{what}: {count} classes without names; give them with --classes FILE, one per line, in "
            "the order of the weights"
        )
    if len(names) != count:
        raise ValueError(f"{where}: {len(names)} names, but {what} has {count} classes")
    return names
