"""Proposals for gaps: asked of the second reader, scored by reader and OCR, and inserted as supplied text or only listed.

Text that the profile forbids (a dose, say) is never inserted.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import regex
from numpy.typing import NDArray

from fusion.config import CompleteConfig
from fusion.errors import ConfigError
from fusion.ink import InkLine
from fusion.page import GAP, Candidate, Failure, Span

PROMPTS = {
    "zh": (
        "这是一行手写文字的图片。已读出的内容是：{line}\n上一行：{before}\n下一行：{after}\n"
        "其中第 {number} 处 {gap}（约 {extent} 个字）看不清。请根据句子的意思给出最多 {count} 个可能的内容，"
        "最可能的在前，每行一个，只写 {gap} 处的内容，不要写别的。"
    ),
    "en": (
        "This is a picture of one handwritten line. It reads: {line}\nLine before: {before}\nLine after: {after}\n"
        "At place {number}, {gap} (about {extent} characters) can't be read. From the sense of the sentence give up to "
        "{count} texts that may stand there, most likely first, one a line, only the text for {gap}, nothing else."
    ),
}
_LEAD = regex.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.、)）:：](?=\s|\D))\s*")


class Answered(Protocol):
    """An answer of the second reader."""

    @property
    def text(self) -> str:
        """Verbatim."""
        ...


Ask = Callable[[NDArray[np.uint8], str], "Answered | Failure"]
Score = Callable[[Sequence[str]], "list[float] | None"]


class Completer:
    """Fills gaps as far as configuration and profile allow."""

    def __init__(self, config: CompleteConfig, forbids: Callable[[str, str, str], bool] | None = None) -> None:
        """Compile the forbidden patterns; a broken one is a ConfigError.

        Args:
            config: what may be proposed.
            forbids: whether the profile forbids a proposal, given the text before it, the proposal and the text after it.
        """
        self._config = config
        self._forbids = forbids or (lambda before, text, after: False)
        try:
            self._never = [regex.compile(pattern) for pattern in config.never]
        except regex.error as error:
            raise ConfigError("complete.never", f"holds a broken pattern ({error})", "Fix the expression.") from error

    def complete(
        self, line: InkLine, spans: Sequence[Span], before: str, after: str, ask: Ask, score: Score
    ) -> tuple[tuple[Span, ...], tuple[Failure, ...]]:
        """Spans with gaps turned into supplied spans where a proposal is allowed; failures for gaps without a proposal.

        Args:
            line: crop and OCR posterior.
            spans: decisions with gaps.
            before: text of the line before.
            after: text of the line after.
            ask: the second reader's answer to a question about an image.
            score: natural log-probabilities of whole-line texts under the second reader, or None without scores.
        """
        result, failures = list(spans), []
        text = "".join(span.text for span in spans)
        gaps = [number for number, span in enumerate(spans) if span.source == "gap"]
        for place, number in enumerate(gaps, 1):
            gap = spans[number]
            answer = ask(line.crop, self._question(text, before, after, place, gap.extent))
            if isinstance(answer, Failure):
                failures.append(replace(answer, stage="complete"))
                continue
            texts = self._parse(answer.text, gap.extent)
            if not texts:
                problem = "the second reader proposed nothing usable for a gap"
                failures.append(Failure("complete", "no_proposal", problem))
                continue
            head, tail = ("".join(s.text for s in part) for part in (result[:number], result[number + 1 :]))
            decided = self._decide(gap, texts, self._confidences(line, result, number, texts, score), head, tail)
            if unicodedata.is_normalized("NFC", head + decided.text + tail):  # else it would merge with a neighbour
                result[number] = decided
        return tuple(result), tuple(failures)

    def _question(self, line: str, before: str, after: str, number: int, extent: int) -> str:
        han = any("一" <= c <= "鿿" for c in line)
        values = {
            "line": line,
            "before": before or "-",
            "after": after or "-",
            "number": str(number),
            "gap": GAP * extent,
            "extent": str(extent),
            "count": str(self._config.proposals),
        }
        # One pass, since the page's text may hold braces.
        return str(regex.sub(r"\{(\w+)\}", lambda match: values[match[1]], PROMPTS["zh" if han else "en"]))

    def _parse(self, answer: str, extent: int) -> list[str]:
        """Proposals, one per row, without list marks and quotes; without those that can't fit the gap."""
        found: dict[str, None] = {}
        for row in answer.splitlines():
            text = unicodedata.normalize("NFC", _LEAD.sub("", row)).strip().strip("“”\"'「」").strip()
            # A leading combining mark would change the letter before it; a control character could hide or reverse text.
            plain = text.isprintable() and not unicodedata.combining(text[:1] or " ")
            if text and plain and GAP not in text and len(regex.findall(r"\X", text)) <= 2 * extent + 2:
                found[text] = None
        return list(found)[: self._config.proposals]

    def _confidences(
        self, line: InkLine, spans: Sequence[Span], number: int, texts: list[str], score: Score
    ) -> list[float] | None:
        """Probability of each proposal under second reader and OCR; None without scores.

        The share among the proposals, times the reader's probability per character of the line with the best one: a
        single proposal is not certain.
        """
        whole = ["".join(t if n == number else s.text.replace(GAP, "") for n, s in enumerate(spans)) for t in texts]
        said = score(whole)
        if said is None:
            return None
        scores = list(said)
        if line.ink is not None:
            scores = [a + b for a, b in zip(scores, line.ink.score(whole), strict=True)]
        best = max(range(len(scores)), key=scores.__getitem__)
        likely = math.exp(min(0.0, said[best] / (len(whole[best]) + 1)))
        mass = [math.exp(value - scores[best]) for value in scores]
        return [likely * value / sum(mass) for value in mass]

    def _decide(self, gap: Span, texts: list[str], confidences: list[float] | None, head: str, tail: str) -> Span:
        """A supplied span, or the gap with the proposals as its alternatives."""
        ranks = [1 / (n + 1) for n in range(len(texts))]  # without scores only the order is known
        weights = confidences if confidences is not None else [rank / sum(ranks) for rank in ranks]
        ranked = sorted(zip(texts, weights, strict=True), key=lambda item: -item[1])
        alternatives = tuple(Candidate(text, min(1.0, weight)) for text, weight in ranked)
        best = alternatives[0]
        forbidden = any(pattern.search(best.text) for pattern in self._never)
        if forbidden or self._forbids(head, best.text, tail):
            return replace(gap, because="completion_forbidden", alternatives=alternatives)
        if confidences is not None and best.probability < self._config.min_confidence:
            return replace(gap, because="completion_uncertain", alternatives=alternatives)
        known = best.probability if confidences is not None else None
        return Span(best.text, "supplied", known, "completed_from_context", alternatives[1:], gap.polygon, gap.extent)
