"""What a person corrected: drafts, one file per image, and the data set of the images that are done.

**Law:** drafts do not become truth. Only what was marked done is in the data set; whoever changes an image
that is done changes a draft, and the data set keeps what was done until it is marked again. A data set that
was opened is never written to.

Every change is on the disk before it is answered, in one step. Two tabs may correct the same image: changes
name the objects that they concern and the revision that they knew, and where both changed one object, both
versions are kept.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rcnn.io.atomic import write_atomically
from rcnn.io.json_text import object_of
from rcnn.io.lock import FolderLock
from rcnn.serve.app.collection import Collection, Picture
from rcnn.serve.app.objects import Object, as_truth, checked_object, instances_of, objects_of, regions_of
from rcnn.serve.app.partition import pixel_classes_of
from rcnn.serve.app.truth_files import Classes, Truth, TruthFiles, file_stem
from rcnn.structures import VOID, Instances, Size, Skeleton, stuff_names

DRAFTS = "drafts"
CLASSES = "classes.json"


@dataclass
class Draft:
    """The corrections of one image.

    Attributes:
        image: its name.
        size: (height, width).
        revision: counts the changes.
        objects: what is shown, by id, regions of pixel classes too; each has ``rev``, the revision that
            changed it last.
        done: the objects as they were when the image was marked done; None: it was not.
        done_at: the revision that was marked done.
    """

    image: str
    size: Size
    revision: int = 0
    objects: dict[str, Object] = field(default_factory=dict)
    done: list[Object] | None = None
    done_at: int = -1

    @property
    def count(self) -> int:
        """The number of objects, without the regions of pixel classes."""
        return sum(not one.get("stuff") for one in self.objects.values())

    @property
    def status(self) -> str:
        """``draft``, ``done``, or ``changed`` where it was changed after it was done."""
        if self.done is None:
            return "draft"
        return "done" if self.done_at == self.revision else "changed"

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "image": self.image, "size": list(self.size), "revision": self.revision,
            "objects": list(self.objects.values()), "done": self.done, "done_at": self.done_at,
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Draft:
        """The draft that a file holds.

        Raises:
            KeyError: it is no such file; likewise TypeError and ValueError.
        """
        height, width = content["size"]
        objects = {one["id"]: dict(one) for one in content["objects"]}
        return cls(
            str(content["image"]), (int(height), int(width)), int(content["revision"]), objects,
            content["done"], int(content["done_at"]),
        )  # fmt: skip


class Corrections:
    """The drafts of all images and the data set made of those that are done.

    Attributes:
        classes: the names of the objects' classes, in label order; a person may add some.
        pixel_classes: the names of the pixel classes, likewise.
        skeleton: what keypoints are, where there are any.
        files: the data set of what is done.
    """

    def __init__(
        self,
        collection: Collection,
        class_names: Sequence[str] = (),
        skeleton: Skeleton | None = None,
        pixel_classes: Sequence[str] = (),
    ) -> None:
        """Read what was corrected earlier.

        Raises:
            ValueError: a draft is damaged, or another process writes to the folder.
        """
        self._collection = collection
        self._lock = threading.RLock()
        self._folder_lock: FolderLock | None = None
        self.files = TruthFiles(collection)
        dataset = collection.dataset
        self.skeleton = skeleton if dataset is None or dataset.skeleton is None else dataset.skeleton
        own = () if dataset is None else dataset.class_names
        own_pixels = () if dataset is None else stuff_names(own, dataset.semantic_names)
        if collection.out.is_dir():
            self._take_folder()
        try:
            saved, saved_pixels = self._saved_classes()
            self.classes = list(dict.fromkeys((*own, *saved, *class_names)))
            pixels = dict.fromkeys((*own_pixels, *saved_pixels, *pixel_classes))
            self.pixel_classes = list(stuff_names(tuple(self.classes), tuple(pixels)))
            self._drafts = self._read_drafts()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._folder_lock is not None:
            self._folder_lock.release()

    def draft(self, picture: Picture) -> Draft | None:
        """The corrections of an image; None: there are none."""
        return self._drafts.get(picture.name)

    def status(self, picture: Picture) -> str:
        """``none``, ``draft``, ``done``, ``changed``; or ``data`` of an annotated image as it was opened."""
        draft = self.draft(picture)
        if draft is not None:
            return draft.status
        return "none" if picture.record is None else "data"

    def truth(self, picture: Picture) -> Instances | None:
        """What the data set that was opened says of an image; None where there is none."""
        return None if picture.record is None else picture.record.load_truth()

    def add_classes(self, names: Sequence[str], pixel_classes: Sequence[str] = ()) -> None:
        """Add classes of a model, so that what it finds can be corrected; those that are there stay.

        Raises:
            OSError: they could not be saved.
        """
        with self._lock:
            objects = [name for name in names if name not in self.classes]
            pixels = stuff_names((*self.classes, *objects), tuple(pixel_classes))
            pixels = tuple(name for name in pixels if name not in self.pixel_classes)
            if objects or pixels:
                self.classes += objects
                self.pixel_classes += pixels
                self._save_classes()

    def add_class(self, name: str, is_pixels: bool = False) -> str:
        """Add a class of objects or of pixels.

        Returns:
            Its name; that of one that is there already if the names differ only in case.

        Raises:
            ValueError: no name, one of the other kind, or too many pixel classes.
        """
        plain = " ".join(name.split())
        if not plain:
            raise ValueError("a class needs a name")
        with self._lock:
            own, other = (self.classes, self.pixel_classes)[:: -1 if is_pixels else 1]
            if plain.casefold() in {known.casefold() for known in other}:
                kind = "objects" if is_pixels else "pixels"
                raise ValueError(f"{plain}: there is a class of {kind} with this name; choose another")
            if is_pixels and len(own) + len(other) >= VOID:
                raise ValueError(f"{plain}: a map of pixel classes holds up to {VOID} classes")
            known = next((one for one in own if one.casefold() == plain.casefold()), None)
            if known is None:
                own.append(plain)
                self._save_classes()
            return known or plain

    def change(
        self,
        picture: Picture,
        size: Size,
        changes: Sequence[Mapping[str, Any]],
        start: Callable[[], list[Object]],
    ) -> tuple[Draft, int]:
        """Apply a person's changes to an image, and save them.

        Args:
            picture: the image.
            size: its (height, width).
            changes: of single objects: ``id``, ``object`` (None: deleted) and ``rev``, the revision of the
                object that the change was made to (None: a new one).
            start: makes the objects that corrections of an image begin with; called once per image.

        Returns:
            The draft as it is now, and in how many changes another tab came first; none of these is lost.

        Raises:
            ValueError: an object that cannot be; nothing is changed.
            OSError: it could not be saved; nothing is changed.
        """
        _check_changes(changes)
        wanted = [
            (change["id"], None if change.get("object") is None else self._checked(change, size),
             change.get("rev"))
            for change in changes
        ]  # fmt: skip
        with self._lock:
            before = self._drafts.get(picture.name)
            if before is None:
                objects = {one["id"]: {**one, "rev": 1} for one in start()}
                before = Draft(picture.name, size, 1, objects)
            draft = replace(before, objects=dict(before.objects), revision=before.revision + bool(changes))
            conflicts = sum(_apply(draft, *change) for change in wanted)
            self._save(draft)
            return draft, conflicts

    def mark(self, picture: Picture, size: Size, done: bool, start: Callable[[], list[Object]]) -> Draft:
        """Mark an image done, so that its objects enter the data set; or take it out again.

        Raises:
            OSError: it could not be saved; nothing is changed.
        """
        with self._lock:
            draft, _ = self.change(picture, size, (), start)
            if done:
                draft = replace(draft, done=list(draft.objects.values()), done_at=draft.revision)
            else:
                draft = replace(draft, done=None, done_at=-1)
            self._save(draft)
            self.write_data()
            return draft

    def revert(self, picture: Picture) -> None:
        """Forget the corrections of an image; what was done of it leaves the data set, too."""
        with self._lock:
            draft = self._drafts.pop(picture.name, None)
            if draft is not None:
                self._file(picture.name).unlink(missing_ok=True)
                if draft.done is not None:
                    self.write_data()

    def counts(self) -> dict[str, int]:
        """How many images have which status."""
        found: dict[str, int] = {}
        for picture in self._collection.pictures:
            status = self.status(picture)
            found[status] = found.get(status, 0) + 1
        return found

    def instances(self, objects: Sequence[Object], size: Size) -> Instances:
        """Objects of a draft as instances, with the map of its regions where there are pixel classes."""
        return instances_of(objects, size, self.classes, self.skeleton, self.pixel_classes)

    def beginning(self, found: Instances, prefix: str, region_prefix: str) -> list[Object]:
        """The objects and regions that corrections of an image begin with: those that are shown."""
        objects = objects_of(found, prefix)
        pixels = pixel_classes_of(found, self.pixel_classes)
        return [*objects, *regions_of(pixels, self.pixel_classes, region_prefix)]

    def write_data(self) -> int:
        """Write the data set of what is done, of a data set that was opened with all its other images.

        Returns:
            The number of images in it.
        """
        with self._lock:
            self._ensure_folder()
            return self.files.write(self._truths(), self.all_classes)

    @property
    def all_classes(self) -> Classes:
        """What labels mean, of objects, pixels and keypoints."""
        return Classes(tuple(self.classes), tuple(self.pixel_classes), self.skeleton)

    def _truths(self) -> Iterator[Truth]:
        """What is done, and the other images of the data set that was opened."""
        for picture in self._collection.pictures:
            draft = self._drafts.get(picture.name)
            if draft is not None and draft.done is not None:
                load: Callable[[], Instances] = partial(self._done, draft.done, draft.size)
                yield Truth(picture, draft.done_at, load)
            elif picture.record is not None:
                yield Truth(picture, None, picture.record.load_truth)

    def _done(self, objects: Sequence[Object], size: Size) -> Instances:
        return as_truth(self.instances(objects, size))

    def _checked(self, change: Mapping[str, Any], size: Size) -> Object:
        one = checked_object({**change["object"], "id": change["id"]}, size, self.skeleton)
        known = self.pixel_classes if one.get("stuff") else self.classes
        if one["class"] not in known:
            raise ValueError(f"class {one['class']!r}: expected one of {', '.join(known) or 'none'}")
        return one

    def _save(self, draft: Draft) -> None:
        if self._drafts.get(draft.image) == draft:
            return
        self._ensure_folder()
        text = json.dumps(draft.as_json()).encode(errors="surrogateescape")
        write_atomically(self._file(draft.image), text)
        self._drafts[draft.image] = draft

    def _ensure_folder(self) -> None:
        self._collection.out.mkdir(parents=True, exist_ok=True)
        if self._folder_lock is None:
            self._take_folder()

    def _take_folder(self) -> None:
        self._folder_lock = FolderLock(self._collection.out, "folder of corrections")

    def _file(self, name: str) -> Path:
        return self._collection.out / DRAFTS / f"{file_stem(name)}.json"

    def _read_drafts(self) -> dict[str, Draft]:
        drafts = {}
        for file in sorted((self._collection.out / DRAFTS).glob("[!.]*.json")):
            try:
                draft = Draft.from_json(object_of(file.read_bytes()))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{file}: not a draft of corrections ({error!r}); restore or remove it"
                ) from error
            drafts[draft.image] = draft
        return drafts

    def _saved_classes(self) -> tuple[list[str], list[str]]:
        file = self._collection.out / CLASSES
        if not file.is_file():
            return [], []
        try:
            saved = object_of(file.read_bytes())
            return [str(name) for name in saved["classes"]], [str(name) for name in saved.get("pixels", ())]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: not a list of classes ({error!r}); restore or remove it") from error

    def _save_classes(self) -> None:
        self._ensure_folder()
        content = {"classes": self.classes, "pixels": self.pixel_classes}
        write_atomically(self._collection.out / CLASSES, json.dumps(content).encode(errors="surrogateescape"))


def _check_changes(changes: Any) -> None:
    """Refuse what is no list of changes.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(changes, list | tuple):
        raise ValueError(f"changes: expected a list; found {changes!r:.80}")
    for one in changes:
        if not isinstance(one, Mapping) or not isinstance(one.get("id"), str):
            raise ValueError(f"change {one!r:.80}: expected an id and an object")
        if not isinstance(one.get("object"), Mapping | None):
            raise ValueError(
                f"change {one['id']!r:.40}: expected an object or null; found {one['object']!r:.80}"
            )


def _apply(draft: Draft, name: str, new: Object | None, known: int | None) -> bool:
    """Make one change; whether another tab had changed the same object, whose version then stays, too."""
    there = draft.objects.get(name)
    conflict = there is not None and there["rev"] != known
    if new is None:
        if there is not None and not conflict:
            del draft.objects[name]
        return conflict
    if conflict:
        name = f"{name}+{draft.revision}"
    draft.objects[name] = {**new, "id": name, "rev": draft.revision}
    return conflict
