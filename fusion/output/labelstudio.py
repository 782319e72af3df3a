"""Pages as tasks for Label Studio with what was read as predictions, and corrected tasks back.

A region is a line: its box, and its text as on the paper, gaps as `□`. Sources and alternatives stand in the region's notes, where
an annotator sees them. The interface that shows them is `INTERFACE`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from fusion.output.edits import SEEN, Edited, seen
from fusion.output.marks import alternatives, visible
from fusion.output.units import corners, made_by
from fusion.page import Line, Page, Span
from fusion.review import review

INTERFACE = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <Labels name="label" toName="image">
    <Label value="sure" background="#1a7f37"/><Label value="look" background="#c11f2d"/>
  </Labels>
  <Rectangle name="box" toName="image" strokeWidth="2"/>
  <TextArea name="transcription" toName="image" editable="true" perRegion="true" maxSubmissions="1" displayMode="region-list"/>
</View>"""
"""Labelling interface for these tasks: `look` is on the review list, `sure` is not."""
Json = dict[str, Any]


def tasks(pages: Iterable[Page]) -> str:
    """A JSON list, one task per page. The picture is looked for in the local storage under its file name."""
    made = [_task(page) for page in pages]
    return json.dumps(made, ensure_ascii=False, indent=1) + "\n"


def _task(page: Page) -> Json:
    flagged = {line for _, line in review(page, page.max_error).lines}
    result = [part for line in page.lines for part in _region(line, page, line.id in flagged)]
    known = [line.confidence for line in page.lines if line.confidence is not None]
    prediction = {"model_version": made_by(page), "score": min(known, default=0.0), "result": result}
    picture = f"/data/local-files/?d={PurePath(page.id).name}"
    return {"data": {"image": picture, **seen(page)}, "predictions": [prediction]}


def _region(line: Line, page: Page, flagged: bool) -> list[Json]:
    """Box, label and text of a line: three results with one id."""
    (x, y), (end, low), _, (left, bottom) = corners(line.polygon)
    box = {
        "x": _percent(x, page.width),
        "y": _percent(y, page.height),
        "width": _percent(math.hypot(end - x, low - y), page.width),
        "height": _percent(math.hypot(left - x, bottom - y), page.height),
        "rotation": math.degrees(math.atan2(low - y, end - x)) % 360,
    }
    common = {"id": line.id, "to_name": "image", "image_rotation": 0}
    common |= {"original_width": page.width, "original_height": page.height}
    if line.confidence is not None:
        common["score"] = line.confidence
    notes = [f"{span.diplomatic} {span.source} {span.because}{_others(span)}" for span in line.spans if _worth(span)]
    label = "look" if flagged else "sure"
    return [
        {**common, "type": "rectangle", "from_name": "box", "value": box, "meta": {"text": notes}},
        {**common, "type": "labels", "from_name": "label", "value": {**box, "labels": [label]}},
        {**common, "type": "textarea", "from_name": "transcription", "value": {**box, "text": [line.diplomatic]}},
    ]


def _percent(part: float, whole: int) -> float:
    """Per cent of the picture; Label Studio refuses what reaches out of it."""
    return min(max(100 * part / whole, 0.0), 100.0)


def _worth(span: Span) -> bool:
    return bool(span.alternatives) or span.source in ("supplied", "gap")


def _others(span: Span) -> str:
    supplied = f" supplied “{visible(span.text)}”" if span.source == "supplied" else ""
    return supplied + (f" or {alternatives(span.alternatives)}" if span.alternatives else "")


# --- the way back ------------------------------------------------------------------------------------------------------


def task_edits(task: Json) -> Edited | None:
    """A page of an export ("JSON", not "JSON-MIN") as its last annotator left it; None where there is none.

    Raises:
        ValueError: it is no such task, or one of another program.
    """
    try:
        seen = {name: str(task["data"][name]) for name in SEEN}
        annotated = task["annotations"]
        if not isinstance(annotated, list):
            raise TypeError("annotations are no list")
        done = [one for one in annotated if not one.get("was_cancelled")]
        if not done:
            return None
        last = max(done, key=lambda one: str(one.get("updated_at", "")))
        written = [part for part in last["result"] if part["type"] == "textarea"]
        texts = {str(part["id"]): _said(part["value"]["text"]) for part in written}
        if len(texts) < len(written):
            raise ValueError("has two texts for one line")
        who = last.get("completed_by", "")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is no annotated page of fusion ({type(error).__name__}: {error})") from error
    name = who.get("email", "") if isinstance(who, dict) else f"Label Studio user {who}"
    return Edited(seen, texts, f"{name}, {last.get('updated_at', '')}".strip(", "))


def _said(text: object) -> str:
    """The text of a text area: a list of strings, of some exports a string."""
    if isinstance(text, str):
        return text
    if isinstance(text, list) and all(isinstance(one, str) for one in text):
        return " ".join(text)
    raise TypeError("a text is no string")
