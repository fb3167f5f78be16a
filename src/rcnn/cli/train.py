"""``rcnn train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rcnn.cli.console import app, console, examples, print_error, print_text, warn_renamed
from rcnn.cli.options import (
    DATA_HELP,
    Channels,
    DataFormat,
    Device,
    Exif,
    ImagesFolder,
    Plane,
    ProposalsFile,
    SkipBad,
    Trust,
    exists,
    new_names,
    reading_settings,
    run_folder,
)
from rcnn.io.interruption import INTERRUPTED, TERMINATED
from rcnn.processes.launch import is_first, launched

PANEL = "Several processes"
AGAIN = "from rcnn.cli import main; main()"  # in each process; it knows that it is one of several


@app.command(
    epilog=examples(
        "rcnn train cells/ --minutes 20 --out runs/cells",
        "rcnn train train.json --val val.json --images photos/ --epochs 12 --set train.lr=0.0003",
        "rcnn train more_cells/ --from runs/cells --minutes 10",
        "rcnn train --resume runs/cells",
        "rcnn train --resume runs/cells --minutes 40",
        "rcnn train cells/ --out runs/cells --processes 2 --resume auto",
    )
)
def train(
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help=DATA_HELP)] = None,
    val: Annotated[
        Path | None,
        typer.Option(
            help="Validation data. Default: val/ or valid/ in DATA, or a part of DATA that is held out.",
            callback=exists,
        ),
    ] = None,
    images: ImagesFolder = None,
    val_images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images of --val.", callback=exists)
    ] = None,
    format: DataFormat = None,
    proposals: ProposalsFile = None,
    val_proposals: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="External proposals for --val, if not in --proposals.", callback=exists
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="See `rcnn models`, or your own (my_package.nets:Mine). Default: chosen from DATA."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="See `rcnn models`, any model of timm (timm:convnext_tiny), or your own "
            "(my_package.nets:build). Default: efficientnet_lite0; on a GPU resnet50, if its weights can be "
            "had."
        ),
    ] = None,
    trunk: Annotated[str | None, typer.Option(hidden=True, help="The old name of --backbone.")] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            help="Training scheme of Faster R-CNN: joint, or alternating (the four steps of the paper)."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE", help="Recipe file, or a name listed by `rcnn models`.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time in minutes.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Number of passes over the training images.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder to create.", callback=run_folder)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|auto",
            help="Resume an interrupted run; with --minutes or --epochs, its new length in all, go on with a "
            "finished one. All other settings come from the run. auto: the same command starts the run in "
            "--out, or continues it.",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Trained model to start from: a run, a .safetensors file, hf://USER/NAME, or a name "
            "listed by `rcnn models`.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            "--rename",
            metavar="DATA=MODEL",
            help="With --from: the model's name for a class of DATA. Repeatable.",
        ),
    ] = None,
    keep_classes: Annotated[
        bool,
        typer.Option("--keep-classes", help="With --from: keep the model's classes that DATA does not have."),
    ] = False,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="What does not train: backbone, or norms (statistics of batch norm). Repeatable.",
        ),
    ] = None,
    cache_gb: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="GB",
            help="With --freeze backbone on a CPU: room on disk for the backbone's maps while training; "
            "0: none are kept. Default: 4.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe. Repeatable."),
    ] = None,
    channels: Channels = None,
    plane: Plane = None,
    exif: Exif = None,
    skip_bad: SkipBad = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per training step.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Number of processes that prepare batches.")
    ] = None,
    device: Device = None,
    log: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also log to tensorboard, mlflow or wandb. Repeatable."),
    ] = None,
    callback: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Callback of your own (my_package.callbacks:Mine). Repeatable."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=PANEL,
            help="Number of processes that train on this machine; torchrun and srun start more machines'.",
        ),
    ] = None,
    join_timeout: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            rich_help_panel=PANEL,
            help="How long the processes wait for each other to start.",
        ),
    ] = 300,
    step_timeout: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            rich_help_panel=PANEL,
            help="After how long a process that does not answer, or is late in a step, counts as lost.",
        ),
    ] = 60,
    trust: Trust = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    json_log: Annotated[
        bool,
        typer.Option("--json-log", help="Print one JSON object per line: messages, progress, evaluations."),
    ] = False,
) -> None:
    """Train a model on annotated images."""
    if trunk is not None:
        warn_renamed("--trunk", "--backbone")
        backbone = backbone or trunk
    auto = str(resume) == "auto"
    if data is None and (resume is None or auto):
        raise ValueError("train: give the DATA to train on, or --resume RUN")
    if processes is not None and processes > 1 and launched() is None:
        from rcnn.processes.here import run_here

        raise typer.Exit(run_here(processes, ["-c", AGAIN, *sys.argv[1:]]))
    given = {
        "DATA": data, "--val": val, "--images": images, "--val-images": val_images, "--format": format,
        "--model": model, "--proposals": proposals, "--val-proposals": val_proposals,
        "--backbone": backbone, "--recipe": recipe, "--scheme": scheme,
        "--from": start, "--rename": rename, "--keep-classes": keep_classes or None, "--freeze": freeze,
        "--out": out, "--seed": seed, "--set": settings,
        "--channels": channels, "--plane": plane, "--exif": exif,
        "--skip-bad": skip_bad or None, "--batch-size": batch_size, "--cache-gb": cache_gb,
    }  # fmt: skip
    extra = [name for name, value in given.items() if value not in (None, [])]
    if resume is not None and not auto and extra:
        raise ValueError(f"train: a resumed run keeps its settings; remove {', '.join(extra)}")
    if minutes is not None and epochs is not None:
        raise ValueError("train: --minutes and --epochs are mutually exclusive; choose one")
    changes = [*(settings or []), *reading_settings(channels, plane, exif)]
    if scheme is not None:
        if model not in (None, "faster_rcnn"):
            raise ValueError(f"train: --scheme is for faster_rcnn, not for {model}; remove one of them")
        model = "faster_rcnn" if recipe is None else model
        changes.append(f"model.scheme={scheme}")
    if batch_size is not None:
        changes.append(f"train.batch_size={batch_size}")
    if cache_gb is not None:
        if "backbone" not in (freeze or ()):
            raise ValueError("train: --cache-gb is for the maps of a frozen backbone: add --freeze backbone")
        changes.append(f"train.cache_gb={cache_gb:g}")
    from rcnn.training.run import train as run

    try:
        folder = run(
            data, val=val, images=images, val_images=val_images, format=format, proposals=proposals,
            val_proposals=val_proposals, model=model, backbone=backbone, recipe=recipe, minutes=minutes,
            epochs=epochs, out=out, seed=seed, settings=changes, skip_bad=skip_bad, resume=resume,
            start=start, rename=new_names(rename or []), keep_classes=keep_classes, freeze=freeze or (),
            workers=workers, device=device, callbacks=callback or (), log=log or (), trust=trust or (),
            console=Console(quiet=True) if quiet or json_log else console(), json_log=json_log,
            join_timeout=join_timeout, step_timeout=step_timeout,
        )  # fmt: skip
    except KeyboardInterrupt:
        _say_how_to_resume("interrupted", out if auto else resume or out)
        raise typer.Exit(INTERRUPTED) from None
    except SystemExit as error:
        if error.code == TERMINATED:
            _say_how_to_resume("ended by SIGTERM", out if auto else resume or out)
        raise
    if is_first() and not (quiet or json_log):
        print_text(f"run folder: {folder}; use it with: rcnn predict {folder} IMAGES")


def _say_how_to_resume(what: str, where: Path | None) -> None:
    if not is_first():
        return  # of several processes one says it
    if where is None:
        print_error(f"{what}; if a run folder was printed above, resume with: rcnn train --resume RUN")
    elif (where / "run.json").is_file():
        print_error(f"{what}; resume with: rcnn train --resume {where}")
    else:
        print_error(f"{what} before training started")
