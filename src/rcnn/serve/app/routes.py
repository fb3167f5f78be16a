"""Which address does what: thin functions around :class:`rcnn.serve.app.workspace.Workspace`."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rcnn.serve.app.pixels import View, as_png
from rcnn.serve.app.workspace import Workspace

STATIC = Path(__file__).parent / "static"
MAX_JSON = 128 * 2**20  # bytes of a request
MAX_IMAGE = 2 * 2**30  # bytes of an image that is dropped
# A report is one page with its own styles and scripts; it must reach nothing, and not this page either.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'self'"
)


class TooLargeError(ValueError):
    """A request with more content than is taken."""


def application(workspace: Workspace) -> Starlette:
    """The page of a workspace as an ASGI application, to be put behind a guard."""
    of = _Answers(workspace)
    routes = [
        Route("/", lambda _: FileResponse(STATIC / "index.html")),
        Route("/api/state", of.json(lambda w, r: w.state())),
        Route("/api/images", of.json(lambda w, r: w.images(_number(r, "min_score")))),
        Route("/api/images", of.upload, methods=["POST"]),
        Route("/api/samples", of.json(lambda w, r: w.add_samples()), methods=["POST"]),
        Route("/api/problems", of.json(lambda w, r: w.problems())),
        Route("/api/images/{number:int}", of.image(lambda w, p, r: w.describe(p))),
        Route("/api/images/{number:int}/thumbnail", of.thumbnail),
        Route("/api/images/{number:int}/tiles/{level:int}/{column:int}/{row:int}", of.tile),
        Route("/api/images/{number:int}/found", of.image(lambda w, p, r: w.results.found(p, _index(r)))),
        Route(
            "/api/images/{number:int}/measurements",
            of.image(lambda w, p, r: w.results.measurements(p, _index(r))),
        ),
        Route("/api/images/{number:int}/map", of.map),
        Route("/api/find", of.json(lambda w, r: vars(w.finder.start())), methods=["POST"]),
        Route("/api/find/cancel", of.json(lambda w, r: vars(w.finder.cancel())), methods=["POST"]),
        Route("/api/images/{number:int}/changes", of.posted_image(Workspace.change), methods=["POST"]),
        Route("/api/images/{number:int}/done", of.posted_image(Workspace.mark), methods=["POST"]),
        Route("/api/images/{number:int}/revert", of.posted_image(Workspace.revert), methods=["POST"]),
        Route("/api/images/{number:int}/explain", of.posted_image(Workspace.explain), methods=["POST"]),
        Route("/api/images/{number:int}/next", of.json(lambda w, r: w.next(r.path_params["number"]))),
        Route("/api/trainings", of.posted(Workspace.train), methods=["POST"]),
        Route("/api/trainings/stop", of.posted(Workspace.stop_training), methods=["POST"]),
        Route("/api/trainings/resume", of.posted(Workspace.resume_training), methods=["POST"]),
        Route("/api/trainings/use", of.posted(Workspace.use_training), methods=["POST"]),
        Route("/api/trainings/{name}", of.json(lambda w, r: w.training(r.path_params["name"]))),
        Route("/api/classes", of.posted(Workspace.add_class), methods=["POST"]),
        Route("/api/model", of.posted(Workspace.choose_model), methods=["POST"]),
        Route("/api/download/{to}", of.download),
        Route("/api/report", of.report),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(routes=routes, exception_handlers={ValueError: _said, OSError: _said})


async def _said(request: Request, error: Exception) -> Response:
    """An error in the words of the command line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    status = 413 if isinstance(error, TooLargeError) else 400
    return JSONResponse({"error": text}, status_code=status)


async def body_of(request: Request, most: int = MAX_JSON) -> bytes:
    """The content of a request.

    Raises:
        TooLargeError: it is larger than ``most`` bytes.
    """
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total > most:
            raise TooLargeError(f"more than {most // 2**20} MB were sent")
        parts.append(part)
    return b"".join(parts)


async def json_of(request: Request) -> dict[str, Any]:
    """The JSON object that was sent.

    Raises:
        ValueError: something else was sent.
    """
    try:
        content = json.loads(await body_of(request) or b"{}")
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return content


class _Answers:
    """Endpoints for one workspace; what takes time runs in threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def json(self, function: Callable[[Workspace, Request], Any]) -> Callable[[Request], Any]:
        """An endpoint that answers what a function returns."""

        def answer(request: Request) -> Response:
            return JSONResponse(function(self._workspace, request))

        return answer

    def image(self, function: Callable[[Workspace, Any, Request], Any]) -> Callable[[Request], Any]:
        """The same for a function of one image."""

        def answer(request: Request) -> Response:
            return JSONResponse(function(self._workspace, self._picture(request), request))

        return answer

    def posted(self, function: Callable[[Workspace, dict[str, Any]], Any]) -> Callable[[Request], Any]:
        """An endpoint for a function of what was sent."""

        async def answer(request: Request) -> Response:
            body = await json_of(request)
            return JSONResponse(await run_in_threadpool(function, self._workspace, body))

        return answer

    def posted_image(
        self, function: Callable[[Workspace, Any, dict[str, Any]], Any]
    ) -> Callable[[Request], Any]:
        """The same for a function of one image."""

        async def answer(request: Request) -> Response:
            body = await json_of(request)
            picture = self._picture(request)
            return JSONResponse(await run_in_threadpool(function, self._workspace, picture, body))

        return answer

    def _picture(self, request: Request) -> Any:
        return self._workspace.picture(request.path_params["number"])

    async def upload(self, request: Request) -> Response:
        """Take in an image: its bytes are the content, its name is in the address."""
        content = await body_of(request, MAX_IMAGE)
        name = request.query_params.get("name", "image")
        return JSONResponse(await run_in_threadpool(self._workspace.drop, name, content))

    def thumbnail(self, request: Request) -> Response:
        """A small picture of an image."""
        content = self._workspace.thumbnail(self._picture(request))
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    def tile(self, request: Request) -> Response:
        """A tile of an image."""
        level, column, row = (request.path_params[name] for name in ("level", "column", "row"))
        view = View.of_query(request.query_params)
        pixels = self._workspace.pyramid(self._picture(request)).tile(level, column, row, view)
        return Response(as_png(pixels), media_type="image/png")

    def download(self, request: Request) -> Response:
        """A file with what is shown."""
        number = request.query_params.get("image")
        file = self._workspace.download(
            request.path_params["to"], None if number is None else int(number), _number(request, "min_score")
        )
        remove = BackgroundTask(shutil.rmtree, _temporary(file), ignore_errors=True)
        return FileResponse(file, filename=file.name, background=remove)

    def report(self, request: Request) -> Response:
        """The report of a run, as a page that reaches nothing."""
        file = self._workspace.report(_index(request))
        return FileResponse(file, headers={"content-security-policy": REPORT_POLICY})

    def map(self, request: Request) -> Response:
        """The class of every pixel, as a gray PNG."""
        pixels = self._workspace.results.pixel_classes(self._picture(request), _index(request))
        return Response(as_png(pixels), media_type="image/png")


def _index(request: Request) -> int | None:
    """The model that is asked for; None: the one at work."""
    text = request.query_params.get("model", "")
    if text and not re.fullmatch(r"\d{1,4}", text):
        raise ValueError(f"model {text!r}: expected a number from 0")
    return int(text) if text else None


def _number(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    return None if text is None else float(text)


def _temporary(file: Path) -> Path:
    """The folder that a download was written into."""
    place = Path(tempfile.gettempdir())
    return next(folder for folder in file.parents if folder.parent == place)
