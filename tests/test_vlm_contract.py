"""What every reader promises, whatever stands behind it."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fusion.config import NoVlm
from fusion.page import Failure, Reading
from fusion.vlm import Answer, Reader, open_reader
from fusion.vlm.cache import image_sha256
from tests.vlm_readers import QUERIES, READERS, query


@pytest.fixture(params=list(READERS))
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reader]:
    with READERS[request.param](tmp_path) as opened:
        yield opened


def test_one_nonempty_tuple_per_query_in_order(reader: Reader) -> None:
    outcomes = reader.read(QUERIES)
    assert len(outcomes) == len(QUERIES)
    assert all(outcome and all(isinstance(item, Reading | Failure) for item in outcome) for outcome in outcomes)
    for asked, outcome in zip(QUERIES, outcomes, strict=True):
        images = {item.recipe.image_sha256 for item in outcome if isinstance(item, Reading)}
        assert images == {image_sha256(asked.line.crop)}


def test_nothing_asked_nothing_answered(reader: Reader) -> None:
    assert reader.read([]) == []


def test_readings_are_nfc_with_a_full_recipe(reader: Reader) -> None:
    for outcome in reader.read(QUERIES):
        for reading in outcome:
            assert isinstance(reading, Reading)
            assert reading.source == "vlm"
            assert reading.text == unicodedata.normalize("NFC", reading.text).strip() != ""
            assert reading.raw
            recipe = reading.recipe
            assert recipe.engine
            assert recipe.version
            assert recipe.model
            assert recipe.prompt_id
            assert recipe.attempt >= 1


def test_same_question_same_answer_alone_or_together(reader: Reader) -> None:
    together = reader.read(QUERIES)
    assert together == reader.read(QUERIES)
    assert together == [reader.read([one])[0] for one in QUERIES]


def test_an_empty_crop_or_unknown_image_is_a_failure_and_disturbs_nobody(reader: Reader) -> None:
    hopeless = query("", "nowhere.png")
    line = hopeless.line
    empty = type(hopeless)("nowhere.png", type(line)(line.id, line.polygon, np.zeros((0, 0, 3), np.uint8), None, None))
    first, second, third = reader.read([QUERIES[0], empty, QUERIES[1]])
    assert all(isinstance(item, Failure) and item.stage == "vlm" and item.message for item in second)
    assert [first, third] == reader.read([QUERIES[0], QUERIES[1]])


def test_a_free_question_is_answered_or_fails_as_data(reader: Reader) -> None:
    answer = reader.ask(QUERIES[0].line.crop, "What is this?")
    assert isinstance(answer, Answer | Failure)
    if isinstance(answer, Answer):
        assert answer.text


def test_scores_are_log_probabilities_or_unknown(reader: Reader) -> None:
    scores = reader.score(QUERIES[0], ["hello world", "hello word"])
    assert scores is None or (len(scores) == 2 and all(score <= 0 for score in scores))


def test_closing_twice_is_closing_once(reader: Reader) -> None:
    reader.close()
    reader.close()


def test_no_reader() -> None:
    assert open_reader(NoVlm()) is None


def test_importing_the_room_loads_no_model_library() -> None:
    code = "import sys, fusion.vlm; print([m for m in ('openai', 'torch', 'transformers', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
