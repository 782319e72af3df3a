"""Endpoints that misbehave below the level of HTTP statuses: each costs one failure, in bounded time and memory."""

from __future__ import annotations

import functools
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from fusion.config import ServedVlm
from fusion.page import Failure, Reading
from fusion.vlm import Writes, open_reader
from tests.batches import ROOT, WORD
from tests.vlm_readers import completion, query, serving

Talk = Callable[[socket.socket], None]
TIMEOUT = 0.5


@contextmanager
def talking(talk: Talk) -> Iterator[str]:
    """A server that reads a request and then says what it wants; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(1 << 20)
                start, _, body = request.partition(b"\r\n\r\n")
                length = int(re.search(rb"Content-Length: (\d+)", start)[1])  # type: ignore[index]
                while len(body) < length:
                    body += connection.recv(1 << 20)
                talk(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(socket.SHUT_RDWR)


def head(*fields: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: application/json", *fields, "", ""]).encode()


GOOD = json.dumps(completion("hello")[1]).encode()


def drip(connection: socket.socket, content: bytes) -> None:
    for byte in content:
        connection.sendall(bytes([byte]))
        time.sleep(TIMEOUT / 5)


def endless(connection: socket.socket) -> None:
    connection.sendall(head("Transfer-Encoding: chunked"))
    while True:
        connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def packed() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(b" " * 1_000_000) for _ in range(200)) + packer.flush()


BOMB = packed()


def bomb(connection: socket.socket) -> None:
    connection.sendall(head("Content-Encoding: gzip", f"Content-Length: {len(BOMB)}") + BOMB)


HOSTILE: dict[str, tuple[Talk, str]] = {
    "hangs": (lambda c: time.sleep(20 * TIMEOUT), "timeout"),
    "drips its head": (lambda c: drip(c, head() + GOOD), "timeout"),
    "drips its body": (lambda c: (c.sendall(head(f"Content-Length: {len(GOOD)}")), drip(c, GOOD))[1], "timeout"),
    "drips without a length": (lambda c: (c.sendall(head()), drip(c, GOOD))[1], "timeout"),
    "says continue for ever": (lambda c: drip(c, b"HTTP/1.1 100 Continue\r\n\r\n" * 99), "timeout"),
    "has no end": (endless, "bad_answer"),
    "packs 200 MB": (bomb, "bad_answer"),
    "sends 10 MB": (lambda c: c.sendall(head("Content-Length: 10000000") + b"[" * 10_000_000), "bad_answer"),
    "breaks off": (lambda c: c.sendall(head(f"Content-Length: {len(GOOD)}") + GOOD[:40]), "unreachable"),
    "says nothing": (lambda c: None, "unreachable"),
    "speaks no HTTP": (lambda c: c.sendall(b"SSH-2.0-OpenSSH\r\n"), "unreachable"),
    "nests deeply": (lambda c: c.sendall(head("Content-Length: 200000") + b"[" * 200_000), "bad_answer"),
    "sends invalid JSON": (lambda c: c.sendall(head("Content-Length: 9") + b'{"choices'), "bad_answer"),
    "sends no UTF-8": (lambda c: c.sendall(head("Content-Length: 4") + b"\xff\xfe\x00\xff"), "bad_answer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_server_that(name: str) -> None:
    talk, kind = HOSTILE[name]
    patience = TIMEOUT if kind == "timeout" else 20.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with talking(talk) as url:
        reader = open_reader(ServedVlm(endpoints=(url,), timeout=patience, retries=0, prompts=("blind",)))
        assert isinstance(reader, Writes)
        ((outcome,),) = reader.read([query("secret")])
        reader.close()
    assert isinstance(outcome, Failure)
    assert outcome.kind == kind
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("hello world " * 2000, "repeats"),
        ("The quick brown fox jumps over the lazy dog and never comes back again.", "wrong_length"),
        ("hello w\ud800rld", None),
        ("hello\x00 wor\x1b[31mld", None),
    ],
)
def test_an_answer_that_is_no_reading(text: str, kind: str | None) -> None:
    """Endless repetition, somebody else's text, half a character, control characters."""
    with serving(lambda path, body: completion(text)) as server:
        settings = {"endpoints": (f"{server.url}/v1",), "attempts": 1, "prompts": ("blind",)}
        reader = open_reader(ServedVlm(**settings))
        assert isinstance(reader, Writes)
        ((outcome,),) = reader.read([query("hello world")])
        reader.close()
    if kind is not None:
        assert isinstance(outcome, Failure)
        assert outcome.kind == kind
    else:
        shown = outcome.text if isinstance(outcome, Reading) else outcome.message
        assert shown.encode("utf-8")  # can be written down


def test_log_probabilities_that_are_no_numbers_cost_the_score_alone() -> None:
    status, reply, headers = completion("hello")
    reply["choices"][0]["logprobs"]["content"][0]["logprob"] = float("nan")
    with serving(lambda path, body: (status, reply, headers)) as server:
        reader = open_reader(ServedVlm(endpoints=(f"{server.url}/v1",), prompts=("blind",)))
        assert isinstance(reader, Writes)
        ((outcome,),) = reader.read([query("hello")])
        reader.close()
    assert isinstance(outcome, Reading)
    assert outcome.score is None


def test_an_endpoint_that_refuses_the_key_leaves_the_lines_to_another() -> None:
    for status in (401, 404, 400):
        with (
            serving(lambda path, body, status=status: (status, "no", {})) as closed,
            serving(lambda path, body: completion("hello")) as open_,
        ):
            urls = (f"{closed.url}/v1", f"{open_.url}/v1")
            reader = open_reader(ServedVlm(endpoints=urls, retries=0, prompts=("blind",), concurrency=1))
            assert isinstance(reader, Writes)
            outcomes = reader.read([query("hello", seed=seed) for seed in range(4)])
            reader.close()
        assert all(isinstance(item, Reading) for (item,) in outcomes)


@pytest.mark.live
def test_ctrl_c_does_not_wait_for_an_endpoint_that_hangs() -> None:
    asked = threading.Event()

    def hang(connection: socket.socket) -> None:
        asked.set()
        time.sleep(3600)

    with talking(hang) as url:
        sets = ["vlm.engine=served", f"vlm.endpoints=[{url}]", "vlm.timeout=3600"]
        call = [sys.executable, "-m", "fusion.cli", "transcribe", "--crop", str(WORD)]
        call += [part for one in sets for part in ("--set", one)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # What a shell starts in the background, as this test may be, ignores Ctrl-C.
        heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(call, cwd=ROOT, preexec_fn=heeding, **pipes) as process:
            try:
                assert asked.wait(60)
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=30)  # far less than the endpoint is waited for
            finally:
                process.kill()
    assert process.returncode == 130
