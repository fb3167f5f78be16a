"""Compiled kernels for CPUs: other implementations of the operators of ``rcnn.ops`` and ``rcnn.layers``.

They are C, compiled when the package is built (``hatch_build.py``), for Linux on x86-64 with AVX2 or AVX-512.
Everything works without them, slower. ``RCNN_KERNELS=0`` disables them; ``RCNN_KERNELS=avx2`` and
``RCNN_KERNELS=avx512`` choose one instruction set.
"""

import sys

from rcnn.kernels import library


def register() -> bool:
    """Let the kernels compute from now on, in the whole process; False where there are none.

    Prediction and training call it; to call it again changes nothing.
    """
    from rcnn.kernels import operators  # only now, as it imports torch

    return operators.register()


def status() -> str:
    """In a line which kernels there are, or why there are none."""
    try:
        instructions, compiler = library.find()
        if "torch" in sys.modules:
            library.load()
    except library.UnavailableError as error:
        return f"no kernels: {error}"
    return f"{library.NAMES[instructions]} kernels, built with {compiler}"
