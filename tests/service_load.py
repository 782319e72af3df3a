"""Many clients at once, each with one upload after the other.

Every upload differs, so that every page is read; every answer is compared with what one client alone gets.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.services import SAMPLES

BOUNDARY = "a-boundary-of-its-own"


@dataclass
class Load:
    """What came back.

    Attributes:
        statuses: HTTP status → how often; `wrong` where a 201 told another text.
        seconds: of every 201.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        cuts = statistics.quantiles(self.seconds, n=20) if len(self.seconds) > 1 else [0.0] * 19
        return f"{counts}; of the 201s median {statistics.median(self.seconds):.2f} s, p95 {cuts[-1]:.2f} s"


def upload(url: str, content: bytes) -> tuple[int, Any, Any]:
    """Status, body and headers of one upload."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="n.jpg"\r\n\r\n'.encode()
    body = head + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    request = urllib.request.Request(f"{url}/v1/transcriptions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            return reply.status, json.load(reply), reply.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None, error.headers


def load(url: str, clients: int, seconds: float, *, patient: bool = True) -> Load:
    """So many clients, each with one upload after the other; a patient one waits as long as a 429 says."""
    photo = (SAMPLES / "note_zh.jpg").read_bytes()
    _, alone, _ = upload(url, photo)
    found, lock, end = Load(), threading.Lock(), time.monotonic() + seconds

    def client(number: int) -> None:
        sent = 0
        while time.monotonic() < end:
            sent += 1
            start = time.monotonic()
            status, body, headers = upload(url, photo + f"{number} {sent} {start}".encode())
            spent = time.monotonic() - start
            with lock:
                right = status != 201 or body["text"] == alone["text"]
                found.statuses[str(status) if right else "wrong"] += 1
                if status == 201:
                    found.seconds.append(spent)
            if status == 429 and patient:
                time.sleep(min(int(headers["Retry-After"]), max(0.0, end - time.monotonic())))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
