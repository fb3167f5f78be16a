"""A Mask R-CNN trained from nothing but this package, in a few minutes: ``rcnn demo``."""

from pathlib import Path

from rich.console import Console

from rcnn.data.shapes import draw_shapes
from rcnn.loading import load_detector
from rcnn.training.run import train

IMAGES, NUM_VAL_IMAGES, SIDE = 300, 60, 160


def run(out: str | Path = "demo", minutes: float = 3.0, console: Console | None = None) -> Path:
    """Train on generated pictures of overlapping shapes, report, and say how to go on with one's own.

    Args:
        out: the folder of the run.
        minutes: training time.
        console: where to print.

    Returns:
        The report.
    """
    console = console or Console(soft_wrap=True)
    out = Path(out)
    pictures = draw_shapes(IMAGES, size=(SIDE, SIDE))
    held_out = draw_shapes(NUM_VAL_IMAGES, first=IMAGES, size=(SIDE, SIDE))
    console.print(
        f"Drawing {IMAGES} pictures of shapes to train on and {NUM_VAL_IMAGES} to test on, "
        f"then training a Mask R-CNN for {minutes:g} minutes.\n"
    )
    # Written as a user's data would lie there, so that the run can be resumed and evaluated like any other.
    annotations = pictures.write(out / "data" / "train")
    held_out_annotations = held_out.write(out / "data" / "val")
    train(annotations, val=held_out_annotations, minutes=minutes, out=out, console=console)
    detector = load_detector(out)
    (found,) = detector.predict([held_out[0].image])
    counts = {name: found.names.count(name) for name in sorted(set(found.names))}
    console.print(f"\nIn the first held-out picture it finds {counts}.")
    console.print(
        f"Open {out / 'report.html'} in a browser. To go on with your own pictures:\n\n"
        "  rcnn data check MY_DATA                        what is in it, and what is wrong with it\n"
        "  rcnn train MY_DATA --minutes 20 --out runs/my  train on it\n"
        "  rcnn predict runs/my MY_IMAGES --out found     find the objects in new images\n\n"
        "MY_DATA is a COCO JSON file, YOLO's data.yaml, or a folder of a known layout: docs/data-formats.md.",
        markup=False,
        highlight=False,
    )
    return out / "report.html"
