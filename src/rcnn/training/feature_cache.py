"""The maps of a frozen backbone, computed once for each view of an image and kept on disk while heads train.

With ``train.freeze=["backbone"]`` on a CPU, the crops of an image recur after ``K`` epochs (see
``rcnn.data.loader``), so that the backbone's maps of each are computed once and read afterwards. They are
rounded to bfloat16, whether they were kept or not: what a step reads is a function of the seed and the view,
and the losses do not depend on how much there is room for.

The file has no name: it lies in the run folder, and the system frees its space when the process ends,
whatever ended it.

Legend: B images of a batch, K views of each image.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rcnn.processes.group import world_size
from rcnn.training.recipe import Recipe

GB = 10**9
LEFT_FREE = GB  # of the disk
MAX_VIEWS = 8  # with more, an epoch of new ones costs more than it adds
PREFIX = ".features-"  # where a system lets no file go without a name, and in the moment before it has none


@dataclass(frozen=True)
class Kept:
    """A map on disk.

    Attributes:
        offset: of its first byte.
        shape: ``[1, h, w, C]``.
        dtype: that it was computed in.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class FeatureCache:
    """The maps that frozen backbones gave for each view so far."""

    def __init__(
        self, backbones: Mapping[str, Any], folder: Path, *, capacity: int, say: Callable[[str], None]
    ) -> None:
        """Begin without any.

        Args:
            backbones: the frozen ones, by their names in the network.
            folder: where the file is made.
            capacity: bytes that may be kept; maps beyond it are computed each time.
            say: takes a line for the log.

        Raises:
            OSError: no file can be made there.
        """
        for left in folder.glob(f"{PREFIX}*"):
            left.unlink()
        self.backbones, self.capacity, self.say = dict(backbones), capacity, say
        self.file: Any = tempfile.TemporaryFile(prefix=PREFIX, dir=folder, buffering=0)  # noqa: SIM115
        self.size = 0
        self.kept: dict[tuple[str, int], list[Kept]] = {}
        self.image_shape: tuple[int, ...] | None = None

    def close(self) -> None:
        """Free the space."""
        self.file.close()

    @contextmanager
    def answering(self, views: Sequence[int]) -> Iterator[None]:
        """Inside, the backbones answer a batch of these views, from what is kept where it is.

        Args:
            views: the number of each image's view.
        """
        with ExitStack() as restored:
            for name, backbone in self.backbones.items():
                answer = partial(self._maps, name, backbone.forward, views)
                backbone.forward = answer  # on the object, before the class's own
                restored.callback(delattr, backbone, "forward")
            yield

    def _maps(
        self, name: str, compute: Callable[[Tensor], list[Tensor]], views: Sequence[int], images: Tensor
    ) -> list[Tensor]:
        """As ``compute(images)``, of ``[B, C, H, W]``; each image by itself, so that no other matters."""
        self._check(name, views, images)
        of_each = [
            self._of_view((name, view), partial(compute, image[None]))
            for view, image in zip(views, images, strict=True)
        ]
        return [torch.cat(maps) for maps in zip(*of_each, strict=True)]

    def _check(self, name: str, views: Sequence[int], images: Tensor) -> None:
        shape = tuple(images.shape[1:])
        self.image_shape = self.image_shape or shape
        if len(images) != len(views):
            raise ValueError(
                f"{name} is called with {len(images)} images for a batch of {len(views)}, and its features "
                "cannot be kept: train with --cache-gb 0"
            )
        if shape != self.image_shape:
            raise ValueError(
                f"{name} got images of {list(shape)} after others of {list(self.image_shape)}: augment.extra "
                "returns some that are larger than augment.crop, whose features cannot be kept: train with "
                "--cache-gb 0"
            )

    @torch.no_grad()
    def _of_view(self, key: tuple[str, int], compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The maps of one view, ``[1, C, h, w]`` each, channels last."""
        if key in self.kept:
            return [self._read(kept) for kept in self.kept[key]]
        maps = compute()
        rounded = [level.to(torch.bfloat16, memory_format=torch.channels_last) for level in maps]
        dtypes = [level.dtype for level in maps]
        self._keep(key, rounded, dtypes)
        return [level.to(dtype) for level, dtype in zip(rounded, dtypes, strict=True)]

    def _keep(self, key: tuple[str, int], maps: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> None:
        if self.size + sum(level.nbytes for level in maps) > self.capacity:
            return
        offset, places = self.size, []
        try:
            for level, dtype in zip(maps, dtypes, strict=True):
                rows = level.permute(0, 2, 3, 1).contiguous()  # [1, h, w, C]
                self._write(offset, rows.view(torch.int16).numpy().tobytes())
                places.append(Kept(offset, tuple(rows.shape), dtype))
                offset += rows.nbytes
        except OSError as error:
            self.capacity = self.size
            self.say(f"features: no more are kept ({error.strerror}); those of other views are computed")
            return
        self.size = offset
        self.kept[key] = places

    def _write(self, offset: int, data: bytes) -> None:
        left = memoryview(data)
        self.file.seek(offset)
        while left:
            left = left[self.file.write(left) :]

    def _read(self, kept: Kept) -> Tensor:
        data = np.empty(kept.shape, np.int16)
        left = data.data.cast("B")
        self.file.seek(kept.offset)
        while left:
            count = self.file.readinto(left)
            assert count, "the file is shorter than what was written to it"
            left = left[count:]
        return torch.from_numpy(data).view(torch.bfloat16).to(kept.dtype).permute(0, 3, 1, 2)


def frozen_backbones(network: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """The backbones whose maps may be kept, by name; none if they train."""
    if "backbone" not in recipe.train.freeze or not getattr(network, "reads_whole_images", False):
        return {}
    found = {name: getattr(network, name, None) for name in ("backbone", "rpn_backbone")}
    return {name: backbone for name, backbone in found.items() if backbone is not None}


def recurring_views(network: nn.Module, recipe: Recipe, num_images: int, device: torch.device) -> int:
    """K, the views of each image that recur; 0: all are new, since nothing is kept.

    As many as there is room for, and no more than half of the epochs: each is to be read at least once.
    """
    train = recipe.train
    backbones = frozen_backbones(network, recipe)
    if not (backbones and train.cache_gb and device.type == "cpu") or world_size() > 1:
        return 0
    size = num_images * bytes_per_view(backbones, recipe)
    most = MAX_VIEWS if train.epochs is None else min(MAX_VIEWS, int(train.epochs / 2))
    return max(1, min(most, int(train.cache_gb * GB / size)))


def bytes_per_view(backbones: Mapping[str, Any], recipe: Recipe) -> int:
    """The size of the maps of one view, in bfloat16."""
    height, width = recipe.transform.padded((recipe.augment.crop, recipe.augment.crop))
    return sum(
        2 * channels * -(-height // stride) * -(-width // stride)
        for backbone in backbones.values()
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    )


def open_cache(
    network: nn.Module,
    recipe: Recipe,
    folder: Path,
    *,
    num_images: int,
    views: int,
    say: Callable[[str], None],
) -> FeatureCache | None:
    """The cache of a run; None where no views recur.

    Raises:
        OSError: its file cannot be made.
    """
    if not views:
        return None
    backbones = frozen_backbones(network, recipe)
    free = shutil.disk_usage(folder).free - LEFT_FREE
    capacity = max(0, min(int(recipe.train.cache_gb * GB), free))
    whole = views * num_images * bytes_per_view(backbones, recipe)
    fits = "all" if whole <= capacity else f"{capacity / whole:.0%}"
    recurring = f"{views} views of each image recur" if views > 1 else "1 view of each image recurs"
    say(
        f"features: {recurring}, and the frozen backbone's maps of {fits} of them are kept in "
        f"{folder} while training, up to {min(whole, capacity) / GB:.2g} GB (--cache-gb 0: new views, "
        "nothing kept)"
    )
    return FeatureCache(backbones, folder, capacity=capacity, say=say)
