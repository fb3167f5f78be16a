"""What this installation consists of: versions, the CPU, and the compiled kernels; torch is not imported."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from rcnn.kernels import library, status

PACKAGES = ("torch", "torchvision", "timm", "numpy", "onnxruntime", "openvino")
# Instructions that decide which kernels and which precision are used, as Linux names them.
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")


def installation() -> dict[str, str]:
    """What to say about it: name to text."""
    return {
        "Python": f"{platform.python_version()} on {platform.platform()}",
        **{name: _version(name) for name in PACKAGES},
        "CPU": _cpu(),
        "compiled": status(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    found = library.cpu_flags()
    instructions = ", ".join(name for name in FLAGS if name in found)
    return f"{cpu_name()}; instructions: {instructions or 'unknown'}"


def cpu_name() -> str:
    """What the processor is called."""
    return library.cpu_field("model name") or platform.processor() or platform.machine()
