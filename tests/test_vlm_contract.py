"""What every reader promises, whatever stands behind it: each of the three protocols, by each reader that implements it."""

from __future__ import annotations

import math
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

import fusion.config
import fusion.vlm
from fusion.config import Config, LocalVlm, NoVlm
from fusion.errors import DependencyError
from fusion.ink import image_sha256
from fusion.page import UNASKED, Failure, Reading
from fusion.vlm import Answer, Answers, Look, Looks, Query, Reader, Writes, open_reader
from tests.vlm_readers import PROTOCOLS, QUERIES, READERS, query

T = TypeVar("T")
TEXTS = ["hello world", "hello word", "", "第2步", "½ □\u0301"]


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Reader]]:
    """Every reader, opened when it is first asked for."""
    with ExitStack() as stack:
        found: dict[str, Reader] = {}

        def opened(name: str) -> Reader:
            if name not in found:
                found[name] = stack.enter_context(READERS[name](tmp_path_factory.mktemp(name)))
            return found[name]

        yield opened


def those(protocol: type) -> list[str]:
    return [name for name in READERS if protocol in PROTOCOLS[name]]


@pytest.fixture(params=those(Looks))
def looker(request: pytest.FixtureRequest, readers: Callable[[str], Any]) -> Looks:
    return readers(request.param)  # type: ignore[no-any-return]


@pytest.fixture(params=those(Writes))
def writer(request: pytest.FixtureRequest, readers: Callable[[str], Any]) -> Writes:
    return readers(request.param)  # type: ignore[no-any-return]


@pytest.fixture(params=those(Answers))
def answerer(request: pytest.FixtureRequest, readers: Callable[[str], Any]) -> Answers:
    return readers(request.param)  # type: ignore[no-any-return]


def empty(asked: Query) -> Query:
    return replace(asked, line=replace(asked.line, crop=np.zeros((0, 0, 3), np.uint8)))


def at_once(work: Callable[[Query], T]) -> list[T]:
    """The queries three times over, from four threads."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(work, QUERIES * 3))


@pytest.mark.parametrize("name", READERS)
def test_a_reader_implements_what_it_can_and_nothing_else(readers: Callable[[str], Reader], name: str) -> None:
    reader = readers(name)
    assert {protocol for protocol in (Looks, Writes, Answers) if isinstance(reader, protocol)} == PROTOCOLS[name]
    assert reader.name == name.partition("-")[0].replace("small", "local")


@pytest.mark.parametrize("name", READERS)
def test_closing_twice_is_closing_once(tmp_path: Path, name: str) -> None:
    with READERS[name](tmp_path) as reader:
        reader.close()
        reader.close()


# --- Looks --------------------------------------------------------------------------------------------------------


def said(looker: Looks, asked: Query) -> tuple[object, ...]:
    """All that a look says, so that two can be compared."""
    look = looker.look(asked)
    if isinstance(look, Failure):
        return (look,)
    ink = look.ink
    return look.reading, look.score(TEXTS), ink and (ink.quality, ink.score(TEXTS), ink.place("hello"))


def test_a_look_is_had_or_declined(looker: Looks) -> None:
    looks = [looker.look(asked) for asked in QUERIES]
    assert any(isinstance(look, Look) for look in looks)
    for look in looks:
        assert isinstance(look, Look) or (look.stage == "vlm" and look.kind in UNASKED and look.message)


def test_scores_are_log_probabilities_of_any_text(looker: Looks) -> None:
    for look in map(looker.look, QUERIES):
        if isinstance(look, Look):
            scores = look.score(TEXTS)
            assert len(scores) == len(TEXTS)
            assert all(math.isfinite(score) and score < 0 for score in scores)
            assert len(set(scores)) == len(TEXTS)
            assert look.score(TEXTS[:1]) == pytest.approx(scores[:1], abs=1e-2)


def test_of_no_texts_there_are_no_scores(looker: Looks) -> None:
    look = looker.look(QUERIES[0])
    assert isinstance(look, Look)
    assert look.score([]) == []


def test_the_ink_of_a_look_answers_about_any_text_or_there_is_none(looker: Looks) -> None:
    for look in map(looker.look, QUERIES):
        if isinstance(look, Failure) or look.ink is None:
            continue
        assert 0 <= look.ink.quality <= 1
        for scores in (look.ink.score(TEXTS), look.ink.score_cased(TEXTS)):
            assert len(scores) == len(TEXTS)
            assert all(math.isfinite(score) and score <= 0 for score in scores)
        assert look.ink.score([]) == []
        assert all(left <= right for left, right in look.ink.place("hello"))
        assert len(look.ink.place("hello")) == 5


def test_the_reading_of_a_look_is_its_evidence_as_it_is_with_a_full_recipe(looker: Looks) -> None:
    for asked in QUERIES:
        look = looker.look(asked)
        if isinstance(look, Failure) or look.reading is None:
            continue
        reading = look.reading
        assert reading.source == "vlm"
        assert unicodedata.is_normalized("NFC", reading.text)
        assert reading.text == reading.raw  # on noise it may see nothing
        assert reading.text in [hypothesis.text for hypothesis in reading.nbest] or not reading.nbest
        assert all((reading.recipe.engine, reading.recipe.version, reading.recipe.model, reading.recipe.prompt_id))
        assert reading.recipe.image_sha256 == image_sha256(asked.line.crop)


def test_a_look_depends_on_its_query_alone(looker: Looks) -> None:
    first = [said(looker, asked) for asked in QUERIES]
    kept = looker.look(QUERIES[0])
    again = [said(looker, asked) for asked in reversed(QUERIES)]
    assert again[::-1] == first
    looker.look(QUERIES[-1])
    assert isinstance(kept, Look)  # an older look still speaks of its own crop
    assert kept.score(TEXTS) == first[0][1] != first[-1][1]


def test_a_look_depends_on_the_crop(looker: Looks) -> None:
    other = replace(QUERIES[0], line=replace(QUERIES[0].line, crop=query(seed=9).line.crop))
    assert said(looker, other)[1] != said(looker, QUERIES[0])[1]


def test_an_empty_crop_is_nothing_to_look_at(looker: Looks) -> None:
    look = looker.look(empty(QUERIES[0]))
    assert isinstance(look, Failure)
    assert (look.stage, look.kind) == ("vlm", "empty_crop")


def test_looks_of_several_threads_are_those_of_one(looker: Looks) -> None:
    alone = [said(looker, asked) for asked in QUERIES]
    assert at_once(lambda asked: said(looker, asked)) == alone * 3


# --- Writes -------------------------------------------------------------------------------------------------------


def declines(outcome: tuple[Reading | Failure, ...]) -> bool:
    """Whether the reader says that this crop is not for it: nobody was asked, so nobody failed."""
    return all(isinstance(item, Failure) and item.kind in UNASKED and item.message for item in outcome)


def test_one_nonempty_tuple_per_query_in_order(writer: Writes) -> None:
    outcomes = writer.read(QUERIES)
    assert len(outcomes) == len(QUERIES)
    assert all(outcome and all(isinstance(item, Reading | Failure) for item in outcome) for outcome in outcomes)
    assert not all(declines(outcome) for outcome in outcomes)
    for asked, outcome in zip(QUERIES, outcomes, strict=True):
        images = {item.recipe.image_sha256 for item in outcome if isinstance(item, Reading)}
        assert images == (set() if declines(outcome) else {image_sha256(asked.line.crop)})


def test_nothing_asked_nothing_answered(writer: Writes) -> None:
    assert writer.read([]) == []


def test_readings_are_nfc_with_a_full_recipe(writer: Writes) -> None:
    for outcome in writer.read(QUERIES):
        for reading in () if declines(outcome) else outcome:
            assert isinstance(reading, Reading)
            assert reading.source == "vlm"
            assert unicodedata.is_normalized("NFC", reading.text)
            assert reading.text == reading.text.strip() != ""
            assert reading.raw
            recipe = reading.recipe
            assert all((recipe.engine, recipe.version, recipe.model, recipe.prompt_id))
            assert recipe.attempt >= 1


def test_same_question_same_answer_alone_or_together(writer: Writes) -> None:
    together = writer.read(QUERIES)
    assert together == writer.read(QUERIES)
    assert together == [writer.read([one])[0] for one in QUERIES]


def test_an_empty_crop_of_an_unknown_image_is_a_failure_and_disturbs_nobody(writer: Writes) -> None:
    hopeless = empty(query("", "nowhere.png"))
    first, second, third = writer.read([QUERIES[0], hopeless, QUERIES[1]])
    assert all(isinstance(item, Failure) and item.stage == "vlm" and item.message for item in second)
    assert [first, third] == writer.read([QUERIES[0], QUERIES[1]])


def test_readings_of_several_threads_are_those_of_one(writer: Writes) -> None:
    alone = [writer.read([asked]) for asked in QUERIES]
    assert at_once(lambda asked: writer.read([asked])) == alone * 3


# --- Answers ------------------------------------------------------------------------------------------------------


def test_a_free_question_is_answered(answerer: Answers) -> None:
    answer = answerer.ask(QUERIES[0].line.crop, "What is this?")
    assert isinstance(answer, Answer)
    assert answer.text


def test_a_question_about_nothing_is_a_failure(answerer: Answers) -> None:
    answer = answerer.ask(np.zeros((0, 5, 3), np.uint8), "What is this?")
    assert isinstance(answer, Failure)
    assert (answer.stage, answer.kind) == ("vlm", "empty_crop")


def test_answers_of_several_threads_are_those_of_one(answerer: Answers) -> None:
    alone = [answerer.ask(asked.line.crop, "What is this?") for asked in QUERIES]
    assert at_once(lambda asked: answerer.ask(asked.line.crop, "What is this?")) == alone * 3


# --- opening ------------------------------------------------------------------------------------------------------


def test_no_reader() -> None:
    assert open_reader(NoVlm()) is None


class Mine:
    """A reader of another package."""

    name = "mine"

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def look(self, query: Query) -> Look | Failure:
        return Look(None, None, lambda texts: [-1.0] * len(texts))

    def close(self) -> None:
        """Nothing."""


def test_a_reader_of_another_package_is_opened_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    known = EntryPoints([EntryPoint("mine", f"{__name__}:Mine", "fusion.readers")])
    monkeypatch.setattr(EntryPoint, "load", lambda self: Mine)
    for module in (fusion.config, fusion.vlm):
        monkeypatch.setattr(module, "entry_points", lambda **wanted: known.select(**wanted))
    config = Config.model_validate({"vlm": {"engine": "mine", "options": {"depth": 2}}})
    reader = open_reader(config.vlm)
    assert isinstance(reader, Mine)
    assert reader.options == {"depth": 2}
    assert isinstance(reader, Looks)
    assert not isinstance(reader, Writes | Answers)


def test_a_missing_package_of_an_extra_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fusion.vlm.local", None)
    with pytest.raises(DependencyError, match="torch and transformers are not installed") as caught:
        open_reader(LocalVlm(model=str(tmp_path)))
    assert "fusion[glm]" in caught.value.way_out
    assert "small reader" in caught.value.way_out


def test_importing_the_room_loads_no_model_library() -> None:
    heavy = ("torch", "transformers", "onnxruntime", "cv2", "PIL")
    code = f"import sys, fusion.vlm; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
