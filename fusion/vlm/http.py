"""One exchange of JSON over HTTP, within limits of time and size.

The time is that of the whole exchange: a server that sends a byte now and then is not waited for. Privacy: no proxy of the
environment is used, no redirect is followed, and no header is sent but what is needed.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

LARGEST_ANSWER = 4_000_000  # bytes; more is no transcription of a line


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered: status, its wish to be left alone (Retry-After), and the body."""

    status: int
    retry_after: str | None
    body: bytes

    def json(self) -> Any:
        """The body as a JSON value; ValueError where it is none."""
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("JSON nested too deeply") from error


def exchange(url: str, seconds: float, key: str | None = None, body: object = None) -> Reply:
    """Send a request, POST where there is a body, and wait for the whole answer.

    Raises:
        TimeoutError: it is not there after so many seconds.
        ValueError: it is larger than `LARGEST_ANSWER`, or compressed, which nobody has asked for.
        OSError, http.client.HTTPException: the server can't be reached, or breaks off.
    """
    parts = urlsplit(url)
    open_ = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = open_(parts.hostname or "", parts.port, timeout=seconds)
    over = threading.Event()
    opened: list[socket.socket] = []

    def hang_up() -> None:
        over.set()
        for one in opened:
            with suppress(OSError):  # whoever waits at the socket is woken; below TLS, which would wait itself
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        opened.append(connection.sock)
        if not over.is_set():
            content = None if body is None else json.dumps(body).encode()
            connection.request("GET" if body is None else "POST", parts.path or "/", content, _headers(key))
            return _reply(connection.getresponse(), over)
    except (OSError, http.client.HTTPException) as error:
        if not over.is_set():
            raise
        raise TimeoutError from error
    finally:
        timer.cancel()
        connection.close()
    raise TimeoutError


def _headers(key: str | None) -> Mapping[str, str]:
    always = {"Content-Type": "application/json", "User-Agent": "fusion"}
    return always if key is None else {**always, "Authorization": f"Bearer {key}"}


def _reply(response: http.client.HTTPResponse, over: threading.Event) -> Reply:
    if response.getheader("Content-Encoding", "identity") != "identity":
        raise ValueError("a compressed answer")
    body = response.read(LARGEST_ANSWER + 1)
    if over.is_set():  # what breaks off may look like an end
        raise TimeoutError
    if len(body) > LARGEST_ANSWER:
        raise ValueError("an answer without end")
    if response.length:
        raise http.client.IncompleteRead(body, response.length)
    return Reply(response.status, response.getheader("Retry-After"), body)
