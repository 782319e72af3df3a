"""What every reader promises, whatever stands behind it."""

from __future__ import annotations

import math
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusion.config import NoVlm
from fusion.ink import Ink
from fusion.page import UNASKED, Failure, Reading
from fusion.vlm import Answer, Reader, open_reader
from fusion.vlm.cache import image_sha256
from tests.vlm_readers import QUERIES, READERS, query


@pytest.fixture(params=list(READERS))
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reader]:
    with READERS[request.param](tmp_path) as opened:
        yield opened


def declines(outcome: tuple[Reading | Failure, ...]) -> bool:
    """Whether the reader says that this crop is not for it: nobody was asked, so nobody failed."""
    return all(isinstance(item, Failure) and item.kind in UNASKED and item.message for item in outcome)


def test_one_nonempty_tuple_per_query_in_order(reader: Reader) -> None:
    outcomes = reader.read(QUERIES)
    assert len(outcomes) == len(QUERIES)
    assert all(outcome and all(isinstance(item, Reading | Failure) for item in outcome) for outcome in outcomes)
    assert not all(declines(outcome) for outcome in outcomes)
    for asked, outcome in zip(QUERIES, outcomes, strict=True):
        images = {item.recipe.image_sha256 for item in outcome if isinstance(item, Reading)}
        assert images == (set() if declines(outcome) else {image_sha256(asked.line.crop)})


def test_nothing_asked_nothing_answered(reader: Reader) -> None:
    assert reader.read([]) == []


def test_readings_are_nfc_with_a_full_recipe(reader: Reader) -> None:
    for asked, outcome in zip(QUERIES, reader.read(QUERIES), strict=True):
        for reading in () if declines(outcome) else outcome:
            assert isinstance(reading, Reading)
            assert reading.source == "vlm"
            assert unicodedata.is_normalized("NFC", reading.text)
            if reader.witness(asked) is None:
                assert reading.text == reading.text.strip() != ""
                assert reading.raw
            else:  # a look is kept as it is: on noise it may see nothing
                assert reading.text == reading.raw
                assert reading.text in [hypothesis.text for hypothesis in reading.nbest] or not reading.nbest
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
    else:
        assert answer.stage == "vlm"
        assert answer.message


def test_a_reader_says_whether_it_writes_and_one_that_does_not_answers_nothing(reader: Reader) -> None:
    assert isinstance(reader.writes, bool)
    if not reader.writes:
        assert isinstance(reader.ask(QUERIES[0].line.crop, "What is this?"), Failure)


def test_scores_are_log_probabilities_or_unknown(reader: Reader) -> None:
    texts = ["hello world", "hello word"]
    for read in (False, True):
        if read:
            reader.read(QUERIES)
        scores = reader.score(QUERIES[0], texts)
        assert scores is None or (len(scores) == 2 and all(math.isfinite(score) and score <= 0 for score in scores))


def test_a_witness_answers_about_any_text_or_there_is_none(reader: Reader) -> None:
    texts = ["hello world", "hello word", "", "第2步", "½ □\u0301"]
    for asked, outcome in zip(QUERIES, reader.read(QUERIES), strict=True):
        ink: Ink | None = reader.witness(asked)
        if ink is None:
            continue
        assert not declines(outcome)
        assert 0 <= ink.quality <= 1
        for scores in (ink.score(texts), ink.score_cased(texts)):
            assert len(scores) == len(texts)
            assert all(math.isfinite(score) and score <= 0 for score in scores)
        assert ink.score([]) == []
        assert all(left <= right for left, right in ink.place("hello"))
        assert len(ink.place("hello")) == 5


def test_nothing_is_witnessed_but_the_crops_of_the_last_reading(reader: Reader) -> None:
    assert all(reader.witness(asked) is None for asked in QUERIES)
    outcome, *_ = reader.read([QUERIES[0]])
    assert all(reader.witness(asked) is None for asked in QUERIES[1:])
    first = reader.witness(QUERIES[0])
    reader.read(QUERIES[1:])
    assert reader.witness(QUERIES[0]) is None
    assert first is None or isinstance(outcome[0], Reading)
    crop = np.full_like(QUERIES[0].line.crop, 255)
    other = replace(QUERIES[0], line=replace(QUERIES[0].line, crop=crop))
    reader.read([QUERIES[0]])
    assert reader.witness(other) is None  # the same line of another page


def test_closing_twice_is_closing_once(reader: Reader) -> None:
    reader.close()
    reader.close()


def test_no_reader() -> None:
    assert open_reader(NoVlm()) is None


def test_importing_the_room_loads_no_model_library() -> None:
    code = "import sys, fusion.vlm; print([m for m in ('openai', 'torch', 'transformers', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
