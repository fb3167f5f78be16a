"""A model put on the Hugging Face Hub, with a card that says what it is, finds and reaches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from rcnn.catalogue import MODELS
from rcnn.data.digests import unpack_digests
from rcnn.extras import install_command
from rcnn.inference.detector import Detector
from rcnn.io.hub import CARD_FILE, MODEL_FILE, PREFIX, check_repository, upload_files
from rcnn.loading import load_detector
from rcnn.metrics import percent
from rcnn.models import model_name

MAX_CLASSES_SHOWN = 100


def push(
    model: str | Path,
    repository: str,
    *,
    private: bool = False,
    license: str | None = None,
    trust: bool | Iterable[str] = (),
) -> str:
    """Put a trained model on the Hugging Face Hub, from where ``hf://user/name`` opens it.

    Weights, settings, class names, metrics, and digests of the training images go there; no image, no path.

    Args:
        model: a run, a checkpoint, or the name of a model.
        repository: ``user/name``; created if it is not there.
        private: of a repository that is created: only its owner sees it.
        license: of the model, as the Hub calls it, such as ``apache-2.0``; None: the card names none.
        trust: packages whose code a file may name, as for :func:`rcnn.load`.

    Returns:
        The address of the model's page.

    Raises:
        ValueError: no model, or a repository's name of another form.
        OSError: no permission, or the Hub cannot be reached.
    """
    check_repository(repository)
    detector = load_detector(model, "cpu", trust=trust)
    card = model_card(detector, repository, license=license)
    with TemporaryDirectory() as folder:
        file = detector.save(Path(folder) / MODEL_FILE)
        return upload_files(repository, {MODEL_FILE: file, CARD_FILE: card.encode()}, private=private)


def model_card(detector: Detector, repository: str, *, license: str | None = None) -> str:
    """The card of a model, as Markdown with the header that the Hub reads.

    Args:
        detector: the model.
        repository: ``user/name``.
        license: as the Hub calls it.
    """
    network, address = detector.network, f"{PREFIX}{repository}"
    name = model_name(network)
    task = _task(detector)
    header = ["library_name: rcnn", f"pipeline_tag: {task}", "tags:", "- rcnn", f"- {json.dumps(name)}"]
    header += [] if license is None else [f"license: {json.dumps(license)}"]
    parts = [
        "\n".join(["---", *header, "---"]),
        f"# {repository.partition('/')[2]}",
        f"{MODELS.get(name, name)}. Backbone: {network.settings.backbone.name}.",
        *(_names("Classes", detector.class_names), _names("Pixel classes", detector.semantic_names)),
        "## Use",
        f"{install_command('hub')}, then:",
        f"```bash\nrcnn predict {address} IMAGES\nrcnn train DATA --from {address}\n```",
        f'```python\nimport rcnn\n\ndetector = rcnn.load("{address}")\n```',
        *_measured(detector),
        *_made(detector),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _task(detector: Detector) -> str:
    """What the Hub calls what the model does."""
    network = detector.network
    if network.needs_keypoints:
        return "keypoint-detection"
    return "image-segmentation" if network.needs_masks or network.needs_semantic else "object-detection"


def _names(what: str, names: tuple[str, ...]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MAX_CLASSES_SHOWN} more" if len(names) > MAX_CLASSES_SHOWN else ""
    return f"{what} ({len(names)}): {', '.join(names[:MAX_CLASSES_SHOWN])}{more}."


def _measured(detector: Detector) -> list[str]:
    """A table of what was measured, if anything was."""
    metrics = {
        name: value
        for name, value in detector.info.get("metrics", {}).items()
        if isinstance(value, float) and 0 <= value <= 1 and name != "score"
    }
    if not metrics:
        return []
    rows = [f"| {name} | {percent(value)} |" for name, value in metrics.items()]
    note = (
        "On the validation images, in %, which also chose the best checkpoint and the threshold: detections "
        f"below a score of {detector.min_score:.2f} are dropped by default."
    )
    return ["## Measured", note, "\n".join(["| metric | value |", "|---|---|", *rows])]


def _made(detector: Detector) -> list[str]:
    """How it was made."""
    info = detector.info
    lines = []
    if "trained_on" in info:
        more = ", and others before" if info.get("trained_on_more") else ""
        count = len(unpack_digests(info["trained_on"]))
        lines.append(
            f"Trained on {count} images{more}. The file holds digests of their contents, so that whoever "
            "trains on is told if they are among the validation images."
        )
    if "versions" in info:
        made = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
        lines.append(f"Made by {made}.")
    return ["## Training", *lines] if lines else []
