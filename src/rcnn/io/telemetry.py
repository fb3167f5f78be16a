"""Libraries that report their use to their makers unless they are told not to: they are told as they load."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCHES = {
    "huggingface_hub": ("HF_HUB_DISABLE_TELEMETRY", "1"),
    "mlflow": ("MLFLOW_DISABLE_TELEMETRY", "true"),
    "nncf": ("NNCF_CI", "1"),
    "onnxruntime": ("ORT_DISABLE_TELEMETRY", "1"),
    "ray": ("RAY_USAGE_STATS_ENABLED", "0"),
}
"""By library, an environment variable and its value."""

REPORTERS = {"openvino": "openvino_telemetry"}
"""By library without such a variable, the package that reports; without it, nothing is."""


@contextmanager
def without_telemetry(library: str) -> Iterator[None]:
    """A library that is imported inside reports nothing. Variables that the user has set stay."""
    if library in SWITCHES:
        os.environ.setdefault(*SWITCHES[library])
    reporter = REPORTERS.get(library)
    if reporter is None or reporter in sys.modules:
        yield
        return
    sys.modules[reporter] = None  # type: ignore[assignment] # Python's way to say that it cannot be imported
    try:
        yield
    finally:
        del sys.modules[reporter]
