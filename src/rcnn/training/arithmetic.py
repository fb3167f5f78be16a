"""How a training computes on its device: TF32, determinism, and a compiled backbone.

What is set here is set for the process, and put back when the training ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rcnn.training.settings import TrainSettings

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_NOT_DETERMINISTIC = "does not have a deterministic implementation"


@contextlib.contextmanager
def arithmetic(settings: TrainSettings) -> Iterator[None]:
    """Inside, the device computes as the settings say.

    Raises:
        ValueError: something cannot be computed deterministically, but was to be.
    """
    with tf32(settings.tf32), deterministic() if settings.deterministic else contextlib.nullcontext():
        yield


def described(settings: TrainSettings, device: torch.device) -> dict[str, Any]:
    """What a run computes in, for its log and ``run.json``."""
    facts: dict[str, Any] = {"device": device.type, "precision": settings.precision(device)}
    if device.type == "cuda":
        facts |= {"card": torch.cuda.get_device_name(device), "tf32": settings.tf32}
    return facts | {"deterministic": settings.deterministic, "compile": settings.compile}


def sentence(settings: TrainSettings, device: torch.device) -> str:
    """As :func:`described`, in a line."""
    facts = described(settings, device)
    more = [name for name in ("tf32", "deterministic", "compile") if facts.get(name)]
    where = facts.get("card", facts["device"])
    return f"computes in {facts['precision']} on {where}" + "".join(f", {name}" for name in more)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, products and convolutions of float32 take TF32 on GPUs that have it, or are exact.

    Raises:
        ValueError: TF32 was set by torch's newer settings, which cannot be mixed with those used here.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    try:
        before = convolutions.allow_tf32, products.allow_tf32
    except RuntimeError as error:
        raise ValueError(
            "TF32 was set with torch's fp32_precision, which torch does not let anybody mix with allow_tf32, "
            "the form of all its versions, used here: leave it out, and set train.tf32"
        ) from error
    convolutions.allow_tf32 = products.allow_tf32 = allowed
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Inside, the same step gives the same bits each time, and what cannot is refused.

    Raises:
        ValueError: there is no deterministic way on this device for something that is computed.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    asked = os.environ.get(CUBLAS)
    os.environ.setdefault(CUBLAS, ":4096:8")  # cuBLAS is deterministic with memory of its own
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if _NOT_DETERMINISTIC not in str(error):
            raise
        what = str(error).partition(_NOT_DETERMINISTIC)[0].strip()
        raise ValueError(
            f"train.deterministic: {what} has no deterministic form on this device: leave the setting out, "
            "or choose RoIAlign (model.box.pool.pooling=align) if this is RoI pooling"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        if asked is None:
            del os.environ[CUBLAS]


def compile_backbone(network: Any) -> None:
    """Compile the backbones of a network in place; it keeps its names.

    It is compiled for the first size of images, which crops all have, and once more for any other size.

    Raises:
        ValueError: the network has none under the usual names.
    """
    found = [getattr(network, name, None) for name in ("backbone", "rpn_backbone")]
    backbones = [each for each in found if isinstance(each, nn.Module)]
    if not backbones:
        raise ValueError("train.compile: this model has no part named backbone: leave it out")
    for backbone in backbones:
        backbone.compile()


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Inside, what was compiled is computed as it stands: for evaluations, whose images are few."""
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
