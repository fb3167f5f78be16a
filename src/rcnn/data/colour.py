"""The colours of an augmented image: how they vary, drawn first and applied where the image is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional


@dataclass(frozen=True)
class Colouring:
    """Changes of colour; None: not changed.

    Attributes:
        brightness: factor.
        contrast: factor.
        saturation: factor.
        hue: shift, a fraction of the colour circle.
        looks: leave a grey image's saturation and hue alone, which do not change it and cost most; to look
            whether it is one would let the host wait for a device.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    looks: bool = True

    def __call__(self, image: Tensor) -> Tensor:
        """Uint8 ``[C, h, w]`` with other colours.

        Images of another number of channels than 3 have no colours: brightness and contrast are those of each
        channel.
        """
        if len(image) != 3:
            factors = (1.0 if factor is None else factor for factor in (self.brightness, self.contrast))
            return _varied(image, *factors)
        if self.brightness is not None:
            image = functional.adjust_brightness(image, self.brightness)
        if self.contrast is not None:
            image = functional.adjust_contrast(image, self.contrast)
        if self.looks and _is_grey(image):
            return image
        if self.saturation is not None:
            image = functional.adjust_saturation(image, self.saturation)
        if self.hue is not None:
            image = functional.adjust_hue(image, self.hue)
        return image

    def looked_at(self, image: Tensor) -> Colouring:
        """The changes of this image, which need no more looking at it."""
        if len(image) == 3 and _is_grey(image):
            return replace(self, saturation=None, hue=None, looks=False)
        return replace(self, looks=False)


def _is_grey(image: Tensor) -> bool:
    return bool((image[0] == image[1]).all()) and bool((image[1] == image[2]).all())


def _varied(image: Tensor, brightness: float, contrast: float) -> Tensor:
    """Uint8 ``[C, h, w]`` with each channel brighter, and further from its mean, by these factors."""
    bright = (image.to(torch.float32) * brightness).clamp(0, 255)
    mean = bright.mean((1, 2), keepdim=True)
    return (mean + (bright - mean) * contrast).round().clamp(0, 255).to(torch.uint8)
