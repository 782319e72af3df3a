"""A service in a process of its own, as people start it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.service.archive import Archive

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "eval" / "samples"


@dataclass(frozen=True)
class Served:
    """A running service."""

    url: str
    archive: Archive
    process: subprocess.Popen[Any]


@contextmanager
def running(archive: Path, *settings: str, route: str = "ready") -> Iterator[Served]:
    """`fusion serve` on a free port; given when the route answers with 200, ended with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [f"serve.port={port}", f"serve.archive={archive}", *settings]
    command = [sys.executable, "-m", "fusion.cli", "serve", *(f"--set={one}" for one in given)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{url}/{route}").close()
                break
            except OSError:  # not yet
                time.sleep(0.05)
        try:
            yield Served(url, Archive(archive), process)
        finally:
            process.terminate()
            process.wait(60)
