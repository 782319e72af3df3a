"""The cache of answers: what hits, what misses, threads, and a file that is none."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from fusion.errors import FusionError
from fusion.ink import image_sha256
from fusion.page import Token
from fusion.vlm import Answer
from fusion.vlm.cache import AnswerCache, answer_key

ANSWER = Answer("明天 □ \ud800", "stop", (Token("明", -0.25), Token("天", -1.5)), "glm")


def test_an_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "new folder" / "answers.sqlite")
    assert cache.get("k") is None
    cache.put("k", ANSWER)
    assert cache.get("k") == ANSWER
    cache.close()
    cache.close()
    assert cache.get("k") is None
    again = AnswerCache(tmp_path / "new folder" / "answers.sqlite")
    assert again.get("k") == ANSWER
    again.close()


def test_no_path_remembers_nothing() -> None:
    cache = AnswerCache(None)
    cache.put("k", ANSWER)
    assert cache.get("k") is None
    cache.close()


def test_the_key_depends_on_everything_that_changes_an_answer() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    image = image_sha256(pixels)
    assert image != image_sha256(pixels.reshape(5, 4, 3))
    assert image != image_sha256(pixels + 1)
    assert image == image_sha256(np.asfortranarray(pixels))
    keys = {
        answer_key(image, "prompt", "glm", {"temperature": 0.0, "max_tokens": 9}),
        answer_key(image, "prompt", "glm", {"temperature": 0.3, "max_tokens": 9}),
        answer_key(image, "prompt", "glm-2", {"temperature": 0.0, "max_tokens": 9}),
        answer_key(image, "other", "glm", {"temperature": 0.0, "max_tokens": 9}),
        answer_key(image_sha256(pixels + 1), "prompt", "glm", {"temperature": 0.0, "max_tokens": 9}),
    }
    assert len(keys) == 5
    assert answer_key(image, "prompt", "glm", {"max_tokens": 9, "temperature": 0.0}) in keys


def test_many_threads_and_two_connections(tmp_path: Path) -> None:
    caches = [AnswerCache(tmp_path / "a.sqlite"), AnswerCache(tmp_path / "a.sqlite")]
    errors: list[FusionError] = []

    def work(worker: int) -> None:
        cache = caches[worker % 2]
        try:
            for i in range(20):
                cache.put(f"{worker}-{i}", Answer(str(i)))
                assert cache.get(f"{worker}-{i}") == Answer(str(i))
        except FusionError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(caches[0].get(f"{w}-{i}") for w in range(8) for i in range(20))
    for cache in caches:
        cache.close()


def test_a_file_that_is_no_cache_is_named_with_the_way_out(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"not a database, whatever its name says" * 50)
    with pytest.raises(FusionError, match=r"broken\.sqlite.*Delete the file"):
        AnswerCache(broken)
    with pytest.raises(FusionError, match=r"vlm\.cache"):
        AnswerCache(tmp_path)


def test_a_file_that_breaks_while_in_use_is_named_and_costs_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.sqlite"
    cache = AnswerCache(path)
    cache.put("k", ANSWER)
    cache.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    cache = AnswerCache(path)
    assert cache.get("k") is None
    cache.put("k", ANSWER)
    cache.close()
    assert "a.sqlite" in caplog.text


@pytest.mark.parametrize(
    "row",
    ["", "7", "[]", "{", "[" * 100_000, '{"text": 1, "finish": null, "tokens": [], "model": ""}', '{"text": "a"}'],
)
def test_a_damaged_row_is_a_miss_and_the_others_are_found(tmp_path: Path, row: str) -> None:
    path = tmp_path / "a.sqlite"
    cache = AnswerCache(path)
    cache.put("good", ANSWER)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO answers VALUES ('bad', ?)", [row])
    db.close()
    assert cache.get("bad") is None
    assert cache.get("good") == ANSWER
    cache.close()
