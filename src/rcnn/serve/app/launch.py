"""Open the page: a port of this machine, the model and the images behind it, and a browser in front."""

from __future__ import annotations

import contextlib
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rcnn.extras import install_command
from rcnn.inference.exported import is_exported
from rcnn.io.hub import is_hub_address
from rcnn.io.reading import Reading
from rcnn.loading import load
from rcnn.serve.app.collection import open_collection
from rcnn.serve.app.corrections import Corrections
from rcnn.serve.app.finder import Finder
from rcnn.serve.app.trainings import Trainings
from rcnn.serve.app.workspace import Workspace
from rcnn.serve.guard import HOST, Guard, new_token

GRACE = 2  # seconds that open requests have when the server ends


@dataclass(frozen=True)
class PageOptions:
    """How a page is opened.

    Attributes:
        model: what ``rcnn.load`` opens; None: no model, until one is trained.
        source: a folder of images, an image or a data set; None: images are dropped into the page.
        out: the folder of corrections, dropped images and trained models; None: beside ``source``.
        port: 0: any that is free.
        format: of a data set; None: recognised.
        reading: how files are read; None: as the model reads them.
        load: further arguments of ``rcnn.load``.
    """

    model: str | None = None
    source: Path | None = None
    out: Path | None = None
    port: int = 0
    format: str | None = None
    reading: Reading | None = None
    load: dict[str, Any] = field(default_factory=dict)


def model_and_source(first: str | None, second: Path | None) -> tuple[str | None, Path | None]:
    """Which of the words ``[MODEL] [FOLDER]`` is what: a single one may be either.

    Convention: ``nuclei`` is a model; ``cells/`` is a folder unless it holds a model; ``cells.json`` is data.
    """
    if first is None or second is not None:
        return first, second
    path = Path(first)
    is_model = (
        is_hub_address(first)
        or not path.exists()
        or path.suffix == ".safetensors"
        or is_exported(path)
        or any((path / name).is_file() for name in ("best.safetensors", "last.safetensors"))
    )
    return (first, None) if is_model else (None, path)


@contextlib.contextmanager
def opened_workspace(options: PageOptions) -> Iterator[Workspace]:
    """A workspace; what runs in it is stopped at the end.

    Raises:
        FileNotFoundError: there is no such model or folder.
        ValueError: one that cannot be opened.
    """
    opened = None if options.model is None else load(options.model, **options.load)
    reading = options.reading or (None if opened is None else opened.reading)
    collection = open_collection(options.source, options.out, reading, options.format)

    def open_model(source: str) -> Any:
        return opened if source == options.model else load(source, **options.load)

    finder = Finder(collection, open_model)
    names: tuple[str, ...] = ()
    pixel_names: tuple[str, ...] = ()
    if options.model is not None and opened is not None:
        finder.add(options.model, Path(options.model).stem)
        names, pixel_names = opened.class_names, opened.semantic_names
    skeleton = None if opened is None else opened.skeleton
    corrections = Corrections(collection, names, skeleton, pixel_names)
    trainings = Trainings(collection.out)
    title = options.source.resolve().name if options.source is not None else "your images"
    workspace = Workspace(collection, finder, corrections, trainings, title)
    try:
        yield workspace
    finally:
        workspace.close()


@dataclass(frozen=True)
class PageServer:
    """A page that is ready to be served.

    Attributes:
        workspace: what it works on.
        address: what to open in a browser.
        run: serves it until :attr:`stop` is called or the process is asked to end.
        stop: ends it.
    """

    workspace: Workspace
    address: str
    run: Callable[[], None]
    stop: Callable[[], None]


@contextlib.contextmanager
def page_server(options: PageOptions) -> Iterator[PageServer]:
    """Open what a page needs, and a port for it; nothing is served before ``run`` is called.

    Raises:
        ValueError: as :func:`opened_workspace`, or the extra ``app`` is not installed.
        OSError: the port is taken.
    """
    try:
        import uvicorn

        from rcnn.serve.app.routes import application
    except ImportError as error:
        raise ValueError(f"the page needs starlette and uvicorn: {install_command('app')}") from error
    with _listening(options.port) as listener, opened_workspace(options) as workspace:
        guard = Guard(application(workspace), listener.getsockname()[1], new_token())
        config = uvicorn.Config(
            guard, log_level="error", access_log=False, lifespan="off", server_header=False,
            timeout_graceful_shutdown=GRACE,
        )  # fmt: skip
        server = uvicorn.Server(config)

        def stop() -> None:
            server.should_exit = True

        yield PageServer(workspace, guard.address, lambda: server.run(sockets=[listener]), stop)


def serve_page(options: PageOptions, *, opened: Callable[[str], None], browser: bool = True) -> None:
    """Serve the page until the process is asked to end.

    Args:
        options: what is opened.
        opened: called with the page's address once it answers.
        browser: open it in the machine's browser.

    Raises:
        ValueError: as :func:`page_server`.
        OSError: likewise.
    """
    with page_server(options) as server:
        opened(server.address)
        if browser:
            threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
        server.run()


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """A socket of this machine alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise OSError(
                error.errno, "the port is taken; choose another --port", f"{HOST}:{port}"
            ) from error
        listener.listen(128)
        yield listener
