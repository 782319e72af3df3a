"""Damaged files through intake, by the hundred: pages or a clear refusal, in bounded time and memory, and never a crash.

`FUZZ=5000 pytest tests/hostile/test_fuzz.py` looks longer than a run of all tests can.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tests.batches import ROOT

SECONDS = 30
"""For one file, on a busy machine."""
GROWTH = 300
"""MB that a file of at most a megapixel may take, beside what the libraries do."""
EXAMPLES = int(os.environ.get("FUZZ", "40"))
CHILD = """
import resource, signal, struct, sys
from fusion.config import IntakeConfig
from fusion.errors import InputError
from fusion.intake import open_pages

resource.setrlimit(resource.RLIMIT_AS, (6_000_000_000, 6_000_000_000))
config = IntakeConfig(max_megapixels=1, max_pages=5, pdf_dpi=50)
start = None
while size := sys.stdin.buffer.read(4):
    content = sys.stdin.buffer.read(struct.unpack("<I", size)[0])
    signal.alarm(int(sys.argv[1]))
    try:
        said = f"{sum(1 for _ in open_pages(content, config))} pages"
    except InputError as error:
        said = "refused"
    signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    start = peak if start is None else start
    print(said, peak - start, flush=True)
"""


class Child:
    """A process that reads files; a new one when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, content: bytes) -> tuple[str, int]:
        """What became of a file, and the MB by which the process has grown at most since the first."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-c", CHILD, str(SECONDS)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.read(saved("PNG"))  # the libraries are loaded
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("<I", len(content)) + content)
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process died: {self._process.wait()}"
        said, _, grown = answer.decode().strip().rpartition(" ")
        return said, int(grown)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    one = Child()
    yield one
    one.close()


HOW = {
    "JPEG": {"progressive": True},
    "PNG": {},
    "WEBP": {},
    "BMP": {},
    "GIF": {"save_all": True},
    "TIFF": {"save_all": True, "compression": "tiff_lzw"},
    "PDF": {"save_all": True},
}


@cache
def saved(kind: str) -> bytes:
    picture = Image.new("RGB", (300, 80), "white")
    ImageDraw.Draw(picture).line((10, 60, 150, 10, 290, 60), "black", 5)
    more = {"append_images": [picture.rotate(5)]} if "save_all" in HOW[kind] else {}
    stream = io.BytesIO()
    picture.save(stream, kind, **HOW[kind], **more)
    return stream.getvalue()


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """A good file with pieces overwritten, cut out, put in or repeated; headers more often than the rest."""
    content = bytearray(saved(kind))
    for _ in range(draw(st.integers(1, 4))):
        end = len(content) if draw(st.booleans()) else min(len(content), 200)
        place = draw(st.integers(0, max(0, end - 1)))
        size = draw(st.sampled_from((1, 2, 4, 16, 300)))
        piece = draw(st.sampled_from((b"\xff", b"\0", b"\x7f", b"\x01")) | st.binary(min_size=1, max_size=4)) * size
        what = draw(st.sampled_from(("put over", "cut out", "put in", "repeat", "cut off")))
        if what == "put over":
            content[place : place + size] = piece[:size]
        elif what == "cut out":
            del content[place : place + size]
        elif what == "put in":
            content[place:place] = piece
        elif what == "repeat":
            content[place:place] = bytes(content[place : place + 16 * size]) * 50
        else:
            del content[place:]
    return bytes(content)


def few(share: float) -> settings:
    return settings(
        max_examples=max(1, round(EXAMPLES * share)),
        deadline=None,
        derandomize="FUZZ" not in os.environ,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@few(1)
@given(st.sampled_from([kind for kind in HOW if kind != "PDF"]).flatmap(damaged))
def test_damaged_pictures_are_read_or_refused(child: Child, content: bytes) -> None:
    said, grown = child.read(content)
    assert said.endswith(("pages", "refused"))
    assert grown < GROWTH


@few(0.2)
@given(damaged("PDF"))
def test_damaged_pdfs_are_read_or_refused(child: Child, content: bytes) -> None:
    said, grown = child.read(content)
    assert said.endswith(("pages", "refused"))
    assert grown < GROWTH


@pytest.mark.parametrize("kind", HOW)
def test_what_is_not_damaged_is_read(child: Child, kind: str) -> None:
    assert child.read(saved(kind))[0] == ("2 pages" if kind in ("TIFF", "PDF") else "1 pages")
