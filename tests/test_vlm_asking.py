"""The rounds of asking: one call per round, whatever the model does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fusion.config import ServedVlm
from fusion.page import Failure, Reading
from fusion.vlm import Answer
from fusion.vlm.asking import AskingReader, Question
from fusion.vlm.cache import AnswerCache
from tests.vlm_readers import query

Script = Callable[[Question], Answer | Failure]


class Scripted(AskingReader):
    """A reader that answers by a function and keeps the rounds in which it was asked."""

    engine, version, model = "fake", "1", "fake-glm"
    parameters: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, script: Script, **settings: Any) -> None:
        super().__init__(ServedVlm(**settings), AnswerCache(None))
        self.script = script
        self.rounds: list[list[Question]] = []

    def ask_many(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        self.rounds.append(list(questions))
        return [self.script(question) for question in questions]


def test_all_first_attempts_are_one_call_and_all_second_attempts_the_next() -> None:
    queries = [query("hello", seed=seed) for seed in range(4)]
    loops = {queries[1].line.crop.tobytes(), queries[3].line.crop.tobytes()}

    def script(question: Question) -> Answer:
        broken = question.pixels.tobytes() in loops and question.temperature == 0
        return Answer("hello " * 30 if broken else "hello", "stop")

    reader = Scripted(script)
    outcomes = reader.read(queries)
    assert [len(questions) for questions in reader.rounds] == [8, 4]
    attempts = [[item.recipe.attempt for item in outcome if isinstance(item, Reading)] for outcome in outcomes]
    assert attempts == [[1, 1], [2, 2], [1, 1], [2, 2]]


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_are_an_upper_bound_and_no_question_is_asked_twice(attempts: int) -> None:
    note = Answer("This image contains a handwritten note.", "stop")
    reader = Scripted(lambda question: note, attempts=attempts, prompts=("informed",))
    ((failure,),) = reader.read([query("Napa 500")])
    assert isinstance(failure, Failure)
    assert failure.kind == "describes"
    asked = [(question.text, question.temperature) for questions in reader.rounds for question in questions]
    assert len(asked) == len(set(asked)) == attempts


def test_a_model_that_sees_nothing_is_not_pressed() -> None:
    reader = Scripted(lambda question: Answer("There is no text in the image.", "stop"), attempts=5)
    ((failure, _),) = reader.read([query("~~~")])
    assert isinstance(failure, Failure)
    assert failure.kind == "no_text"
    assert len(reader.rounds) == 1


def test_one_failure_stays_one_failure() -> None:
    queries = [query("hello", seed=seed) for seed in range(3)]
    bad = queries[1].line.crop.tobytes()
    broken = Failure("vlm", "timeout", "late")
    script: Script = lambda question: broken if question.pixels.tobytes() == bad else Answer("hello")  # noqa: E731
    outcomes = Scripted(script, prompts=("blind",)).read(queries)
    assert outcomes[1] == (broken,)
    assert isinstance(outcomes[0][0], Reading)
    assert isinstance(outcomes[2][0], Reading)


def test_equal_questions_are_asked_once() -> None:
    reader = Scripted(lambda question: Answer("hello"), prompts=("blind",))
    first, second, other = reader.read([query("hello", seed=1), query("hello", seed=1), query("hello", seed=2)])
    assert first == second
    assert first != other
    assert len(reader.rounds[0]) == 2
    assert reader.read([]) == []


LOOP, CUT = Answer("It says " + "Napa " * 20, "stop"), Answer("It says Na", "length")


@pytest.mark.parametrize("broken", [LOOP, CUT, Answer("<think>It may be</think>", "stop")])
def test_a_broken_free_answer_is_asked_for_again_warmer(broken: Answer) -> None:
    reader = Scripted(lambda question: broken if question.temperature == 0 else Answer("```\nNapa\n```", "stop"))
    assert reader.ask(query().line.crop, "What does it say?") == Answer("Napa", "stop")
    assert [question.temperature for (question,) in reader.rounds] == [0, 0.3]


@pytest.mark.parametrize(("broken", "kind"), [(LOOP, "repeats"), (CUT, "cut_off"), (Answer("<think>"), "empty")])
def test_a_broken_free_answer_reaches_nobody(broken: Answer, kind: str) -> None:
    reader = Scripted(lambda question: broken, attempts=3)
    failure = reader.ask(query().line.crop, "What does it say?")
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert "Na" not in failure.message
    assert len(reader.rounds) == 3


def test_a_model_without_temperature_is_asked_a_free_question_once() -> None:
    reader = Scripted(lambda question: LOOP, attempts=3)
    reader.has_temperature = False
    assert isinstance(reader.ask(query().line.crop, "?"), Failure)
    assert len(reader.rounds) == 1
