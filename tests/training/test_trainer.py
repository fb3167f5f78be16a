"""The loop: schedules, averages, what is written when, faults on the way, and a way back from all of them."""

import errno
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.data.dataset import Dataset
from rcnn.data.geometry import TrainingSample
from rcnn.inference.detector import Detector
from rcnn.inference.fused import FusedCache
from rcnn.io import checkpoint
from rcnn.io.interruption import answered
from rcnn.loading import load_detector
from rcnn.parts.batch import Output, Targets
from rcnn.parts.interpolation import interpolate
from rcnn.structures import Instances
from rcnn.training import trainer as training
from rcnn.training.callbacks import Callbacks, TrainEvent
from rcnn.training.optimizer import WeightEMA, WeightInterpolation, build_optimizer
from rcnn.training.recipe import Recipe
from rcnn.training.settings import TrainSettings
from rcnn.training.step_report import Verdict, clip_gradients
from rcnn.training.trainer import LossValues, Trainer, TrainingStopped
from tiny import NAMES, tiny_network, tiny_recipe, tiny_shapes

pytestmark = pytest.mark.usefixtures("one_thread")


def trainer_of(
    recipe: Recipe,
    out: Path,
    *,
    data: Dataset | None = None,
    evaluate: Callable[[bool], dict[str, float]] = lambda full: {"score": 0.0},
    **options: Any,
) -> Trainer:
    out.mkdir(exist_ok=True)
    network = tiny_network(recipe)
    describe = Detector(network, recipe.transform, NAMES).describe()
    return Trainer(
        network, recipe, data or tiny_shapes(8), out, evaluate=evaluate, describe=describe,
        **{"say": lambda line: None, **options},
    )  # fmt: skip


class Watch:
    """A callback that calls a function after each step, with progress and losses by their own names."""

    def __init__(self, tick: Callable[[float, LossValues], None]) -> None:
        self.tick = tick

    def on_step(self, event: TrainEvent) -> None:
        values = {k.removeprefix("loss/"): v for k, v in event.values.items() if k.startswith("loss/")}
        self.tick(event.fraction, values)


def watched(tick: Callable[[float, LossValues], None]) -> Callbacks:
    return Callbacks([Watch(tick)])


def samples_of(data: Dataset) -> list[TrainingSample]:
    return [TrainingSample.from_sample(data[i]) for i in range(len(data))]


def trained(recipe: Recipe, out: Path, **options: Any) -> Trainer:
    trainer = trainer_of(recipe, out, **options)
    trainer.run()
    return trainer


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics without the time they took."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [k for k in one if not torch.equal(one[k], other[k])] == []


# Schedules


@pytest.mark.parametrize(
    ("settings", "fraction", "expected", "why"),
    [
        (TrainSettings(warmup=0.1), 0.0, 0.01, "a first step of nothing would be wasted: 0.001 of the way"),
        (TrainSettings(warmup=0.1), 0.049, 0.5 * (1 + math.cos(0.049 * math.pi)) / 2, "half warm"),
        (TrainSettings(warmup=0.1), 0.25, (1 + math.sqrt(0.5)) / 2, "cosine, an eighth turn"),
        (TrainSettings(warmup=0.1), 0.5, 0.5, "cosine, half way"),
        (TrainSettings(warmup=0.1), 1.0, 0.0, "cosine ends at nothing"),
        (TrainSettings(warmup=0.1), 1.2, 0.0, "and stays there when a step takes long"),
        (TrainSettings(warmup=0.0), 0.0, 1.0, "no warm-up"),
        (TrainSettings(warmup=0.0, schedule="steps", steps=(0.5, 0.75)), 0.49, 1.0, "before the first"),
        (TrainSettings(warmup=0.0, schedule="steps", steps=(0.5, 0.75)), 0.5, 0.1, "at the first"),
        (TrainSettings(warmup=0.0, schedule="steps", steps=(0.5, 0.75)), 0.9, 0.01, "after both"),
        (TrainSettings(warmup=0.0, schedule="steps", steps=(0.5,), step_factor=0.5), 0.9, 0.5, "factor"),
        (TrainSettings(warmup=0.2, schedule="steps", steps=(0.05,)), 0.099, 0.05, "half warm and one step"),
    ],
)
def test_rate(settings: TrainSettings, fraction: float, expected: float, why: str) -> None:
    assert settings.lr_factor(fraction) == pytest.approx(expected), why


@pytest.mark.parametrize(
    ("images", "epochs", "expected"), [(8, 1.0, 4), (5, 1.0, 3), (5, 2.0, 5), (8, 0.1, 1), (8, 0.5, 2)]
)
def test_iterations_of_an_epoch_run(images: int, epochs: float, expected: int, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe("faster_rcnn", epochs=epochs), tmp_path, data=tiny_shapes(images))
    assert trainer.total == expected
    trainer.run()
    assert trainer.state.iteration == expected


def test_the_rate_of_each_step_is_that_of_the_way_done(tmp_path: Path) -> None:
    rates: list[list[float]] = []
    recipe = tiny_recipe("faster_rcnn", lr=0.01, backbone_lr=0.5, warmup=0.0)

    def tick(fraction: float, losses: LossValues) -> None:
        rates.append(sorted({g["lr"] for g in trainer.learner.optimizer.param_groups}))

    trainer = trainer_of(recipe, tmp_path, callbacks=watched(tick))
    trainer.run()
    cosine = [0.5 * (1 + math.cos(math.pi * fraction)) for fraction in (0, 0.25, 0.5, 0.75)]
    assert_close(rates, [[0.005 * c, 0.01 * c] for c in cosine])


def take_half_a_minute(monkeypatch: pytest.MonkeyPatch, clock: dict[str, Any]) -> None:
    """Let every step take 30 seconds of a clock that stands still otherwise."""
    step = Trainer._finish_step

    def slow(self: Trainer, *given: Any) -> Any:
        clock["now"] += 30.0
        return step(self, *given)

    monkeypatch.setattr(Trainer, "_finish_step", slow)
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock["now"])


@pytest.mark.parametrize(("patience", "seconds", "count"), [(0, 7.0, 2), (0, 5.0, 3), (9, 7.0, 4)])
def test_evaluations_take_a_small_part_of_the_clock(
    patience: int, seconds: float, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 0.0, "evaluations": 0}

    def evaluate(full: bool) -> dict[str, float]:
        clock["now"] += seconds
        clock["evaluations"] += 1
        return {"score": 0.5}

    take_half_a_minute(monkeypatch, clock)
    recipe = tiny_recipe("faster_rcnn", minutes=2.0, eval_every=0.25, patience=patience)
    trainer = trained(recipe, tmp_path, evaluate=evaluate)
    assert trainer.state.iteration == 4
    assert clock["evaluations"] == count


def test_minutes_end_by_the_clock_and_evaluation_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 0.0}
    ends: list[float] = []

    def evaluate(full: bool) -> dict[str, float]:
        clock["now"] += 1000.0
        return {"score": float(full)}

    take_half_a_minute(monkeypatch, clock)
    recipe = tiny_recipe("faster_rcnn", minutes=2.0, eval_every=0.5)
    watch = watched(lambda fraction, losses: ends.append(fraction))
    trainer = trained(recipe, tmp_path, evaluate=evaluate, callbacks=watch)
    assert ends == [0.25, 0.5, 0.75, 1.0]
    assert (trainer.state.iteration, trainer.state.seconds) == (4, 120.0)
    assert trainer.state.eval_seconds == 2000.0
    assert trainer.state.best == 1.0


# Optimiser


def test_backbone_and_rest_matrices_and_biases_are_apart() -> None:
    recipe = tiny_recipe("faster_rcnn", backbone_lr=0.1, weight_decay=0.05)
    network = tiny_network(recipe)
    optimizer = build_optimizer(network, recipe.train)
    names = {id(p): n for n, p in network.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            assert group["multiple"] == (0.1 if name.startswith("backbone.") else 1.0), name
            assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0), name
    assert sorted(seen) == sorted(n for n, p in network.named_parameters() if p.requires_grad)
    assert not any(name.startswith("backbone.stages.0.") for name in seen), "the frozen stem"
    assert isinstance(optimizer, torch.optim.AdamW)
    sgd = build_optimizer(network, replace(recipe.train, optimizer="sgd", momentum=0.8))
    assert isinstance(sgd, torch.optim.SGD)
    assert {g["momentum"] for g in sgd.param_groups} == {0.8}


@pytest.mark.parametrize(("limit", "expected"), [(10.0, [3.0, 4.0]), (1.0, [0.6, 0.8]), (0.0, [3.0, 4.0])])
def test_the_gradient_is_cut_to_its_limit(limit: float, expected: list[float]) -> None:
    gradient = torch.tensor([3.0, 4.0, 0.0])
    verdict = Verdict.of({"classes": torch.tensor(1.0)}, [gradient], 0.0)
    assert verdict.good
    clip_gradients([gradient], verdict.norm, limit)
    assert_close(gradient, torch.tensor([*expected, 0.0]))


# The moving average


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0]))
        self.register_buffer("count", torch.tensor(0))


def test_average_by_hand() -> None:
    network = Scalar()
    average = WeightEMA(network, 0.5)
    with torch.no_grad():
        network.weight.fill_(1.0)
        network.count.fill_(7)
    average.update(0)  # decay min(0.5, 1 / 10): 0.9 of the way
    assert_close(average.shadow["weight"], torch.tensor([0.9]))
    assert int(average.shadow["count"]) == 7
    average.update(90)  # decay min(0.5, 91 / 100): half of the rest
    assert_close(average.shadow["weight"], torch.tensor([0.95]))
    with average.applied():
        assert_close(network.weight.data, torch.tensor([0.95]))
    assert network.weight.item() == 1.0


def test_average_gives_the_weights_back_when_the_evaluation_fails() -> None:
    network = Scalar()
    average = WeightEMA(network, 0.5)
    with torch.no_grad():
        network.weight.fill_(3.0)
    seen: list[float] = []

    def failing() -> None:
        with average.applied():
            seen.append(network.weight.item())
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        failing()
    assert seen == [0.0]
    assert network.weight.item() == 3.0


def test_without_decay_nothing_is_averaged() -> None:
    network = Scalar()
    average = WeightEMA(network, 0.0)
    average.update(0)
    assert average.shadow == {}
    with average.applied():
        assert network.weight.item() == 0.0


def test_the_averaged_weights_are_evaluated_and_kept(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def evaluate(full: bool) -> dict[str, float]:
        seen.append(weights(trainer.network))
        return {"score": 0.5}

    trainer = trainer_of(tiny_recipe("faster_rcnn", ema=0.9, eval_every=1.0), tmp_path, evaluate=evaluate)
    trainer.run()
    best, _ = checkpoint.read_checkpoint(tmp_path / "best.safetensors")
    last, _ = checkpoint.read_checkpoint(tmp_path / "last.safetensors")
    assert_same({k.removeprefix("network."): v for k, v in best.items()}, seen[0])
    assert_same({k.removeprefix("ema."): v for k, v in last.items() if k.startswith("ema.")}, seen[0])
    assert not torch.equal(seen[0]["box.logits.weight"], trainer.network.box.logits.weight)
    opened = load_detector(tmp_path / "last.safetensors", "cpu")
    assert_same(weights(opened.network), seen[0])


# Weights in between


def test_weights_in_between_by_hand() -> None:
    network = Scalar()
    between = WeightInterpolation(network, 0.25)
    with torch.no_grad():
        network.weight.fill_(8.0)
        network.count.fill_(7)
    with between.applied():
        assert_close(network.weight.data, torch.tensor([2.0]))
        assert int(network.count) == 7
    assert network.weight.item() == 8.0


def test_all_of_the_way_keeps_no_copy() -> None:
    network = Scalar()
    between = WeightInterpolation(network, 1.0)
    with between.applied():
        network.weight.data.fill_(3.0)
    assert between.start == {}
    assert network.weight.item() == 3.0


def test_the_part_of_the_way_is_one_to_the_averaged_weights(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn", ema=0.9, interpolation=0.25, eval_every=1.0)
    trainer = trainer_of(recipe, tmp_path)
    start = weights(trainer.network)
    trainer.run()
    last, _ = checkpoint.read_checkpoint(tmp_path / "last.safetensors")
    average = {k.removeprefix("ema."): v for k, v in last.items() if k.startswith("ema.")}
    best = load_detector(tmp_path / "best.safetensors", "cpu").network
    assert_same(weights(best), interpolate(start, average, 0.25))
    assert_same(weights(load_detector(tmp_path / "last.safetensors", "cpu").network), weights(best))


# Evaluation


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (0.25, [2, 4, 6, 8]),
        (0.3, [3, 5, 8]),  # due at 2.4, 4.8 and 7.2 of 8
        (1.0, [8]),
        (0.0, [1, 2, 3, 4, 5, 6, 7, 8]),
        (5.0, [8]),  # the end is evaluated always
    ],
)
def test_when_it_is_evaluated(every: float, expected: list[int], tmp_path: Path) -> None:
    calls: list[tuple[int, bool]] = []

    def evaluate(full: bool) -> dict[str, float]:
        assert not trainer.network.training
        calls.append((trainer.state.iteration, full))
        return {"score": 0.0}

    recipe = tiny_recipe("faster_rcnn", epochs=2.0, eval_every=every)
    trainer = trainer_of(recipe, tmp_path, evaluate=evaluate)
    trainer.run()
    assert [iteration for iteration, _ in calls] == expected
    assert [full for _, full in calls] == [iteration == 8 for iteration in expected]
    assert trainer.network.training


def test_patience(tmp_path: Path) -> None:
    scores = iter([0.3, 0.5, 0.4, 0.2, 0.9])
    said: list[str] = []
    recipe = tiny_recipe("faster_rcnn", epochs=2.0, eval_every=0.0, patience=2)
    trainer = trained(recipe, tmp_path, evaluate=lambda full: {"score": next(scores)}, say=said.append)
    progress = trainer.state
    assert (progress.iteration, progress.best, progress.best_iteration, progress.stale) == (4, 0.5, 2, 2)
    assert any("stopped early: 2 evaluations" in line for line in said)
    assert checkpoint.read_metadata(tmp_path / "best.safetensors")["metrics"] == {"score": 0.5}
    assert checkpoint.read_metadata(tmp_path / "last.safetensors")["train_state"]["iteration"] == 4


def test_a_result_that_stays_the_same_is_no_better_one(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn", epochs=2.0, eval_every=0.0, patience=2)
    scores = iter([0.0, 0.0, 0.0, 0.3, 0.3, 0.3, 0.5])  # before there is any result nothing is waited for
    progress = trained(recipe, tmp_path, evaluate=lambda full: {"score": next(scores)}).state
    assert (progress.iteration, progress.best_iteration, progress.stale) == (6, 6, 2)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_prepared_network_is_that_of_the_last_step(optimizer: str, tmp_path: Path) -> None:
    """What is evaluated on a CPU is a copy, made anew when weights change; fused AdamW does not tell so."""
    trainer = trainer_of(tiny_recipe("faster_rcnn", optimizer=optimizer), tmp_path)
    prepared = FusedCache()
    before = prepared.get(trainer.network)
    assert prepared.get(trainer.network) is before
    trainer.step(samples_of(tiny_shapes(2)))
    assert prepared.get(trainer.network) is not before


def test_the_best_weights_and_the_knowledge_of_them_are_stored_together(tmp_path: Path) -> None:
    """Killed right after an evaluation, a resumed run does not put worse weights in their place."""
    scores = iter([0.3, 0.9])

    def evaluate(full: bool) -> dict[str, float]:
        return {"score": next(scores)}

    recipe = tiny_recipe("faster_rcnn", epochs=2.0, eval_every=0.25, save_every=1e6)
    trainer = trainer_of(recipe, tmp_path, evaluate=evaluate)
    with pytest.raises(StopIteration):
        trainer.run()
    assert checkpoint.read_metadata(tmp_path / "best.safetensors")["metrics"] == {"score": 0.9}
    assert checkpoint.read_metadata(tmp_path / "last.safetensors")["train_state"]["best"] == 0.9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": math.nan}, r"^lr is nan: expected a number, 0 or more"),
        ({"lr": -0.001}, r"^lr is -0\.001"),
        ({"warmup": 500}, r"^warmup is 500: expected a fraction of training, not steps"),
        ({"steps": (8, 11)}, r"^steps is \[8, 11\]: expected fractions of training, not epochs"),
        ({"ema": 1.5}, r"^ema is 1\.5"),
        ({"eval_images": 0}, r"^eval_images is 0: expected at least 1 image"),
        ({"workers": -1}, r"^workers is -1"),
        ({"seed": -1}, r"^seed is -1: expected an integer"),
        ({"seed": 2**32}, r"^seed is 4294967296"),
    ],
)
def test_settings_outside_their_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(**wrong)


def test_rows_of_metrics(tmp_path: Path) -> None:
    losses: list[LossValues] = []
    trained(
        tiny_recipe(epochs=5.5, eval_every=1.0, lr=1e-4),
        tmp_path,
        callbacks=watched(lambda fraction, values: losses.append(values)),
        evaluate=lambda full: {"score": 0.5, "mask/AP": 0.25, "box/AP": math.nan},
    )
    first, second, last = rows(tmp_path)
    assert len(losses) == 22
    names = {"rpn_objectness", "rpn_boxes", "classes", "boxes", "masks"}
    assert losses[0].keys() == names
    for row, part in ((first, losses[:20]), (second, losses[20:])):
        for name in names:
            assert row[f"loss/{name}"] == pytest.approx(sum(each[name] for each in part) / len(part))
        assert row["loss"] == pytest.approx(sum(row[f"loss/{name}"] for name in names))
    assert (first["iteration"], first["epoch"], second["iteration"]) == (20, 5.0, 22)
    assert last == {"iteration": 22, "epoch": 5.5, "mask/AP": 0.25, "box/AP": None}


# Same seed, and a killed run


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_seed_one_result(optimizer: str, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        losses: list[LossValues] = []
        trainer = trained(
            tiny_recipe(seed=seed, optimizer=optimizer, epochs=1.5),
            tmp_path / name,
            callbacks=watched(lambda fraction, values, losses=losses: losses.append(values)),
        )
        results.append((losses, weights(trainer.network)))
    (first, one), (second, other), (third, _) = results
    assert len(first) == 6
    assert first == second
    assert_same(one, other)
    assert all(a != b for a, b in zip(first, third, strict=True))


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def run_until(trainer: Trainer, moment: str, iteration: int) -> None:
    """Run until just before or after something is done in a step."""
    names = {"forward": "make_batch", "evaluation": "_evaluate", "checkpoint": "save"}
    name, _, side = moment.partition(" ")
    inner = getattr(trainer, names[name])

    def guarded(*arguments: Any) -> Any:
        now = trainer.state.iteration == iteration
        if now and side != "after":
            raise KilledError
        result = inner(*arguments)
        if now:
            raise KilledError
        return result

    setattr(trainer, names[name], guarded)
    with pytest.raises(KilledError):
        trainer.run()


RESUMED: dict[str, Any] = {
    "epochs": 5.5, "eval_every": 0.36, "save_every": 0.0, "ema": 0.9, "interpolation": 0.3,
}  # fmt: skip


def score(trainer: Trainer) -> Callable[[bool], dict[str, float]]:
    """A score that depends on the weights, and is better at each evaluation."""

    def scored(full: bool) -> dict[str, float]:
        weights = float(trainer.network.box.logits.weight.detach().abs().sum())
        return {"score": weights + 100 * trainer.state.iteration}

    return scored


@pytest.fixture(scope="module", params=["adamw", "sgd"])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """22 steps, evaluated after 8, 16 and 22, checkpoint at each; a row of losses after 8, 16 and 22."""
    torch.set_num_threads(1)
    recipe = tiny_recipe(optimizer=request.param, **RESUMED)
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_of(recipe, folder)
    trainer.evaluate = score(trainer)
    trainer.run()
    return recipe, folder


@pytest.mark.parametrize(
    ("moment", "iteration"),
    [
        ("checkpoint before", 8),  # evaluated, rows and best written, the checkpoint is that of step 7
        ("evaluation before", 16),
        ("forward before", 20),
        ("checkpoint after", 22),  # nothing is left to do
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(
    uninterrupted: Any, moment: str, iteration: int, tmp_path: Path
) -> None:
    recipe, whole = uninterrupted
    trainer = trainer_of(recipe, tmp_path)
    trainer.evaluate = score(trainer)
    run_until(trainer, moment, iteration)
    resumed = trainer_of(recipe, tmp_path)
    resumed.evaluate = score(resumed)
    resumed.resume()
    done = resumed.state.iteration
    assert done == (iteration if moment in ("forward before", "checkpoint after") else iteration - 1)
    resumed.run()
    assert rows(tmp_path) == rows(whole)
    for name in ("best.safetensors", "last.safetensors"):
        assert_same(
            checkpoint.read_checkpoint(tmp_path / name)[0], checkpoint.read_checkpoint(whole / name)[0]
        )


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX's signals")
@pytest.mark.parametrize(
    ("moment", "iteration"),
    [("parallel", 7), ("evaluate", 8), ("update", 9), ("_save_best", 16), ("evaluate", 22), ("save", 22)],
)
def test_sigterm_at_any_moment_loses_nothing(
    uninterrupted: Any, moment: str, iteration: int, tmp_path: Path
) -> None:
    recipe, whole = uninterrupted
    trainer = trainer_of(recipe, tmp_path)
    trainer.evaluate = score(trainer)
    owner = trainer.learner if moment == "update" else trainer
    inner = None if moment == "parallel" else getattr(owner, moment)

    def signalled(*arguments: Any) -> Any:
        if trainer.state.iteration == iteration:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # the second is ignored
        return inner(*arguments)

    if moment == "parallel":
        trainer.learner.parallel.register_forward_hook(lambda *_: _killed_at(trainer, iteration))
    else:
        setattr(owner, moment, signalled)
    with pytest.raises(SystemExit, match="143"), answered():
        trainer.run()
    resumed = trainer_of(recipe, tmp_path)
    resumed.evaluate = score(resumed)
    resumed.resume()
    assert resumed.state.iteration == iteration + (moment == "update"), "not a step is lost"
    resumed.run()
    assert rows(tmp_path) == rows(whole)
    for name in ("best.safetensors", "last.safetensors"):
        assert_same(
            checkpoint.read_checkpoint(tmp_path / name)[0], checkpoint.read_checkpoint(whole / name)[0]
        )


def _killed_at(trainer: Trainer, iteration: int) -> None:
    if trainer.state.iteration == iteration:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_row_is_not_written_twice(tmp_path: Path) -> None:
    """Step 20 fills a row; the checkpoint of step 19 must not take it for its own."""
    recipe = tiny_recipe("faster_rcnn", epochs=5.5, eval_every=1.0, save_every=0.0)
    trainer = trainer_of(recipe, tmp_path)
    run_until(trainer, "checkpoint before", 20)
    assert [row["iteration"] for row in rows(tmp_path)] == [20]
    resumed = trainer_of(recipe, tmp_path)
    resumed.resume()
    assert resumed.state.iteration == 19
    resumed.run()
    assert [row["iteration"] for row in rows(tmp_path)] == [20, 22, 22]


def test_a_run_killed_before_its_first_checkpoint_begins_its_rows_anew(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn", epochs=5.5, eval_every=1.0)
    run_until(trainer_of(recipe, tmp_path), "evaluation after", 22)
    assert not (tmp_path / "last.safetensors").exists()
    expected = rows(tmp_path)
    trained(recipe, tmp_path)
    assert rows(tmp_path) == expected


def test_the_rate_of_the_heads_is_noted(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn", epochs=0.5, backbone_lr=0.0, warmup=0.0)
    trained(recipe, tmp_path)
    assert next(row["lr"] for row in rows(tmp_path) if "lr" in row) == recipe.train.lr


def test_a_row_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn")
    trained(recipe, tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + '{"iteration": 4, "epo', encoding="utf-8")
    trainer_of(recipe, tmp_path).resume()
    assert path.read_text(encoding="utf-8") == whole


# Losses that are not finite


def poison(trainer: Trainer, steps: set[int], how: str = "loss") -> None:
    """Spoil the loss, or only its gradient, of some steps, counted from 0."""

    def forward(batch: Any, truths: list[Targets]) -> Output:
        output = trainer.network(batch, truths)
        if trainer.state.iteration in steps:
            bias = trainer.network.box.logits.bias
            # The root's slope at 0 is infinite, its value is 0.
            fault = bias.sum() * math.nan if how == "loss" else (bias * 0).abs().sum().sqrt()
            return Output(losses={**output.losses, "classes": output.losses["classes"] + fault})
        return output

    trainer.learner.parallel = forward  # type: ignore[assignment]


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(how: str, tmp_path: Path) -> None:
    said: list[str] = []
    trainer = trainer_of(tiny_recipe("faster_rcnn", ema=0.9), tmp_path, say=said.append)
    poison(trainer, {1}, how)
    samples = samples_of(tiny_shapes(2, first=40))
    trainer.step(samples)
    before, average = weights(trainer.network), {k: v.clone() for k, v in trainer.learner.ema.shadow.items()}
    state = {k: v.clone() for s in trainer.learner.optimizer.state.values() for k, v in s.items()}
    trainer.step(samples)
    assert_same(weights(trainer.network), before)
    assert_same(trainer.learner.ema.shadow, average)
    assert_same({k: v for s in trainer.learner.optimizer.state.values() for k, v in s.items()}, state)
    assert (trainer.state.skipped, trainer.state.skipped_in_a_row, trainer.window_steps) == (1, 1, 1)
    assert trainer.state.iteration == 2
    (line,) = said
    assert f"iteration 2: the {how} is not finite" in line
    assert line.endswith("step skipped; images: 40, 41")
    trainer.step(samples)
    assert (trainer.state.skipped, trainer.state.skipped_in_a_row, trainer.window_steps) == (1, 0, 2)
    assert not torch.equal(trainer.network.box.logits.bias, before["box.logits.bias"])


def test_a_step_that_is_not_finite_leaves_running_statistics(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn")
    batch_norm = replace(recipe.settings, fpn=replace(recipe.settings.fpn, norm="batch"))
    trainer = trainer_of(replace(recipe, settings=batch_norm), tmp_path)
    samples = samples_of(tiny_shapes(2))
    before = weights(trainer.network)
    trainer.step(samples)
    running = [key for key in before if "running" in key]
    assert any(not torch.equal(before[key], weights(trainer.network)[key]) for key in running)
    before = weights(trainer.network)
    poison(trainer, {1})
    trainer.step(samples)
    assert_same(weights(trainer.network), before)


def test_too_many_in_a_row_stop_the_run_and_keep_the_last_good_checkpoint(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn", epochs=5.0, max_bad_steps=3, save_every=0.0, eval_every=1.0, lr=1e-3)
    said: list[str] = []
    trainer = trainer_of(recipe, tmp_path, say=said.append)
    poison(trainer, {2, 5, 6, 7})
    with pytest.raises(TrainingStopped, match=r"3 consecutive losses.*iteration 6 on.*train\.lr=0\.00025"):
        trainer.run()
    assert len(said) == 4
    assert trainer.state.skipped == 4
    metadata = checkpoint.read_metadata(tmp_path / "last.safetensors")
    assert metadata["train_state"]["iteration"] == 5
    assert_same(weights(load_detector(tmp_path, "cpu").network), weights(trainer.network))


def test_stopped_before_the_first_checkpoint_the_weights_are_there_too(tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe("faster_rcnn", epochs=5.0, max_bad_steps=2), tmp_path)
    poison(trainer, set(range(20)))
    before = weights(trainer.network)
    with pytest.raises(TrainingStopped, match=r"last\.safetensors"):
        trainer.run()
    assert_same(weights(load_detector(tmp_path / "last.safetensors", "cpu").network), before)


# Disk full


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_disk_full_while_saving_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("faster_rcnn", save_every=0.0, eval_every=1.0)
    whole = trained(recipe, tmp_path / "whole")

    def tick(fraction: float, losses: LossValues) -> None:
        if fraction == 0.75:
            monkeypatch.setattr(os, "fsync", full_disk)

    out = tmp_path / "run"
    with pytest.raises(OSError, match=r"No space left on device.*previous one.*last\.safetensors"):
        trained(recipe, out, callbacks=watched(tick))
    monkeypatch.undo()
    assert sorted(p.name for p in out.iterdir()) == ["last.safetensors"]
    resumed = trainer_of(recipe, out)
    resumed.resume()
    assert resumed.state.iteration == 2
    resumed.run()
    assert_same(weights(resumed.network), weights(whole.network))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_disk_full_while_logging(tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe("faster_rcnn"), tmp_path)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device.*--resume.*metrics\.jsonl"):
        trainer.run()


# Data


def test_images_without_objects_train_too(tmp_path: Path) -> None:
    data = tiny_shapes(4)
    records = [
        replace(r, masks=None, truth=Instances.empty(r.truth.size, data.class_names)) for r in data.records
    ]
    for name, mixed in (("none", records), ("half", [*records[:2], *data.records[2:]])):
        losses: list[LossValues] = []
        empty = replace(data, scenes=replace(data.scenes, objects=(0, 0)), records=records)
        trainer = trained(
            tiny_recipe(),
            tmp_path / name,
            data=empty if name == "none" else replace(data, records=mixed),
            callbacks=watched(lambda fraction, values, losses=losses: losses.append(values)),
        )
        assert trainer.state.skipped == 0
        assert all(math.isfinite(v) for each in losses for v in each.values())
        if name == "none":
            assert {each["masks"] for each in losses} == {each["boxes"] for each in losses} == {0.0}
