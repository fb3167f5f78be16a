"""Training in float16 on the CPU, which computes in it slowly but as a GPU does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.data.geometry import TrainingSample
from rcnn.device import training_precision
from rcnn.io import checkpoint
from rcnn.training import loss_scaling
from rcnn.training.loss_scaling import LossScaling
from rcnn.training.settings import TrainSettings
from rcnn.training.trainer import Trainer, TrainingStopped
from tiny import tiny_network, tiny_recipe, tiny_shapes

CPU = torch.device("cpu")
TOO_LARGE = 2.0**18

pytestmark = pytest.mark.usefixtures("one_thread")


def trainer_of(folder: Path, model: str = "faster_rcnn", **train: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    recipe = tiny_recipe(model, **{"amp": "fp16", "ema": 0.9, "epochs": 30.0, **train})
    return Trainer(
        tiny_network(recipe), recipe, tiny_shapes(6), folder, evaluate=lambda full: {"score": 0.0},
        describe={}, say=lambda text: None,
    )  # fmt: skip


def samples() -> list[TrainingSample]:
    data = tiny_shapes(2)
    return [TrainingSample.from_sample(data[i]) for i in range(2)]


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """The weights, the averages and the optimiser's state."""
    return {name: tensor.detach().clone() for name, tensor in trainer.learner.state()[0].items()}


def scale_of(trainer: Trainer) -> float:
    assert trainer.learner.scaling is not None
    return float(trainer.learner.scaling.state()["scale"])


@pytest.mark.parametrize("model", ["faster_rcnn", "mask_rcnn"])
def test_gradients_that_overflow_lower_the_scale_and_are_no_bad_steps(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scaling, "INITIAL_SCALE", TOO_LARGE)
    said: list[str] = []
    trainer = trainer_of(tmp_path, model, max_bad_steps=1)
    trainer.say = said.append
    trainer.learner.start_training()
    before, scale, skipped = everything(trainer), TOO_LARGE, 0
    while trainer.window_steps == 0:
        losses = trainer.step(samples())
        assert all(0 <= loss < 100 for loss in losses.values()), "losses are shown without the scale"
        if trainer.window_steps == 0:
            assert_close(everything(trainer), before, rtol=0, atol=0)
            scale, skipped = scale / 2, skipped + 1
        assert scale_of(trainer) == scale
    assert 0 < skipped < 18
    assert trainer.state.iteration == skipped + 1
    assert (trainer.state.skipped, trainer.state.skipped_in_a_row, said) == (0, 0, [])
    moved = everything(trainer)
    assert any(not torch.equal(moved[name], before[name]) for name in before if name in moved)


def test_gradients_that_are_not_finite_without_a_scale_either_are_bad_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scaling, "INITIAL_SCALE", 4.0)
    trainer = trainer_of(tmp_path, max_bad_steps=2)
    compute = trainer.learner.parallel

    def forward(batch: Any, targets: Any) -> Any:
        output = compute(batch, targets)
        bias = trainer.network.box.logits.bias
        output.losses["classes"] = output.losses["classes"] + (bias * 0).abs().sum().sqrt()  # slope: infinite
        return output

    trainer.learner.parallel = forward  # type: ignore[assignment]
    with pytest.raises(TrainingStopped, match=r"from iteration 3 on.*or train in float32 \(--set train.amp="):
        trainer.run()
    assert (trainer.state.iteration, trainer.state.skipped) == (4, 2)


def test_a_resumed_run_goes_on_with_its_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which had been lowered before, so that a run that began with another one would differ."""
    monkeypatch.setattr(loss_scaling, "INITIAL_SCALE", TOO_LARGE)
    part = trainer_of(tmp_path / "part")
    part.learner.start_training()
    while not part.window_steps:
        part.step(samples())
    part.save()
    resumed = trainer_of(tmp_path / "part")
    resumed.resume()
    assert scale_of(resumed) == scale_of(part) < TOO_LARGE
    stored = checkpoint.read_metadata(tmp_path / "part" / "last.safetensors")["loss_scaling"]
    assert stored["scale"] == scale_of(part)
    resumed.learner.start_training()
    for trainer in (part, resumed):
        for _ in range(2):
            trainer.step(samples())
    assert_close(everything(resumed), everything(part), rtol=0, atol=0)
    assert scale_of(resumed) == scale_of(part)


def test_a_run_may_be_resumed_in_another_precision(tmp_path: Path) -> None:
    """As on a machine with another GPU; each way the rest of the state is taken."""
    for first, then in (("fp16", "off"), ("off", "fp16")):
        trainer = trainer_of(tmp_path / first, amp=first)
        trainer.step(samples())
        trainer.save()
        resumed = trainer_of(tmp_path / first, amp=then)
        resumed.resume()
        assert_close(everything(resumed), everything(trainer), rtol=0, atol=0)
        resumed.step(samples())
        assert resumed.state.iteration == 2


def test_scaled_gradients_are_the_gradients() -> None:
    """Bit for bit, as the scale is a power of two."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    images = torch.randn(7, 5)
    layers(images).square().sum().backward()
    expected = [p.grad.clone() for p in layers.parameters() if p.grad is not None]
    optimizer.zero_grad()
    scale = LossScaling(CPU).backward(layers(images).square().sum(), optimizer)
    assert float(scale) == loss_scaling.INITIAL_SCALE
    assert_close([p.grad for p in layers.parameters()], expected, rtol=0, atol=0)


def test_small_gradients_survive() -> None:
    """1e-9 is zero in float16, but not times the scale."""
    found = []
    for scaled in (False, True):
        weight = nn.Parameter(torch.ones(1, 1))
        with torch.autocast("cpu", torch.float16):
            loss = nn.functional.linear(torch.ones(1, 1), weight).float().sum() * 1e-9
        if scaled:
            LossScaling(CPU).backward(loss, torch.optim.SGD([weight], lr=0.1))
        else:
            torch.autograd.backward(loss)
        assert weight.grad is not None
        found.append(float(weight.grad))
    assert found[0] == 0.0
    assert found[1] == pytest.approx(1e-9, rel=1e-2)


@pytest.mark.parametrize(
    ("bfloat16", "capability", "expected", "card"),
    [
        (True, (8, 0), "bf16", "A100"),
        (False, (7, 5), "fp16", "T4"),
        (False, (7, 0), "fp16", "V100"),
        (False, (6, 1), "float32", "GTX 1080, slow in float16"),
    ],
)
def test_the_precision_of_a_card(
    bfloat16: bool, capability: tuple[int, int], expected: str, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda:0")
    assert training_precision(device) == expected, card
    assert TrainSettings(amp="auto").precision(device) == expected, card
    for amp, asked in (("off", "float32"), ("bf16", "bf16"), ("fp16", "fp16")):
        assert TrainSettings(amp=amp).precision(device) == asked  # type: ignore[arg-type]


def test_other_devices_train_in_float32() -> None:
    assert training_precision(torch.device("mps")) == training_precision(torch.device("meta")) == "float32"
