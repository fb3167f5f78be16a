"""The rounds of the soak: each does one thing, ends it at random, does it again, and compares."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.soak_cases import TRAININGS, data_of, write_recipe
from benchmarks.soak_page import Acknowledged, Visitor, written_differs
from benchmarks.soak_resident import DEEDS, Resident
from benchmarks.soak_traces import Ended, Kill, run, strays, tree
from rcnn.data.formats.registry import writable
from rcnn.io.checkpoint import read_checkpoint
from rcnn.training.run_folder import read_history

RCNN = (sys.executable, "-c", "import sys; from rcnn.cli import main; sys.exit(main())")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What an unfinished prediction, or a training that can be resumed, may keep.
UNFINISHED = (".progress.jsonl",)
TRAINED = ("mask", "faster", "panoptic")  # what is predicted with
PREDICTIONS = {
    "overlays": (),
    "tables alone": ("--no-overlays",),
    "large overlays": ("--overlay-scale", "3"),
    "JPEG": ("--overlay-format", "jpg", "--min-score", "0.01"),
    "results": ("--results-only", "--max-detections", "3", "--min-score", "0.01"),
}


@dataclass
class Round:
    """One round.

    Attributes:
        number: counted from 0.
        kind: a key of :data:`ROUNDS`.
        rng: what it draws from.
        folder: its own.
        what: which case of its kind.
        ended: how its commands ended.
        finds: what should not be.
    """

    number: int
    kind: str
    rng: random.Random
    folder: Path
    what: str = ""
    ended: list[Ended] = field(default_factory=list)
    finds: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """What a command writes that nothing interrupts.

    Attributes:
        path: the file or folder.
        ended: how the command ended.
    """

    path: Path
    ended: Ended


class Workplace:
    """The folders of a soak, and what commands write undisturbed, which is made once.

    Attributes:
        out: where everything is.
        seed: of the data and of trainings.
        environment: of the commands.
        resident: the process that lives on.
    """

    def __init__(self, out: Path, seed: int, environment: dict[str, str], resident: Resident) -> None:
        self.out, self.seed, self.environment, self.resident = out, seed, environment, resident
        self.data = out / "data"
        self._known: dict[str, Reference] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def reference(self, name: str, words: Callable[[Path], list[str]], ending: str = "") -> Reference:
        """What a command writes, given where it is to write it.

        Raises:
            RuntimeError: the command leaves something over, or fails with a traceback.
        """
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._known:
                folder = self.out / "references" / f"{name}".replace(" ", "_").replace(",", "")
                folder.mkdir(parents=True)
                path = folder / f"whole{ending}"
                ended = run([*RCNN, *words(path)], folder, self.environment)
                finds = ended.finds + strays(folder)
                if finds or "Traceback" in ended.text or not path.exists():
                    raise RuntimeError(f"{name} without interruption: {finds} {ended.text[-1000:]}")
                self._known[name] = Reference(path, ended)
        return self._known[name]

    def training(self, training: str) -> Reference:
        """An uninterrupted training."""
        return self.reference(f"train {training}", lambda path: self.train_words(training, path))

    def train_words(self, training: str, out: Path) -> list[str]:
        """The command of a training."""
        recipe = self.out / "references" / f"{training.replace(' ', '_').replace(',', '')}.toml"
        if not recipe.exists():
            recipe.parent.mkdir(exist_ok=True)
            write_recipe(training, recipe, self.seed)
        return ["train", str(self.data / data_of(training)), "--recipe", str(recipe), "--out", str(out)]

    def export(self, training: str) -> Reference:
        """A training's model as an ONNX file."""
        return self.reference(f"export {training}", lambda path: self.export_words(training, path), ".onnx")

    def export_words(self, training: str, out: Path) -> list[str]:
        """The command of an export."""
        return ["export", str(self.training(training).path), "--out", str(out)]


def train(place: Workplace, done: Round) -> None:
    """A training, ended and resumed until it is whole."""
    done.what = done.rng.choice(list(TRAININGS))
    whole, out = place.training(done.what), done.folder / "run"
    fresh, resume = place.train_words(done.what, out), ["train", "--resume", str(out)]

    def words() -> list[str]:
        return resume if (out / "run.json").exists() else fresh

    _killed(place, done, words, whole, begun=out / "last.safetensors")
    _completed(place, done, words(), whole)
    done.finds += _runs_differ(out, whole.path)


def predict(place: Workplace, done: Round) -> None:
    """A folder predicted, ended and continued."""
    form, training = done.rng.choice(list(PREDICTIONS)), done.rng.choice([*TRAINED, "exported"])
    done.what = f"{form}, {training}"
    made = place.export("mask") if training == "exported" else place.training(training)
    model, pictures = made.path, place.data / "pictures"

    def words(out: Path) -> list[str]:
        return ["predict", str(model), str(pictures), "--out", str(out), *PREDICTIONS[form]]

    whole, out = place.reference(f"predict {done.what}", words), done.folder / "found"
    _killed(place, done, lambda: words(out), whole, begun=out / ".progress.jsonl")
    if not (out / "run.json").exists() or (out / ".progress.jsonl").exists():
        _completed(place, done, words(out), whole)
    done.finds += _trees_differ(out, whole.path)


def convert(place: Workplace, done: Round) -> None:
    """A data set converted, ended and converted again: the folder is there whole, or not at all."""
    done.what = done.rng.choice(list(writable()))

    def words(out: Path) -> list[str]:
        return ["data", "convert", str(place.data / "objects"), str(out), "--to", done.what]

    whole, out = place.reference(f"convert {done.what}", words), done.folder / "converted"

    def checked() -> None:
        if out.exists():
            done.finds.extend(_trees_differ(out, whole.path))

    _killed(place, done, lambda: words(out), whole, begun=None, after=checked)
    if not out.exists():
        _completed(place, done, words(out), whole)
    done.finds += _trees_differ(out, whole.path)


def evaluate(place: Workplace, done: Round) -> None:
    """A model evaluated, ended and evaluated again: the file is there whole, or not at all."""
    done.what = done.rng.choice(TRAINED)
    model = place.training(done.what).path

    def words(out: Path) -> list[str]:
        return ["evaluate", str(model), str(place.data / data_of(done.what)), "--json", str(out)]

    whole, out = place.reference(f"evaluate {done.what}", words, ".json"), done.folder / "measured.json"

    def checked() -> None:
        if out.exists() and _measured(out) != _measured(whole.path):
            done.finds.append("an evaluation that was ended left another file than one that was not")

    _killed(place, done, lambda: words(out), whole, begun=None, after=checked)
    _completed(place, done, words(out), whole)
    if _measured(out) != _measured(whole.path):
        done.finds.append("an evaluation gave other values than the first one")


def export(place: Workplace, done: Round) -> None:
    """A model exported, ended and exported again: the file is there whole, or not at all."""
    done.what = done.rng.choice(["mask", "faster"])
    whole, out = place.export(done.what), done.folder / "model.onnx"

    def checked() -> None:
        if out.exists() and out.read_bytes() != whole.path.read_bytes():
            done.finds.append("an export that was ended left another file than one that was not")

    words = place.export_words(done.what, out)
    _killed(place, done, lambda: words, whole, begun=None, after=checked)
    _completed(place, done, words, whole)
    checked()


def page(place: Workplace, done: Round) -> None:
    """The page, ended while somebody corrects: what it acknowledged is there when it is opened again."""
    done.what = done.rng.choice(["mask", "faster"])
    images, known = done.folder / "images", Acknowledged()
    shutil.copytree(place.data / "objects" / "images", images)
    words = ["app", str(place.training(done.what).path), str(images), "--no-browser"]
    times = done.rng.randint(1, 3)
    for visit in range(times + 1):
        last = visit == times
        folder = done.folder / f"visit{visit}"
        folder.mkdir()
        number = done.rng.choice(SIGNALS[1:] if last else SIGNALS)
        visitor = Visitor(folder, known, done.rng, corrections=20 if last else 10**6)
        visitor.start()
        kill = Kill(
            number, 0 if last else done.rng.uniform(0, 8), visitor.finished if last else visitor.begun
        )
        ended = run([*RCNN, *words], folder, place.environment, kill)
        visitor.leave()
        done.ended.append(ended)
        done.finds += ended.finds + visitor.finds + written_differs(done.folder / "images-corrected", known)
        known.asked = None
        if ended.killed is None:
            done.finds.append(f"the page ended by itself with {ended.code}: {ended.text[-600:]}")
            return
    done.finds += strays(done.folder)


def beside(place: Workplace, done: Round) -> None:
    """A second command into a folder that another one writes to: refused by name, and the first unharmed."""
    done.what = done.rng.choice(list(TRAININGS))
    whole, out = place.training(done.what), done.folder / "run"
    first: list[Ended] = []
    words = [*RCNN, *place.train_words(done.what, out)]
    thread = threading.Thread(target=lambda: first.append(run(words, done.folder, place.environment)))
    thread.start()
    while thread.is_alive() and not (out / "last.safetensors").exists():
        time.sleep(0.02)
    second = run([*RCNN, "train", "--resume", str(out)], done.folder, place.environment)
    in_time = thread.is_alive()
    thread.join()
    done.ended += [*first, second]
    done.finds += [find for ended in done.ended for find in ended.finds]
    if in_time and (second.code != 1 or "another process is writing to this run" not in second.text):
        done.finds.append(f"a resume beside a training: exit code {second.code}, {second.text[-300:]}")
    if first[0].code != 0:
        done.finds.append(f"the first of two trainings ended with {first[0].code}: {first[0].text[-300:]}")
    done.finds += strays(done.folder) + _runs_differ(out, whole.path)


def resident(place: Workplace, done: Round) -> None:
    """The process that lives on does everything once."""
    done.what = done.rng.choice(TRAINED)
    model, data = place.training(done.what).path, place.data / data_of(done.what)
    for deed in DEEDS:
        done.finds += place.resident.ask(deed, model=str(model), data=str(data))


ROUNDS: dict[str, Callable[[Workplace, Round], None]] = {
    "train": train,
    "predict": predict,
    "convert": convert,
    "evaluate": evaluate,
    "resident": resident,
    "page": page,
    "beside": beside,
    "export": export,
}


def _killed(
    place: Workplace,
    done: Round,
    words: Callable[[], list[str]],
    whole: Reference,
    *,
    begun: Path | None,
    after: Callable[[], None] | None = None,
) -> None:
    """Start a command one to three times, and end it at a moment within the time that it takes."""
    for _ in range(done.rng.randint(1, 3)):
        number = done.rng.choice(SIGNALS)
        waits = begun if done.rng.random() < 0.6 else None
        seconds = done.rng.uniform(0, whole.ended.seconds * (0.5 if waits else 1.0))
        kill = Kill(number, seconds, waits, done.rng.choice([1, 1, 3]) if number == signal.SIGINT else 1)
        ended = run([*RCNN, *words()], done.folder, place.environment, kill)
        done.ended.append(ended)
        done.finds += ended.finds
        if number != signal.SIGKILL and ended.answers:
            done.finds += [f"after {number.name}: {find}" for find in strays(done.folder, UNFINISHED)]
        if after is not None:
            after()
        if ended.killed is None or ended.code == 0:
            return  # it ended before the signal


def _completed(place: Workplace, done: Round, words: list[str], whole: Reference) -> None:
    ended = run([*RCNN, *words], done.folder, place.environment)
    done.ended.append(ended)
    done.finds += ended.finds
    if ended.code != whole.ended.code:
        done.finds.append(f"{' '.join(words[:2])} ended with {ended.code}: {ended.text[-600:]}")
    done.finds += strays(done.folder)


def _trees_differ(one: Path, two: Path) -> list[str]:
    mine, theirs = tree(one), tree(two)
    return [
        f"{name} is not as without interruption"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def _runs_differ(run_folder: Path, whole: Path) -> list[str]:
    """Where two runs differ in weights, states, metrics or files."""
    finds = []
    names = [{path.name for path in folder.iterdir()} for folder in (run_folder, whole)]
    if names[0] != names[1]:
        finds.append(f"other files in the run: {sorted(names[0] ^ names[1])}")
    for name in ("last.safetensors", "best.safetensors"):
        if name in names[0] & names[1]:
            one, two = (read_checkpoint(folder / name)[0] for folder in (run_folder, whole))
            differ = [
                key
                for key in one.keys() | two.keys()
                if key not in one or key not in two or not torch.equal(one[key], two[key])
            ]
            finds += [f"{name}: {len(differ)} of {len(two)} tensors differ: {differ[:3]}"] if differ else []
    histories = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(folder)]
        for folder in (run_folder, whole)
    ]
    finds += ["metrics.jsonl differs"] if histories[0] != histories[1] else []
    if _measured(run_folder / "evaluation.json") != _measured(whole / "evaluation.json"):
        finds.append("evaluation.json differs")
    return finds


def _measured(file: Path) -> dict[str, Any]:
    """An evaluation without the time it took."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key not in ("seconds", "model", "data")}
