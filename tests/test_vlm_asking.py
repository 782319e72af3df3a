"""The rounds of asking: one call per round, whatever the model does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from fusion.config import ServedVlm
from fusion.page import Failure, Reading
from fusion.vlm import Answer
from fusion.vlm.asking import Model, Question, ask_cached, read_all
from fusion.vlm.cache import AnswerCache
from tests.vlm_readers import query

Script = Callable[[Question], Answer | Failure]


def scripted(script: Script, has_temperature: bool = True) -> tuple[Model, list[list[Question]]]:
    """A model that answers by a function, and the rounds it was asked."""
    rounds: list[list[Question]] = []

    def ask_many(questions: Sequence[Question]) -> list[Answer | Failure]:
        rounds.append(list(questions))
        return [script(question) for question in questions]

    return Model("fake", "1", "fake-glm", {}, ask_many, has_temperature), rounds


def test_all_first_attempts_are_one_call_and_all_second_attempts_the_next() -> None:
    queries = [query("hello", seed=seed) for seed in range(4)]
    loops = {queries[1].line.crop.tobytes(), queries[3].line.crop.tobytes()}

    def script(question: Question) -> Answer:
        broken = question.pixels.tobytes() in loops and question.temperature == 0
        return Answer("hello " * 30 if broken else "hello", "stop")

    model, rounds = scripted(script)
    outcomes = read_all(queries, ServedVlm(), model, AnswerCache(None))
    assert [len(questions) for questions in rounds] == [8, 4]
    attempts = [[item.recipe.attempt for item in outcome if isinstance(item, Reading)] for outcome in outcomes]
    assert attempts == [[1, 1], [2, 2], [1, 1], [2, 2]]


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_are_an_upper_bound_and_no_question_is_asked_twice(attempts: int) -> None:
    model, rounds = scripted(lambda question: Answer("This image contains a handwritten note.", "stop"))
    config = ServedVlm(attempts=attempts, prompts=("informed",))
    ((failure,),) = read_all([query("Napa 500")], config, model, AnswerCache(None))
    assert isinstance(failure, Failure)
    assert failure.kind == "describes"
    asked = [(question.text, question.temperature) for questions in rounds for question in questions]
    assert len(asked) == len(set(asked)) == attempts


def test_a_model_that_sees_nothing_is_not_pressed() -> None:
    model, rounds = scripted(lambda question: Answer("There is no text in the image.", "stop"))
    ((failure, _),) = read_all([query("~~~")], ServedVlm(attempts=5), model, AnswerCache(None))
    assert isinstance(failure, Failure)
    assert failure.kind == "no_text"
    assert len(rounds) == 1


def test_one_failure_stays_one_failure() -> None:
    queries = [query("hello", seed=seed) for seed in range(3)]
    bad = queries[1].line.crop.tobytes()
    broken = Failure("vlm", "timeout", "late")
    model, _ = scripted(lambda question: broken if question.pixels.tobytes() == bad else Answer("hello"))
    outcomes = read_all(queries, ServedVlm(prompts=("blind",)), model, AnswerCache(None))
    assert outcomes[1] == (broken,)
    assert isinstance(outcomes[0][0], Reading)
    assert isinstance(outcomes[2][0], Reading)


def test_equal_questions_are_asked_once() -> None:
    crop = query("hello").line.crop
    model, rounds = scripted(lambda question: Answer(question.text))
    answers = ask_cached([Question(crop, "a"), Question(crop, "b"), Question(crop, "a")], model, AnswerCache(None))
    assert answers == [Answer("a"), Answer("b"), Answer("a")]
    assert len(rounds[0]) == 2
    assert ask_cached([], model, AnswerCache(None)) == []
