"""What the tests of the vlm room share: queries, a scripted server, and every reader that must keep the contract.

`READERS` maps a name to a context manager that opens a reader, `PROTOCOLS` to the protocols that it implements. A reader in
it reads, or looks at, each of `QUERIES`, or declines it with a kind of failure that says that nobody was asked; it has
something to say about at least one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from fusion.config import LocalVlm, ReplayVlm, ServedVlm
from fusion.ink import InkLine
from fusion.page import Candidate, Position, Reading, Recipe
from fusion.vlm import Answers, Looks, Query, Reader, Writes, open_reader

WAIT = threading.Event()
"""A scripted server that hangs waits for this; set when a test is over."""


def ocr_reading(text: str, probability: float = 0.95) -> Reading:
    """An OCR reading with one position per character, 10 px wide."""
    positions = tuple(
        Position(10.0 * i, 10.0 * i + 10, (Candidate(character, probability), Candidate("#", (1 - probability) / 2)))
        for i, character in enumerate(text)
    )
    return Reading("ocr", text, Recipe("ppocr", "3.7.0", "PP-OCRv6_small_rec", "0" * 64), positions)


def query(text: str | None = "hello world", image: str = "note.png", seed: int = 0, **context: str) -> Query:
    """A crop of noise about as wide as its text, and what the OCR made of it (None: nothing)."""
    width = 40 + 20 * (20 if text is None else len(text))
    crop = np.random.default_rng(seed).integers(0, 255, (32, width, 3), dtype=np.uint8)
    polygon = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    reading = None if text is None else ocr_reading(text)
    return Query(image, InkLine("l000", polygon, crop, reading, None), **context)


QUERIES = [query("hello world", "a.png", 1), query("明天开会请带作业", "b.png", 2), query("Napa 500 mg", "c.png", 3)]
ANSWERS = {"a.png": "hello word", "b.png": "明天开会，请带作业", "c.png": "Napa 500mg cafe\u0301"}


class FakeServer:
    """A model server on this machine that answers from a script and remembers what it was sent.

    The script gets (path, JSON body) and returns (status, body or text, headers).
    """

    def __init__(self, script: Callable[[str, dict[str, Any]], tuple[int, Any, dict[str, str]]]) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
                server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, reply, headers = script(self.path, body)
                content = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client gave up waiting

            do_GET = do_POST

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serving(script: Callable[[str, dict[str, Any]], tuple[int, Any, dict[str, str]]]) -> Iterator[FakeServer]:
    server = FakeServer(script)
    WAIT.clear()
    try:
        yield server
    finally:
        WAIT.set()
        server.close()


def completion(text: str | None, finish: str = "stop", logprobs: bool = True) -> tuple[int, Any, dict[str, str]]:
    """A chat completion as vLLM sends it."""
    tokens = [{"token": c, "logprob": -0.1, "bytes": None, "top_logprobs": []} for c in text or ""]
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    if logprobs:
        choice["logprobs"] = {"content": tokens}
    return 200, {"id": "x", "object": "chat.completion", "created": 1, "model": "glm-fake", "choices": [choice]}, {}


def prompt_of(body: dict[str, Any]) -> str:
    """The text part of a chat request, or the question of an inference request."""
    return str(body["question"] if "question" in body else body["messages"][0]["content"][1]["text"])


def image_of(body: dict[str, Any]) -> str:
    """The base64 PNG of a request, whatever its dialect."""
    return str(
        body["image"] if "image" in body else body["messages"][0]["content"][0]["image_url"]["url"].split(",")[1]
    )


class _Recogniser:
    """Answers a crop of QUERIES with its text of ANSWERS, told by the pixels."""

    def __init__(self) -> None:
        import base64

        from fusion.vlm.images import to_png

        self.texts = {base64.b64encode(to_png(q.line.crop)).decode(): ANSWERS[q.image] for q in QUERIES}

    def openai(self, path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return completion(self.texts.get(image_of(body), "something"))

    def inference(self, path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return 200, {"answer": self.texts.get(image_of(body), "something")}, {}


@contextmanager
def opened(config: LocalVlm | ServedVlm | ReplayVlm) -> Iterator[Reader]:
    reader = open_reader(config)
    assert reader is not None
    try:
        yield reader
    finally:
        reader.close()


@contextmanager
def _served_openai(folder: Path) -> Iterator[Reader]:
    with serving(_Recogniser().openai) as server, opened(ServedVlm(endpoints=(f"{server.url}/v1",))) as reader:
        yield reader


@contextmanager
def _served_inference(folder: Path) -> Iterator[Reader]:
    with (
        serving(_Recogniser().inference) as server,
        opened(ServedVlm(endpoints=(server.url,), dialect="inference")) as reader,
    ):
        yield reader


@contextmanager
def _replay(folder: Path) -> Iterator[Reader]:
    rows = ["image\tglm", *(f"{name}\t{text}" for name, text in ANSWERS.items())]
    (folder / "recorded.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with opened(ReplayVlm(engine="replay", path=folder / "recorded.tsv", column="glm")) as reader:
        yield reader


@contextmanager
def _local(folder: Path) -> Iterator[Reader]:
    """Random weights whose noise happens to pass for transcriptions of QUERIES; one crop a batch, for equal last digits."""
    from tests import tiny_glm

    model = str(tiny_glm.build(folder, "glm_ocr", seed=26))
    with opened(LocalVlm(model=model, prompts=("glm_ocr",), threads=1, batch=1, max_tokens=40)) as reader:
        yield reader


@contextmanager
def _small(folder: Path) -> Iterator[Reader]:
    """The checkpoint of the package, which looks and does not write; of Chinese lines it says nothing."""
    with opened(LocalVlm(threads=1)) as reader:
        yield reader


READERS: dict[str, Callable[[Path], AbstractContextManager[Reader]]] = {
    "served-openai": _served_openai,
    "served-inference": _served_inference,
    "replay": _replay,
    "local": _local,
    "small": _small,
}
PROTOCOLS: dict[str, set[type]] = {
    "served-openai": {Writes, Answers},
    "served-inference": {Writes, Answers},
    "replay": {Writes},
    "local": {Looks, Writes, Answers},
    "small": {Looks},
}
