"""A Mask R-CNN trained from nothing but this package, in a few minutes: ``rcnn demo``."""

from pathlib import Path

from rich.console import Console

from rcnn.data.shapes import draw_shapes
from rcnn.loading import load_detector
from rcnn.training.run import train

IMAGES, NUM_VAL_IMAGES, SIDE = 300, 60, 160


def run(out: str | Path = "demo", minutes: float = 3.0, console: Console | None = None) -> Path:
    """Train on generated images of overlapping shapes, write the report, and print the next steps.

    Args:
        out: the run folder.
        minutes: training time in minutes.
        console: where to print.

    Returns:
        The report.
    """
    console = console or Console(soft_wrap=True)
    out = Path(out)
    pictures = draw_shapes(IMAGES, size=(SIDE, SIDE))
    held_out = draw_shapes(NUM_VAL_IMAGES, first=IMAGES, size=(SIDE, SIDE))
    console.print(
        f"Drawing {IMAGES} images of shapes to train on and {NUM_VAL_IMAGES} to test on, "
        f"then training a Mask R-CNN for {minutes:g} minutes.\n"
    )
    # Written like a user's data, so that the run can be resumed and evaluated like any other.
    annotations = pictures.write(out / "data" / "train")
    held_out_annotations = held_out.write(out / "data" / "val")
    train(annotations, val=held_out_annotations, minutes=minutes, out=out, console=console)
    detector = load_detector(out)
    (found,) = detector.predict([held_out[0].image])
    counts = {name: found.names.count(name) for name in sorted(set(found.names))}
    console.print(f"\nIn the first test image it finds {counts}.")
    console.print(
        f"Open {out / 'report.html'} in a browser. To continue with your own images:\n\n"
        "  rcnn data check MY_DATA                        list its content and its errors\n"
        "  rcnn train MY_DATA --minutes 20 --out runs/my  train a model on it\n"
        "  rcnn predict runs/my MY_IMAGES --out found     find the objects in new images\n\n"
        "MY_DATA is a COCO JSON file, YOLO's data.yaml, or a folder of a known layout: docs/data.md.",
        markup=False,
        highlight=False,
    )
    return out / "report.html"
