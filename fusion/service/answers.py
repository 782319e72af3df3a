"""Questions about a page: a model answers, and where none can, the fields of the page do.

What the fields answer are a few kinds of questions in Chinese and English, known by their words; everything else is a search
among the lines. Every row of an answer cites the lines it rests on, and what is not on the page is said not to be.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fusion.engine import Engine
from fusion.errors import ConfigError, FusionError, ReaderError
from fusion.page import Page, Record, is_ideograph
from fusion.review import review
from fusion.service.terms import PAIR, terms

MEDICATION = ["drug", "strength", "form", "dose", "route", "frequency", "when", "as_needed", "duration", "quantity"]
"""Fields of a medication in the order of an answer."""
_TRANSCRIBE = re.compile(
    r"转录|抄写|逐行|全文|写(了|的|着)?(什么|内容)|transcri|what does (it|this|the \w+) say", re.IGNORECASE
)
_NO_FIELD = re.compile(
    r"谁|医生|医师|大夫|姓名|名字|日期|哪天|哪一天|几号|年龄|几岁|多大|诊断|什么病"
    r"|\b(who|whose|doctor|physician|name|date|when was|what day|age|how old|diagnos\w*)\b",
    re.IGNORECASE,
)
"""Persons, days and diagnoses: no field holds them, whatever else a question names."""
_DRUGS = re.compile(r"药|处方|剂量|用法|用量|怎么吃|几次|drug|medic|prescri|dos(e|age)|how (much|often)", re.IGNORECASE)
_SUMS = re.compile(r"算|对吗|正确|错|答案|题|sum|correct|right|wrong|mistake|answer", re.IGNORECASE)
_SUMMARY = re.compile(r"总结|概括|摘要|解释|说明|summar|explain|overview|about", re.IGNORECASE)
_COMMON = {
    *terms("the a an is are was of on in it this what which who when how does do to page prescription homework"),
    *(PAIR.join(pair) for pair in ("处方", "作业", "这张", "这页", "什么", "哪些", "多少", "有没", "没有", "上面")),
}
"""Grams that a question has whatever it asks for."""
_LETTER = re.compile(r"[a-z]{3,}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What can be said, row by row.

    Attributes:
        text: the answer; the lines that a row rests on stand after it in square brackets.
        lines: their ids.
        by: `model`; where none answered, the `fields` or the `lines` of the page, or all of it: the `transcript`.
        note: what the reader of the answer should know, else "".
    """

    text: str
    lines: tuple[str, ...]
    by: Literal["model", "fields", "lines", "transcript"]
    note: str = ""


_SOURCES = {"fields": "本页的字段", "lines": "本页的文字", "transcript": "本页的文字稿"}
Row = tuple[str, tuple[str, ...]]
"""A sentence, and the lines that it rests on."""


def ask(engine: Engine, source: Path | bytes, question: str, *, number: int = 1, page: Page | None = None) -> Answer:
    """Ask the engine's model about a page; where none answers, the fields of the page.

    Args:
        engine: reads, and asks its second reader.
        source: an image or a PDF.
        question: in any words.
        number: of the page, from 1.
        page: what stands on it; None: the first page is read.

    Raises:
        InputError: the source can't be read, or has no such page.
    """
    page = page or next(engine.read(source))
    try:
        text, _ = engine.ask(source, question, number=number, page=page)
    except (ConfigError, ReaderError) as error:
        return without_model(page, question, error)
    return Answer(text, cited(page, text), "model")


def without_model(page: Page, question: str, why: FusionError) -> Answer:
    """Answer from the page, and say that no model did, and why."""
    answer = from_page(page, question)
    told = "根据{}回答，没有模型回答（{}）。" if _is_chinese(question) else "Answered from the {} of the page: {}."
    source = _SOURCES[answer.by] if _is_chinese(question) else answer.by
    return replace(answer, note=f"{told.format(source, why.problem)} {answer.note}".strip())


def cited(page: Page, text: str) -> tuple[str, ...]:
    """Ids of the lines of a page that an answer names in square brackets."""
    named = {part.strip() for group in re.findall(r"\[([^\]]*)\]", text) for part in re.split(r"[,，、]", group)}
    return tuple(line.id for line in page.lines if line.id in named)


def from_page(page: Page, question: str) -> Answer:
    """Answer a question from what was understood of a page, or from its lines."""
    chinese = _is_chinese(question)
    if _TRANSCRIBE.search(question):
        return Answer(page.marked, tuple(line.id for line in page.lines), "transcript", _unchecked(page, [], chinese))
    fields = [] if _NO_FIELD.search(question) else _of_fields(page, question, chinese)
    rows = fields or _of_lines(page, question)
    if not rows:
        nothing = "这一页没有写，或没有读出来。" if chinese else "The page does not say, or it could not be read."
        return Answer(nothing, (), "lines")
    lines = tuple(dict.fromkeys(line for _, own in rows for line in own))
    text = "\n".join(f"{row} [{', '.join(own)}]" if own else row for row, own in rows)
    return Answer(text, lines, "fields" if fields else "lines", _unchecked(page, lines, chinese))


def _is_chinese(question: str) -> bool:
    return any(map(is_ideograph, question))


def _of_fields(page: Page, question: str, chinese: bool) -> list[Row]:
    medications = [record for record in page.records if record.kind == "medication"]
    sums = [record for record in page.records if record.kind == "sum"]
    if medications and (asked := _about(medications, question)):
        return [_medication(record) for record in asked]
    if medications and (_DRUGS.search(question) or _SUMMARY.search(question)):
        return [_medication(record) for record in medications]
    if sums and (_SUMS.search(question) or _SUMMARY.search(question)):
        return [_sum(record, chinese) for record in sums]
    return []


def _of_lines(page: Page, question: str) -> list[Row]:
    """Lines that hold a word of the question; for a summary all of them."""
    if _SUMMARY.search(question):
        return [(line.marked, (line.id,)) for line in page.lines if line.text]
    wanted = _asked_for(question) - _COMMON
    return [(line.marked, (line.id,)) for line in page.lines if wanted & _asked_for(line.text)]


def _asked_for(text: str) -> set[str]:
    """Words and numbers of a text; of Chinese, pairs of neighbouring characters, since one alone says little."""
    found = terms(text)
    pairs = [pair for pair in itertools.pairwise(found) if all(map(is_ideograph, pair))]
    return {term for term in found if not is_ideograph(term)} | {PAIR.join(pair) for pair in pairs}


def _about(medications: Sequence[Record], question: str) -> list[Record]:
    """The medications that a question names: by a Latin word of three letters, or two characters in a row."""
    asked = " ".join(terms(question))
    found = []
    for record in medications:
        drug = record.get("drug")
        names = terms(drug.text) if drug is not None else []
        pieces = [name for name in names if _LETTER.fullmatch(name)]
        pieces += [" ".join(names[at : at + 2]) for at in range(len(names) - 1) if is_ideograph(names[at])]
        if any(f" {piece} " in f" {asked} " for piece in pieces if piece not in ("胶 囊", "片 剂", "颗 粒")):
            found.append(record)
    return found


def _medication(record: Record) -> Row:
    fields = [field for name in MEDICATION for field in record.fields if field.name == name]
    return ", ".join(field.text for field in fields), _lines(record)


def _sum(record: Record, chinese: bool) -> Row:
    """A sum as it stands; of a wrong one, what its left side is."""
    (field, *_) = record.fields
    left = field.value.get("left")
    if field.value.get("holds") is False and left is not None:
        wrong = f"不对，左边是 {left}" if chinese else f"is wrong, the left side is {left}"
        return f"{field.text} {wrong}", _lines(record)
    holds = ("对" if chinese else "is right") if field.value.get("holds") else "?"
    return f"{field.text} {holds}", _lines(record)


def _lines(record: Record) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place.line for place in record.places))


def _unchecked(page: Page, lines: Sequence[str], chinese: bool) -> str:
    """Which of the lines hold something that a person should look at; of all lines where none are named."""
    doubtful = {line for _, line in review(page, page.max_error).lines}
    open_ = [line.id for line in page.lines if line.id in doubtful and (not lines or line.id in lines)]
    if not open_:
        return ""
    return ("还没有核对：" if chinese else "Not checked yet: ") + ", ".join(open_)
