"""The configuration of a Detectron2 model: ``config.yaml`` as its trainer writes it, or one of ``configs/``.

What it says of the model, of prediction and of the losses becomes our settings. A value that none of our
models has is refused. Every key of the file that is not carried is named: those of training, which a recipe
replaces, those of other models, and those that Detectron2 itself does not know.

Facts: github.com/facebookresearch/detectron2 at 02b5c4e2, ``config/defaults.py`` and ``modeling/``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rcnn.config import override_tables
from rcnn.data.formats.lookup import is_within, leads_out, reach_of
from rcnn.importers.detectron2_keys import (
    CARRIED,
    DEFAULTS,
    HEADS,
    OTHER_MODELS,
    POOLERS,
    REQUIRED,
    REQUIRED_WITH_PYRAMID,
    REQUIRED_WITHOUT,
    SHOWN_BY_WEIGHTS,
    TRAINING,
)
from rcnn.importers.recognise import RecognisedModel, num_classes
from rcnn.io.yaml import parse_yaml
from rcnn.models.keypoint_rcnn import KeypointRCNNSettings

BASE = "_BASE_"


@dataclass(frozen=True)
class Detectron2Config:
    """What a configuration sets, over Detectron2's defaults.

    Attributes:
        path: the file.
        values: by dotted key, such as ``MODEL.RPN.NMS_THRESH``; those of its bases included.
    """

    path: Path
    values: Mapping[str, Any]

    def get(self, key: str) -> Any:
        """The value of a carried or checked key, or Detectron2's default."""
        return self.values.get(key, DEFAULTS[key])


def read_config(path: str | Path) -> Detectron2Config:
    """Read a configuration and the files that its ``_BASE_`` names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no configuration of Detectron2, or a base that is not there; it says what to give instead.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such configuration")
    values = dict(_flat(_read(path, ())))
    if values.get("VERSION", 2) != 2:
        raise ValueError(
            f"{path}: VERSION {values['VERSION']}, expected 2; open it with Detectron2 and save it"
        )
    if not any(key.startswith("MODEL.") for key in values):
        raise ValueError(f"{path}: no MODEL in it, expected a configuration of Detectron2")
    return Detectron2Config(path, values)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the text is not UTF-8 ({error}); expected config.yaml") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds one {type(content).__name__}, expected the tables of config.yaml")
    named = content.pop(BASE, [])
    merged: dict[str, Any] = {}
    for name in [named] if isinstance(named, str) else named:
        base = path.parent / Path(name).expanduser()
        if base in seen or base == path:
            raise ValueError(f"{path}: its {BASE} {name} leads back to itself")
        if not is_within(base, reach := reach_of(path)):
            raise ValueError(f"{path}: {leads_out(name, reach)} Copy it there, and correct {BASE}.")
        if not base.is_file():
            raise ValueError(
                f"{path}: its {BASE} {name} is not there; put it there, or give the config.yaml in the "
                "output folder of the training, which is complete"
            )
        merged = _merged(merged, _read(base, (*seen, path)))
    return _merged(merged, content)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over each other."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys; texts such as ``(640, 800)`` are what they say, as Detectron2 reads them."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
            continue
        yield f"{prefix}{key}", _as_lists(_literal(value) if isinstance(value, str) else value)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def with_config(found: RecognisedModel, config: Detectron2Config, what: str) -> RecognisedModel:
    """A recognised model of Detectron2 with what its configuration says.

    Args:
        found: what the weights show.
        config: the configuration it was trained with.
        what: what the weights are called in messages.

    Raises:
        ValueError: the configuration is that of another model, or has values that ours do not have; all are
            named.
    """
    faults = [*_unlike(found, config, what), *_refused(found, config)]
    if faults:
        raise ValueError(f"{config.path}: {'; '.join(faults)}")
    carried: dict[str, Any] = {}
    for key, row in CARRIED.items():
        if _has(found, row.setting) and not (row.only_if_set and key not in config.values):
            _put(carried, row.setting, row.convert(config.get(key)))
    _put_anchors(carried, config, levels=len(found.settings.rpn.sizes))
    _put_thresholds(carried, config)
    _put_pools(carried, found, config)
    _put_cascade(carried, found, config)
    channels = config.get("INPUT.FORMAT").lower()
    for key, setting in (("PIXEL_MEAN", "mean"), ("PIXEL_STD", "std")):
        values = [value / 255 for value in config.get(f"MODEL.{key}")]
        _put(carried, f"transform.{setting}", values if channels == "rgb" else values[::-1])
    changed = override_tables({"model": found.settings, "transform": found.transform}, carried)
    return replace(
        found,
        settings=changed["model"],
        transform=changed["transform"],
        conventions=replace(found.conventions, channels=channels),
        min_score=float(config.get("MODEL.ROI_HEADS.SCORE_THRESH_TEST")),
        notes=(f"images: {channels.upper()}; all settings from {config.path}", *_left(config)),
    )


def _put(tables: dict[str, Any], setting: str, value: Any) -> None:
    *steps, last = setting.split(".")
    for step in steps:
        tables = tables.setdefault(step, {})
    tables[last] = value


def _has(found: RecognisedModel, setting: str) -> bool:
    """Whether the model has the part that a setting belongs to."""
    part: Any = {"model": found.settings, "transform": found.transform}[setting.partition(".")[0]]
    for step in setting.split(".")[1:-1]:
        part = getattr(part, step, None)
    return part is not None


def _put_anchors(carried: dict[str, Any], config: Detectron2Config, levels: int) -> None:
    sizes = config.get("MODEL.ANCHOR_GENERATOR.SIZES")
    _put(carried, "model.rpn.sizes", sizes * levels if len(sizes) == 1 else sizes)
    _put(carried, "model.rpn.ratios", config.get("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")[0])


def _put_thresholds(carried: dict[str, Any], config: Detectron2Config) -> None:
    negative, positive = config.get("MODEL.RPN.IOU_THRESHOLDS")
    _put(carried, "model.rpn.negative_iou", negative)
    _put(carried, "model.rpn.positive_iou", positive)
    for when, setting in (("PRE", "pre_nms"), ("POST", "post_nms")):
        counts = [config.get(f"MODEL.RPN.{when}_NMS_TOPK_{phase}") for phase in ("TRAIN", "TEST")]
        _put(carried, f"model.rpn.{setting}", counts)
    (threshold,) = config.get("MODEL.ROI_HEADS.IOU_THRESHOLDS")
    _put(carried, "model.box.sampling.positive_iou", threshold)
    _put(carried, "model.box.sampling.background_iou", [0.0, threshold])


def _put_pools(carried: dict[str, Any], found: RecognisedModel, config: Detectron2Config) -> None:
    for head in HEADS:
        if not _has(found, f"model.{head}.pool"):
            continue
        prefix = f"MODEL.ROI_{head.upper()}_HEAD."
        kind = config.get(f"{prefix}POOLER_TYPE")
        _put(carried, f"model.{head}.pool.sampling_ratio", config.get(f"{prefix}POOLER_SAMPLING_RATIO"))
        _put(carried, f"model.{head}.pool.pooling", "pool" if kind == "ROIPool" else "align")
        _put(carried, f"model.{head}.pool.aligned", kind == "ROIAlignV2")


def _put_cascade(carried: dict[str, Any], found: RecognisedModel, config: Detectron2Config) -> None:
    if found.settings.box.cascade is not None:
        first, *later = config.get("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS")
        _put(carried, "model.box.weights", first)
        _put(carried, "model.box.cascade.weights", later)
        _put(carried, "model.box.cascade.ious", config.get("MODEL.ROI_BOX_CASCADE_HEAD.IOUS")[1:])


def _unlike(found: RecognisedModel, config: Detectron2Config, what: str) -> Iterator[str]:
    """Where the weights show another model than the configuration."""
    settings: Any = found.settings
    keypoints = settings.keypoint.count if isinstance(settings, KeypointRCNNSettings) else None
    shown = {
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes(found.state, what),
        "MODEL.MASK_ON": getattr(settings, "mask", None) is not None,
        "MODEL.KEYPOINT_ON": keypoints is not None,
        "MODEL.RESNETS.DEPTH": int(settings.backbone.name.removeprefix("resnet")),
        "MODEL.ROI_HEADS.NAME": _heads(settings),
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone" if settings.fpn else "build_resnet_backbone",
    }
    if keypoints is not None:
        shown["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"] = keypoints
    for key, value in shown.items():
        if config.get(key) != value:
            yield f"{key} is {config.get(key)}, but {what} shows {value}"


def _heads(settings: Any) -> str:
    if settings.fpn is None:
        return "Res5ROIHeads"
    return "StandardROIHeads" if settings.box.cascade is None else "CascadeROIHeads"


def _refused(found: RecognisedModel, config: Detectron2Config) -> Iterator[str]:
    """What the configuration asks for and our models do not have."""
    pyramid = found.settings.fpn is not None
    expected = REQUIRED | (REQUIRED_WITH_PYRAMID if pyramid else REQUIRED_WITHOUT)
    for key, values in expected.items():
        if config.get(key) not in values:
            yield f"{key} is {config.get(key)}, expected {' or '.join(map(str, values))}"
    for head in HEADS:
        key = f"MODEL.ROI_{head.upper()}_HEAD.POOLER_TYPE"
        if _has(found, f"model.{head}.pool") and config.get(key) not in POOLERS:
            yield f"{key} is {config.get(key)}, expected {' or '.join(POOLERS)}"
    for key, count in (("MODEL.RPN.IOU_THRESHOLDS", 2), ("MODEL.ROI_HEADS.IOU_THRESHOLDS", 1)):
        if len(config.get(key)) != count:
            yield f"{key} is {config.get(key)}, expected {count}"
    ratios = config.get("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    if any(each != ratios[0] for each in ratios):
        yield f"MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS is {ratios}, expected the same for all levels"
    weights = config.get("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS")
    if found.settings.box.cascade is not None and len(weights) != 1 + len(found.settings.box.cascade.ious):
        yield f"MODEL.ROI_BOX_CASCADE_HEAD has {len(weights)} steps, expected as many as the weights show"


def _left(config: Detectron2Config) -> Iterator[str]:
    """Every key of the file that is not carried, by the reason."""
    handled = {*CARRIED, *DEFAULTS, *SHOWN_BY_WEIGHTS}
    left = sorted(key for key in config.values if key not in handled and key != "VERSION")
    training = [key for key in left if key.startswith(TRAINING)]
    others = [key for key in left if key.startswith(OTHER_MODELS) and key not in training]
    unknown = [key for key in left if key not in training and key not in others]
    for reason, keys in (
        ("not carried, of training or its surroundings", training),
        ("not carried, of other models", others),
        ("not carried, unknown to Detectron2 itself; check that the model does not depend on them", unknown),
    ):
        if keys:
            yield f"{reason}: {', '.join(keys)}"
