"""Where images and keys may go, and what is never written down."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import pytest

import fusion
from fusion.config import LocalVlm, ServedVlm
from fusion.errors import ConfigError
from fusion.page import Failure, Reading
from fusion.vlm import Look, Looks, open_reader
from fusion.vlm.endpoints import parse_endpoints
from tests.vlm_readers import completion, opened, query, serving

DIALECTS = ["openai", "inference"]


def answer(path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
    """Both dialects at once."""
    status, reply, headers = completion("Wortlaut")
    return status, {**reply, "answer": "Wortlaut"}, headers


@pytest.mark.parametrize(
    "url",
    [
        "https://api.z.ai/api/paas/v4",
        "http://192.168.1.9:8000/v1",
        "http://127.0.0.1.example.com/v1",
        "http://localhost.example.com/v1",
        "http://0.0.0.0:8000/v1",
    ],
)
def test_other_hosts_are_refused_until_they_are_allowed(url: str) -> None:
    with pytest.raises(ConfigError, match=r"vlm\.endpoints: .*vlm\.allowed_hosts") as caught:
        open_reader(ServedVlm(endpoints=("http://127.0.0.1:1/v1", url)))
    assert url in str(caught.value)
    host = url.split("/")[2].split(":")[0]
    assert parse_endpoints([url], [host.upper()])[0].host == host


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://127.9.9.9", "http://[::1]:80/v1/", "http://LOCALHOST/v1"]
)
def test_this_machine_needs_no_permission(url: str) -> None:
    assert len(parse_endpoints([url], [])) == 1


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1/v1", "127.0.0.1:8000", "http://", "http://[bad", "http://127.0.0.1:x/", "http://u:pw@127.0.0.1/"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"vlm\.endpoints") as caught:
        parse_endpoints([url], [])
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://ada:hidden@host.example/v1",
        "https://host.example/v1?key=hidden",
        "ftp://ada:hidden@127.0.0.1/v1?key=hidden",
    ],
)
def test_a_secret_in_an_address_is_not_printed(url: str) -> None:
    with pytest.raises(ConfigError, match=r"vlm\.endpoints") as caught:
        parse_endpoints([url], [])
    assert "hidden" not in str(caught.value)


def test_the_same_address_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        parse_endpoints(["http://127.0.0.1/v1", "http://127.0.0.1/v1/"], [])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_of_the_users_openai_settings_is_sent(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "sk-private")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Private: sk-private")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with serving(answer) as server, opened(ServedVlm(endpoints=(server.url,), dialect=dialect)) as reader:  # type: ignore[arg-type]
        ((item, _),) = reader.read([query("Wortlaut")])
    assert isinstance(item, Reading)
    for _, headers, body in server.requests:
        assert "authorization" not in headers
        assert "sk-private" not in f"{headers}{body}"
        assert not any(name.startswith(("x-", "openai")) for name in headers)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_configured_key_is_sent(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "right")
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    settings = {"dialect": dialect, "api_key_env": "MY_KEY"}
    with serving(answer) as server, opened(ServedVlm(endpoints=(server.url,), **settings)) as reader:  # type: ignore[arg-type]
        reader.read([query("Wortlaut")])
    assert {headers["authorization"] for _, headers, _ in server.requests} == {"Bearer right"}


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match="MY_KEY"):
        open_reader(ServedVlm(api_key_env="MY_KEY"))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_carries_the_image_nowhere(dialect: str, status: int) -> None:
    with serving(answer) as other:
        target = other.url.replace("127.0.0.1", "localhost")
        redirecting = serving(lambda p, b: (status, "", {"Location": f"{target}{p}"}))
        with redirecting as server, opened(ServedVlm(endpoints=(server.url,), dialect=dialect)) as reader:  # type: ignore[arg-type]
            ((item, _),) = reader.read([query("Wortlaut")])
        assert isinstance(item, Failure)
        assert item.kind == "redirected"
        assert other.requests == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_proxy_of_the_environment_is_not_used_for_this_machine(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answer) as proxy, serving(answer) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with opened(ServedVlm(endpoints=(server.url,), dialect=dialect)) as reader:  # type: ignore[arg-type]
            reader.read([query("Wortlaut")])
    assert len(server.requests) == 2
    assert proxy.requests == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_image_for_an_allowed_host_passes_through_no_proxy(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is a host that nobody has allowed."""
    look_up = socket.getaddrinfo

    def known_here(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in ("pages.invalid", b"pages.invalid"):
            raise socket.gaierror("no such host")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", known_here)
    settings = {"dialect": dialect, "retries": 0, "allowed_hosts": ("pages.invalid",)}
    with serving(answer) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with opened(ServedVlm(endpoints=("http://pages.invalid/v1",), **settings)) as reader:  # type: ignore[arg-type]
            ((item, _),) = reader.read([query("Wortlaut")])
    assert isinstance(item, Failure)
    assert item.kind == "unreachable"
    assert proxy.requests == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_text_and_no_image_is_logged(dialect: str, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("", "fusion"):
        caplog.set_level(logging.DEBUG, logger=name)
    replies = [answer("", {}), (500, "Wortlaut", {}), (200, "Wortlaut", {})]
    for reply in replies:
        with serving(lambda p, b, reply=reply: reply) as server:  # type: ignore[misc]
            settings = {"dialect": dialect, "retries": 0}
            with opened(ServedVlm(endpoints=(server.url,), **settings)) as reader:  # type: ignore[arg-type]
                outcomes = reader.read([query("Wortlaut", before="Vorzeile")])
        assert all("Wortlaut" not in item.message for item in outcomes[0] if isinstance(item, Failure))
    for text in ("Wortlaut", "Vorzeile", "iVBOR"):
        assert text not in caplog.text


def test_the_packaged_reader_asks_no_network_and_tells_no_folder(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    caplog.set_level(logging.DEBUG)
    with opened(LocalVlm(threads=1)) as reader:
        assert isinstance(reader, Looks)
        look = reader.look(query("Wortlaut", before="Vorzeile"))
        assert isinstance(look, Look)
        assert len(look.score(["Wortlaut"])) == 1
    assert look.reading is not None
    assert (look.reading.recipe.model or "").startswith("small@")
    assert str(Path(fusion.__file__).parent) not in repr(look.reading.recipe)
    assert all(text not in caplog.text for text in ("Wortlaut", "Vorzeile"))
