"""The door: who may come in, what is said of a request in logs and figures, and what browsers may do with an answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

import h11
from fastapi import Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fusion.config import Config
from fusion.errors import ConfigError
from fusion.service.service import Service

COOKIE = "fusion"
SHORTEST_TOKEN = 16
PATIENCE = 30.0
"""Seconds for the head of a request, and between two parts of its body."""
LONGEST = 600.0
"""Seconds for a whole body: 20 MB at a third of a Mbit/s."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_log = logging.getLogger(__name__)


class Door:
    """The token that requests must bear; None: there is none, and only this machine is served."""

    def __init__(self, config: Config) -> None:
        """Find the token.

        Raises:
            ConfigError: there must be one and is none, or it is too short to be one.
        """
        name, host = config.serve.token_env, config.serve.host
        self._token = os.environ.get(name, "") if name is not None else None
        if self._token is None and not is_loopback(host):
            way = "Set serve.token_env to the name of a variable that holds a long random token."
            raise ConfigError("serve.host", f"{host} is beyond this machine, and no token is asked for", way)
        if self._token is not None and len(self._token) < SHORTEST_TOKEN:
            way = f"Put {SHORTEST_TOKEN} random characters or more into it: openssl rand -hex 32."
            raise ConfigError("serve.token_env", f"{name} holds no token that is long enough", way)

    def cookie(self, token: str) -> str | None:
        """What the review page keeps for a token, so that it can show pictures; None for a wrong token."""
        return self._cookie if self._token is not None and _same(token, self._token) else None

    @property
    def _cookie(self) -> str:
        return hmac.new((self._token or "").encode(), b"the review page", hashlib.sha256).hexdigest()

    def admits(self, request: Request) -> bool:
        """Whether a request bears the token, in its header or as the cookie."""
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        bears = scheme.lower() == "bearer" and _same(given.strip(), self._token)
        return bears or _same(request.cookies.get(COOKIE, ""), self._cookie)

    def is_ours(self, request: Request) -> bool:
        """Whether no page of another site sends it: by its origin, and without a token by the name it calls us."""
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin", f"//{host}")
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ours = urlsplit(origin).netloc == host
        except ValueError:  # no addresses
            return False
        return ours and (self._token is not None or is_loopback(name))


def _same(given: str, wanted: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def _door(request: Request) -> Door:
    door = request.app.state.door
    assert isinstance(door, Door)
    return door


OurService = Annotated[Service, Depends(_service)]
OurDoor = Annotated[Door, Depends(_door)]


def admitted(request: Request, door: OurDoor) -> None:
    """Turn requests without the token away."""
    if not door.admits(request):
        raise HTTPException(401, "The token is missing or wrong.", {"WWW-Authenticate": "Bearer"})


async def watched(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Every request: refused where another site's page sends it, counted, timed, logged without its content."""
    service, start = _service(request), time.perf_counter()
    ours = _door(request).is_ours(request)
    response = await call_next(request) if ours else JSONResponse({"detail": "Another site sent this."}, 403)
    route = getattr(request.scope.get("route"), "path", "none")
    spent = time.perf_counter() - start
    response.headers.update(_HEADERS)
    service.requests.labels(route, response.status_code).inc()
    service.seconds.labels(route).observe(spent)
    id_ = str(request.path_params.get("id"))
    known = id_ if re.fullmatch("[0-9a-f]{32}", id_) else "-"
    _log.info("%s %s %s %d %.3f s", request.method, route, known, response.status_code, spent)
    return response


class Bounded:
    """An application whose requests end when their bodies are too large (413) or too slow (408)."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        """`most`: bytes of a body."""
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, ASGI."""
        more, size, end = scope["type"] == "http", 0, time.monotonic() + LONGEST

        async def bounded() -> Message:
            nonlocal more, size
            try:
                async with asyncio.timeout(min(PATIENCE, end - time.monotonic()) if more else None):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, "The request came too slowly.", {"Connection": "close"}) from error
            more = message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self._most:
                problem = f"The request is larger than {self._most / 1e6:g} MB."
                raise HTTPException(413, problem, {"Connection": "close"})
            return message

        await self._app(scope, bounded, send)


class Connection(H11Protocol):
    """A connection that ends when what nobody reads is late: a head, a body after its answer. Uvicorn would wait for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._late = self.loop.call_later(PATIENCE, transport.close)

    def data_received(self, data: bytes) -> None:
        """A part of a request has come."""
        super().data_received(data)
        unread = self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE
        if self.conn.their_state is not h11.IDLE and not unread:
            self._in_time()
        elif self._late is None:
            self._late = self.loop.call_later(PATIENCE, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        self._in_time()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def without_text(record: logging.LogRecord) -> bool:
    """A filter for logs: of an unexpected error only its kind and place, since its message may quote a page."""
    if record.exc_info and record.exc_info[0] is not None:
        place = traceback.extract_tb(record.exc_info[2])[-1]
        record.msg = f"unexpected {record.exc_info[0].__name__} in {place.name}, row {place.lineno}"
        record.args, record.exc_info = None, None
    return True
