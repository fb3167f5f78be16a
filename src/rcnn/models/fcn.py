"""FCN: a class for every pixel (Long, Shelhamer and Darrell 2014, arXiv 1411.4038).

FCN-32s reads the backbone's last map, 16s and 8s one and two finer ones as well, by ``backbone.levels``:

| net | ``backbone.levels`` of VGG-16 | maps |
|---|---|---|
| 32s | 4 | pool5 |
| 16s | 3, 4 | pool4, pool5 |
| 8s | 2, 3, 4 | pool3, pool4, pool5 |

In the paper each is trained from the coarser one: set ``train.start`` to its run. The new score layer is zero
at the start, so that the finer net starts out equal to the coarser one.

Differs from the paper: the last upsampling, which is fixed, interpolates; that is the same but for the first
13 rows and columns of FCN-32s, where the published net weakens the logits, all classes alike. Biases learn at
the rate of the weights (published: twice). With ``alignment = "centred"``, which plans without a recipe
choose, no 100 pixels of zeros surround the image; the first layer is padded instead, at about half the work.

Legend: B images, C classes, H and W of the padded batch, s the stride of the finest map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn import functional

from rcnn.config.ranges import check_ranges, ranged
from rcnn.device import MEMORY_FORMAT
from rcnn.models.light import LEVELS, Light
from rcnn.models.model import Model, TrainingData
from rcnn.ops.losses import Losses
from rcnn.ops.semantic import bilinear_kernel, pixel_loss
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.batch import Detections, ImageBatch, Regions, Targets
from rcnn.parts.class_rows import ClassKeys, Rows, weight_and_bias
from rcnn.parts.pretrained import PretrainedPart, load_backbone_weights, load_fc_layers
from rcnn.parts.semantic_head import stacked_maps
from rcnn.structures import Skeleton

# Zeros around the image. With conv1_1's own pixel they are the published 100; those at the right and the
# bottom make whole cells, which Caffe gets from rounding up.
BEFORE, AFTER = 99, 125
# Where the published nets cut the larger of two maps: pool4 and pool3 before they are added, then the result,
# by its stride; interpolation starts half a cell later than the transposed convolution of the code.
SKIP_OFFSETS = (5, 9)
LAST_OFFSETS = {32: 19 - 16, 16: 27 - 8, 8: 31 - 4}


@dataclass(frozen=True)
class FCNSettings:
    """FCN-32s on VGG-16.

    Attributes:
        backbone: the convolutional network; its levels are one to three maps, each half as fine as the one
            before.
        pool: max-pool the maps first: our VGG-16 ends its stages before the pooling layers.
        kernel: side of the first layer on top, fc6.
        channels: width of fc6 and fc7.
        dropout: dropout after both.
        learn_upsampling: the transposed convolutions between the maps learn (the paper) or stay bilinear (the
            published code); the last upsampling is fixed in both.
        alignment: ``published``: the image within zeros, the maps cut as in the paper's code, for strides 32,
            16 and 8; ``centred``: no border, cells centred on their pixels.
        normaliser: how the loss is normalised: ``pixels``: the mean over pixels; ``image``: the sum over the
            pixels of an image, as in the published code.
    """

    backbone: BackboneSettings = field(
        default_factory=lambda: BackboneSettings("vgg16", levels=(4,), frozen_stages=0)
    )
    pool: bool = True
    kernel: int = ranged(7, 1, 99)
    channels: int = ranged(4096, 1, 65536)
    dropout: float = ranged(0.5, 0, 1, below=True)
    learn_upsampling: bool = True
    alignment: Literal["published", "centred"] = "published"
    normaliser: Literal["pixels", "image"] = "pixels"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


class FCN(Model):
    """A class for every pixel, from one, two or three maps of a backbone."""

    Settings = FCNSettings
    finds_objects = False
    needs_semantic = True

    def __init__(self, num_classes: int, settings: FCNSettings | None = None) -> None:
        """Build with random weights and score layers of zeros; see ``rcnn.parts.pretrained`` for others.

        Raises:
            ValueError: levels that do not double, or that the published alignment does not fit.
        """
        super().__init__()
        self.settings = s = settings or FCNSettings()
        self.num_classes = num_classes
        self.backbone = build_backbone(s.backbone)
        self.strides = [stride * (2 if s.pool else 1) for stride in self.backbone.strides]
        self._check()
        padding = 0 if s.alignment == "published" else s.kernel // 2
        deepest = self.backbone.channels[-1]
        self.layers = nn.Sequential(
            nn.Conv2d(deepest, s.channels, s.kernel, padding=padding), nn.ReLU(), nn.Dropout(s.dropout),
            nn.Conv2d(s.channels, s.channels, 1), nn.ReLU(), nn.Dropout(s.dropout),
        )  # fmt: skip
        inputs = (s.channels, *reversed(self.backbone.channels[:-1]))
        self.scores = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in inputs)
        padding = 0 if s.alignment == "published" else 1
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2, padding=padding, bias=False)
            for _ in inputs[1:]
        )
        for score in self.scores.parameters():
            nn.init.zeros_(score)
        for weight in self.upsample.parameters():
            weight.data.copy_(bilinear_kernel(num_classes, 2))
            weight.requires_grad_(s.learn_upsampling)
        self.to(memory_format=MEMORY_FORMAT)

    @classmethod
    def build(
        cls,
        settings: FCNSettings,
        class_names: Sequence[str],
        semantic_names: Sequence[str] = (),
        skeleton: Skeleton | None = None,
    ) -> Self:
        """With random weights, for data of these classes of pixels."""
        return cls(len(semantic_names), settings)

    @classmethod
    def suits(cls, data: TrainingData) -> str | None:
        """A class for every pixel, and no objects."""
        if data.has_semantic and not data.has_objects:
            return "the data has a class for every pixel, and no objects"
        return None

    @classmethod
    def light_settings(cls, light: Light) -> FCNSettings:
        """Stride 8 at once, three cells of the last map wide; VGG-16 ends its stages before the pooling."""
        return FCNSettings(
            light.backbone(LEVELS.get(light.backbone_name, (2, 3, 4))),
            pool=light.backbone_name == "vgg16",
            kernel=3,
            channels=256,
            dropout=0.1,
            alignment="centred",
        )

    def pixel_names(self, class_names: Sequence[str], semantic_names: Sequence[str]) -> tuple[str, ...]:
        """The classes of pixels of the data."""
        return tuple(semantic_names)

    def _check(self) -> None:
        s, strides = self.settings, self.strides
        doubling = all(2 * fine == coarse for fine, coarse in pairwise(strides))
        if not doubling or len(strides) > 3 or s.kernel % 2 == 0:
            raise ValueError(
                f"backbone.levels {s.backbone.levels} of {s.backbone.name} have the strides {strides} and "
                f"kernel is "
                f"{s.kernel}: expected one to three strides, each twice the one before, and an odd kernel"
            )
        if s.alignment == "published" and (strides[-1] != 32 or s.kernel != 7):
            raise ValueError(
                f'alignment "published" needs a last stride of 32 and a kernel of 7, found {strides[-1]} '
                f'and {s.kernel}: choose "centred"'
            )

    def pretrained_parts(self) -> list[PretrainedPart]:
        """The parts that there may be weights for."""
        return [
            PretrainedPart("backbone", self.backbone, load_backbone_weights),
            PretrainedPart("layers", self.layers, load_fc_layers),
        ]

    def class_rows(self, keys: ClassKeys) -> Rows:
        """A map per class in every score layer; the transposed convolutions map each class to each."""
        rows: Rows = {}
        for index in range(len(self.scores)):
            rows |= weight_and_bias(f"scores.{index}", keys.pixels)
        for index in range(len(self.upsample)):
            rows[f"upsample.{index}.weight"] = keys.pixels, keys.pixels
        return rows

    def losses(self, batch: ImageBatch, targets: Sequence[Targets]) -> Losses:
        """The cross-entropy of all pixels that are not void."""
        logits = self.logits(batch.tensors).float()
        maps = stacked_maps(targets, (logits.shape[2], logits.shape[3]))
        return {"pixels": pixel_loss(logits, maps, per_image=self.settings.normaliser == "image")}

    def detect(
        self,
        images: Tensor,
        sizes: Tensor,
        proposals: Regions | None = None,
        *,
        min_score: float | Tensor,
        max_detections: int | Tensor,
    ) -> Detections:
        """Logits for every pixel, and no objects."""
        return Detections.none(images, semantic_logits=self.logits(images).float())

    def logits(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` of images ``[B, 3, H, W]``."""
        published = self.settings.alignment == "published"
        framed = functional.pad(images, (BEFORE, AFTER, BEFORE, AFTER)) if published else images
        maps = [functional.max_pool2d(m, 2) if self.settings.pool else m for m in self.backbone(framed)]
        scores = self.scores[0](self.layers(maps[-1]))
        steps = zip(self.upsample, self.scores[1:], reversed(maps[:-1]), SKIP_OFFSETS, strict=False)
        for upsample, score, skip, offset in steps:
            scores = upsample(scores)
            scores = scores + _cut(score(skip), offset if published else 0, scores)
        stride = self.strides[0]
        whole = functional.interpolate(scores, scale_factor=float(stride), mode="bilinear")
        return _cut(whole, LAST_OFFSETS[stride] if published else 0, images)


def _cut(maps: Tensor, offset: int, like: Tensor) -> Tensor:
    """``maps`` from ``offset`` on, as high and wide as ``like``; their border is repeated if they are short.

    AlexNet's are: its first convolution and its poolings have no padding.
    """
    height, width = like.shape[2:]
    short = [max(offset + side - own, 0) for side, own in ((width, maps.shape[3]), (height, maps.shape[2]))]
    if any(short):
        maps = functional.pad(maps, (0, short[0], 0, short[1]), mode="replicate")
    return maps[:, :, offset : offset + height, offset : offset + width]
