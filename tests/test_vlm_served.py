"""The served reader: what it sends, what it keeps, and what it does when servers misbehave."""

from __future__ import annotations

import base64
import io
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusion.config import ServedVlm
from fusion.page import Failure, Reading
from fusion.vlm import Answer, Query, endpoints, served
from tests.vlm_readers import WAIT, FakeServer, completion, image_of, opened, prompt_of, query, serving

Reply = tuple[int, Any, dict[str, str]]


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_BACKOFF", 0.01)


def config(*servers: FakeServer | str, **settings: Any) -> ServedVlm:
    urls = [server if isinstance(server, str) else f"{server.url}/v1" for server in servers]
    return ServedVlm(**{"endpoints": tuple(urls), "prompts": ("blind",), **settings})


def only(outcome: list[tuple[Reading | Failure, ...]]) -> Reading | Failure:
    ((item,),) = outcome
    return item


def dead_url() -> str:
    """An address where nobody listens any more."""
    server = FakeServer(lambda path, body: completion("x"))
    server.close()
    return f"{server.url}/v1"


def test_what_a_request_holds_and_what_a_reading_keeps() -> None:
    with serving(lambda p, b: completion("hello word<|im_end|>")) as server, opened(config(server)) as reader:
        reading = only(reader.read([query("hello world")]))
    path, _, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("zai-org/GLM-4.6V-Flash", 0, 256)
    assert body["logprobs"] is True
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "seed" not in body
    assert Image.open(io.BytesIO(base64.b64decode(image_of(body)))).format == "PNG"
    assert "Transcribe it literally" in prompt_of(body)
    assert isinstance(reading, Reading)
    assert (reading.text, reading.raw, reading.finish) == ("hello word", "hello word<|im_end|>", "stop")
    assert reading.score == pytest.approx(-0.1 * len(reading.raw))
    assert len(reading.tokens) == len(reading.raw)
    assert (reading.recipe.engine, reading.recipe.model) == ("served-openai", "glm-fake")
    assert (reading.recipe.temperature, reading.recipe.attempt) == (0.0, 1)


def test_the_inference_dialect() -> None:
    script = lambda p, b: (200, {"answer": "hello word"}, {})  # noqa: E731
    with serving(script) as server, opened(config(server, dialect="inference")) as reader:
        reading = only(reader.read([query("hello world")]))
        answer = reader.ask(query().line.crop, "What colour is the ink?")
    assert [path for path, _, _ in server.requests] == ["/v1/inference"] * 2
    assert set(server.requests[0][2]) == {"image", "question"}
    assert answer == Answer("hello word")
    assert isinstance(reading, Reading)
    assert (reading.score, reading.finish, reading.recipe.temperature) == (None, None, None)
    assert reading.recipe.model == "unnamed, 127.0.0.1"  # the dialect names none, and vlm.model is not asked for


def test_an_endpoint_without_logprobs_is_asked_without_from_then_on() -> None:
    def script(path: str, body: dict[str, Any]) -> Reply:
        return (
            (400, {"error": {"message": "no logprobs"}}, {})
            if "logprobs" in body
            else completion("hello", "stop", False)
        )

    with serving(script) as server, opened(config(server, concurrency=1)) as reader:
        outcomes = reader.read([query("hello", seed=seed) for seed in range(3)])
    assert all(isinstance(item, Reading) and item.score is None for (item,) in outcomes)
    assert ["logprobs" in body for _, _, body in server.requests] == [True, False, False, False]


STRICT: dict[str, str] = {
    "logprobs": "logprobs is not supported",
    "chat_template_kwargs": "Unrecognized request argument supplied: chat_template_kwargs",
    "temperature": "Unsupported value: 'temperature' does not support 0 with this model.",
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model.",
}


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("refused", [[name] for name in STRICT] + [list(STRICT)])
def test_a_strict_server_is_asked_again_without_what_it_refuses_once_per_run(refused: list[str], status: int) -> None:
    def script(path: str, body: dict[str, Any]) -> Reply:
        found = next((name for name in refused if name in body), None)
        return completion("hello") if found is None else (status, {"error": {"message": STRICT[found]}}, {})

    with serving(script) as server, opened(config(server, concurrency=1)) as reader:
        outcomes = reader.read([query("hello", seed=seed) for seed in range(3)])
    assert all(isinstance(item, Reading) for (item,) in outcomes)
    assert len(server.requests) == 3 + len(refused)
    for name in STRICT:  # what it takes is sent to the end
        assert (name in server.requests[-1][2]) == (name not in refused)
    temperatures = {item.recipe.temperature for (item,) in outcomes if isinstance(item, Reading)}
    assert temperatures == ({None} if "temperature" in refused else {0.0})


def test_a_server_that_takes_no_temperature_is_not_asked_warmer() -> None:
    def script(path: str, body: dict[str, Any]) -> Reply:
        return (400, {"error": "temperature"}, {}) if "temperature" in body else completion("hello " * 50)

    with serving(script) as server, opened(config(server, attempts=5)) as reader:
        failure = only(reader.read([query("hello")]))
    assert isinstance(failure, Failure)
    assert failure.kind == "repeats"
    assert len(server.requests) == 3  # refused, plain, strict


def test_a_refusal_that_names_nothing_costs_the_extensions() -> None:
    def script(path: str, body: dict[str, Any]) -> Reply:
        return (400, "bad request", {}) if "chat_template_kwargs" in body else completion("hello")

    with serving(script) as server, opened(config(server)) as reader:
        assert isinstance(only(reader.read([query("hello")])), Reading)
    assert {"temperature", "max_tokens"} <= set(server.requests[-1][2])


def test_a_request_that_is_too_long_costs_the_others_no_bound() -> None:
    said = "'max_tokens' is too large: 256. This model's maximum context length is 4096 tokens."
    replies = [(400, {"error": {"message": said}}, {}), completion("hello")]
    with serving(lambda p, b: replies.pop(0)) as server, opened(config(server)) as reader:
        assert isinstance(only(reader.read([query("hello", seed=1)])), Failure)
        assert isinstance(only(reader.read([query("hello", seed=2)])), Reading)
    assert "max_tokens" in server.requests[-1][2]


def test_what_is_refused_for_another_reason_is_a_failure_and_nothing_is_left_out_for_it() -> None:
    replies = [(400, "bad", {}), (400, "bad", {}), completion("hello")]
    with serving(lambda p, b: replies.pop(0)) as server, opened(config(server)) as reader:
        failure = only(reader.read([query("hello", seed=1)]))
        assert isinstance(only(reader.read([query("hello", seed=2)])), Reading)
    assert isinstance(failure, Failure)
    assert failure.kind == "refused"
    assert "logprobs" in server.requests[-1][2]


@pytest.mark.parametrize("dialect", ["openai", "inference"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_names_the_seconds_is_left_alone_for_them(dialect: str, status: int) -> None:
    replies: list[Reply] = [(status, "later", {"Retry-After": "1"})]
    times: list[float] = []

    def script(path: str, body: dict[str, Any]) -> Reply:
        times.append(time.monotonic())
        if replies:
            return replies.pop()
        return completion("hello") if dialect == "openai" else (200, {"answer": "hello"}, {})

    with serving(script) as server, opened(config(server, dialect=dialect)) as reader:
        assert isinstance(only(reader.read([query("hello")])), Reading)
    assert times[1] - times[0] >= 0.99


def test_retry_after_may_be_a_date() -> None:
    (endpoint,) = endpoints.parse_endpoints(["http://127.0.0.1:1"], ())
    later = formatdate(time.time() + 30, usegmt=True)
    assert served._refusal(endpoint, 429, later).wait == pytest.approx(30, abs=2)
    assert [served._refusal(endpoint, 503, said).wait for said in (None, "", "soon", "-3", "7")] == [0, 0, 0, 0, 7]


@pytest.mark.parametrize("dialect", ["openai", "inference"])
def test_a_picture_that_is_too_large_is_sent_smaller(dialect: str) -> None:
    def script(path: str, body: dict[str, Any]) -> Reply:
        sides.append(max(Image.open(io.BytesIO(base64.b64decode(image_of(body)))).size))
        if sides[-1] > most:
            return 413, "too large", {}
        return completion("hello") if dialect == "openai" else (200, {"answer": "hello"}, {})

    sides: list[int] = []
    most = 700
    with serving(script) as server, opened(config(server, dialect=dialect, retries=0)) as reader:
        answer = reader.ask(np.zeros((900, 1600, 3), np.uint8), "?")
        assert isinstance(answer, Answer)
        assert sides == [1600, 800, 400]
        most = 0
        failure = reader.ask(np.zeros((90, 160, 3), np.uint8), "?")
    assert isinstance(failure, Failure)
    assert failure.kind == "too_large"
    assert sides[3:] == [160]


@pytest.mark.parametrize(
    ("reply", "others"),
    [
        ((200, {"data": [{"id": "zai-org/GLM-OCR"}, {"id": "b"}]}, {}), ("zai-org/GLM-OCR", "b")),
        ((200, {"data": [{"id": "b"}, {"id": "zai-org/GLM-4.6V-Flash"}]}, {}), None),
        ((200, {"data": []}, {}), None),
        ((200, {"data": 7}, {}), None),
        ((200, [], {}), None),
        ((200, "no json", {}), None),
        ((404, "", {}), None),
        ((302, "", {"Location": "/elsewhere"}), None),
    ],
)
def test_the_models_name_is_compared_with_what_the_server_lists(
    reply: Reply, others: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "right")
    with serving(lambda p, b: reply) as server:
        found = served.other_models(config(server, api_key_env="MY_KEY"))
    assert found == ({} if others is None else {f"{server.url}/v1": others})
    ((path, headers, _),) = server.requests
    assert (path, headers["authorization"]) == ("/v1/models", "Bearer right")


def test_a_server_that_is_not_there_lists_no_models() -> None:
    assert served.other_models(config(dead_url())) == {}


def test_wrapped_answers_are_unpacked_before_a_person_sees_them() -> None:
    with serving(lambda p, b: completion("<think>?</think>```\nNapa\n```")) as server, opened(config(server)) as reader:
        answer = reader.ask(query().line.crop, "What is it?")
    assert isinstance(answer, Answer)
    assert answer.text == "Napa"


@pytest.mark.parametrize(
    ("height", "width", "size"), [(20, 100, (280, 56)), (100, 100, (100, 100)), (64, 4600, (2300, 32))]
)
def test_crops_are_sent_large_enough_and_not_too_large(height: int, width: int, size: tuple[int, int]) -> None:
    with serving(lambda p, b: completion("x")) as server, opened(config(server)) as reader:
        reader.ask(np.zeros((height, width, 3), np.uint8), "?")
    assert Image.open(io.BytesIO(base64.b64decode(image_of(server.requests[0][2])))).size == size


@pytest.mark.parametrize(
    ("reply", "kind", "requests", "way_out"),
    [
        ((500, "boom", {}), "server_error", 3, "see its log"),
        ((429, "slow down", {}), "busy", 3, "vlm.concurrency"),
        ((401, {"error": "key"}, {}), "unauthorized", 1, "vlm.api_key_env"),
        ((403, {"error": "key"}, {}), "unauthorized", 1, "vlm.api_key_env"),
        ((404, {"error": "model"}, {}), "not_found", 1, "vlm.model"),
        ((302, "", {"Location": "/v1/elsewhere"}), "redirected", 1, "vlm.endpoints"),
        ((200, "not json {", {}), "bad_answer", 3, "vlm.dialect"),
        ((200, "[]", {}), "bad_answer", 3, "vlm.dialect"),
        ((200, {"choices": []}, {}), "bad_answer", 3, "vlm.dialect"),
        ((200, {"choices": [{"message": {"content": 7}}]}, {}), "bad_answer", 3, "vlm.dialect"),
        ((200, {"answer": None}, {}), "bad_answer", 3, "vlm.dialect"),
    ],
)
@pytest.mark.parametrize("dialect", ["openai", "inference"])
def test_a_server_that_misbehaves(dialect: str, reply: Reply, kind: str, requests: int, way_out: str) -> None:
    with serving(lambda p, b: reply) as server, opened(config(server, dialect=dialect, retries=2)) as reader:
        failure = only(reader.read([query("secret")]))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.kind) == ("vlm", kind)
    assert way_out in failure.message
    assert len(server.requests) == requests


def test_content_null_is_a_failure_and_thoughts_are_no_text() -> None:
    reply = completion(None, "length")
    reply[1]["choices"][0]["message"]["reasoning_content"] = "It might be Napa."
    with serving(lambda p, b: reply) as server, opened(config(server)) as reader:
        failure = only(reader.read([query("Napa")]))
    assert isinstance(failure, Failure)
    assert failure.kind == "no_content"
    assert "Napa" not in failure.message
    assert len(server.requests) == 1


def test_thinking_is_switched_as_the_host_wants_it() -> None:
    assert served._thinking("api.z.ai", False) == {"thinking": {"type": "disabled"}}
    assert served._thinking("open.bigmodel.cn", True) == {"thinking": {"type": "enabled"}}
    assert served._thinking("notz.ai", True) == {"chat_template_kwargs": {"enable_thinking": True}}


def test_nobody_listens() -> None:
    with opened(config(dead_url(), retries=1)) as reader:
        failure = only(reader.read([query("x")]))
    assert isinstance(failure, Failure)
    assert failure.kind == "unreachable"
    assert "Start the model server" in failure.message


def test_a_dead_endpoint_beside_a_living_one_costs_no_line() -> None:
    with serving(lambda p, b: completion("hello")) as server, opened(config(dead_url(), server, retries=1)) as reader:
        outcomes = reader.read([query("hello", seed=seed) for seed in range(8)])
    assert all(isinstance(item, Reading) for (item,) in outcomes)


@pytest.mark.parametrize("dialect", ["openai", "inference"])
def test_one_stuck_request_times_out_alone(dialect: str) -> None:
    stuck = query("hello", seed=99)

    def script(path: str, body: dict[str, Any]) -> Reply:
        if image_of(body) == slow:
            WAIT.wait(10)
        return completion("hello") if dialect == "openai" else (200, {"answer": "hello"}, {})

    from fusion.vlm.images import to_png

    slow = base64.b64encode(to_png(stuck.line.crop)).decode()
    queries = [stuck, *(query("hello", seed=seed) for seed in range(5))]
    settings = {"dialect": dialect, "timeout": 0.4, "retries": 0, "concurrency": 2}
    with serving(script) as server, opened(config(server, **settings)) as reader:
        started = time.monotonic()
        first, *others = reader.read(queries)
        assert time.monotonic() - started < 5
    assert isinstance(first[0], Failure)
    assert first[0].kind == "timeout"
    assert all(isinstance(item, Reading) for (item,) in others)


def test_the_load_is_shared() -> None:
    together = threading.Barrier(2, timeout=5)

    def script(path: str, body: dict[str, Any]) -> Reply:
        together.wait()  # passes only when both servers are busy at the same time
        return completion("hello")

    with serving(script) as one, serving(script) as other, opened(config(one, other, concurrency=2)) as reader:
        outcomes = reader.read([query("hello", seed=seed) for seed in range(2)])
    assert all(isinstance(item, Reading) for (item,) in outcomes)
    assert (len(one.requests), len(other.requests)) == (1, 1)


def test_a_loop_is_asked_again_warmer_and_a_description_stricter() -> None:
    def script(path: str, body: dict[str, Any]) -> Reply:
        if body["temperature"] == 0 and "Important:" not in prompt_of(body):
            return completion("hello " * 50 if "informed" in tried else "This image contains handwriting.")
        return completion("hello")

    tried = {"informed"}
    with serving(script) as server, opened(config(server)) as reader:
        warmer = only(reader.read([query("hello", seed=1)]))
        tried.clear()
        stricter = only(reader.read([query("hello", seed=2)]))
    assert isinstance(warmer, Reading)
    assert (warmer.recipe.attempt, warmer.recipe.temperature) == (2, 0.3)
    assert server.requests[1][2]["seed"] == 1
    assert isinstance(stricter, Reading)
    assert (stricter.recipe.attempt, stricter.recipe.temperature) == (2, 0.0)
    assert str(stricter.recipe.prompt_id).startswith("blind-en+strict@")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (completion("hello " * 60), "repeats"),
        (completion("hel", "length"), "cut_off"),
        (completion("I'm sorry, I can't help with that."), "refuses"),
        (completion("word salad " + "".join(chr(0x4E00 + i) for i in range(9000))), "wrong_length"),
        (completion(""), "empty"),
    ],
)
def test_symptoms_to_the_end_are_failures_that_quote_nothing(reply: Reply, kind: str) -> None:
    with serving(lambda p, b: reply) as server, opened(config(server, attempts=3)) as reader:
        failure = only(reader.read([query("hello")]))
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert "hel" not in failure.message
    assert "attempt 3 of 3" in failure.message
    assert len({(prompt_of(body), body["temperature"]) for _, _, body in server.requests}) == 3


def test_the_inference_dialect_never_asks_the_same_question_twice() -> None:
    settings = {"dialect": "inference", "attempts": 5, "prompts": ("blind", "glm_ocr")}
    with serving(lambda p, b: (200, {"answer": ""}, {})) as server, opened(config(server, **settings)) as reader:
        ((blind, fixed),) = reader.read([query("hello")])
    assert isinstance(blind, Failure)
    assert isinstance(fixed, Failure)
    questions = [prompt_of(body) for _, _, body in server.requests]
    assert len(questions) == len(set(questions)) == 3


def test_the_cache_spares_requests_and_knows_what_differs(tmp_path: Path) -> None:
    asked: list[Query] = [query("hello", seed=1), query("hello", seed=1), query("hello", seed=2)]
    with serving(lambda p, b: completion("hello")) as server:
        with opened(config(server, cache=tmp_path / "c.sqlite")) as reader:
            first = reader.read(asked)
            assert len(server.requests) == 2  # the same crop twice in one call is asked once
            assert reader.read(asked) == first
            assert len(server.requests) == 2
        with opened(config(server, cache=tmp_path / "c.sqlite")) as reader:
            assert reader.read(asked) == first
            assert len(server.requests) == 2
        with serving(lambda p, b: completion("hello")) as other:  # the same name may be another model elsewhere
            with opened(config(other, cache=tmp_path / "c.sqlite")) as reader:
                reader.read(asked[:1])
            assert len(other.requests) == 1
        for changed in ({"model": "other"}, {"max_tokens": 99}, {"language": "zh"}, {"thinking": True}):
            before = len(server.requests)
            with opened(config(server, cache=tmp_path / "c.sqlite", **changed)) as reader:
                reader.read(asked[:1])
            assert len(server.requests) == before + 1


@pytest.mark.parametrize("bad", [(500, "boom", {}), completion(""), completion(" \n")])
def test_failures_and_empty_answers_are_not_cached(tmp_path: Path, bad: Reply) -> None:
    replies = [bad, completion("hello")]
    settings = {"cache": tmp_path / "c.sqlite", "retries": 0, "attempts": 1}
    with serving(lambda p, b: replies.pop(0)) as server, opened(config(server, **settings)) as reader:
        assert isinstance(only(reader.read([query("hello")])), Failure)
        assert isinstance(only(reader.read([query("hello")])), Reading)


def test_prompts_are_read_in_order() -> None:
    prompts = ("informed", "glm_ocr", "blind")
    with serving(lambda p, b: completion("hello")) as server, opened(config(server, prompts=prompts)) as reader:
        (outcome,) = reader.read([query("hello")])
    ids = [item.recipe.prompt_id or "" for item in outcome if isinstance(item, Reading)]
    assert [name.split("@")[0] for name in ids] == ["informed-en", "glm_ocr", "blind-en"]
