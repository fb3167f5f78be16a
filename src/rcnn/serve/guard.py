"""Who may talk to a server on this machine: one ASGI middleware in front of everything that it answers.

A server on 127.0.0.1 is reached by every program of this machine, and by every web page that its browser
shows. So the first part of each path is a random token, which only the printed address has; ``Host`` must be
this machine's name for itself, against a foreign name that is made to resolve to 127.0.0.1 (DNS rebinding);
and ``Origin`` and ``Sec-Fetch-Site``, which browsers add and pages cannot change, must be those of the page
itself. All of it holds for web sockets, uploads and files alike.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
POLICY_VIOLATION = 1008  # the code with which a web socket is refused
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token() -> str:
    """A token that nobody guesses, fit for an address."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Guard:
    """An ASGI application that only those reach who know the token, from this machine's own page.

    Attributes:
        app: what is guarded; it sees paths without the token.
        port: on which the server listens.
        token: the first part of every path.
    """

    app: App
    port: int
    token: str = field(default_factory=new_token, repr=False)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused:
            await _refuse(scope, receive, send, refused)
            return
        root = f"{scope.get('root_path', '')}/{self.token}"
        await self.app({**scope, "root_path": root}, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> str:
        """Why this is not answered; empty if it is."""
        headers: dict[str, list[str]] = {}
        for name, value in scope.get("headers", ()):
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = {f"{HOST}:{self.port}", f"localhost:{self.port}"}
        given = headers.get("host", [])
        if len(given) != 1 or given[0].lower() not in hosts:
            return "this server answers to 127.0.0.1 alone"
        origins = {f"http://{host}" for host in hosts}
        if any(origin.lower() not in origins for origin in headers.get("origin", [])):
            return "other web pages may not use this server"
        # "none" is an address that was typed or clicked outside the browser.
        if any(site not in ("same-origin", "none") for site in headers.get("sec-fetch-site", [])):
            return "other web pages may not use this server"
        first = str(scope.get("path", "")).split("/")[1:2]
        if not first or not hmac.compare_digest(first[0].encode(), self.token.encode()):
            return "open the whole address that rcnn app printed; it ends with a random token"
        return ""


async def _refuse(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    body = json.dumps({"error": reason}).encode()
    fixed = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *fixed]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    """The same answers with :data:`HEADERS`, where they do not have headers of these names themselves."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", ()))
            names = {name.lower() for name, _ in own}
            own += [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in names]
            message = {**message, "headers": own}
        await send(message)

    return sending
