"""Is an answer a transcription of this line? Looks for symptoms of a broken answer and accepts, asks again, or rejects.

Bounds are generous: a doubtful reading that gets through is weighed against the ink later, a rejected one is lost.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import dataclass
from difflib import SequenceMatcher

import regex
from rapidfuzz import fuzz

from fusion.vlm.cleaning import begins_on_paper, clean, unpack
from fusion.vlm.prompts import on_one_row
from fusion.vlm.protocol import Answer, Query

MESSAGES = {
    "empty": "the answer holds no text",
    "repeats": "the answer repeats itself over and over",
    "cut_off": "the answer was cut off at the most tokens (vlm.max_tokens)",
    "refuses": "the model refused to transcribe",
    "no_text": "the model sees no writing on this crop",
    "describes": "the answer describes the image and does not transcribe it",
    "echoes": "the answer repeats the question or a neighbouring line",
    "several_lines": "the answer has several lines where the crop shows one",
    "wrong_length": "the answer's length does not fit the ink",
    "wrong_script": "the answer is in another script than the ink",
}
"""Symptom → what it means, for people."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An answer that is not usable; `again`: another try with a change may be, insisting would not make the model invent."""

    symptom: str
    again: bool = True

    @property
    def message(self) -> str:
        """The symptom, for people."""
        return MESSAGES[self.symptom]


COMPRESSION = 2.4
"""A text that zlib shrinks by more than this repeats itself (Radford et al. 2022, Robust Speech Recognition, 4.5)."""
COMPRESSION_FROM = 200  # bytes from which the compression ratio is used
LOOP_TIMES, LOOP_LENGTH, LOOP_UNIT = 4, 12, 40
"""A loop: a unit of at most LOOP_UNIT characters, LOOP_TIMES times or more at the end, LOOP_LENGTH characters or more."""
SURE = 0.7  # mean probability of the OCR's characters from which its script and its count are believed
MOST_CHARACTERS = 4000  # no line of handwriting is longer
FILTERED = ("content_filter", "sensitive")  # finish reasons of an answer that the server held back

_CLUSTER = regex.compile(r"\X")
_HAN, _LATIN, _LETTER = regex.compile(r"\p{Han}"), regex.compile(r"\p{Latin}"), regex.compile(r"\p{L}")

# Each pattern asks for words about reading or about the image: 对不起，我错了 and "In the picture I see a dog" are homework.
_READ_EN = r"(?:read|see|view|transcribe|assist|help|process|provide|recogni[sz]e|identify|make\s+out)"
_READ_ZH = r"(?:识别|辨认|看清|读取|转录)"
_REFUSAL = re.compile(
    rf"^(?:(?:i(?:'m|’m|\s+am)\s+)?(?:sorry\b.{{0,20}}?)?(?:i\s+(?:can(?:'t|’t|not)|am\s+(?:unable|not\s+able)\s+to)|unable\s+to)\s+{_READ_EN}\b"
    r"|as\s+an?\s+(?:ai|language\s+model)\b"
    rf"|(?:很|非常)?(?:抱歉|对不起).{{0,12}}?(?:无法|不能)(?:{_READ_ZH}|提供|协助|查看|处理|回答|帮)"
    rf"|(?:我|目前)?(?:无法|不能){_READ_ZH})",
    re.IGNORECASE,
)
_NO_TEXT = re.compile(
    r"^(?:(?:在?(?:这张)?(?:图片|图像|图|照片)(?:中|里|上)?)?(?:并?没有|未发现|未检测到|不包含|无)(?:任何)?(?:可(?:识别|见|读)的?)?(?:手写的?)?(?:文字|文本|字迹|内容)(?=[。.，,！!\s]|$)"
    r"|(?:there\s+is|there's)\s+no\s+(?:\w+\s+){0,2}(?:text|writing|handwriting)\b"
    r"|no\s+(?:visible\s+|readable\s+)?(?:text|handwriting)\s*(?:found|detected|visible)?\.?$"
    r"|the\s+(?:image|picture|page)\s+(?:is|appears(?:\s+to\s+be)?)\s+(?:blank|empty))",
    re.IGNORECASE,
)
_DESCRIPTION = re.compile(
    r"^(?:(?:in\s+)?(?:the|this)\s+(?:image|picture|photo(?:graph)?)\b.{0,80}?\b(?:texts?|handwrit\w*|written|words?|blurr\w*)\b"
    r"|(?:the|this)\s+(?:handwritten\s+)?text\s+in\s+the\s+image\b"
    r"|(?:这|该)?(?:张|幅)?(?:图片|图像|照片|图|纸)(?:中|上|里)?.{0,20}?(?:文字|手写|字迹|写着|写的是)"
    r"|这是一(?:张|幅|行|段).{0,12}?(?:图片|图像|照片|手写|文字)|根据(?:图片|图像))",
    re.IGNORECASE,
)
_OPENINGS = ((_REFUSAL, "refuses"), (_NO_TEXT, "no_text"), (_DESCRIPTION, "describes"))


def examine(answer: Answer, query: Query, prompt_text: str) -> str | Broken:
    """The transcription in an answer to `prompt_text`, NFC, on one row and not empty; or what is wrong with it."""
    ocr = query.ocr_text
    if len(answer.text) > MOST_CHARACTERS:
        return Broken("repeats" if _repeats(answer.text[-MOST_CHARACTERS:], ocr) else "wrong_length")
    if answer.finish in FILTERED:
        return Broken("refuses", again=False)
    text = unicodedata.normalize("NFC", clean(answer.text, ocr)).strip()
    symptom = _broken(text, answer.finish, _repeats(text, ocr))
    if symptom is not None:
        return Broken(symptom)
    for pattern, symptom in _OPENINGS:
        match = pattern.match(text)
        if match and not begins_on_paper(match.group(0), ocr):
            return Broken(symptom, again=symptom != "no_text")
    joined = _join_lines(text)
    if _echoes(joined, query, prompt_text):
        return Broken("echoes")
    if _wrong_script(joined, query):
        return Broken("wrong_script")
    if not _fits(joined, query):
        return Broken("several_lines" if joined != text else "wrong_length")
    return joined


def examine_free(answer: Answer, question: str) -> str | Broken:
    """The text of an answer to a free question, not empty; JSON and HTML are kept where the question asks for them."""
    if answer.finish in FILTERED:
        return Broken("refuses", again=False)
    wants_markup = re.search("json|html", question, re.IGNORECASE) is not None
    text = unpack(answer.text, markup=not wants_markup)
    symptom = _broken(text, answer.finish, bool(_loop(text)))
    return text if symptom is None else Broken(symptom)


def _broken(text: str, finish: str | None, repeats: bool) -> str | None:
    """The symptom of an answer that is no text at all, loops, or was cut off."""
    if not text:
        return "cut_off" if finish == "length" else "empty"
    if repeats:
        return "repeats"
    return "cut_off" if finish == "length" else None


def _repeats(text: str, ocr: str) -> bool:
    """Whether the answer loops; what loops on the paper too (a dotted line, 哈哈哈哈) is no symptom."""
    unit = _loop(text)
    if unit and unit * 3 not in ocr:
        return True
    return _compression(text) > COMPRESSION and _compression(ocr) <= COMPRESSION


def _loop(text: str) -> str:
    """The unit that the text repeats at its end, or ""."""
    for size in range(1, min(LOOP_UNIT, len(text) // LOOP_TIMES) + 1):
        unit = text[-size:]
        if text.endswith(unit * max(LOOP_TIMES, -(-LOOP_LENGTH // size))):
            return unit
    return ""


def _compression(text: str) -> float:
    """How many times smaller zlib makes the text; 1 where it is too short to tell."""
    content = text.encode("utf-8", "surrogatepass")
    return len(content) / len(zlib.compress(content)) if len(content) >= COMPRESSION_FROM else 1.0


def _join_lines(text: str) -> str:
    """Rows as one line: a space between words, nothing between Han characters."""
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    joined = rows[0]
    for row in rows[1:]:
        joined += ("" if _HAN.match(joined[-1]) and _HAN.match(row[0]) else " ") + row
    return joined


def _length(text: str) -> int:
    """Grapheme clusters, white space not counted."""
    return len(_CLUSTER.findall("".join(text.split())))


def _fits(text: str, query: Query) -> bool:
    """Whether so many characters can stand on this crop.

    Of 2,482 real lines and words the densest, after its first 12 characters, has 4.1 to a square of the crop's height.
    The OCR's count is believed when the OCR is sure: of scrawl it sees a tenth.
    """
    height, width = query.line.crop.shape[:2]
    length, seen = _length(text), _length(query.ocr_text)
    if length > 12 + 6 * width / max(height, 1):
        return False
    return not (_is_sure(query) and (length > 3 * seen + 10 or (seen >= 12 and 4 * length < seen)))


def _is_sure(query: Query) -> bool:
    """Whether the OCR's characters are probable enough for its count and script to be believed."""
    reading = query.line.reading
    best = [p.candidates[0].probability for p in reading.positions if not p.optional] if reading is not None else []
    return bool(best) and sum(best) / len(best) >= SURE


def _wrong_script(text: str, query: Query) -> bool:
    """Whether a sure OCR read one script and the answer has letters of others only."""
    ocr = query.ocr_text
    letters = len(_LETTER.findall(ocr))
    if letters < 4 or not _is_sure(query) or len(_LETTER.findall(text)) < 2:
        return False
    return any(len(script.findall(ocr)) >= 0.7 * letters and not script.search(text) for script in (_HAN, _LATIN))


def _echoes(text: str, query: Query, prompt_text: str) -> bool:
    """Whether the answer is a piece of the question, or a neighbouring line that the question showed.

    Neighbours that are short or like this line don't count: lists repeat themselves.
    """
    ocr = on_one_row(query.ocr_text)
    if ocr and fuzz.ratio(text, ocr, processor=str.casefold) >= 50:
        return False
    for neighbour in (on_one_row(query.before), on_one_row(query.after)):
        alike = fuzz.ratio(text, neighbour, processor=str.casefold) >= 90
        if alike and len(neighbour) >= 8 and neighbour in prompt_text:
            return True
    question = prompt_text.replace(ocr, "") if ocr else prompt_text
    shared = SequenceMatcher(None, text, question, autojunk=False).find_longest_match().size
    return shared >= (10 if _HAN.search(text) else 20) and 2 * shared >= len(text)
