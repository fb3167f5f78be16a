"""Callbacks: what they are told and when, what their errors do, and the three that log to other programs."""

import json
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from rcnn.inference.detector import Detector
from rcnn.io import checkpoint
from rcnn.training.alternating import AlternatingTrainer
from rcnn.training.callbacks import Callbacks, TrainEvent, TrainingStopped, open_callbacks
from rcnn.training.run import train
from rcnn.training.run_folder import read_history
from rcnn.training.trainer import Trainer, TrainState
from tiny import NAMES, tiny_network, tiny_recipe, tiny_shapes

pytestmark = pytest.mark.usefixtures("no_report")


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


class Recorder:
    """Has all four methods, and notes what they get."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, TrainEvent]] = []

    def on_start(self, event: TrainEvent) -> None:
        self.seen.append(("start", event))

    def on_step(self, event: TrainEvent) -> None:
        self.seen.append(("step", event))

    def on_evaluation(self, event: TrainEvent) -> None:
        self.seen.append(("evaluation", event))

    def on_end(self, event: TrainEvent) -> None:
        self.seen.append(("end", event))

    @property
    def iterations(self) -> list[tuple[str, int]]:
        return [(moment, event.iteration) for moment, event in self.seen]


class Failing:
    """Fails after some steps, in one of its methods."""

    def __init__(self, moment: str, iteration: int = 0) -> None:
        self.iteration = iteration
        setattr(self, moment, self.fail)

    def fail(self, event: TrainEvent) -> None:
        if event.iteration == self.iteration:
            raise KeyError("what")


def event(**values: float) -> TrainEvent:
    return TrainEvent(Path("runs/x"), tiny_recipe(), 3, 1.5, 0.25, 7.0, values)


# What they are told


def test_a_run_tells_its_callbacks_what_it_does(tmp_path: Path) -> None:
    """Two steps of two images, evaluated after each; the final metrics come last."""
    recorder, recipe = Recorder(), tiny_recipe(eval_every=0.0, eval_images=1)
    out = train(
        tiny_shapes(4), val=tiny_shapes(2, first=9), recipe=recipe, out=tmp_path / "run", console=quiet(),
        callbacks=[recorder],
    )  # fmt: skip
    expected = [("start", 0), ("step", 1), ("evaluation", 1), ("step", 2), ("evaluation", 2), ("end", 2)]
    assert recorder.iterations == expected
    events = dict(recorder.seen)
    assert {one.folder for one in events.values()} == {out}
    assert all(one.recipe.train == recipe.train for one in events.values())
    assert (events["step"].epoch, events["step"].fraction) == (1.0, 1.0)
    assert events["start"].values == {}
    losses = events["step"].values
    parts = [value for name, value in losses.items() if name.startswith("loss/")]
    assert losses["loss"] == pytest.approx(sum(parts))
    assert "lr" in losses
    assert {"mask/AP", "val/loss", "score"} <= events["evaluation"].values.keys()
    final = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["metrics"]
    assert events["end"].finite_values == {k: v for k, v in final.items() if v is not None}


def test_any_of_the_methods_will_do() -> None:
    seen: list[float] = []
    only_steps = SimpleNamespace(on_step=lambda event: seen.append(event.values["loss"]))
    callbacks = Callbacks([only_steps])
    callbacks.call("on_start", event())
    callbacks.call("on_step", event(loss=2.0))
    callbacks.raise_failure()
    assert seen == [2.0]


def test_values_that_are_not_finite_are_told_apart() -> None:
    assert event(a=1.0, b=float("nan"), c=float("inf")).finite_values == {"a": 1.0}


def test_the_four_steps_are_told_as_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 3 of 4, after two of 12 iterations together."""
    recipe = tiny_recipe("faster_rcnn", epochs=4.0)
    recipe = replace(recipe, settings=replace(recipe.settings, scheme="alternating"))
    recorder = Recorder()
    steps = AlternatingTrainer(
        tmp_path, recipe, tiny_shapes(6), tiny_shapes(1), torch.device("cpu"), measure=lambda *_: dict,
        callbacks=Callbacks([recorder]),
    )  # fmt: skip
    before = {2: TrainState(iteration=12, seconds=30.0)}
    monkeypatch.setattr(AlternatingTrainer, "_train_state", lambda self, count: before[count])
    of_step = TrainEvent(tmp_path / "step-3", recipe, 3, 1.0, 0.5, 6.0, {"loss": 1.0})
    steps._step_callbacks(3).call("on_step", of_step)
    ((_, told),) = recorder.seen
    assert (told.folder, told.iteration, told.epoch, told.seconds) == (tmp_path, 15, 5.0, 36.0)
    assert told.fraction == 0.625


# Opened


MODULE = """
class Made:
    def on_end(self, event): ...

class Empty: ...

instance = Made()

def make():
    return Made()
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_callbacks.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_callbacks", raising=False)
    return "own_callbacks"


@pytest.mark.parametrize("name", ["Made", "instance", "make"])
def test_dotted_paths(name: str, own_module: str) -> None:
    (opened,) = open_callbacks([f"{own_module}:{name}"])
    assert type(opened).__name__ == "Made"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"callbacks": ["own_callbacks:Empty"]},
            "own_callbacks:Empty: none of the methods on_start, on_step",
        ),
        ({"callbacks": [object()]}, "callback object: none of the methods"),
        ({"callbacks": ["own_callbacks:None_such"]}, "own_callbacks has no None_such"),
        (
            {"log": ["tensorbord"]},
            r"log 'tensorbord': unknown; did you mean tensorboard\? expected one of tensorboard",
        ),
    ],
)
def test_what_is_no_callback_is_refused(given: dict[str, Any], message: str, own_module: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_callbacks(**given)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_reported_before_anything_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf'{name} is not installed; pip install "\.\[{name}\]"'):
        train(tiny_shapes(2), recipe=tiny_recipe(), log=[name], out=tmp_path / "run", console=quiet())
    assert not (tmp_path / "run").exists()


# Errors


def trainer_of(out: Path, callbacks: Callbacks) -> Trainer:
    out.mkdir(exist_ok=True)
    recipe = tiny_recipe("faster_rcnn", epochs=1.0, eval_every=0.5, save_every=1e6, ema=0.5)
    network = tiny_network(recipe)
    describe = Detector(network, recipe.transform, NAMES).describe()

    def evaluate(full: bool) -> dict[str, float]:
        return {"score": float(network.box.logits.weight.detach().abs().sum())}

    return Trainer(
        network, recipe, tiny_shapes(8), out, evaluate=evaluate, describe=describe, callbacks=callbacks,
        say=lambda line: None,
    )  # fmt: skip


@pytest.mark.parametrize("moment", ["on_step", "on_evaluation"])
def test_an_error_stops_the_run_after_a_checkpoint(moment: str, tmp_path: Path) -> None:
    """And the resumed run ends as one without the error."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trainer_of(whole, Callbacks()).run()
    with pytest.raises(TrainingStopped, match=r"Failing\." + moment + " failed after 2 steps with KeyError"):
        trainer_of(stopped, Callbacks([Failing(moment, 2)])).run()
    assert checkpoint.read_metadata(stopped / "last.safetensors")["train_state"]["iteration"] == 2
    resumed = trainer_of(stopped, Callbacks())
    resumed.resume()
    resumed.run()
    for name in ("best.safetensors", "last.safetensors"):
        one, two = (checkpoint.read_checkpoint(folder / name)[0] for folder in (whole, stopped))
        assert [key for key in one if not torch.equal(one[key], two[key])] == []

    def rows(folder: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(folder)]

    assert rows(whole) == rows(stopped)


def test_the_first_error_is_reported_and_the_others_are_called() -> None:
    recorder = Recorder()
    callbacks = Callbacks([Failing("on_step", 3), Failing("on_step", 3), recorder])
    callbacks.call("on_step", event(loss=1.0))
    assert len(recorder.seen) == 1
    expected = r"the callback .*Failing\.on_step failed .*: 'what'\. Fix it, then .* --resume runs/x"
    with pytest.raises(TrainingStopped, match=expected):
        callbacks.raise_failure()


def test_an_error_at_the_start_or_the_end(tmp_path: Path) -> None:
    for moment, iteration in (("on_start", 0), ("on_end", 1)):
        out = tmp_path / moment
        with pytest.raises(TrainingStopped, match=f"{moment} failed after {iteration} steps"):
            train(
                tiny_shapes(2), val=tiny_shapes(1), recipe=tiny_recipe("faster_rcnn"), out=out,
                console=quiet(), callbacks=[Failing(moment, iteration)],
            )  # fmt: skip
        assert (out / "run.json").is_file()
        assert (out / "evaluation.json").is_file() == (moment == "on_end")


# TensorBoard, for real


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path: Path) -> None:
    """A run that stops after two of four steps and is resumed: every step is there once."""
    pytest.importorskip("tensorboard")
    data = tiny_shapes(8).write(tmp_path / "data")
    val = tiny_shapes(1, first=20).write(tmp_path / "val")
    recipe, out = tiny_recipe("faster_rcnn", epochs=1.0, eval_every=0.5), tmp_path / "run"
    with pytest.raises(TrainingStopped):
        train(
            data, val=val, recipe=recipe, out=out, console=quiet(), log=["tensorboard"],
            callbacks=[Failing("on_step", 2)],
        )  # fmt: skip
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["log"] == ["tensorboard"]
    train(resume=out, console=quiet())
    found = scalars(out)
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in found["val/loss"]] == [2, 4]
    assert {"loss/classes", "lr", "score"} <= found.keys()
    final = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["metrics"]
    assert found["final/box/AP50"] == [(4, pytest.approx(final["box/AP50"]))]


# MLflow and W&B, against fakes


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    fake: Any = ModuleType("mlflow")

    def start_run(run_id: str | None, run_name: str) -> Any:
        calls.append(("start", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc"))

    fake.start_run = start_run
    fake.log_params = lambda values: calls.append(("params", values))
    fake.log_metrics = lambda values, step, synchronous: calls.append(("metrics", step, values, synchronous))
    fake.log_artifact = lambda path: calls.append(("file", Path(path).name))
    fake.end_run = lambda: calls.append(("end",))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    (logger,) = open_callbacks(log=["mlflow"])
    callbacks = Callbacks([logger])
    told = replace(event(**{"loss": 1.0, "proposals/AR@100": 0.5, "x": float("nan")}), folder=tmp_path)
    for moment in ("on_start", "on_step", "on_evaluation", "on_end", "on_start"):
        callbacks.call(moment, told)  # type: ignore[arg-type]
    callbacks.raise_failure()
    values = {"loss": 1.0, "proposals/AR_100": 0.5}
    settings = [("params", {"model": "mask_rcnn", "backbone": "efficientnet_lite0"}), ("file", "recipe.toml")]
    assert calls == [
        ("start", None, tmp_path.name), *settings,
        ("metrics", 3, values, False), ("metrics", 3, values, True),
        ("metrics", 3, {f"final/{k}": v for k, v in values.items()}, True), ("file", "report.html"), ("end",),
        ("start", "abc", tmp_path.name), *settings,
    ]  # fmt: skip


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, float]]] = []
    summary: dict[str, float] = {}
    finished: list[bool] = []
    run = SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), summary=summary,
        finish=lambda: finished.append(True),
    )  # fmt: skip
    fake: Any = ModuleType("wandb")
    fake.init = lambda **options: started.append(options) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    (logger,) = open_callbacks(log=["wandb"])
    callbacks = Callbacks([logger])
    told = replace(event(loss=1.0, x=float("nan")), folder=tmp_path)
    for moment in ("on_start", "on_step", "on_evaluation", "on_end", "on_start"):
        callbacks.call(moment, told)  # type: ignore[arg-type]
    callbacks.raise_failure()
    first, again = started
    assert first["id"] == again["id"], "a resumed run goes on with the same one"
    assert (first["project"], first["name"], first["resume"]) == ("rcnn", tmp_path.name, "allow")
    assert first["config"]["architecture"] == "mask_rcnn"
    assert first["config"]["train"]["lr"] == told.recipe.train.lr
    assert logged == [(3, {"loss": 1.0})] * 2
    assert (summary, finished) == ({"final/loss": 1.0}, [True])
