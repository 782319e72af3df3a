"""Several addresses of one model: which may be used, which is least busy, which is put aside for a while.

Knows addresses, load and health; knows no dialect and sends nothing.
"""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from fusion.errors import ConfigError

FIRST_BACKOFF = 0.2
"""Seconds an endpoint is put aside after its first failure; doubled with every further one in a row."""
LONGEST_BACKOFF = 30.0
"""Seconds after which a failing endpoint is tried again at the latest."""
PATIENCE = 5.0
"""Seconds a request waits for an endpoint that is put aside; if all are away for longer, it fails at once."""


class Trouble(Exception):
    """A request that brought no answer; becomes a Failure.

    Attributes:
        kind: machine-readable reason.
        message: for people; no text of the page and nothing the server said, for that may quote the page.
        again: whether the same request may succeed later or elsewhere.
        ill: whether the endpoint is to be put aside.
    """

    def __init__(self, kind: str, message: str, *, again: bool, ill: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.again = again
        self.ill = ill


@dataclass(slots=True)
class Endpoint:
    """One address and how it is doing. Changed by `Endpoints` only, under its lock.

    Attributes:
        url: base URL without a closing slash.
        host: in lower case.
        loopback: whether it is this machine.
        under_way: requests being answered.
        failures: failures in a row.
        aside_until: monotonic time until which it is not used.
        aside_since: monotonic time at which it was last put aside.
    """

    url: str
    host: str
    loopback: bool
    under_way: int = 0
    failures: int = 0
    aside_until: float = 0.0
    aside_since: float = float("-inf")


class Endpoints:
    """Lends out the least busy healthy endpoint."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, tried: Collection[str] = ()) -> Iterator[Endpoint]:
        """Lend an endpoint for one request, waiting for it if need be; a `Trouble` raised inside tells how it is doing.

        Args:
            tried: URLs that failed this request already; another one is preferred.

        Raises:
            Trouble: every endpoint is put aside for longer than anyone wants to wait.
        """
        endpoint, wait = self._choose(tried)
        if wait > 0:
            self._sleep(wait)
        started = self._clock()
        ill = False
        try:
            yield endpoint
        except Trouble as trouble:
            ill = trouble.ill
            raise
        finally:
            self._return(endpoint, started, ill)

    def _choose(self, tried: Collection[str]) -> tuple[Endpoint, float]:
        """The endpoint to use and the seconds to wait for it."""
        with self._lock:
            now = self._clock()
            waits = {endpoint.url: max(0.0, endpoint.aside_until - now) for endpoint in self._endpoints}
            best = min(self._endpoints, key=lambda e: (waits[e.url] > 0, e.url in tried, waits[e.url], e.under_way))
            if waits[best.url] > PATIENCE:
                message = f"no endpoint answers ({', '.join(waits)}). Start the model server or correct vlm.endpoints."
                raise Trouble("unreachable", message, again=False)
            best.under_way += 1
            return best, waits[best.url]

    def _return(self, endpoint: Endpoint, started: float, ill: bool) -> None:
        with self._lock:
            endpoint.under_way -= 1
            if not ill:
                endpoint.failures = 0
                endpoint.aside_until = 0.0
            elif started >= endpoint.aside_since:
                # Requests that were under way when it fell ill report the same illness, not a second one.
                backoff = min(FIRST_BACKOFF * 2.0**endpoint.failures, LONGEST_BACKOFF)
                endpoint.failures += 1
                endpoint.aside_since = self._clock()
                endpoint.aside_until = endpoint.aside_since + backoff


def parse_endpoints(urls: Sequence[str], allowed_hosts: Collection[str]) -> tuple[Endpoint, ...]:
    """Check addresses before the first pixel leaves.

    Raises:
        ConfigError: not an http(s) URL, credentials inside, named twice, or a host that images may not be sent to.
    """
    allowed = {host.lower() for host in allowed_hosts}
    endpoints: dict[str, Endpoint] = {}
    for given in urls:
        url = given.rstrip("/")
        host, has_credentials = _host(url)
        if has_credentials:
            raise ConfigError(
                "vlm.endpoints",
                "an address holds a user name or password",
                "Name a variable in vlm.api_key_env instead.",
            )
        if host is None:
            problem = f"{shown(given)} is not a plain http(s) URL"
            raise ConfigError("vlm.endpoints", problem, "Example: http://127.0.0.1:8000/v1")
        loopback = _is_loopback(host)
        if not loopback and host not in allowed:
            problem = f"{shown(given)} is not this machine, and images of pages would be sent there"
            raise ConfigError("vlm.endpoints", problem, f"If that is wanted, add {host} to vlm.allowed_hosts.")
        if url in endpoints:
            raise ConfigError("vlm.endpoints", f"names {shown(given)} twice", "Keep one of them.")
        endpoints[url] = Endpoint(url, host, loopback)
    return tuple(endpoints.values())


def shown(url: str) -> str:
    """An address as it may be printed: what may be a secret in it, before @ and behind ?, is hidden.

    >>> shown("https://ada:secret@host/v1?key=secret")
    'https://***@host/v1?***'
    """
    head, mark, _ = url.partition("?")
    return re.sub(r"//[^/]*@", "//***@", head) + (f"{mark}***" if mark else "")


def _host(url: str) -> tuple[str | None, bool]:
    """Host in lower case (None when this is no http(s) URL), and whether credentials stand in front of it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None, False
    if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        return None, False
    return host, "@" in parts.netloc


def _is_loopback(host: str) -> bool:
    """127.0.0.0/8, ::1 and the name localhost; any other name could be resolved to anywhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
