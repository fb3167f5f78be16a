"""Writes ``resumed_losses.json``: the losses of 0.1.0's interrupted runs when the present code resumes them.

    PYTHONPATH=src:tests python tests/compat/write_resumed_losses.py

To be run after a change that moves the losses of a training on purpose, and never otherwise.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_files_0_1_0 import RESUMED, RUNS, losses_of, resume, unpacked


def main() -> None:
    """Resume every run on one core, and write."""
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        files = unpacked(Path(folder))
        for name in RUNS:
            resume(files / "runs" / name)
            found[name] = losses_of(files / "runs" / name)
    RESUMED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
