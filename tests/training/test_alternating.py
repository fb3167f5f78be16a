"""Faster R-CNN in four steps: what each begins with and leaves, and that a killed run ends the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.testing import assert_close
from typer.testing import CliRunner

import rcnn
from rcnn.cli import app
from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import read_proposals
from rcnn.data.formats.open import open_data
from rcnn.data.geometry import TrainingSample
from rcnn.io import checkpoint
from rcnn.loading import load_detector
from rcnn.models.fast_rcnn import FastRCNN
from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import ImageBatch
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.training import alternating, run
from rcnn.training.alternating import AlternatingTrainer, ProposalNetwork, freeze
from rcnn.training.recipe import Recipe, dump_recipe
from rcnn.training.run import rewrite_report, train
from rcnn.training.run_folder import read_history
from rcnn.training.trainer import Trainer
from tiny import tiny_network, tiny_recipe, tiny_shapes

ROOT = Path(__file__).parents[2]
SHARED = ("backbone.", "neck.")


pytestmark = pytest.mark.usefixtures("one_thread")


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def alternating_recipe(**settings: Any) -> Recipe:
    """Three steps of the optimiser in each of the four steps, a checkpoint after each of them."""
    recipe = tiny_recipe("faster_rcnn", epochs=4.0, save_every=0.0, eval_images=1, eval_every=0.5, ema=0.5)
    return replace(recipe, settings=replace(recipe.settings, scheme="alternating", **settings))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures: six to train on."""
    return tiny_shapes(7).write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(data, recipe=alternating_recipe(), out=folder, console=quiet())


def state(folder: Path, name: str, parts: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    tensors, _ = checkpoint.read_checkpoint(folder / f"{name}.safetensors")
    return {key: value for key, value in tensors.items() if key.startswith(parts)}


def proposals(file: Path) -> dict[str, Tensor]:
    return {str(key): torch.from_numpy(boxes) for key, boxes in read_proposals(file).items()}


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    assert one.keys() == two.keys()
    assert one
    return [key for key in one if not torch.equal(one[key], two[key])]


def sequence(folder: Path, data: Dataset, recipe: Recipe) -> AlternatingTrainer:
    return AlternatingTrainer(
        folder, recipe, data, data, torch.device("cpu"), measure=lambda *_: lambda full: {"score": 0.0}
    )


# The steps


def test_steps_three_and_four_leave_the_shared_convolutions_as_they_are(whole: Path) -> None:
    of_step_two = state(whole, "step-2", SHARED)
    assert any(key.startswith("neck.") for key in of_step_two)
    for name in ("step-3", "step-4", "best", "last"):
        assert differing(state(whole, name, SHARED), of_step_two) == [], name


def test_both_networks_share_them_in_the_end(whole: Path) -> None:
    assert differing(state(whole, "best", ("rpn.",)), state(whole, "step-3", ("rpn.",))) == []
    assert differing(state(whole, "best", ("box.",)), state(whole, "step-4", ("box.",))) == []
    network = load_detector(whole, "cpu").network
    assert isinstance(network, FasterRCNN)
    proposer, detector = (
        load_detector(whole / "step-3.safetensors", "cpu"),
        load_detector(whole / "step-4.safetensors", "cpu"),
    )
    assert isinstance(proposer.network, FasterRCNN)
    assert isinstance(detector.network, FastRCNN)
    # One pass through the one backbone gives what the two networks of steps 3 and 4 give one after the other.
    batch = detector.transform([TrainingSample.from_sample(tiny_shapes(1)[0]).image])
    rpn: Any = proposer.network.rpn
    maps = proposer.network.neck(proposer.network.backbone(batch.tensors))
    boxes = rpn.decode(rpn(maps), batch.extents, min_proposals=10).lists(1)
    apart = detector.network(ImageBatch(batch.tensors, batch.sizes, proposals=tuple(boxes)), min_score=0.0)
    together = network(batch, min_score=0.0)
    assert len(together.detections) == 10
    assert_close(together.detections.boxes, apart.detections.boxes)
    assert_close(together.detections.scores, apart.detections.scores)


def test_steps_one_and_two_share_nothing(whole: Path) -> None:
    one, two = state(whole, "step-1", SHARED), state(whole, "step-2", SHARED)
    # The biases of a frozen batch norm never train, nor does the stem.
    weights = {k for k in one if k.endswith(".weight") and not k.startswith("backbone.stages.0.")}
    assert len(weights) > 10
    assert weights <= set(differing(one, two))


def test_each_step_begins_where_it_should(data: Path, whole: Path) -> None:
    steps = sequence(whole, open_data(data), alternating_recipe())
    pretrained = tiny_network(tiny_recipe("faster_rcnn")).state_dict()
    for step in (1, 2):
        begins = steps._network(step).state_dict()
        assert (
            differing(
                {k: v for k, v in begins.items() if k.startswith("backbone.")},
                {k: v for k, v in pretrained.items() if k.startswith("backbone.")},
            )
            == []
        ), step
    for step, kept in ((3, SHARED), (4, (*SHARED, "box."))):
        network = steps._network(step)
        begins = {k: v for k, v in network.state_dict().items() if k.startswith(kept)}
        assert differing(begins, state(whole, "step-2", kept)) == [], step
        trainable = {key.split(".")[0] for key, p in network.named_parameters() if p.requires_grad}
        assert trainable == {"rpn" if step == 3 else "box"}


def test_what_trains_in_each_step_changes(whole: Path) -> None:
    assert differing(state(whole, "step-4", ("box.",)), state(whole, "step-2", ("box.",)))
    assert differing(state(whole, "step-3", ("rpn.",)), state(whole, "step-1", ("rpn.",)))


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    settings = alternating_recipe(
        backbone=BackboneSettings("efficientnet_lite0", (1, 2), frozen_stages=1, norm="batch"),
        fpn=FPNSettings(channels=8, norm="batch", coarsest="none"),
    ).settings
    network = ProposalNetwork(settings)
    freeze(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert any(key.startswith("neck.") and key.endswith("running_mean") for key in before)
    network.train()
    network.neck(network.backbone(torch.randn(2, 3, 64, 64)))
    assert differing(network.state_dict(), before) == []


def test_the_proposals_between_the_steps_are_kept(whole: Path) -> None:
    kept, later = proposals(whole / "step-1.npz"), proposals(whole / "step-3.npz")
    assert len(kept) == 6
    assert max(map(len, kept.values())) <= 50
    assert min(map(len, kept.values())) > 5
    assert differing(kept, later)


# The run


def test_the_run_is_like_any_other(whole: Path, data: Path, tmp_path: Path) -> None:
    for name in ("best.safetensors", "last.safetensors", "report.html", "evaluation.json", "metrics.jsonl"):
        assert (whole / name).is_file(), name
    rows = read_history(whole)
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert max(row["iteration"] for row in rows) == 12
    assert max(row["epoch"] for row in rows) == 4.0
    assert {row["step"] for row in rows if "proposals/AR" in row} == {1, 3}
    assert {row["step"] for row in rows if "box/AP" in row} == {2, 4}
    assert not list((whole / "step-1").glob("*.safetensors"))
    assert load_detector(whole).info["best_iteration"] > 9
    assert rewrite_report(whole, quiet()).is_file()
    image = next(data.parent.rglob("*.png"))
    for arguments in (["evaluate", whole, data], ["predict", whole, image, "--out", tmp_path / "found"]):
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        assert done.exit_code == 0, done.output


class Killed(BaseException):
    """As abrupt as a test can be in its own process."""


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("_save_step", 2),
        ("write_proposals", 2),
        ("_join_metrics", 3),
        ("_finish_step", 5),
        ("_finish_step", 8),
        ("_finish_step", 11),
        ("_finish", 1),
        ("write_results", 1),
    ],
)
def test_killed_anywhere_it_ends_the_same(
    where: str, call: int, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: dict[str, Any] = {"write_proposals": alternating, "_finish_step": Trainer, "write_results": run}
    place = places.get(where, AlternatingTrainer)
    original, calls = getattr(place, where), []

    def killed(*given: Any, **named: Any) -> Any:
        calls.append(where)
        if len(calls) == call:
            raise Killed
        return original(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(place, where, killed)
        with pytest.raises(Killed):
            train(data, recipe=alternating_recipe(), out=tmp_path / "run", console=quiet())
    train(resume=tmp_path / "run", console=quiet())
    assert_same(tmp_path / "run", whole)


def assert_same(folder: Path, other: Path) -> None:
    for name in ("best", "last", "step-1", "step-2", "step-3", "step-4"):
        assert differing(state(folder, name), state(other, name)) == [], name
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(f)] for f in (folder, other)
    ]
    assert rows[0] == rows[1]


KILLED = """
import sys, torch
torch.set_num_threads(1)
from rcnn.training.run import train
train(sys.argv[1], recipe=sys.argv[2], out=sys.argv[3])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.usefixtures("no_report")
def test_killed_from_outside_it_ends_the_same(data: Path, whole: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "tiny.toml"
    file.write_text(dump_recipe(alternating_recipe()), encoding="utf-8")
    # The package that this process runs: with the kernels, if it has them.
    paths = [str(Path(rcnn.__file__).parents[1]), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(data), str(file), str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while not (out / "step-3" / "last.safetensors").exists():
            assert process.poll() is None, (process.stderr.read() if process.stderr else b"").decode()
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (out / "step-4.safetensors").exists()
    train(resume=out, console=quiet())
    assert_same(out, whole)


@pytest.mark.usefixtures("no_report")
def test_a_finished_run_can_be_resumed(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    finish = AlternatingTrainer._finish

    def watched(alternation: AlternatingTrainer) -> Any:
        before = checkpoint.read_metadata(copy / "best.safetensors")
        done = finish(alternation)
        # A kill between here and the end of the last evaluation loses neither metrics nor threshold.
        assert checkpoint.read_metadata(copy / "best.safetensors") == before
        return done

    monkeypatch.setattr(AlternatingTrainer, "_finish", watched)
    train(resume=copy, console=quiet())
    assert_same(copy, whole)


@pytest.mark.parametrize(("shared", "minutes"), [(True, 5.0), (False, 10.0)])
def test_minutes_are_shared_among_the_steps(shared: bool, minutes: float, tmp_path: Path) -> None:
    recipe = alternating_recipe(shared=shared)
    recipe = replace(recipe, train=replace(recipe.train, epochs=None, minutes=20.0))
    steps = sequence(tmp_path, tiny_shapes(2), recipe)
    for step in range(1, steps.count + 1):
        schedule = steps._recipe(step).train
        assert (schedule.minutes, schedule.epochs) == (minutes, None)


@pytest.mark.usefixtures("no_report")
def test_on_a_single_map_with_images_without_objects(tmp_path: Path) -> None:
    shapes = tiny_shapes(4)
    empty = replace(shapes.records[0], truth=shapes.records[0].truth[:0], masks=None)
    shapes = replace(shapes, records=[empty, *shapes.records[1:]])
    recipe = alternating_recipe(
        backbone=BackboneSettings("efficientnet_lite0", (2,), frozen_stages=1), fpn=None,
        rpn=RPNSettings(sizes=((16, 32),), pre_nms=(50, 50), post_nms=(30, 30), count=32),
    )  # fmt: skip
    out = train(shapes, val=shapes.subset([0, 1]), recipe=recipe, out=tmp_path / "run", console=quiet())
    assert differing(state(out, "best", ("backbone.",)), state(out, "step-2", ("backbone.",))) == []


# Two networks


@pytest.mark.usefixtures("no_report")
def test_unshared_it_ends_after_step_two(data: Path, whole: Path, tmp_path: Path) -> None:
    recipe = alternating_recipe(shared=False)
    recipe = replace(recipe, train=replace(recipe.train, epochs=2.0))
    out = train(data, recipe=recipe, out=tmp_path / "run", console=quiet())
    assert not (out / "step-3.safetensors").exists()
    for name in ("step-1", "step-2"):
        assert differing(state(out, name), state(whole, name)) == [], name
    network = load_detector(out, "cpu").network
    own = {k.removeprefix("rpn_"): v for k, v in network.state_dict().items() if k.startswith("rpn_")}
    assert differing(own, state(out, "step-1", SHARED)) == []
    assert differing(state(out, "best", SHARED), state(out, "step-2", SHARED)) == []
    for model, name in ((out, "a.npz"), (out / "step-1.safetensors", "b.npz")):
        arguments = ["propose", str(data), "--model", str(model), "--out", str(tmp_path / name)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    assert differing(proposals(tmp_path / "a.npz"), proposals(tmp_path / "b.npz")) == []


def test_unshared_the_rpn_reads_its_own_maps() -> None:
    torch.manual_seed(0)
    settings = replace(tiny_recipe("faster_rcnn").settings, shared=False)
    network = FasterRCNN(2, settings).train()
    sample = TrainingSample.from_sample(tiny_shapes(1)[0])
    batch = ImageBatch(sample.image[None].float() / 255, ((64, 64),), (1,))
    network(batch, [sample.targets]).losses["rpn_objectness"].backward()

    def reached(part: nn.Module) -> bool:
        return any(p.grad is not None for p in part.parameters())

    assert reached(network.rpn_backbone)
    assert reached(network.rpn_neck)
    assert not reached(network.backbone)
    assert not reached(network.neck)
    for key, parameter in network.named_parameters():
        assert parameter.grad is None or key.startswith(("rpn.", "rpn_"))


# The option


def test_the_option_sets_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: dict[str, Any] = {}
    monkeypatch.setattr(run, "train", lambda data, **options: passed.update(options) or Path("runs/x"))
    done = CliRunner().invoke(app, ["train", "d.json", "--scheme", "alternating"])
    assert done.exit_code == 0, done.output
    assert passed["model"] == "faster_rcnn"
    assert passed["settings"] == ["model.scheme=alternating"]
    done = CliRunner().invoke(app, ["train", "d.json", "--recipe", "r", "--scheme", "joint"])
    assert passed["model"] is None
    assert passed["settings"] == ["model.scheme=joint"]
    done = CliRunner().invoke(app, ["train", "d.json", "--scheme", "alternating", "--model", "mask_rcnn"])
    assert done.exit_code == 1
    assert "--scheme is for faster_rcnn, not for mask_rcnn" in done.output


def test_no_other_start_than_imagenet(tmp_path: Path) -> None:
    recipe = alternating_recipe()
    recipe = replace(recipe, train=replace(recipe.train, start="nuclei"))
    with pytest.raises(ValueError, match=r"train\.start: the four steps .* start from ImageNet weights"):
        train(tiny_shapes(2), recipe=recipe, out=tmp_path / "r", console=quiet())


def test_a_cascade_is_refused_before_the_first_step(tmp_path: Path) -> None:
    cascade = ["model.scheme=alternating", "model.box.cascade={}"]
    with pytest.raises(ValueError, match=r"model\.box\.cascade: .*Fast R-CNN, which has a single head"):
        train(tiny_shapes(2), model="faster_rcnn", settings=cascade, out=tmp_path / "r", console=quiet())


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"model\.scheme: got 'four'.* expected one of 'joint', 'alternating'"
    ):
        train(
            tiny_shapes(2), model="faster_rcnn", settings=["model.scheme=four"], out=tmp_path / "r",
            console=quiet(),
        )  # fmt: skip
