"""An exporter and a training callback of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_names(program: Any, metadata: Mapping[str, Any], out: Path, calibration: Any) -> None:
    """An exporter: the names of the graph's inputs and what the file knows of the model."""
    names = list(program.graph_signature.user_inputs)
    out.write_text(json.dumps({"inputs": names, "class_names": metadata["class_names"]}))


class Steps:
    """A callback that writes which step it saw last into the run folder."""

    def on_step(self, event: Any) -> None:
        """After each step."""
        (event.folder / "steps.txt").write_text(f"{event.iteration} {sorted(event.values)}")
