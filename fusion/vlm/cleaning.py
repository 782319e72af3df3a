"""From a model's answer to the transcription inside it, without touching a word that the writer may have written.

Every rule removes a whole, recognised piece, never characters out of a set; and no wrapper is removed when the OCR's
reading begins with its words, for then they stand on the paper.
"""

from __future__ import annotations

import html
import json
import re

from rapidfuzz import fuzz

from fusion.page import GAP

ON_PAPER = 60.0
"""Similarity in percent from which the OCR's reading is taken to begin with the same words; the OCR misreads some."""

_TOKEN = r"(?:<\|[A-Za-z_]{2,24}\|>|</s>|<eos>)"
_TRAILING_TOKENS = re.compile(rf"(?:\s*{_TOKEN})+\s*$")
_LEADING_TOKENS = re.compile(rf"^\s*(?:{_TOKEN}\s*)+")
_BOX = re.compile(r"<\|begin_of_box\|>(.*?)<\|end_of_box\|>", re.DOTALL)
_FENCE = re.compile(r"^\s*```[A-Za-z]*[ \t]*\n?(.*?)\n?[ \t]*```\s*$", re.DOTALL)
_THOUGHT = re.compile(r"^\s*(?:<think>)?.*?</think>|^\s*<think>.*$", re.DOTALL)
_ELEMENT = r"(html|body|div|p|span|table|ul|ol|pre|code|center|font|b|i|u|em|strong|mark|h[1-6])"
_HTML = re.compile(rf"^<{_ELEMENT}\b[^<>]*>.*</\1>$|<br\s*/?>", re.DOTALL | re.IGNORECASE)
_ROW_TAG = re.compile(r"</?(?:br|p|div|tr|li|h[1-6])\b[^<>]*>", re.IGNORECASE)
_CELL_TAG = re.compile(r"</?t[dh]\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_TEXT_KEYS = ("text", "transcription", "content", "answer", "result", "文字", "内容", "转录")
"""Keys of a JSON answer under which the text is looked for."""

_WHERE_ZH = r"(?:在?这?(?:张|幅|份)?(?:手写)?(?:图片|图像|图|照片|纸条|纸张|纸|便签|截图)(?:片)?(?:上|中|里)?(?:的)?)"
_WHAT_ZH = r"(?:手写|书写|识别|转录)?(?:的|出的)?(?:文字|内容|文本|字|结果)?"
_SAYS_ZH = r"(?:写着|写道|写的是|显示的是|显示|内容是|内容为|是|为|如下)"
_WRAPPERS = (
    # 纸上写着“…”   图片中的文字是：“…”   手写内容为：…   识别结果：…   转录如下：…
    re.compile(
        rf"^(?P<words>{_WHERE_ZH}{_WHAT_ZH}{_SAYS_ZH})\s*(?:[：:]\s*(?P<text>.+)|(?P<quoted>[“\"「『].+))$",
        re.DOTALL,
    ),
    re.compile(
        r"^(?P<words>(?:手写(?:的)?|识别(?:出的|的)?|转录(?:的|后的)?)(?:文字|内容|文本|结果)?(?:写着|写的是|是|为|如下)?)\s*[：:]\s*(?P<text>.+)$",
        re.DOTALL,
    ),
    # The image shows the text "…"   The text reads: …   The handwriting says “…”
    re.compile(
        r"^(?P<words>(?:the|this)\s+(?:image|picture|photo|handwritten\s+text|handwriting|text|line)(?:\s+in\s+the\s+(?:image|picture|photo))?"
        r"\s+(?:shows|reads|says|contains|is)(?:\s+the\s+(?:handwritten\s+)?(?:text|words?|line))?(?:\s+as\s+follows)?)"
        r"\s*(?::\s*(?P<text>.+)|,?\s*(?P<quoted>[“\"‘'].+))$",
        re.DOTALL | re.IGNORECASE,
    ),
    # Here is the transcription: …   Transcription: …
    re.compile(
        r"^(?P<words>(?:sure[,.!]?\s+)?(?:here(?:'s|\s+is)\s+the\s+(?:literal\s+)?(?:transcription|text)(?:\s+of\s+the\s+(?:image|line|handwriting))?|transcription))"
        r"\s*:\s*(?P<text>.+)$",
        re.DOTALL | re.IGNORECASE,
    ),
)
_QUOTES = {"“": "”", '"': '"', "「": "」", "『": "』", "‘": "’", "'": "'"}

_MARK = re.compile(
    r"[\[［【(（〔]\s*(?:(?P<unsure>[?？]{1,20})"
    r"|(?P<words>illegible|unreadable|unclear|indecipherable|无法辨认|无法识别|难以辨认|不可辨认|看不清|字迹不清|模糊)"
    r"|(?:缺|约)?\s*(?P<count>[1-9]\d?)\s*(?:字无法辨认|个?字无法识别|字不清|illegible(?:\s+characters?)?))\s*[\]］】)）〕]"
    r"|(?P<blank>_{3,})|(?P<broken>[\uFFFD\uD800-\uDFFF]+)",
    re.IGNORECASE,
)


def clean(answer: str, on_paper: str) -> str:
    """The transcription inside an answer.

    Args:
        answer: as it came from the model.
        on_paper: the OCR's reading, or "" when there is none; what it begins with is never taken for wrapping.

    >>> clean("纸上写着“明天开会”。<|endoftext|>", on_paper="明天开会")
    '明天开会'
    >>> clean("纸上写着“明天开会”", on_paper="纸上写着明天开会")
    '纸上写着“明天开会”'
    """
    return _mark_gaps(_unwrap(unpack(answer, on_paper), on_paper), on_paper)


def unpack(answer: str, on_paper: str = "", markup: bool = True) -> str:
    """An answer without thoughts, control tokens, box, fence and, with `markup`, the JSON or HTML around its text.

    >>> unpack('```json {"text": "Napa 500"} ```')
    'Napa 500'
    """
    text = _TRAILING_TOKENS.sub("", _THOUGHT.sub("", answer, count=1))
    boxes = _BOX.findall(text)
    if len(boxes) == 1:
        text = boxes[0]
    elif not boxes:
        text = _LEADING_TOKENS.sub("", text)
    fence = _FENCE.match(text)
    text = (fence.group(1) if fence else text).strip()
    if not markup or on_paper.lstrip()[:1] in ("{", "[", "<"):
        return text
    return _from_html(_from_json(text))


def _from_json(text: str) -> str:
    """The texts in a JSON object or array, one a row; any other text as it is."""
    if not text.startswith(("{", "[")):
        return text
    try:
        found = _texts(json.loads(text))
    except (ValueError, RecursionError):
        return text
    return "\n".join(found) if found else text


def _texts(value: object) -> list[str]:
    """Strings in a JSON value, in order; empty when it holds anything else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        parts = [_texts(item) for item in value]
        return [text for part in parts for text in part] if all(parts) else []
    if isinstance(value, dict):
        named = [value[key] for key in _TEXT_KEYS if key in value]
        return _texts(named[0] if named else next(iter(value.values()))) if named or len(value) == 1 else []
    return []


def _from_html(text: str) -> str:
    """The text of an answer in HTML, a row per block; any other text as it is."""
    if not _HTML.search(text):
        return text
    rows = _TAG.sub("", _CELL_TAG.sub(" ", _ROW_TAG.sub("\n", text))).splitlines()
    return "\n".join(html.unescape(" ".join(row.split())) for row in rows if row.strip())


def begins_on_paper(words: str, on_paper: str) -> bool:
    """Whether the OCR's reading begins with about these words, so that the writer may have written them."""
    return bool(on_paper) and fuzz.ratio(_plain(words), _plain(on_paper)[: len(_plain(words))]) >= ON_PAPER


def _plain(text: str) -> str:
    """Lower case without white space, for comparing what two readers saw."""
    return "".join(text.lower().split())


def _unwrap(text: str, on_paper: str) -> str:
    """Take off one descriptive wrapper."""
    for wrapper in _WRAPPERS:
        match = wrapper.match(text)
        if match and not begins_on_paper(match["words"], on_paper):
            inner = (match["text"] or match["quoted"]).strip()
            return _unquote(inner)
    return text


def _unquote(text: str) -> str:
    """Take the quotation marks off a wrapped text; a full stop after them belongs to the wrapper."""
    closing = _QUOTES.get(text[:1])
    if closing is None:
        return text
    for tail in ("", "。", "."):
        body = text.removesuffix(tail)
        if len(body) >= 2 and body.endswith(closing):
            return body[1:-1].strip()
    return text


def _mark_gaps(text: str, on_paper: str) -> str:
    """Write every mark for "can't be read" as `□`, one per character where the mark says how many."""

    def gap(match: re.Match[str]) -> str:
        # A blank to be filled in, or a bracketed question mark, may be ink: then the OCR saw it too.
        if match.group(0) in on_paper:
            return match.group(0)
        return GAP * int(match["count"] or len(match["unsure"] or match["broken"] or "."))

    return _MARK.sub(gap, text)
