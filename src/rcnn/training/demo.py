"""First results of the model for nuclei, then a Mask R-CNN trained in minutes: ``rcnn demo``."""

import csv
from pathlib import Path

from rich.console import Console

from rcnn.data.shapes import draw_shapes
from rcnn.inference.output_files import OutputFiles
from rcnn.inference.writers import predict_to_files
from rcnn.loading import load_detector, sample_images
from rcnn.training.progress import say
from rcnn.training.run_folder import new_folder

IMAGES, NUM_VAL_IMAGES, SIDE = 300, 60, 160
SHIPPED = "nuclei"


def run(out: str | Path = "demo", minutes: float = 3.0, console: Console | None = None) -> Path:
    """Show what a model finds in two photographs, then train one on generated images and report on it.

    What is found is in ``out/found`` after some seconds; the next steps are printed at the end.

    Args:
        out: the run folder.
        minutes: training time in minutes.
        console: where to print.

    Returns:
        The report.
    """
    console = console or Console(soft_wrap=True)
    out = Path(out)
    new_folder(out).release()  # the training takes it again
    show_first_results(out / "found", console)
    # A third of all imports, which first results need not wait for.
    from rcnn.training.run import train

    pictures = draw_shapes(IMAGES, size=(SIDE, SIDE))
    held_out = draw_shapes(NUM_VAL_IMAGES, first=IMAGES, size=(SIDE, SIDE))
    say(
        console,
        f"Drawing {IMAGES} images of shapes to train on and {NUM_VAL_IMAGES} to test on, "
        f"then training a Mask R-CNN for {minutes:g} minutes.\n",
    )
    # Written like a user's data, so that the run can be resumed and evaluated like any other.
    annotations = pictures.write(out / "data" / "train")
    held_out_annotations = held_out.write(out / "data" / "val")
    train(annotations, val=held_out_annotations, minutes=minutes, out=out, console=console)
    detector = load_detector(out)
    (found,) = detector.predict([held_out[0].image])
    counts = {name: found.names.count(name) for name in sorted(set(found.names))}
    say(console, f"\nIn the first test image it finds {counts}.")
    say(
        console,
        f"Open {out / 'report.html'} in a browser. To continue with your own images:\n\n"
        "  rcnn data check MY_DATA                        list its content and its errors\n"
        "  rcnn train MY_DATA --minutes 20 --out runs/my  train a model on it\n"
        "  rcnn predict runs/my MY_IMAGES                 find the objects in new images\n\n"
        "MY_DATA is a COCO JSON file, YOLO's data.yaml, or a folder of a known layout: docs/data.md.",
    )
    return out / "report.html"


def show_first_results(folder: Path, console: Console) -> None:
    """Predict the photographs that come with the package, and print what was found and where to look.

    Args:
        folder: where overlays and tables go.
        console: where to print.
    """
    images = sample_images(SHIPPED)
    # Twice as large, so that the small nuclei have room for their numbers, too.
    files = OutputFiles(overlay_scale=2)
    predict_to_files(load_detector(SHIPPED), images, folder, files=files, overwrite=True)
    with (folder / "counts.csv").open(newline="", encoding="utf-8") as file:
        counts = {row["image"]: row["count"] for row in csv.DictReader(file)}
    say(
        console,
        f"What the model {SHIPPED}, which comes with rcnn, finds in {len(images)} photographs "
        f"({images[0].parent}):\n",
    )
    for name, count in counts.items():
        say(console, f"  {count:>3} nuclei in {name}; open {folder / 'overlays' / name}")
    say(
        console,
        f"\nEach nucleus has its row in {folder / 'objects.csv'}: score, box, area and centre. "
        f"The counts are in {folder / 'counts.csv'}.\n",
    )
