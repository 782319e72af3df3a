"""Questions with their answers, and sums with their values.

A wrong sum stays as the pupil wrote it, with a check beside it; a reading that would make it right is only shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import regex

from fusion.domain import arithmetic, columns
from fusion.domain.places import field_at
from fusion.page import Check, Field, Line, Page, Place, Record, Value

_NUMBER = regex.compile(
    r"^\s*(?P<number>[（(]\s*\d{1,3}\s*[)）]|\d{1,3}\s*[、．)）]|\d{1,3}\.(?!\d)|[①-⑳]|[Qq]\d{1,3}[.:：]?(?!\w)"
    r"|[一二三四五六七八九十]{1,3}[、．.])\s*"
)
_MAYBE = regex.compile(r"^\s*(?P<number>(?P<value>\d{1,3})\.)(?=\d)")
"""`1.12+30=42`: a number with its point if the lines around continue the count, else a decimal."""
_ANSWER = regex.compile(r"(?:^|(?<=\s))(?P<mark>答案?\s*[:：]?|解\s*[:：]|[Aa]ns(?:wer)?\s*[.:：]|A\s*[:：])\s*")
PUPILS_RIGHT = 0.9
"""Share of a pupil's sums that are right, taken for granted: the confidence from which a wrong one is a mistake of the pupil.
A policy."""
_LATEX = regex.compile(r"\\[a-zA-Z]{2,}|\^\{|_\{|\$[^$]+\$")
_LINEAR = regex.compile(r"[\d\p{Latin})）]\s*[=＝≤≥≠±×÷]|[≤≥≠±×÷]\s*[\d\p{Latin}(（]")
_HAN = regex.compile(r"\p{Han}")


def exercises(page: Page) -> tuple[Record, ...]:
    """Questions, sums and formulas, in reading order.

    A numbered line begins a question, which extends to the next one; from 答, 解 or Ans. on it is the answer. Lines before
    the first number belong to no question.
    """
    blocks = _in_columns(page)
    taken = {place.line for record in blocks for place in record.places}
    lines = [line for line in page.lines if line.id not in taken]
    leads = _numbering(lines)
    borders = itertools.pairwise([*sorted(leads), len(lines)])
    questions = [_question(lines[start:end], leads[start]) for start, end in borders]
    sums = (record for n, line in enumerate(lines) for record in _of_line(line, leads.get(n)))
    return (*questions, *sums, *blocks)


def _numbering(lines: Sequence[Line]) -> dict[int, regex.Match[str]]:
    """Index of each line that begins with a number of its own → the match.

    A possible decimal is such a number if the numbered line before or after it continues the count, unless the line is a
    correct sum only as a whole.
    """
    sure = {n: match for n, line in enumerate(lines) if (match := _NUMBER.match(line.text))}
    maybe = {n: match for n, line in enumerate(lines) if n not in sure and (match := _MAYBE.match(line.text))}
    values = {n: _count(match["number"]) for n, match in (sure | maybe).items()}
    order = sorted(values)
    for before, n, after in zip([-1, *order], order, [*order[1:], -1], strict=False):
        own = values[n]
        if n in sure or own is None or (values.get(before) != own - 1 and values.get(after) != own + 1):
            continue
        whole, rest = arithmetic.check(lines[n].text), arithmetic.check(lines[n].text, maybe[n].end())
        if whole is None or not whole.holds or (rest is not None and rest.holds):
            sure[n] = maybe[n]
    return sure


def _count(text: str) -> int | None:
    digits = regex.search(r"\d+", text)
    return int(digits[0]) if digits else None


def _question(lines: Sequence[Line], first: regex.Match[str]) -> Record:
    """The record of a question's lines; `first` is the match of its number."""
    asked: list[tuple[Line, int, int]] = []
    answered: list[tuple[Line, int, int]] = []
    into = asked
    for number, line in enumerate(lines):
        start = first.end() if number == 0 else 0
        mark = _ANSWER.search(line.text, start) if into is asked else None
        if mark is not None:
            if line.text[start : mark.start()].strip():
                asked.append((line, start, mark.start()))
            into, start = answered, mark.end()
        if line.text[start:].strip():
            into.append((line, start, len(line.text)))
    fields = [field_at("number", [(lines[0], first.start("number"), first.end("number"))])]
    fields += [field_at(name, places) for name, places in (("question", asked), ("answer", answered)) if places]
    return Record("question", tuple(fields))


def _of_line(line: Line, lead: regex.Match[str] | None) -> list[Record]:
    """The sum and the formula of a line; `lead` is the match of its number."""
    found = []
    start = lead.end() if lead is not None else 0
    answer = _ANSWER.search(line.text, start)
    done = arithmetic.check(line.text, answer.end() if answer is not None else start)
    if done is not None:
        value: Value = {} if done.holds is None else {"holds": done.holds}
        value |= {name: str(side) for name, side in (("left", done.left), ("right", done.right)) if side is not None}
        found.append(Record("sum", (field_at("sum", [(line, done.start, done.end)], value),)))
    written = next((r for r in line.readings if r.source == "vlm" and _LATEX.search(r.text)), None)
    linear = done is None and _LINEAR.search(line.text) and not _HAN.search(line.text)
    if line.text.strip() and (written is not None or linear):
        latex: Value = {}
        if written is not None:
            latex = {"latex": written.text, "source": f"{written.recipe.engine} {written.recipe.model}"}
        found.append(Record("formula", (field_at("formula", [(line, start, len(line.text))], latex),)))
    return found


def _in_columns(page: Page) -> list[Record]:
    """Sums written in columns, with their value on one line as `written`."""
    found = []
    for block in columns.blocks(page.lines, page.angle):
        done = arithmetic.check(block.written)
        value: Value = {"written": block.written}
        # Numbers below each other, of which one is negative, may be three answers; below a product others may stand.
        doubtful = "-" in block.written or block.worked
        if done is not None and done.holds is not None and (done.holds or not doubtful):
            value |= {"holds": done.holds, "left": str(done.left)}
        places = [(line, 0, len(line.text)) for line in block.lines]
        found.append(Record("sum", (field_at("sum", places, value),)))
    return found


def checks(page: Page, records: Sequence[Record]) -> tuple[Check, ...]:
    """Wrong sums of a page, and readings under which a sum would be judged otherwise."""
    lines = {line.id: line for line in page.lines}
    found = []
    for record in records:
        field = record.get("sum")
        if field is None:
            continue
        own = [lines[place.line] for place in field.places]
        if field.value.get("holds") is False:
            found.append(_wrong(field, own, page.angle))
        if "written" not in field.value:
            found += _hints(own[0], field.places[0], field.value.get("holds"))
    return tuple(found)


def _wrong(field: Field, lines: Sequence[Line], angle: float) -> Check:
    """The check of a sum that does not hold.

    It is called wrong if that is likelier than a misreading: it is surer than pupils are right, and no reader reads it
    so that it holds.
    """
    message = f"{field.value.get('written', field.text)}: the left side is {field.value.get('left', '?')}"
    if (field.confidence or 0.0) >= PUPILS_RIGHT and not _read_right(field, lines, angle):
        return Check("sum_wrong", message, field.places, review=False)
    return Check("sum_unsure", f"{message}; it may be misread", field.places)


def _read_right(field: Field, lines: Sequence[Line], angle: float) -> bool:
    """Whether one reader's texts of the lines of a sum hold."""
    for source in dict.fromkeys(reading.source for line in lines for reading in line.readings):

        def said(line: Line, source: str = source) -> str:
            return next((reading.text for reading in line.readings if reading.source == source), line.text)

        if "written" in field.value:
            sums = [arithmetic.check(block.written) for block in columns.blocks(lines, angle, said)]
        else:
            text = said(lines[0])
            answer = _ANSWER.search(text)
            sums = [arithmetic.check(text, answer.end() if answer is not None else 0)]
        if any(done is not None and done.holds for done in sums):
            return True
    return False


def _hints(line: Line, place: Place, holds: object) -> list[Check]:
    """Alternatives of a digit under which the sum would be judged otherwise."""
    found, left = [], 0
    for span in line.spans:
        right = left + len(span.text)
        if left >= place.start and right <= place.end:
            for other in span.alternatives:
                changed = arithmetic.check(line.text[:left] + other.text + line.text[right:], place.start)
                digits = any(character.isdigit() for character in other.text + span.text)
                if digits and changed is not None and changed.holds is not None and changed.holds is not holds:
                    verdict = "right" if changed.holds else "wrong"
                    message = f"read as “{other.text}” ({other.probability:.0%}) instead of “{span.text}” the sum would be {verdict}"
                    found.append(Check("sum_hint", message, (Place(line.id, left, right),)))
        left = right
    return found
