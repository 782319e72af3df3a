"""Several addresses of one model: which may be used, which is least busy, which is set aside for a while."""

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

FIRST_BACKOFF = 0.2  # s an endpoint is set aside after its first failure; doubled with every further one in a row
LONGEST_BACKOFF = 30.0  # s after which a failing endpoint is tried again at the latest
PATIENCE = 5.0  # s a request waits for an endpoint that is set aside; if all are away for longer, it fails at once
LONGEST_WAIT = 60.0  # the same where the server itself named the seconds (Retry-After)


@dataclass(eq=False)
class Trouble(Exception):
    """A request that brought no answer; becomes a Failure."""

    kind: str  # machine-readable reason
    message: str  # for people; no text of the page and nothing the server said, for that may quote the page
    again: bool = False  # whether the same request may succeed later or elsewhere
    ill: bool = False  # whether the endpoint is to be set aside
    wait: float = 0.0  # s that the server asks to be left alone, 0 when it names none


@dataclass(slots=True)
class Endpoint:
    """One address and its state, which `Endpoints` alone changes, under its lock."""

    url: str  # base URL without a closing slash
    host: str  # in lower case
    under_way: int = 0  # requests being answered
    failures: int = 0  # in a row
    aside_until: float = 0.0  # monotonic time
    aside_since: float = float("-inf")  # monotonic time
    asked_to_wait: bool = False  # whether the server named `aside_until`


class Endpoints:
    """Lends out the least busy healthy endpoint."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoints = endpoints
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, tried: Collection[str] = ()) -> Iterator[Endpoint]:
        """Lend an endpoint for one request, waiting for it if need be; a `Trouble` raised inside is recorded.

        Others than those `tried` are preferred. Raises `Trouble` when all are set aside for longer than a request waits.
        """
        endpoint, wait = self._choose(tried)
        if wait > 0:
            self._sleep(wait)
        started = self._clock()
        trouble = None
        try:
            yield endpoint
        except Trouble as error:
            trouble = error
            raise
        finally:
            self._return(endpoint, started, trouble)

    def _choose(self, tried: Collection[str]) -> tuple[Endpoint, float]:
        """The endpoint to use and the seconds to wait for it."""
        with self._lock:
            now = self._clock()
            waits = {endpoint.url: max(0.0, endpoint.aside_until - now) for endpoint in self._endpoints}
            best = min(self._endpoints, key=lambda e: (waits[e.url] > 0, e.url in tried, waits[e.url], e.under_way))
            if waits[best.url] > (LONGEST_WAIT if best.asked_to_wait else PATIENCE):
                message = f"no endpoint answers ({', '.join(waits)}). Start the model server or correct vlm.endpoints."
                raise Trouble("unreachable", message)
            best.under_way += 1
            return best, waits[best.url]

    def _return(self, endpoint: Endpoint, started: float, trouble: Trouble | None) -> None:
        with self._lock:
            now = self._clock()
            endpoint.under_way -= 1
            news = started >= endpoint.aside_since  # requests under way when it fell ill tell nothing new
            if trouble is None or not trouble.ill:
                if news:
                    endpoint.failures, endpoint.aside_until, endpoint.asked_to_wait = 0, 0.0, False
                return
            if news:
                endpoint.aside_since = now
                endpoint.aside_until = now + min(FIRST_BACKOFF * 2.0**endpoint.failures, LONGEST_BACKOFF)
                endpoint.failures += 1
            if now + trouble.wait > endpoint.aside_until:
                endpoint.aside_until, endpoint.asked_to_wait = now + trouble.wait, True


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
            problem, way = "an address holds a user name or password", "Name a variable in vlm.api_key_env instead."
        elif host is None:
            problem, way = f"{shown(given)} is not a plain http(s) URL", "Example: http://127.0.0.1:8000/v1"
        elif not _is_loopback(host) and host not in allowed:
            problem = f"{shown(given)} is not this machine, and images of pages would be sent there"
            way = f"If that is wanted, add {host} to vlm.allowed_hosts."
        elif url in endpoints:
            problem, way = f"names {shown(given)} twice", "Keep one of them."
        else:
            endpoints[url] = Endpoint(url, host)
            continue
        raise ConfigError("vlm.endpoints", problem, way)
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
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError:
        return None, False
    if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        return None, False
    return host, "@" in parts.netloc


def _is_loopback(host: str) -> bool:
    """127.0.0.0/8, ::1 and the name localhost; any other name could be resolved to anywhere."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
