"""Where the host waits for a device: named and counted on a pretended one, for a step and a prediction."""

import contextlib
import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pretended import DEVICE, DeviceTensor, Log, pretended, to_device, values
from rcnn.data.geometry import TrainingSample
from rcnn.inference.detector import Detector
from rcnn.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.models.model import Model
from rcnn.parts.batch import ImageBatch, Output, TargetMasks, Targets
from rcnn.parts.box_head import CascadeSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.regions import SamplingSettings
from rcnn.training import learner, loss_scaling
from rcnn.training.callbacks import Callbacks, TrainEvent
from rcnn.training.optimizer import build_optimizer
from rcnn.training.trainer import Trainer
from rcnn.transform import Transform
from tiny import SIDE, tiny_network, tiny_recipe, tiny_shapes

SIZE = (64, 96)
COUNTS = (1, 4)
# What a step of Mask R-CNN waits for: sizes of results that only the device knows.
STEP = {
    "torchvision/ops/boxes.py torchvision::nms": 1,
    "rcnn/ops/boxes.py aten::nonzero": 1,  # the best proposals
    "rcnn/parts/regions.py aten::nonzero": 2,  # the sampled ones, and the positives among them
}
PREDICTION = {
    "torchvision/ops/boxes.py torchvision::nms": 2,
    "rcnn/ops/boxes.py aten::nonzero": 2,  # the best proposals, the best detections
    "rcnn/parts/box_head.py aten::nonzero": 2,  # scores that are high enough, boxes that are large enough
    "rcnn/device.py late read": 2,  # the results, all at once, and the pasted masks
}


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Sums have one order."""


def places(log: Log) -> dict[str, int]:
    """The places without their lines, which move."""
    found: dict[str, int] = {}
    for text, count in log.syncs.items():
        place, _, kind = text.partition(" ")
        key = f"{place.partition(':')[0]} {kind}"
        found[key] = found.get(key, 0) + count
    return found


def truth(seed: int, count: int) -> Targets:
    """Rectangles with masks, keypoints and a crowd region."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, 2), generator=draw) * torch.tensor([52.0, 20.0])
    boxes = torch.cat([corners, corners + 12 + torch.rand((count, 2), generator=draw) * 30], 1)
    windows = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], 1).long()
    pixels = int(((windows[:, 2:] - windows[:, :2]).prod(1)).sum())
    keypoints = torch.cat([boxes[:, None, :2] + 4, torch.full((count, 1, 1), 2.0)], 2)
    masks = TargetMasks(torch.ones(pixels, dtype=torch.uint8), windows, SIZE)
    return Targets(
        SIZE, boxes, torch.arange(count) % 3, masks,
        keypoints=keypoints.expand(-1, 4, -1).contiguous(), crowd=torch.arange(count) == 2,
        has_mask=torch.arange(count) != 3,
    )  # fmt: skip


def images(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(9)
    return torch.randn((count, 3, *SIZE), generator=draw).contiguous(memory_format=torch.channels_last)


def narrow(settings: Any = None) -> Any:
    """Mask R-CNN ResNet-50-FPN as it is, with fewer channels, proposals and regions."""
    settings = settings or MaskRCNNSettings()
    box = replace(settings.box, channels=32, sampling=SamplingSettings(count=32))
    rpn = replace(settings.rpn, pre_nms=(100, 100), post_nms=(60, 60), count=64)
    return replace(
        settings, fpn=replace(settings.fpn, channels=16), rpn=rpn, box=box,
        mask=MaskHeadSettings(convs=1, channels=8),
    )  # fmt: skip


def losses_of(network: Model, pixels: Tensor) -> dict[str, Tensor]:
    count = len(pixels)
    batch = ImageBatch(pixels, (SIZE,) * count, seeds=tuple(range(count)))
    losses = network(batch, [truth(i, 3 + 2 * i) for i in range(count)]).losses
    network.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return losses


@pytest.fixture(scope="module")
def waits() -> dict[int, tuple[Log, dict[str, Tensor], dict[str, Tensor]]]:
    """Steps of Mask R-CNN ResNet-50-FPN of 1 and 4 images: the log, and the losses here and there."""
    torch.manual_seed(0)
    network = MaskRCNN(3, narrow()).train()
    here = {count: losses_of(network, images(count)) for count in COUNTS}
    found = {}
    with pretended() as log:
        to_device(network)
        losses_of(network, DeviceTensor(images(1)))  # constants are there then
        for count in COUNTS:
            log.clear()
            there = losses_of(network, DeviceTensor(images(count)))
            found[count] = (copy.deepcopy(log), here[count], there)
    return found


@pytest.mark.parametrize("count", COUNTS)
def test_what_a_step_waits_for_does_not_depend_on_the_batch(waits: Any, count: int) -> None:
    log = waits[count][0]
    assert places(log) == STEP, f"\n{log}"
    assert not log.mixed
    assert not log.doubles


@pytest.mark.parametrize("count", COUNTS)
def test_a_device_has_the_losses_of_the_cpu(waits: Any, count: int) -> None:
    _, here, there = waits[count]
    for name, loss in here.items():
        assert_close(values(there[name].detach()), loss.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["cascade", "keypoints", "max pooling"])
def test_other_heads_wait_as_little(kind: str) -> None:
    torch.manual_seed(0)
    settings = narrow()
    network: Model
    if kind == "keypoints":
        head = KeypointHeadSettings(count=4, convs=1, channels=8)
        network = KeypointRCNN(3, narrow(KeypointRCNNSettings(keypoint=head)))
    elif kind == "cascade":
        box = replace(settings.box, class_agnostic=True, cascade=CascadeSettings())
        network = MaskRCNN(3, replace(settings, box=box))
    else:
        pooled = replace(settings.box, pool=replace(settings.box.pool, pooling="pool"))
        network = MaskRCNN(3, replace(settings, box=pooled))
    here = losses_of(network.train(), images(2))
    with pretended() as log:
        to_device(network)
        losses_of(network, DeviceTensor(images(2)))
        log.clear()
        there = losses_of(network, DeviceTensor(images(2)))
    assert log.total <= 12, f"\n{log}"
    assert not log.mixed
    assert not log.doubles
    for name, loss in here.items():
        assert_close(values(there[name].detach()), loss.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("count", COUNTS)
def test_what_a_prediction_waits_for_does_not_depend_on_the_batch(count: int) -> None:
    torch.manual_seed(0)
    network = MaskRCNN(3, narrow()).eval()
    pictures = [torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8) for _ in range(count)]
    detector = Detector(network, Transform(), ("a", "b", "c"), fuse=False, precision="float32")
    expected = detector.predict(pictures, min_score=0.0, batch_size=count)
    with pretended() as log:
        to_device(network)
        detector.predict(pictures, min_score=0.0, batch_size=count)
        log.clear()
        found = detector.predict(pictures, min_score=0.0, batch_size=count)
    assert places(log) == PREDICTION, f"\n{log}"
    assert log.total <= 8
    assert not log.mixed
    assert not log.doubles
    for one, two in zip(found, expected, strict=True):
        assert len(one) == len(two) > 20
        assert abs(one.boxes - two.boxes).max() < 1e-2
        assert one.masks.dense().any()
        assert (one.masks.dense() != two.masks.dense()).mean() < 1e-3, "pasted on the device"


# The training loop


def trainer_of(folder: Path, optimizer: str, **more: Any) -> Trainer:
    more = {"epochs": 4.0, "ema": 0.9, "batch_size": 2, "amp": "off", **more}
    recipe = tiny_recipe(optimizer=optimizer, **more)
    batch_norm = replace(recipe.settings, fpn=replace(recipe.settings.fpn, norm="batch"))
    network = tiny_network(replace(recipe, settings=batch_norm))
    return Trainer(
        network, replace(recipe, settings=batch_norm), tiny_shapes(4), folder,
        evaluate=lambda full: {"score": 0.5}, describe={}, say=lambda text: None,
    )  # fmt: skip


def on_device(trainer: Trainer) -> Trainer:
    """The trainer, with its network on the pretended device."""
    to_device(trainer.network)
    return Trainer(
        trainer.network, trainer.recipe, trainer.data, trainer.out, evaluate=trainer.evaluate, describe={},
        say=lambda text: None,
    )  # fmt: skip


def samples(first: int) -> list[TrainingSample]:
    data = tiny_shapes(2, first=first)
    return [TrainingSample.from_sample(data[i]) for i in range(2)]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    state = {**trainer.network.state_dict(), **{f"ema.{k}": v for k, v in trainer.learner.ema.shadow.items()}}
    for i, entries in enumerate(trainer.learner.optimizer.state.values()):
        state |= {f"{i}.{name}": value for name, value in entries.items()}
    return {name: values(value.detach()).clone() for name, value in state.items()}


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Iterations whose loss is spoilt."""
    steps: set[int] = set()
    compute = Trainer.make_batch

    def make_batch(self: Trainer, given: Any) -> Any:
        batch, targets = compute(self, given)
        if self.state.iteration in steps:
            batch = replace(batch, tensors=batch.tensors * math.nan)
        return batch, targets

    monkeypatch.setattr(Trainer, "make_batch", make_batch)
    return steps


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_on_a_device_are_those_of_the_cpu_and_are_read_late(
    optimizer: str, tmp_path: Path, poisoned: set[int]
) -> None:
    """A step that is not finite changes nothing there either: neither the first one nor a later one."""
    poisoned.update({0, 3})
    here, other = trainer_of(tmp_path, optimizer), trainer_of(tmp_path, optimizer)
    here.learner.start_training()
    losses = [here.step(samples(2 * i)) for i in range(5)]
    with pretended() as log:
        there = on_device(other)
        there.learner.start_training()
        settled = []
        for i in range(5):
            if i == 4:
                log.clear()
            before = weights(there)
            settled.append(there._launch(samples(2 * i), 0.0))
            if i in poisoned:
                after = weights(there)
                assert_close({name: after[name] for name in before}, before, rtol=0, atol=0)
        waits, late = places(log), log.late_reads.total()
        settled.append(there._settle())
    assert [len(each) for each in settled] == [0, 1, 1, 1, 1, 1]
    assert [each[0].launched.event.iteration for each in settled[1:]] == [1, 2, 3, 4, 5]
    assert waits == {**STEP, "rcnn/device.py late read": 1}, f"\n{log}"
    assert late == 1
    assert not log.mixed
    assert not log.doubles
    for each, expected in zip((s[0].losses for s in settled[1:]), losses, strict=True):
        assert_close(each, expected, rtol=1e-3, atol=1e-4, equal_nan=True)
    assert there.state.skipped == here.state.skipped == 2
    assert (there.window_steps, there.state.skipped_in_a_row) == (3, 0)
    assert_close(weights(there), weights(here), rtol=1e-3, atol=1e-3)


def test_the_scale_of_the_losses_stays_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps whose gradients overflow change nothing there, lower the scale, and are no bad steps.

    What is computed is float32, as there is no autocast here, and the scale so high that this overflows too.
    """
    monkeypatch.setattr(learner, "autocast", lambda device, precision: contextlib.nullcontext())
    monkeypatch.setattr(loss_scaling, "INITIAL_SCALE", 2.0**127)
    trainer = trainer_of(tmp_path, "sgd", amp="fp16")
    with pretended() as log:
        there = on_device(trainer)
        there.learner.start_training()
        compute = there.learner.parallel
        there.learner.parallel = lambda *given: Output({k: 99 * v for k, v in compute(*given).losses.items()})
        before = weights(there)
        settled = [*there._launch(samples(0), 0.0), *there._settle()]
        assert settled[0].overflowed
        after = weights(there)
        assert_close({name: after[name] for name in before}, before, rtol=0, atol=0)
        while there.window_steps == 0:
            log.clear()
            settled += [*there._launch(samples(0), 0.0), *there._settle()]
    assert places(log) == {**STEP, "rcnn/device.py late read": 1}, f"\n{log}"
    assert not log.mixed
    assert [step.scale for step in settled] == [2.0 ** (127 - i) for i in range(len(settled))]
    assert [step.good for step in settled] == [False] * (len(settled) - 1) + [True]
    assert there.state.skipped == 0
    moved = weights(there)
    assert any(not torch.equal(moved[name], before[name]) for name in before)


def test_a_run_on_a_device_writes_the_rows_of_the_cpu(tmp_path: Path) -> None:
    """Late as they are read: callbacks get every step once, in order, before evaluations and the end."""
    events: dict[str, list[tuple[str, int]]] = {"cpu": [], "device": []}

    def follow(name: str, trainer: Trainer) -> None:
        class Follower:
            def on_step(self, event: TrainEvent) -> None:
                events[name].append(("step", event.iteration))

            def on_evaluation(self, event: TrainEvent) -> None:
                events[name].append(("evaluation", event.iteration))

        trainer.callbacks = Callbacks([Follower()])
        trainer.run()

    (tmp_path / "cpu").mkdir()
    (tmp_path / "device").mkdir()
    here = trainer_of(tmp_path / "cpu", "sgd", eval_every=0.5, save_every=0.0)
    follow("cpu", here)
    other = trainer_of(tmp_path / "device", "sgd", eval_every=0.5, save_every=1e6)
    with pretended():
        there = on_device(other)
        there.save = lambda: None  # type: ignore[method-assign] -- the file format takes real tensors
        there._save_best = lambda metrics: None  # type: ignore[method-assign]
        follow("device", there)
    assert events["cpu"] == events["device"]
    assert events["cpu"][-1] == ("evaluation", 8)


def test_optimisers_on_a_device_begin_with_no_momentum(tmp_path: Path) -> None:
    """Fused SGD takes memory as it is for its first step, and keeps that if the step is left out."""
    trainer = trainer_of(tmp_path, "sgd")
    assert not trainer.learner.optimizer.state
    with pretended():
        to_device(trainer.network)
        optimizer = build_optimizer(trainer.network, trainer.settings)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert parameter.device == DEVICE
                assert not values(optimizer.state[parameter]["momentum_buffer"]).any()


def test_the_tool_finds_what_it_looks_for() -> None:
    with pretended() as log:
        x = DeviceTensor(torch.arange(6.0))
        _ = float(x.sum()), x[x > 2], x.nonzero(), x.tolist(), x.cpu(), torch.ones(3).to(DEVICE)
        x[x > 3] = 0  # a fill, which waits for nothing
        assert log.total == 6
        x.to("cpu", non_blocking=True), torch.ones(3).pin_memory().to(DEVICE, non_blocking=True)
        assert log.total == 6
        assert log.late_reads.total() == 1
        with pytest.raises(RuntimeError):
            torch.tensor(float(SIDE)).to(DEVICE) + torch.ones(2, 3) @ x  # of shapes that do not fit
        log.clear()
        x.double()
        assert log.doubles.total() == 1
        _ = x + torch.ones(6)
        assert log.mixed.total() == 1
