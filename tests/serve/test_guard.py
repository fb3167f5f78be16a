"""Who may talk to the server: every combination of token, host and origin, for requests and web sockets."""

import asyncio
from typing import Any

import pytest

from rcnn.serve.guard import HEADERS, HOST, POLICY_VIOLATION, Guard, new_token

PORT, TOKEN = 8000, "secret"
OWN = {"host": f"{HOST}:{PORT}"}
SAME = {**OWN, "origin": f"http://{HOST}:{PORT}", "sec-fetch-site": "same-origin"}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says that it was reached, and by what path."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    body = f"{scope['root_path']} {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"DENY")]})
    await send({"type": "http.response.body", "body": body})


def asked(path: str, headers: Any, kind: str = "http", method: str = "GET") -> list[Any]:
    """The messages with which a request is answered."""
    sent: list[Any] = []
    pairs = headers.items() if isinstance(headers, dict) else headers
    raw = [(name.encode(), value.encode()) for name, value in pairs]
    scope = {"type": kind, "path": path, "method": method, "headers": raw, "root_path": ""}

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(app, PORT, TOKEN)(scope, receive, send))
    return sent


@pytest.mark.parametrize("path", [f"/{TOKEN}/", f"/{TOKEN}/api/state", f"/{TOKEN}/static/page.css"])
@pytest.mark.parametrize("headers", [OWN, SAME, {"host": f"localhost:{PORT}", "sec-fetch-site": "none"}])
def test_who_knows_the_address_is_answered(path: str, headers: dict[str, str]) -> None:
    start, body = asked(path, headers)
    assert start["status"] == 200
    assert body["body"] == f"/{TOKEN} {path}".encode()


REFUSED = {
    "no token": ("/", OWN),
    "no token, a path of the page": ("/api/state", OWN),
    "no token, a file of the page": ("/static/page.css", OWN),
    "another token": ("/secreu/", OWN),
    "a longer token": ("/secrets/", OWN),
    "the token elsewhere": (f"/static/{TOKEN}/", OWN),
    "the token before a double slash": (f"//{TOKEN}/", OWN),
    "no host": (f"/{TOKEN}/", {}),
    "a name that resolves to this machine": (f"/{TOKEN}/", {"host": f"evil.example:{PORT}"}),
    "another port": (f"/{TOKEN}/", {"host": f"{HOST}:{PORT + 1}"}),
    "two hosts": (f"/{TOKEN}/", [("host", f"{HOST}:{PORT}"), ("host", "evil.example")]),
    "another page": (f"/{TOKEN}/", {**OWN, "origin": "http://evil.example"}),
    "another server of this machine": (f"/{TOKEN}/", {**OWN, "origin": f"http://{HOST}:{PORT + 1}"}),
    "a sandboxed page": (f"/{TOKEN}/", {**OWN, "origin": "null"}),
    "a secure page of the same name": (f"/{TOKEN}/", {**OWN, "origin": f"https://{HOST}:{PORT}"}),
    "a picture on another page": (f"/{TOKEN}/", {**OWN, "sec-fetch-site": "cross-site"}),
    "another port of the same name": (f"/{TOKEN}/", {**OWN, "sec-fetch-site": "same-site"}),
}


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(("path", "headers"), REFUSED.values(), ids=REFUSED)
def test_everybody_else_is_refused(path: str, headers: Any, method: str) -> None:
    start, body = asked(path, headers, method=method)
    assert start["status"] == 403
    assert b"error" in body["body"]
    assert TOKEN.encode() not in body["body"]


@pytest.mark.parametrize(("path", "headers"), REFUSED.values(), ids=REFUSED)
def test_web_sockets_are_refused_likewise(path: str, headers: Any) -> None:
    assert asked(path, headers, "websocket") == [{"type": "websocket.close", "code": POLICY_VIOLATION}]


def test_a_web_socket_of_the_page_is_answered() -> None:
    assert asked(f"/{TOKEN}/ws", SAME, "websocket") == [{"type": "websocket.accept"}]


def test_every_answer_forbids_what_the_page_does_not_need() -> None:
    for path in (f"/{TOKEN}/", "/"):
        start, _ = asked(path, OWN)
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        assert HEADERS.items() <= headers.items()
    assert "unsafe" not in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert min(map(len, tokens)) >= 32
