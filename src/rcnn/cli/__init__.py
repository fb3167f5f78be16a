"""The command line: one file per verb, from data to report.

Nothing heavy is imported before a verb runs, so that ``rcnn --help`` answers at once. Nothing is computed
here: a verb passes its options to a function of the package and prints what that returns.
"""

from __future__ import annotations

import sys
import warnings

from rcnn.cli import (  # noqa: F401 - each adds its verb
    bench,
    data,
    data_sets,
    demo,
    evaluate,
    explain,
    export,
    models,
    next,
    page,
    predict,
    propose,
    push,
    report,
    train,
    version,
    weights,
)
from rcnn.cli.console import app
from rcnn.io.escaping import for_terminal
from rcnn.io.interruption import answered

__all__ = ["app", "main"]


def main() -> None:
    """Entry of the command ``rcnn``; ``--debug`` may stand anywhere."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {for_terminal(str(message), lines=True)}\n"
    with answered(bounded=True):
        app(sorted(sys.argv[1:], key=lambda argument: argument != "--debug"), prog_name="rcnn")
