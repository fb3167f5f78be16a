"""The keys of Detectron2's configurations: which become settings of ours, and which are only named.

Facts: github.com/facebookresearch/detectron2 at 02b5c4e2, ``config/defaults.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Carried:
    """Where a key goes.

    Attributes:
        default: Detectron2's.
        setting: ours.
        convert: from its value to ours.
        only_if_set: its default is what our model has without the key.
    """

    default: Any
    setting: str
    convert: Callable[[Any], Any] = lambda value: value
    only_if_set: bool = False


CARRIED: dict[str, Carried] = {
    "INPUT.MIN_SIZE_TEST": Carried(800, "transform.short_side", lambda side: side or None),
    "INPUT.MAX_SIZE_TEST": Carried(1333, "transform.max_long_side"),
    "MODEL.BACKBONE.FREEZE_AT": Carried(2, "model.backbone.frozen_stages"),
    "MODEL.RESNETS.STRIDE_IN_1X1": Carried(
        True, "model.backbone.stride_at", lambda first: "1x1" if first else "3x3"
    ),
    "MODEL.ANCHOR_GENERATOR.OFFSET": Carried(0.0, "model.rpn.offset"),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": Carried(0, "model.rpn.min_side", float, only_if_set=True),
    "MODEL.RPN.NMS_THRESH": Carried(0.7, "model.rpn.nms_iou"),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": Carried(256, "model.rpn.count"),
    "MODEL.RPN.POSITIVE_FRACTION": Carried(0.5, "model.rpn.positive_fraction"),
    "MODEL.RPN.SMOOTH_L1_BETA": Carried(0.0, "model.rpn.beta"),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": Carried(0.05, "model.box.min_score"),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": Carried(0.5, "model.box.nms_iou"),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": Carried(512, "model.box.sampling.count"),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": Carried(0.25, "model.box.sampling.positive_fraction"),
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": Carried(True, "model.box.sampling.append_gt"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": Carried([10.0, 10.0, 5.0, 5.0], "model.box.weights"),
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": Carried(0.0, "model.box.beta"),
    "TEST.DETECTIONS_PER_IMAGE": Carried(100, "model.box.max_detections"),
}
HEADS = ("box", "mask", "keypoint")
POOLERS = ("ROIAlignV2", "ROIAlign", "ROIPool")
_RES = "MODEL.RESNETS."
REQUIRED: dict[str, tuple[Any, ...]] = {
    "INPUT.FORMAT": ("BGR", "RGB"),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.LOAD_PROPOSALS": (False,),
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.RPN.BBOX_REG_WEIGHTS": ([1.0, 1.0, 1.0, 1.0],),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    f"{_RES}DEFORM_ON_PER_STAGE": ([False] * 4,),
    f"{_RES}NORM": ("FrozenBN", "BN", "SyncBN"),
    f"{_RES}NUM_GROUPS": (1,),
    f"{_RES}RES5_DILATION": (1,),
    f"{_RES}WIDTH_PER_GROUP": (64,),
    "TEST.AUG.ENABLED": (False,),
}
"""What our models have, Detectron2's default first."""
REQUIRED_WITH_PYRAMID: dict[str, tuple[Any, ...]] = {
    "MODEL.FPN.FUSE_TYPE": ("sum",),
    "MODEL.FPN.IN_FEATURES": (["res2", "res3", "res4", "res5"],),
    "MODEL.ROI_HEADS.IN_FEATURES": (["p2", "p3", "p4", "p5"],),
    "MODEL.RPN.IN_FEATURES": (["p2", "p3", "p4", "p5", "p6"],),
    f"{_RES}OUT_FEATURES": (["res2", "res3", "res4", "res5"],),
}
REQUIRED_WITHOUT: dict[str, tuple[Any, ...]] = {
    "MODEL.ROI_HEADS.IN_FEATURES": (["res4"],),
    "MODEL.RPN.IN_FEATURES": (["res4"],),
    f"{_RES}OUT_FEATURES": (["res4"],),
}
_POOL_DEFAULTS = {"POOLER_TYPE": "ROIAlignV2", "POOLER_SAMPLING_RATIO": 0}
DEFAULTS: dict[str, Any] = {
    **{key: row.default for key, row in CARRIED.items()},
    **{key: values[0] for key, values in REQUIRED.items()},
    **{f"MODEL.ROI_{h.upper()}_HEAD.{key}": v for h in HEADS for key, v in _POOL_DEFAULTS.items()},
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.FPN.FUSE_TYPE": "sum",
    "MODEL.FPN.IN_FEATURES": [],
    "MODEL.KEYPOINT_ON": False,
    "MODEL.MASK_ON": False,
    "MODEL.PIXEL_MEAN": [103.530, 116.280, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    f"{_RES}DEPTH": 50,
    f"{_RES}OUT_FEATURES": ["res4"],
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": [
        [10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0],
    ],
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": [0.5, 0.6, 0.7],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 17,
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
}  # fmt: skip
"""Detectron2's default of every key that is carried or checked."""
SHOWN_BY_WEIGHTS = (
    "MODEL.FPN.NORM",
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RPN.CONV_DIMS",
    f"{_RES}RES2_OUT_CHANNELS",
    f"{_RES}STEM_OUT_CHANNELS",
    *(
        f"MODEL.ROI_{head}_HEAD.{key}"
        for head, keys in {
            "BOX": "CLS_AGNOSTIC_BBOX_REG CONV_DIM FC_DIM NAME NORM NUM_CONV NUM_FC POOLER_RESOLUTION",
            "MASK": "CLS_AGNOSTIC_MASK CONV_DIM NAME NORM NUM_CONV POOLER_RESOLUTION",
            "KEYPOINT": "CONV_DIMS NAME POOLER_RESOLUTION",
        }.items()
        for key in keys.split()
    ),
)
"""Keys whose value is that of layers, which are recognised by their shapes."""
TRAINING = (
    "CUDNN_BENCHMARK",
    "DATALOADER.",
    "DATASETS.",
    "GLOBAL.",
    "INPUT.CROP.",
    "INPUT.MASK_FORMAT",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TRAIN",
    "INPUT.RANDOM_FLIP",
    "MODEL.DEVICE",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_",
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES",
    "MODEL.ROI_HEADS.IOU_LABELS",
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT",
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
    "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS",
    "MODEL.RPN.BBOX_REG_LOSS_",
    "MODEL.RPN.BOUNDARY_THRESH",
    "MODEL.RPN.IOU_LABELS",
    "MODEL.RPN.LOSS_WEIGHT",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "SEED",
    "SOLVER.",
    "TEST.AUG.",
    "TEST.EVAL_PERIOD",
    "TEST.EXPECTED_RESULTS",
    "TEST.KEYPOINT_OKS_SIGMAS",
    "TEST.PRECISE_BN.",
    "VIS_PERIOD",
)
"""Keys, or how they begin, that do not change what a trained model finds."""
OTHER_MODELS = (
    "MODEL.ANCHOR_GENERATOR.ANGLES",
    "MODEL.FPN.",
    "MODEL.PANOPTIC_FPN.",
    "MODEL.RETINANET.",
    "MODEL.SEM_SEG_HEAD.",
    "MODEL.RESNETS.DEFORM_",
)
"""Keys, or how they begin, that the models recognised here do not look at."""
