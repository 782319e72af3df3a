"""Asking a model about many crops: cache, ask, examine, ask again with a named change, report.

A change is named in the recipe: `informed-zh+strict@…` is the prompt with its reminder, a temperature above 0 a warmer
model. The same question is never asked twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusion.config import LocalVlm, ServedVlm
from fusion.ink import image_sha256
from fusion.page import Failure, Reading, Recipe
from fusion.vlm.acceptance import examine, examine_free
from fusion.vlm.cache import AnswerCache, answer_key
from fusion.vlm.prompts import Kind, Prompt, render
from fusion.vlm.protocol import Answer, Query

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WARMER = 0.3  # step of the temperature for an answer that loops or breaks off: greedy decoding would do the same again
CURED_BY_WORDING = {"refuses", "describes", "echoes", "several_lines", "wrong_length", "wrong_script"}
"""Symptoms of a model that misunderstood; a stricter prompt is tried before a warmer model."""


@dataclass(frozen=True, slots=True)
class Question:
    """One image, uint8 (H, W, 3) RGB, and one question; above temperature 0 the model samples, with a fixed seed."""

    pixels: NDArray[np.uint8]
    text: str
    temperature: float = 0.0

    @property
    def plain(self) -> str:
        """The text without control tokens: a question may quote the page, and the page may spell one."""
        return self.text.replace("<|", "< |")

    def warmer(self) -> Question:
        """The same question to a warmer model."""
        return replace(self, temperature=round(self.temperature + WARMER, 2))


@dataclass(frozen=True, slots=True)
class _Case:
    """One crop to be read with one prompt, at one attempt."""

    query: Query
    kind: Kind
    prompt: Prompt
    question: Question
    strict: bool = False
    attempt: int = 1


class AskingReader:
    """`Writes` and `Answers` over a model that is asked; subclasses name the model and answer lists of questions."""

    engine: str
    version: str
    model: str  # recorded with engine and version in recipes, unless the answer names its own
    parameters: Mapping[str, object]  # what else an answer depends on, JSON values; part of the cache key
    has_temperature: bool = True  # whether `Question.temperature` changes anything; a server may turn out to refuse it

    def __init__(self, config: ServedVlm | LocalVlm, cache: AnswerCache) -> None:
        self._asking = config
        self._cache = cache

    def ask_many(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        """One answer or failure per question, in order; never raises for one question's sake."""
        raise NotImplementedError

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        """Read every crop with every configured prompt: one tuple per query, in order, with an outcome per prompt.

        All first attempts are one call of `ask_many`, all second attempts the next.
        """
        states = [self._first(query, kind) for query in queries for kind in self._asking.prompts]
        while cases := [(place, case) for place, case in enumerate(states) if isinstance(case, _Case)]:
            answers = self._ask_cached([case.question for _, case in cases])
            for (place, case), answer in zip(cases, answers, strict=True):
                states[place] = answer if isinstance(answer, Failure) else self._judge(case, answer)
        outcomes = [state for state in states if not isinstance(state, _Case)]
        width = len(self._asking.prompts)
        return [tuple(outcomes[width * row : width * (row + 1)]) for row in range(len(queries))]

    def _first(self, query: Query, kind: Kind) -> Reading | Failure | _Case:
        """The first attempt at a crop; a failure where there is nothing to read."""
        if query.line.crop.size == 0:
            return Failure("vlm", "empty_crop", "the crop has no pixels")
        prompt = render(kind, self._asking.language, query)
        return _Case(query, kind, prompt, Question(query.line.crop, prompt.text))

    def ask(self, pixels: NDArray[np.uint8], question: str) -> Answer | Failure:
        """Answer a free question about an image; a broken answer is asked for again, warmer."""
        if pixels.size == 0:
            return Failure("vlm", "empty_crop", "the image has no pixels")
        asked = Question(pixels, question)
        for _ in range(self._asking.attempts):
            (answer,) = self._ask_cached([asked])
            if isinstance(answer, Failure):
                return answer
            text = examine_free(answer, question)
            if isinstance(text, str):
                return replace(answer, text=text)
            failure = Failure("vlm", text.symptom, text.message)
            if not text.again or not self.has_temperature:
                break
            asked = asked.warmer()
        return failure

    def _ask_cached(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        """Answers in order, from the cache where it has them; each distinct question is asked once."""
        keys = [self._key(question) for question in questions]
        answers: dict[str, Answer | Failure | None] = {key: self._cache.get(key) for key in keys}
        missing = {key: one for key, one in zip(keys, questions, strict=True) if answers[key] is None}
        for key, answer in zip(missing, self.ask_many(list(missing.values())) if missing else [], strict=True):
            answers[key] = answer
            if isinstance(answer, Answer) and answer.text.strip():  # an empty one may be a hiccup
                self._cache.put(key, answer)
        return [found for key in keys if (found := answers[key]) is not None]

    def _key(self, question: Question) -> str:
        parameters = {**self.parameters, "engine": self.engine, "temperature": question.temperature}
        return answer_key(image_sha256(question.pixels), question.text, self.model, parameters)

    def _judge(self, case: _Case, answer: Answer) -> Reading | Failure | _Case:
        """A reading, a failure, or the same case with a change."""
        attempts = self._asking.attempts
        verdict = examine(answer, case.query, case.prompt.text)
        if isinstance(verdict, str):
            recipe = Recipe(
                engine=self.engine,
                version=self.version,
                model=answer.model or self.model,
                image_sha256=image_sha256(case.query.line.crop),
                prompt_id=case.prompt.id,
                temperature=case.question.temperature if self.has_temperature else None,
                attempt=case.attempt,
            )
            score = sum(token.score for token in answer.tokens) if answer.tokens else None
            return Reading("vlm", verdict, recipe, (), (), score, answer.finish, answer.tokens, answer.text)
        if verdict.again and case.attempt < attempts:
            again = replace(case, attempt=case.attempt + 1)
            wordable = case.kind != "glm_ocr" and not case.strict
            if wordable and (verdict.symptom in CURED_BY_WORDING or not self.has_temperature):
                prompt = render(case.kind, self._asking.language, case.query, strict=True)
                return replace(again, prompt=prompt, question=replace(case.question, text=prompt.text), strict=True)
            if self.has_temperature:
                return replace(again, question=case.question.warmer())
        message = f"{verdict.message} (prompt {case.prompt.id}, attempt {case.attempt} of {attempts})"
        return Failure("vlm", verdict.symptom, message)
