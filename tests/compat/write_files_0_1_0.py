"""Write ``files_0_1_0.tar.xz``: files of every kind that rcnn 0.1.0 leaves, and what it made of them.

Run with the code of 0.1.0 only (commit 4705402); it is kept to show what the archive holds, not to be
ported to later versions:

    git worktree add /tmp/base 4705402
    OMP_NUM_THREADS=1 PYTHONPATH=/tmp/base/src python tests/compat/write_files_0_1_0.py

The archive holds

- ``images/``: two small images; ``data/``: three small data sets and a file of proposals;
- ``models/``: a checkpoint of every model, by ``Detector.save``; backbones hold a short repeating pattern
  instead of weights, so that they compress to almost nothing;
- ``exported/``: ONNX files, an OpenVINO folder and ``.pt2`` files, one with the transform inside;
- ``runs/``: training runs interrupted in the middle, with the states of optimizer and EMA;
- ``recipes/``: all recipes that came with 0.1.0, ``with_settings.toml`` (written by a run that was started
  with ``--set``), and beside each, as JSON, the complete settings that 0.1.0 read from it;
- ``expected.json`` and ``expected.npz``: the detections of each file on the two images, and how each run
  ended once it was resumed.

In the text files of ``runs/`` the folder of the archive is called ``@HERE@``.
"""

import hashlib
import io
import json
import lzma
import math
import shutil
import sys
import tarfile
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rcnn.export import export
from rcnn.ops.panoptic import OTHER, MergeSettings
from rcnn.parts.proposals import SamplingSettings
from rcnn.predict import Detector
from rcnn.proposals import write_proposals
from rcnn.recipe import Recipe, dump_recipe, load_recipe, named_recipes, plain, with_settings
from rcnn.run import read_history, train
from rcnn.runtime import load
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from rcnn import checkpoint, run, training
from rcnn.cli import app
from rcnn.data.augment import Augment
from rcnn.data.shapes import draw_shapes
from rcnn.models import build_model
from rcnn.models.fast_rcnn import FastRCNNSettings
from rcnn.models.faster_rcnn import FasterRCNNSettings
from rcnn.models.fcn import FCN, FCNSettings
from rcnn.models.keypoint_rcnn import KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNNSettings
from rcnn.models.panoptic_fpn import PanopticFPNSettings
from rcnn.models.rcnn import RCNNSettings
from rcnn.parts.backbone import TrunkSettings
from rcnn.parts.box_head import BoxHeadSettings, CascadeSettings, PoolSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.structures import Skeleton
from rcnn.training import TrainSettings
from rcnn.transform import Transform

ARCHIVE = Path(__file__).with_name("files_0_1_0.tar.xz")
MIN_SCORE = 0.05
SIDE = 64
NAMES, GROUNDS = ("disk", "square"), ("stripes", "checks")

# Models


def trunk(name: str = "efficientnet_lite0", levels: tuple[int, ...] = (0, 1), **more: Any) -> TrunkSettings:
    return TrunkSettings(name, levels, **{"frozen_stages": 1, **more})


BOX = BoxHeadSettings(
    channels=16, pool=PoolSettings(size=3), sampling=SamplingSettings(count=16), max_detections=8
)
FPN = FPNSettings(channels=16, coarsest="none")
RPN = RPNSettings(sizes=((16,), (32,)), pre_nms=(50, 50), post_nms=(30, 20), count=32)
MASK = MaskHeadSettings(convs=1, channels=8, pool=PoolSettings(size=4))
KEYPOINT = KeypointHeadSettings(3, 1, 8, PoolSettings(size=4))
SEMANTIC = SemanticHeadSettings(8, 2)
STAGES: dict[str, Any] = {"fpn": FPN, "rpn": RPN, "box": BOX}
C4: dict[str, Any] = {
    "trunk": trunk(levels=(0,)), "fpn": None,
    "rpn": RPNSettings(sizes=((16, 32),), pre_nms=(50, 50), post_nms=(30, 20), count=32),
    "box": replace(BOX, layers="stage"),
}  # fmt: skip
ONE_LEVEL: dict[str, Any] = {**C4, "box": BOX}

MODELS: dict[str, tuple[str, Any]] = {
    "rcnn": ("rcnn", RCNNSettings(trunk("alexnet", (1,)), side=67, context=4, pool=2, layers=1, channels=16)),
    "fast_rcnn": (
        "fast_rcnn",
        FastRCNNSettings(trunk("vgg16", (1,)), box=replace(BOX, pool=PoolSettings("pool", 3))),
    ),
    "faster_rcnn": ("faster_rcnn", FasterRCNNSettings(trunk("resnet18", (1, 2)), **STAGES)),
    "faster_rcnn_unshared": ("faster_rcnn", FasterRCNNSettings(**ONE_LEVEL, shared=False)),
    "cascade_rcnn": (
        "faster_rcnn",
        FasterRCNNSettings(trunk(), **{**STAGES, "box": replace(BOX, cascade=CascadeSettings())}),
    ),
    "mask_rcnn": (
        "mask_rcnn",
        MaskRCNNSettings(trunk("resnet50", (1, 2), stride_at="1x1"), **STAGES, mask=MASK),
    ),
    "mask_rcnn_c4": ("mask_rcnn", MaskRCNNSettings(**C4, mask=MASK)),
    "mask_rcnn_batch_norm": (
        "mask_rcnn",
        MaskRCNNSettings(trunk(norm="batch"), **{**STAGES, "fpn": replace(FPN, norm="batch")}, mask=MASK),
    ),
    "keypoint_rcnn": (
        "keypoint_rcnn",
        KeypointRCNNSettings(trunk("mobilenet_v3_large", (2, 3)), **STAGES, keypoint=KEYPOINT),
    ),
    "keypoint_rcnn_masks": (
        "keypoint_rcnn",
        KeypointRCNNSettings(**ONE_LEVEL, keypoint=KEYPOINT, mask=MASK),
    ),
    "panoptic_fpn": (
        "panoptic_fpn",
        PanopticFPNSettings(
            trunk(), **STAGES, mask=MASK, semantic=SEMANTIC, merge=MergeSettings(0.1, 0.5, 16)
        ),
    ),
    "fcn": (
        "fcn",
        FCNSettings(
            trunk(levels=(0, 1, 2)), pool=False, kernel=1, channels=16, dropout=0.1, alignment="centred"
        ),
    ),
}  # fmt: skip


def pattern(count: int, period: int = 61) -> torch.Tensor:
    """So many numbers that repeat, of about a standard normal distribution."""
    few = torch.randn(period, generator=torch.Generator().manual_seed(1))
    few = (few - few.mean()) / few.std()
    return few.repeat(math.ceil(count / period))[:count]


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Replace the weights of a backbone by the pattern, at a scale that keeps its activations."""
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        values = pattern(value.numel()).reshape(value.shape)
        if value.ndim > 1:
            values = values * math.sqrt(2 / value[0].numel())
        elif name.endswith("running_var"):
            values = 1 + 0.1 * values.abs()
        elif name.endswith("weight"):  # of a norm
            values = 0.8 + 0.1 * values
        else:
            values = 0.1 * values
        value.copy_(values)


@torch.no_grad()
def soften(network: Any) -> None:
    """Bring random heads to a scale at which scores and boxes differ."""
    images = torch.randn((1, 3, 64, 96))
    neck = getattr(network, "neck", lambda maps: maps)
    scale = max(float(maps.std()) for maps in neck(network.trunk(images)))
    if hasattr(network, "rpn"):
        for layer, spread in ((network.rpn.objectness, 1.0), (network.rpn.deltas, 0.2)):
            nn.init.normal_(layer.weight, std=spread / scale)
    if hasattr(network, "box"):
        for head in getattr(network.box, "steps", [network.box]):
            read = max(scale, 1.0)
            nn.init.normal_(head.logits.weight, std=0.8 / read)
            nn.init.normal_(head.deltas.weight, std=0.3 / read)
    for branch in ("mask", "keypoint"):
        if getattr(network, branch, None) is not None:
            nn.init.normal_(getattr(network, branch).logits.weight, std=0.5)
    if hasattr(network, "svms"):
        nn.init.normal_(network.svms.weight, std=0.05)
        nn.init.normal_(network.deltas.weight, std=0.005)
        network.fitted.fill_(1)
    for layer in network.scores if isinstance(network, FCN) else ():
        nn.init.normal_(layer.weight, std=0.5 / scale)


def detector(name: str, architecture: str, settings: Any) -> Detector:
    torch.manual_seed(0)
    semantic = () if architecture not in ("fcn", "panoptic_fpn") else (*NAMES, *GROUNDS)
    objects = () if architecture == "fcn" else NAMES
    network: Any = build_model(architecture, settings, objects, semantic)
    for part in ("trunk", "rpn_trunk"):
        if hasattr(network, part):
            fill(getattr(network, part))
    if getattr(getattr(settings, "box", None), "layers", "") == "stage":
        fill(network.box.stage)
    network.eval()
    soften(network)
    if architecture == "panoptic_fpn":
        semantic = (OTHER, *GROUNDS)
    points = Skeleton(("a", "b", "c"), ((0, 1),)) if architecture == "keypoint_rcnn" else None
    info = {"metrics": {"box/AP": 0.5}, "category_ids": [3, 90]} if name == "faster_rcnn" else {}
    return Detector(network, Transform(scale=1.25), objects, 0.2, info, points, semantic)


# Data and runs


def write_data(here: Path) -> None:
    for truth in ("objects", "both"):
        drawn = draw_shapes(
            7, truth=truth, size=(SIDE, SIDE), class_names=NAMES, objects=(1, 3), diameter=(16.0, 32.0),
            grounds=GROUNDS if truth == "both" else (),
        )  # fmt: skip
        drawn.write(here / "data" / truth)
    corners = torch.tensor([[0.0, 0, 20, 20], [40, 0, 64, 24], [0, 40, 30, 64], [30, 30, 64, 64]])
    drawn = draw_shapes(7, size=(SIDE, SIDE), class_names=NAMES, objects=(1, 3), diameter=(16.0, 32.0))
    found = {r.image_id: torch.cat([corners, r.truth.boxes + 2, r.truth.boxes]) for r in drawn.records}
    write_proposals(here / "data" / "proposals.npz", found)


def recipe(model: str, settings: Any, augment: Augment | None = None, **schedule: Any) -> Recipe:
    fixed: dict[str, Any] = {
        "batch_size": 2, "workers": 0, "lr": 1e-3, "epochs": 2.0, "amp": "off", "eval_images": 1,
        "eval_every": 0.34, "ema": 0.9,
    }  # fmt: skip
    return Recipe(
        model, settings, Transform(), augment or Augment(crop=SIDE), TrainSettings(**{**fixed, **schedule})
    )


RUNS: dict[str, tuple[Recipe, str, dict[str, str], int]] = {
    # The recipe, the data, other places, and the step before which it is interrupted.
    "mask_rcnn": (
        recipe(
            "mask_rcnn", MaskRCNNSettings(trunk(), **STAGES, mask=MASK),
            Augment(crop=48, rotate90=True, copy_paste=0.5), trunk_lr=0.25,
        ),
        "objects/annotations.json", {}, 4,
    ),
    "fast_rcnn": (
        recipe("fast_rcnn", FastRCNNSettings(trunk(), fpn=FPN, box=BOX), optimizer="sgd", ema=0.0),
        "objects/annotations.json", {"proposals": "data/proposals.npz"}, 4,
    ),
    "panoptic_fpn": (
        recipe("panoptic_fpn", MODELS["panoptic_fpn"][1]), "both/annotations.json", {}, 4,
    ),
    "alternating": (
        recipe("faster_rcnn", FasterRCNNSettings(trunk(), **STAGES, scheme="alternating"), epochs=4.0),
        "objects/annotations.json", {}, 8,  # in the third of four steps
    ),
}  # fmt: skip


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def interrupted(here: Path, name: str) -> Path:
    """A run that a Ctrl-C ended after a checkpoint."""
    made, data, places, after = RUNS[name]
    step, done = training.Trainer.step, []

    def stopping(self: Any, samples: Any) -> Any:
        if len(done) == after:
            self.save()
            raise KeyboardInterrupt
        done.append(1)
        return step(self, samples)

    training.Trainer.step = stopping
    out = here / "runs" / name
    try:
        more = {k: here / v for k, v in places.items()}
        train(here / "data" / data, recipe=made, out=out, console=quiet(), **more)
    except KeyboardInterrupt:
        pass
    finally:
        training.Trainer.step = step
    return out


def portable(here: Path) -> None:
    """Name the folder of the archive ``@HERE@`` in all text files of runs."""
    for file in (here / "runs").rglob("*"):
        if file.suffix in (".json", ".txt", ".toml", ".jsonl"):
            file.write_text(file.read_text(encoding="utf-8").replace(str(here), "@HERE@"), encoding="utf-8")


def ended(folder: Path) -> dict[str, Any]:
    """How a run ended: losses and metrics, and sums over its tensors whatever their names."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(folder)]
    sums = {}
    for name in ("best", "last"):
        tensors, _ = checkpoint.load(folder / f"{name}.safetensors")
        sums[name] = sorted(hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in tensors.values())
    return {"rows": rows, "sums": sums}


# Recipes

SET = (
    "model.trunk.name=resnet18", "model.trunk.frozen_stages=1", 'model.trunk.norm="batch"',
    "train.trunk_lr=0.5", "train.workers=0", "train.amp=off", "model.fpn.channels=16", "transform.scale=1.5",
    "model.box.max_detections=7", "augment.copy_paste=0.25",
)  # fmt: skip


def settings_of(made: Recipe) -> dict[str, Any]:
    return {
        "architecture": made.model, "model": plain(made.settings), "transform": plain(made.transform),
        "augment": plain(made.augment), "train": plain(made.train),
    }  # fmt: skip


def write_recipes(here: Path) -> None:
    folder = here / "recipes"
    folder.mkdir()
    for name, path in named_recipes().items():
        shutil.copy(path, folder / f"{name}.toml")
    # What `rcnn train --set …` writes; it is stopped before its first step, and downloads no weights.
    originals = training.Trainer.run, run._network

    def stopped(_: Any) -> None:
        raise KeyboardInterrupt

    training.Trainer.run = stopped
    run._network = lambda made, *_, **__: build_model("mask_rcnn", made.settings, NAMES)
    with tempfile.TemporaryDirectory() as out:
        data = here / "data" / "objects" / "annotations.json"
        changes = [word for text in SET for word in ("--set", text)]
        arguments = ["train", str(data), "--epochs", "1", "--out", f"{out}/run", *changes]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 130, done.output
        shutil.copy(f"{out}/run/recipe.toml", folder / "with_settings.toml")
    training.Trainer.run, run._network = originals
    for path in sorted(folder.glob("*.toml")):
        path.with_suffix(".json").write_text(json.dumps(settings_of(load_recipe(path))))
    base = load_recipe("light_mask_rcnn")
    changes = [text for text in SET if not text.startswith("model.fpn")]
    (folder / "set.toml").write_text(dump_recipe(with_settings(base, changes)))
    (folder / "set.json").write_text(json.dumps(settings_of(load_recipe(folder / "set.toml"))))
    (here / "set.json").write_text(json.dumps({"recipe": "light_mask_rcnn", "set": changes}))


# What they give


def arrays_of(found: Any) -> dict[str, np.ndarray]:
    """The results of an image in NumPy; masks and maps as bits."""
    values = {}
    for name in ("boxes", "labels", "scores", "keypoints", "semantic"):
        value = getattr(found, name, None)
        if value is not None:
            values[name] = np.asarray(value).astype(
                np.uint8 if name == "semantic" else np.asarray(value).dtype
            )
    if found.masks is not None:
        values["masks"] = np.packbits(np.asarray(found.masks), axis=-1)
    return values


def write_expected(here: Path) -> None:
    images = sorted((here / "images").glob("*.png"))
    proposals = [torch.tensor(boxes) for boxes in PROPOSALS]
    arrays: dict[str, np.ndarray] = {}
    files = sorted((here / "models").iterdir())
    files += sorted((here / "exported").iterdir())
    files += sorted((here / "runs").glob("*/*.safetensors"))
    files += [here / "runs" / name for name in RUNS if name != "alternating"]
    for file in files:
        name = str(file.relative_to(here))
        opened = (
            load(file, "cpu")
            if file.suffix not in (".onnx", ".pt2") and file.parent.name != "exported"
            else load(file)
        )
        for i, image in enumerate(images):
            more = {"proposals": [proposals[i]]} if isinstance(opened, Detector) else {}
            (found,) = opened.predict(image, min_score=MIN_SCORE, **more)
            for field, value in arrays_of(found).items():
                arrays[f"{name}:{i}:{field}"] = value
            print(
                f"{name:45} image {i}: {len(found):3} objects, scores",
                np.round(np.asarray(found.scores)[:4], 3) if found.scores is not None else None,
            )
    np.savez_compressed(here / "expected.npz", **arrays)
    expected: dict[str, Any] = {
        "min_score": MIN_SCORE, "proposals": PROPOSALS, "torch": torch.__version__,
        "cpu": cpu(), "rcnn": version("rcnn"), "runs": {}, "models": {},
    }  # fmt: skip
    for file in sorted((here / "models").iterdir()):
        opened = load(file, "cpu")
        points = None if opened.skeleton is None else list(opened.skeleton.names)
        expected["models"][file.name] = {
            "class_names": opened.class_names, "semantic_names": opened.semantic_names, "keypoints": points,
            "category_ids": opened.category_ids, "min_score": opened.min_score,
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as copy:
        for name in RUNS:
            folder = Path(copy) / name
            shutil.copytree(here / "runs" / name, folder)
            place(folder, here)
            train(resume=folder, console=quiet())
            expected["runs"][name] = ended(folder)
            print(name, "ended with", expected["runs"][name]["rows"][-1])
    (here / "expected.json").write_text(json.dumps(expected))


def place(folder: Path, here: Path) -> None:
    file = folder / "run.json"
    file.write_text(file.read_text(encoding="utf-8").replace("@HERE@", str(here)), encoding="utf-8")


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return (
        next(line for line in lines if line.startswith("model name")).partition(": ")[2]
        + " "
        + (torch.backends.cpu.get_cpu_capability())
    )


PROPOSALS = [
    [[2.0, 3, 40, 41], [10, 20, 60, 70], [50, 8, 110, 60], [70, 40, 128, 96], [0, 0, 128, 96],
     [30, 30, 52, 90]],
    [[4.0, 4, 30, 30], [20, 20, 60, 70], [1, 35, 33, 69], [28, 2, 63, 36]],
]  # fmt: skip


def write_exported(here: Path) -> None:
    """Example inputs that torch keeps in its files are constant, so that they take no room."""
    rand, randint = torch.rand, torch.randint
    torch.rand = lambda *size, **_: torch.full(size, 0.5)
    torch.randint = lambda high, size, **more: torch.full(size, high // 2, **more)
    folder = here / "exported"
    faster = detector("exported", "faster_rcnn", FasterRCNNSettings(**ONE_LEVEL))
    mask = detector("exported", "mask_rcnn", MaskRCNNSettings(**ONE_LEVEL, mask=MASK))
    keypoint = detector("exported", "keypoint_rcnn", KeypointRCNNSettings(**ONE_LEVEL, keypoint=KEYPOINT))
    try:
        export(faster, folder / "faster_rcnn.pt2", "torch")
        export(faster, folder / "faster_rcnn_whole.onnx", transform_inside=True)
        export(mask, folder / "mask_rcnn.onnx")
        export(mask, folder / "mask_rcnn_whole.pt2", "torch", transform_inside=True)
        export(keypoint, folder / "keypoint_rcnn", "openvino")
        export(keypoint, folder / "keypoint_rcnn.pt2", "torch")
    finally:
        torch.rand, torch.randint = rand, randint


def pack(here: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 27}]
    with (
        lzma.open(ARCHIVE, "wb", format=lzma.FORMAT_XZ, filters=filters) as out,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for file in sorted(p for p in here.rglob("*") if p.is_file()):
            entry = tar.gettarinfo(file, str(file.relative_to(here)))
            entry.mtime = entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            with file.open("rb") as content:
                tar.addfile(entry, content)


def main() -> None:
    assert version("rcnn") == "0.1.0", "these files are to be written by 0.1.0"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        for name in ("images", "models", "exported"):
            (here / name).mkdir()
        for i, size in enumerate(((96, 128), (71, 63))):
            drawn = draw_shapes(1, first=50 + i, size=size, class_names=NAMES, objects=(2, 5))
            Image.fromarray(drawn[0].image.permute(1, 2, 0).numpy()).save(here / "images" / f"{i}.png")
        write_data(here)
        for name, (architecture, settings) in MODELS.items():
            detector(name, architecture, settings).save(here / "models" / f"{name}.safetensors")
        for name in RUNS:
            interrupted(here, name)
        portable(here)
        write_exported(here)
        write_recipes(here)
        write_expected(here)
        pack(here)
        if len(sys.argv) > 1:
            shutil.copytree(here, sys.argv[1])
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
