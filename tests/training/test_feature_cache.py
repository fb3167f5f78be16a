"""Maps of a frozen backbone that are kept: a function of seed and view, whoever computes or resumes."""

import errno
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import rcnn
from rcnn.cli import app
from rcnn.data.augment import Augment
from rcnn.inference.detector import Detector
from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
from rcnn.models.fcn import FCN, FCNSettings
from rcnn.models.rcnn import RCNN, RCNNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.training import feature_cache
from rcnn.training.feature_cache import GB, MAX_VIEWS, PREFIX, FeatureCache, bytes_per_view, recurring_views
from rcnn.training.recipe import Recipe
from rcnn.training.trainer import Trainer
from rcnn.transform import Transform
from tiny import NAMES, SHARED, tiny_network, tiny_recipe, tiny_shapes

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
IMAGES = 6


def frozen(**how: Any) -> Recipe:
    return tiny_recipe("faster_rcnn", **{"epochs": 6.0, "freeze": ("backbone",), **how})


def trainer_of(recipe: Recipe, out: Path, lines: list[str] | None = None) -> Trainer:
    out.mkdir(exist_ok=True)
    network = tiny_network(recipe)
    network.backbone.freeze()
    describe = Detector(network, recipe.transform, NAMES).describe()
    return Trainer(
        network, recipe, tiny_shapes(IMAGES), out, evaluate=lambda full: {"score": 0.0}, describe=describe,
        say=([] if lines is None else lines).append,
    )  # fmt: skip


def computed(trainer: Trainer) -> list[int]:
    """The numbers of images that the backbone computes, call by call."""
    calls: list[int] = []
    network: Any = trainer.network
    network.backbone.stages[0].register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    return calls


def opened(network: Any, folder: Path) -> "closing[FeatureCache]":
    return closing(FeatureCache({"backbone": network.backbone}, folder, capacity=GB, say=print))


def losses(folder: Path) -> list[dict[str, float]]:
    rows = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(row).items() if k != "seconds"} for row in rows]


def assert_same_run(one: Trainer, other: Trainer) -> None:
    assert losses(one.out) == losses(other.out)
    first, second = one.network.state_dict(), other.network.state_dict()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def size_of_view(trainer: Trainer) -> int:
    network: Any = trainer.network
    return bytes_per_view({"backbone": network.backbone}, trainer.recipe)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Six epochs over three views of each of six images, all kept."""
    torch.set_num_threads(1)
    trainer = trainer_of(frozen(), tmp_path_factory.mktemp("whole"))
    assert trainer.views == 3, "half of the epochs"
    calls = computed(trainer)
    trainer.run()
    assert calls == [1] * 3 * IMAGES, "each view once, and by itself"
    return trainer


@pytest.mark.parametrize("kept", [0, 7])
def test_losses_do_not_depend_on_what_is_kept(
    kept: int, whole: Trainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Room for no view, or for some: the others are computed in each of their two epochs."""
    other, begin = trainer_of(frozen(), tmp_path), FeatureCache.__init__

    def limited(self: FeatureCache, *given: Any, **how: Any) -> None:
        begin(self, *given, **how | {"capacity": kept * size_of_view(other)})

    monkeypatch.setattr(FeatureCache, "__init__", limited)
    calls = computed(other)
    other.run()
    assert sum(calls) == kept + 2 * (3 * IMAGES - kept)
    assert_same_run(other, whole)


def test_a_full_disk_is_said_and_changes_nothing(
    whole: Trainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines: list[str] = []
    other, write = trainer_of(frozen(), tmp_path, lines), FeatureCache._write

    def full(self: FeatureCache, offset: int, data: bytes) -> None:
        if offset > 3 * size_of_view(other):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, offset, data)

    monkeypatch.setattr(FeatureCache, "_write", full)
    other.run()
    assert [line for line in lines if "no more are kept (No space left on device)" in line] != []
    assert_same_run(other, whole)


@pytest.mark.parametrize("iteration", [1, 8, 14])
def test_a_resumed_run_has_the_same_end(iteration: int, whole: Trainer, tmp_path: Path) -> None:
    """It computes again what it needs of what was lost with the first process."""
    first = trainer_of(frozen(save_every=0.0), tmp_path)
    step = first._launch

    def stopping(*given: Any) -> Any:
        if first.state.iteration == iteration:
            raise ConnectionError
        return step(*given)

    first._launch = stopping  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        first.run()
    second = trainer_of(frozen(save_every=0.0), tmp_path)
    second.resume()
    assert second.state.iteration == iteration
    second.run()
    assert_same_run(second, whole)


def test_another_seed_has_other_views(whole: Trainer, tmp_path: Path) -> None:
    other = trainer_of(frozen(seed=1), tmp_path)
    other.run()
    assert losses(tmp_path) != losses(whole.out)


def test_maps_are_those_of_the_backbone_rounded(tmp_path: Path) -> None:
    """Read or computed, and of each image by itself, whatever it is in a batch with."""
    network: Any = tiny_network(frozen())
    network.backbone.freeze()
    images = torch.randn((3, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    alone = [network.backbone(image[None]) for image in images]
    found = []
    with opened(network, tmp_path) as cache:
        for views in ((10, 11, 12), (12, 10, 11), (11, 11, 10)):
            with cache.answering(views):
                found.append((views, network.backbone(images[[view - 10 for view in views]])))
    for views, maps in found:
        for level, got in enumerate(maps):
            expected = torch.cat([alone[view - 10][level] for view in views])
            assert got.dtype == torch.float32
            assert got.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(got, expected.to(torch.bfloat16).float())
    assert torch.equal(network.backbone(images[:1])[0], alone[0][0]), "outside it computes as ever"


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from training.test_feature_cache import frozen, trainer_of
trainer = trainer_of(frozen(), Path(sys.argv[1]))
step = trainer._launch
def killed(*given):
    if trainer.state.iteration == 4:
        assert trainer.features.size > 0
        os.kill(os.getpid(), 9)
    return step(*given)
trainer._launch = killed
trainer.run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(Path(rcnn.__file__).parents[1]), str(tests)])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(tests)], check=False,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -9
    assert [path.name for path in tmp_path.iterdir() if path.name != "metrics.jsonl"] == []


def test_what_another_system_leaves_behind_is_removed(tmp_path: Path) -> None:
    left = tmp_path / f"{PREFIX}0123"
    left.write_bytes(b"maps of a process that lost its power")
    trainer = trainer_of(frozen(epochs=2.0), tmp_path)
    trainer.run()
    assert trainer.features is None
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


# How many views


class Anything:
    """A GPU, as far as the plan is concerned."""

    type = "cuda"


@pytest.mark.parametrize(
    ("train", "images", "expected", "why"),
    [
        ({"epochs": 100.0}, 1000, MAX_VIEWS, "no more than that many"),
        ({"minutes": 5.0, "epochs": None}, 1000, MAX_VIEWS, "by the clock the number of epochs is not known"),
        ({"epochs": 5.0}, 1000, 2, "each is read at least once"),
        ({"epochs": 1.0}, 1000, 1, "at least one"),
        ({"cache_gb": 0.1}, 1000, 5, "0.1 GB have room for 5 x 1000 of 17,408 bytes"),
        ({"cache_gb": 0.01}, 1000, 1, "even where not all maps of one view have room"),
        ({"cache_gb": 0.0}, 1000, 0, "none are to be kept"),
        ({"freeze": ()}, 1000, 0, "the backbone trains"),
    ],
)
def test_number_of_views(train: Any, images: int, expected: int, why: str) -> None:
    recipe = frozen(**{"epochs": 100.0, **train})
    network = FasterRCNN(2, FasterRCNNSettings(**SHARED))
    assert recurring_views(network, recipe, images, CPU) == expected, why


def test_only_on_a_cpu_and_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    network, gpu = FasterRCNN(2, FasterRCNNSettings(**SHARED)), Anything()
    assert recurring_views(network, frozen(), 6, gpu) == 0  # type: ignore[arg-type]
    monkeypatch.setattr(feature_cache, "world_size", lambda: 2)
    assert recurring_views(network, frozen(), 6, CPU) == 0


def test_a_model_whose_backbone_sees_regions_keeps_nothing() -> None:
    backbone = BackboneSettings("efficientnet_lite0", (4,))
    assert recurring_views(RCNN(2, RCNNSettings(backbone, pool=2, layers=0)), frozen(), 6, CPU) == 0


def test_the_size_of_a_view_is_what_is_written(tmp_path: Path) -> None:
    settings = replace(SHARED["backbone"], levels=(1, 2, 3, 4))
    shared = {**SHARED, "backbone": settings, "rpn": replace(SHARED["rpn"], sizes=((16,),) * 4)}
    recipe = replace(frozen(), augment=Augment(crop=50))
    network: Any = FasterRCNN(2, FasterRCNNSettings(**shared))
    with opened(network, tmp_path) as cache:
        with cache.answering([0]):
            network.backbone(Transform().batch([torch.zeros((3, 50, 20))], (50, 50)).tensors)
        assert cache.size == bytes_per_view({"backbone": network.backbone}, recipe)


# Every model that reads whole images


def test_two_backbones_are_kept_apart(tmp_path: Path) -> None:
    recipe = frozen(epochs=4.0)
    recipe = replace(recipe, settings=replace(recipe.settings, shared=False))
    trainer = trainer_of(recipe, tmp_path)
    network: Any = trainer.network
    network.rpn_backbone.freeze()
    trainer.run()
    assert "forward" not in vars(network.backbone), "as before the run"
    both = {"backbone": network.backbone, "rpn_backbone": network.rpn_backbone}
    with closing(FeatureCache(both, tmp_path, capacity=GB, say=print)) as cache, cache.answering([0]):
        images = torch.randn((1, 3, 64, 64))
        one, two = network.backbone(images)[0], network.rpn_backbone(images)[0]
    assert not torch.equal(one, two)


def test_published_fcn_frames_its_images(tmp_path: Path) -> None:
    """Its backbone sees images with a border of zeros around them."""
    settings = FCNSettings(BackboneSettings("vgg16", (4,), frozen_stages=0), channels=8, dropout=0.0)
    torch.manual_seed(0)
    network = FCN(2, settings).eval()
    network.backbone.freeze()
    for score in network.scores.parameters():
        torch.nn.init.normal_(score)
    images = torch.randn((2, 3, 32, 32))
    with opened(network, tmp_path) as cache, cache.answering([4, 5]):
        kept = network.logits(images)
    torch.testing.assert_close(kept, network.logits(images), atol=0.1, rtol=0.05)


# Refusals


def foggy(sample: Any, rng: Any) -> Any:
    """An augmentation that returns images of another size than the crop."""
    wide = torch.zeros((3, 64, 200), dtype=torch.uint8)
    targets = replace(sample.targets, size=(64, 200))
    return replace(sample, image=wide, targets=targets) if rng.random() < 0.5 else sample


def test_images_larger_than_the_crop_are_refused(tmp_path: Path) -> None:
    recipe = frozen()
    recipe = replace(recipe, augment=replace(recipe.augment, extra=f"{__name__}:foggy"))
    with pytest.raises(ValueError, match=r"larger than augment\.crop.*--cache-gb 0"):
        trainer_of(recipe, tmp_path).run()


def test_another_number_of_images_than_of_views_is_refused(tmp_path: Path) -> None:
    network: Any = tiny_network(frozen())
    with (
        opened(network, tmp_path) as cache,
        cache.answering([1]),
        pytest.raises(ValueError, match=r"2 images for a batch of 1.*--cache-gb 0"),
    ):
        network.backbone(torch.zeros((2, 3, 64, 64)))


def test_from_the_command_line(tmp_path: Path) -> None:
    data = tiny_shapes(4).write(tmp_path / "data")
    command = ["train", str(data), "--epochs", "2", "--set", "train.workers=0", "--cache-gb", "0.5"]
    refused = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "a")])
    assert refused.exit_code == 1
    assert "add --freeze backbone" in refused.output
    done = CliRunner().invoke(app, [*command, "--freeze", "backbone", "--out", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert "features: 1 view of each image recurs" in done.output.replace("\n", " ")
    assert "cache_gb = 0.5" in (tmp_path / "b" / "recipe.toml").read_text(encoding="utf-8")
