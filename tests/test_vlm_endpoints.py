"""Load and health of endpoints, with a clock of our own."""

from __future__ import annotations

import pytest

from fusion.vlm.endpoints import FIRST_BACKOFF, LONGEST_WAIT, PATIENCE, Endpoints, Trouble, parse_endpoints


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def pool(count: int) -> tuple[Endpoints, Clock, list[str]]:
    clock = Clock()
    urls = [f"http://127.0.0.1:{port}" for port in range(1, count + 1)]
    return Endpoints(parse_endpoints(urls, []), clock, clock.sleep), clock, urls


def ask(endpoints: Endpoints, ill: bool, tried: tuple[str, ...] = ()) -> str:
    """One request; returns who got it."""
    url = ""
    try:
        with endpoints.lend(tried) as endpoint:
            url = endpoint.url
            if ill:
                raise Trouble("server_error", "ill", again=True, ill=True)
    except Trouble:
        if not url:
            raise
    return url


def busy(endpoints: Endpoints, wait: float) -> None:
    """One request to a server that asks to be left alone."""
    with pytest.raises(Trouble, match="busy"), endpoints.lend():
        raise Trouble("busy", "busy", again=True, ill=True, wait=wait)


def refusal(endpoints: Endpoints) -> Trouble | None:
    """What a request to an ill endpoint hears when it is not even sent."""
    try:
        ask(endpoints, ill=True)
    except Trouble as trouble:
        return trouble
    return None


def test_the_least_busy_endpoint_is_lent() -> None:
    endpoints, _, urls = pool(3)
    with endpoints.lend() as one, endpoints.lend() as two, endpoints.lend() as three:
        assert [one.url, two.url, three.url] == urls
        with endpoints.lend() as again:
            assert (again.url, again.under_way) == (urls[0], 2)
    assert one.under_way == 0


def test_an_ill_endpoint_is_put_aside_and_tried_again_later() -> None:
    endpoints, clock, urls = pool(2)
    assert ask(endpoints, ill=True) == urls[0]
    assert [ask(endpoints, ill=False) for _ in range(3)] == [urls[1]] * 3
    clock.now += FIRST_BACKOFF
    assert ask(endpoints, ill=False) == urls[0]
    assert clock.slept == []


def test_another_endpoint_is_preferred_for_a_retry() -> None:
    endpoints, _, urls = pool(2)
    assert ask(endpoints, ill=False, tried=(urls[0],)) == urls[1]
    assert ask(endpoints, ill=False, tried=tuple(urls)) == urls[0]


def test_backoff_doubles_until_everybody_gives_up_at_once_and_one_success_heals() -> None:
    endpoints, clock, urls = pool(1)
    caught = None
    while caught is None:
        caught = refusal(endpoints)
    assert caught.kind == "unreachable"
    assert not caught.again
    assert clock.slept == pytest.approx([FIRST_BACKOFF * 2**i for i in range(len(clock.slept))])
    assert max(clock.slept) <= PATIENCE
    clock.now += 60
    assert ask(endpoints, ill=False) == urls[0]
    assert ask(endpoints, ill=False) == urls[0]
    assert len(clock.slept) == 5


def test_requests_that_fell_ill_together_count_once() -> None:
    endpoints, clock, urls = pool(1)

    def two_at_once() -> None:
        with endpoints.lend(), endpoints.lend():
            clock.now += 1
            raise Trouble("timeout", "both", again=True, ill=True)

    with pytest.raises(Trouble):
        two_at_once()
    clock.now += FIRST_BACKOFF
    assert ask(endpoints, ill=False) == urls[0]


def test_the_seconds_that_a_server_names_are_waited_for_even_beyond_patience() -> None:
    endpoints, clock, urls = pool(1)
    busy(endpoints, PATIENCE + 7)
    assert ask(endpoints, ill=False) == urls[0]
    assert clock.slept == [PATIENCE + 7]
    busy(endpoints, 0.0)
    assert ask(endpoints, ill=False) == urls[0]
    assert clock.slept[1:] == pytest.approx([FIRST_BACKOFF])


def test_nobody_waits_for_hours() -> None:
    endpoints, clock, _ = pool(1)
    busy(endpoints, LONGEST_WAIT + 1)
    caught = refusal(endpoints)
    assert caught is not None
    assert not caught.again
    assert clock.slept == []


def test_another_endpoint_answers_while_one_asks_to_be_left_alone() -> None:
    endpoints, clock, urls = pool(2)
    busy(endpoints, 3600)
    assert [ask(endpoints, ill=False) for _ in range(3)] == [urls[1]] * 3
    assert clock.slept == []


def test_an_answer_that_was_under_way_does_not_shorten_the_wait() -> None:
    endpoints, clock, _ = pool(1)
    with endpoints.lend():
        clock.now += 1
        busy(endpoints, 10)
    ask(endpoints, ill=False)
    assert clock.slept == [10]
