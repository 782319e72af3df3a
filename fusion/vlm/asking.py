"""Asking a model about many crops: cache, ask, examine, ask again with a named change, report.

Knows the rounds and what a reading's recipe records; knows no HTTP and no checkpoint: a model is a function that answers
a list of questions, so a served one can answer them side by side and a local one in batches.

A change is named in the recipe: `informed-zh+strict@…` is the prompt with its reminder, a temperature above 0 a warmer
model. The same question is never asked twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusion.config import LocalVlm, ServedVlm
from fusion.ink import image_sha256
from fusion.page import Failure, Reading, Recipe
from fusion.vlm.acceptance import MESSAGES, Accept, Retry, Symptom, examine
from fusion.vlm.cache import AnswerCache, answer_key
from fusion.vlm.prompts import Kind, Prompt, render
from fusion.vlm.protocol import Answer, Query

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WARMER = 0.3
"""Step of the temperature for an answer that loops or breaks off: greedy decoding would do the same again."""
CURED_BY_WORDING: frozenset[Symptom] = frozenset(
    {"refuses", "describes", "echoes", "several_lines", "wrong_length", "wrong_script"}
)
"""Symptoms of a model that misunderstood; a stricter prompt is tried before a warmer model."""


@dataclass(frozen=True, slots=True)
class Question:
    """One image and one question, as a model gets it.

    Attributes:
        pixels: uint8 (H, W, 3), RGB.
        text: the prompt, filled in.
        temperature: 0 for greedy decoding; above it the model samples, with a fixed seed where it can.
    """

    pixels: NDArray[np.uint8]
    text: str
    temperature: float = 0.0

    @property
    def plain(self) -> str:
        """The text without control tokens: a question may quote the page, and the page may spell one."""
        return self.text.replace("<|", "< |")


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked.

    Attributes:
        engine, version, name: what a recipe records (`name` unless the answer names its model).
        parameters: what else an answer depends on, JSON values; part of the cache key.
        ask_many: one answer or failure per question, in order; never raises for one question's sake.
        has_temperature: whether `Question.temperature` changes anything.
    """

    engine: str
    version: str
    name: str
    parameters: Mapping[str, object]
    ask_many: Callable[[Sequence[Question]], list[Answer | Failure]]
    has_temperature: bool = True


@dataclass(frozen=True, slots=True)
class _Case:
    """One crop to be read with one prompt, at one attempt."""

    query: Query
    image: str
    kind: Kind
    prompt: Prompt
    strict: bool = False
    temperature: float = 0.0
    attempt: int = 1

    @property
    def question(self) -> Question:
        return Question(self.query.line.crop, self.prompt.text, self.temperature)


def read_all(
    queries: Sequence[Query], config: ServedVlm | LocalVlm, model: Model, cache: AnswerCache
) -> list[tuple[Reading | Failure, ...]]:
    """Read every crop with every configured prompt.

    All first attempts are one call of `model.ask_many`, all second attempts the next.

    Returns:
        One tuple per query, in order; one reading or failure per prompt.
    """
    outcomes: dict[tuple[int, int], Reading | Failure] = {}
    cases: dict[tuple[int, int], _Case] = {}
    for row, query in enumerate(queries):
        image = image_sha256(query.line.crop)
        for column, kind in enumerate(config.prompts):
            if query.line.crop.size == 0:
                outcomes[row, column] = Failure("vlm", "empty_crop", "the crop has no pixels")
            else:
                cases[row, column] = _Case(query, image, kind, render(kind, config.language, query))
    while cases:
        answers = ask_cached([case.question for case in cases.values()], model, cache)
        again: dict[tuple[int, int], _Case] = {}
        for (place, case), answer in zip(cases.items(), answers, strict=True):
            outcome = answer if isinstance(answer, Failure) else _judge(case, answer, config, model)
            if isinstance(outcome, _Case):
                again[place] = outcome
            else:
                outcomes[place] = outcome
        cases = again
    return [tuple(outcomes[row, column] for column in range(len(config.prompts))) for row in range(len(queries))]


def ask_cached(questions: Sequence[Question], model: Model, cache: AnswerCache) -> list[Answer | Failure]:
    """Answers in order, from the cache where it has them; each distinct question is asked once."""
    keys = [_key(question, model) for question in questions]
    answers: dict[str, Answer | Failure] = {}
    missing: dict[str, Question] = {}
    for key, question in zip(keys, questions, strict=True):
        remembered = cache.get(key)
        if remembered is None:
            missing[key] = question
        else:
            answers[key] = remembered
    if missing:
        for key, answer in zip(missing, model.ask_many(list(missing.values())), strict=True):
            answers[key] = answer
            if isinstance(answer, Answer) and answer.text.strip():  # an empty one may be a hiccup
                cache.put(key, answer)
    return [answers[key] for key in keys]


def _key(question: Question, model: Model) -> str:
    parameters = {**model.parameters, "engine": model.engine, "temperature": question.temperature}
    return answer_key(image_sha256(question.pixels), question.text, model.name, parameters)


def _judge(case: _Case, answer: Answer, config: ServedVlm | LocalVlm, model: Model) -> Reading | Failure | _Case:
    """A reading, a failure, or the same case with a change."""
    verdict = examine(answer, case.query, case.prompt.text)
    if isinstance(verdict, Accept):
        recipe = Recipe(
            engine=model.engine,
            version=model.version,
            model=answer.model or model.name,
            image_sha256=case.image,
            prompt_id=case.prompt.id,
            temperature=case.temperature if model.has_temperature else None,
            attempt=case.attempt,
        )
        score = sum(token.score for token in answer.tokens) if answer.tokens else None
        return Reading(
            "vlm", verdict.text, recipe, score=score, finish=answer.finish, tokens=answer.tokens, raw=answer.text
        )
    if isinstance(verdict, Retry) and case.attempt < config.attempts:
        changed = _changed(case, verdict.symptom, config, model)
        if changed is not None:
            return changed
    message = f"{MESSAGES[verdict.symptom]} (prompt {case.prompt.id}, attempt {case.attempt} of {config.attempts})"
    return Failure("vlm", verdict.symptom, message)


def _changed(case: _Case, symptom: Symptom, config: ServedVlm | LocalVlm, model: Model) -> _Case | None:
    """The case with the change that this symptom asks for; None when nothing is left to change."""
    attempt = case.attempt + 1
    wordable = case.kind != "glm_ocr" and not case.strict
    if wordable and (symptom in CURED_BY_WORDING or not model.has_temperature):
        prompt = render(case.kind, config.language, case.query, strict=True)
        return replace(case, prompt=prompt, strict=True, attempt=attempt)
    if model.has_temperature:
        return replace(case, temperature=round(case.temperature + WARMER, 2), attempt=attempt)
    return None
