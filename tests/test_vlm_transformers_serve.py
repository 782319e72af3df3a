"""The served reader before a real server: `transformers serve` with the reader that ships with the package.

Nothing is said about what the weights read, only that a served answer is the one the same folder gives in this process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import fusion.vlm
from fusion.config import LocalVlm, ServedVlm
from fusion.page import Failure, Reading
from fusion.vlm import Answer, Query, endpoints
from fusion.vlm.acceptance import MESSAGES
from fusion.vlm.asking import Question
from fusion.vlm.endpoints import parse_endpoints
from fusion.vlm.local import LocalReader
from fusion.vlm.served import LONGEST_SIDE, OpenAIDialect, ServedReader
from fusion.vlm.small import GRAPHS, HEAD, READER
from tests.vlm_readers import opened, query

SMALL = Path(fusion.vlm.__file__).parent / "small"
PATIENCE = 90.0
"""Seconds a server may take to start."""
MOST_TOKENS = 24


def servable(folder: Path) -> Path:
    """A copy of the packaged checkpoint that AutoProcessor can load without torchvision.

    Its own processor class, Glm46VProcessor, insists on a video processor, and every video processor of transformers needs
    torchvision. PaddleOCRVLProcessor is the same without video: one image token of the prompt becomes one for each merged
    patch. It asks the tokenizer which token that is.

    Head, graphs and their settings stay behind: with them it opens as the small reader, which does not write. Without them
    it is a GLM like any other, here and at the server.
    """
    shutil.copytree(SMALL, folder, ignore=shutil.ignore_patterns(HEAD, READER, *GRAPHS.values()))
    (folder / "processor_config.json").write_text('{"processor_class": "PaddleOCRVLProcessor"}', encoding="utf-8")
    words = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    words["image_token"] = "<|image|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(words), encoding="utf-8")
    return folder


class Server:
    """`transformers serve` in a process group of its own, with its log in a file."""

    def __init__(self, folder: Path) -> None:
        self.model = str(servable(folder / "small"))
        self._log = folder / "server.log"
        self._home = folder / "huggingface"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def answered(self) -> int:
        """How many questions were answered so far, as the log has it."""
        return self.log.count('"POST /v1/chat/completions HTTP/1.1" 200')

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        if self._process is not None and self._process.poll() is None:
            return
        self.kill()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", self.model, "--device", "cpu"]
        # Its command line asks PyPI for a newer version even when it is offline.
        offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HOME": str(self._home)}
        modest = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self._port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **offline, **modest},
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"transformers serve did not start\n{self.log}")
            time.sleep(0.2)

    def kill(self) -> None:
        """End the whole group, as a crash would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _is_up(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.url}/health", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def only_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("serve"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(only_server: Server) -> Iterator[Server]:
    """A running server; its log is shown where a test fails."""
    only_server.start()
    yield only_server
    print(only_server.log)


def config(server: Server, **settings: Any) -> ServedVlm:
    known = {"endpoints": (f"{server.url}/v1",), "model": server.model, "max_tokens": MOST_TOKENS}
    return ServedVlm(**{**known, "prompts": ("blind",), **settings})


def written(text: str, width: int = 480) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A crop that nobody resizes: high enough for the served reader, its sides whole image tokens of 24 px."""
    image = Image.new("RGB", (width, 72), "white")
    ImageDraw.Draw(image).text((8, 10), text, fill=(20, 20, 60), font_size=40)
    return np.asarray(image)


def test_every_query_brings_a_reading_or_a_symptom_of_its_answer(server: Server) -> None:
    queries = [query("hello world", "a.png", 1), query(None, "b.png", 2)]
    queries.append(Query("c.png", replace(queries[0].line, crop=written("hello world"))))
    with opened(config(server, prompts=("blind", "glm_ocr"), attempts=2)) as reader:
        outcomes = reader.read(queries)
    assert [len(outcome) for outcome in outcomes] == [2, 2, 2]
    for item in (item for outcome in outcomes for item in outcome):
        if isinstance(item, Failure):
            assert (item.stage, item.kind in MESSAGES) == ("vlm", True), item
        else:
            assert item.recipe.engine == "served-openai"
            assert (item.recipe.model or "").split("@")[0] == server.model


@pytest.mark.parametrize(("text", "width"), [("hello world", 240), ("Napa 500 mg", 480), ("", 240)])
def test_the_answer_is_the_one_of_this_process(server: Server, text: str, width: int) -> None:
    pixels = written(text, width)
    local = LocalVlm(model=server.model, max_tokens=MOST_TOKENS, threads=1)
    with opened(config(server)) as far, opened(local) as near:
        assert isinstance(far, ServedReader)
        assert isinstance(near, LocalReader)
        controls = set(near._open().tokenizer.all_special_tokens)
        for text in ("Text Recognition:", "What is written here?"):
            question = [Question(pixels, text)]
            (served,), (own,) = far.ask_many(question), near.ask_many(question)
            assert isinstance(served, Answer), served
            assert isinstance(own, Answer), own
            # The server leaves control tokens out, the local reader keeps them.
            assert served.text == "".join(token.text for token in own.tokens if token.text not in controls)
            assert served.finish in ("stop", "length")
            assert served.tokens == ()  # this server says nothing about log-probabilities, and does not mind the wish


def test_the_server_counts_the_image_tokens_that_the_local_reader_counts(server: Server) -> None:
    """Equal answers would say little if the image did not reach the model."""
    settings = config(server)
    (endpoint,) = parse_endpoints(settings.endpoints, ())
    dialect = OpenAIDialect(settings)
    question = Question(written("hello world"), "Text Recognition:")
    completion = dialect._complete(endpoint, dialect._request(endpoint, question, LONGEST_SIDE))
    with opened(LocalVlm(model=server.model, threads=1)) as near:
        assert isinstance(near, LocalReader)
        ids = near.inputs([question])["input_ids"]
    assert completion["usage"]["prompt_tokens"] == ids.shape[1]


def test_another_model_than_the_one_served_is_named_in_the_failure(server: Server) -> None:
    with opened(config(server, model="zai-org/GLM-OCR")) as reader:
        ((outcome,),) = reader.read([query("hello")])
        answer = reader.ask(written("hello"), "Text Recognition:")
    for failure in (outcome, answer):
        assert isinstance(failure, Failure)
        assert failure.kind == "refused"
        assert "vlm.model" in failure.message


def test_a_server_that_dies_while_it_is_read_from_costs_lines_and_nothing_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(endpoints, "PATIENCE", 0.1)
    queries = [query("hello", seed=seed) for seed in range(40)]
    outcomes: list[tuple[Reading | Failure, ...]] = []
    with opened(config(server, concurrency=2, attempts=1, retries=1, timeout=20)) as reader:
        before = server.answered()
        reading = threading.Thread(target=lambda: outcomes.extend(reader.read(queries)))
        reading.start()
        # The log is ahead of the wire, but with two under way a third one means that the first has come home.
        wait_until(lambda: server.answered() >= before + 3, 30)
        server.kill()
        reading.join(30)
        assert not reading.is_alive()
        after = reader.ask(written("hello"), "Text Recognition:")
    items = [item for (item,) in outcomes]
    assert len(items) == len(queries)
    lost = [item for item in items if isinstance(item, Failure) and item.kind not in MESSAGES]
    assert 0 < len(lost) < len(queries)
    assert {failure.kind for failure in lost} == {"unreachable"}
    assert isinstance(after, Failure)
    assert after.kind == "unreachable"


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
