"""Pages as JSON: writing, reading back with validation, and the schema, all derived from the dataclasses of `page.py`.

A record is one JSON object in UTF-8 that names its schema version. Beside the fields of the dataclasses each line has its
`text`, its `confidence`, and whether it needs a look (`review`). They follow from the spans, and are ignored when a record
is read back.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fusion.errors import InputError
from fusion.page import SCHEMA, Page
from fusion.review import review

DERIVED = {
    "text": {"title": "Text", "type": "string", "description": "The transcript of the line."},
    "confidence": {
        "title": "Confidence",
        "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}],
        "description": "Lowest confidence of its spans; null when unknown.",
    },
    "review": {
        "title": "Review",
        "type": "boolean",
        "description": "Whether a person must look at it, at the page's max_error.",
    },
}
"""Keys of a line that follow from its spans, with their schema."""
_SPACE = re.compile(r"\s*")
_SHOWN = 5
"""Most problems listed in one message."""


@cache
def _adapter() -> TypeAdapter[Page]:
    return TypeAdapter(Page)


def page_dict(page: Page) -> dict[str, Any]:
    """A page as JSON values: keys in the order of the dataclasses, the derived ones of a line after its id."""
    record: dict[str, Any] = _adapter().dump_python(page, mode="json")
    flagged = {line for _, line in review(page, page.max_error).lines}
    record["lines"] = [
        {"id": line.id, "text": line.text, "confidence": line.confidence, "review": line.id in flagged, **stored}
        for line, stored in zip(page.lines, record["lines"], strict=True)
    ]
    return record


def page_of(record: Any, *, name: str = "page record") -> Page:
    """Read a page back and check it: every type, every range, every invariant of the model, no unknown key.

    Args:
        record: what `page_dict` made.
        name: what the message calls the input, e.g. the file name.

    Raises:
        InputError: with the problems and where they are. It quotes nothing of the page's own text.
    """
    found = record.get("schema") if isinstance(record, dict) else None
    if found != SCHEMA:
        problem = f"has schema {found!r}; this version reads {SCHEMA!r}" if found else f"names no schema {SCHEMA!r}"
        raise InputError(name, problem, "Give a page record, or read the photograph again with this version.")
    if isinstance(record.get("lines"), list):
        record = {**record, "lines": [_without_derived(line) for line in record["lines"]]}
    try:
        return _adapter().validate_json(json.dumps(record, allow_nan=False), strict=True, extra="forbid")
    except ValidationError as error:
        items = error.errors(include_input=False, include_url=False)
        problems = [f"{'.'.join(map(str, item['loc'])) or 'record'}: {item['msg']}" for item in items]
    except (RecursionError, TypeError, ValueError):
        problems = ["it holds a number that is not finite, or no JSON value"]
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise InputError(
        name,
        f"is not a valid page record ({'; '.join(problems[:_SHOWN])}{more})",
        "Give a file that `fusion` wrote, unedited, or correct the named places.",
    )


def _without_derived(line: Any) -> Any:
    return {key: value for key, value in line.items() if key not in DERIVED} if isinstance(line, dict) else line


def dump_page(page: Page) -> str:
    """A page as one row of JSON with a line break, text as itself, not escaped.

    Raises:
        ValueError: a number is infinite or not a number, which JSON can't say.
    """
    return json.dumps(page_dict(page), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def load_page(text: str | bytes, *, name: str = "page record") -> Page:
    """What `dump_page` wrote; see `page_of`.

    Raises:
        InputError: it is no JSON, or no page record.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        way = "Give the .json file of a page; it may be cut off or another format."
        raise InputError(name, f"is not JSON ({error})", way) from error
    return page_of(record, name=name)


def load_pages(path: Path) -> list[Page]:
    """The pages of a file: records one after the other, a row each or laid out in any way.

    Raises:
        InputError: it can't be read, or something in it is no page record.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        missing = isinstance(error, FileNotFoundError)
        problem = "does not exist" if missing else f"can't be read as UTF-8 text ({type(error).__name__})"
        raise InputError(path, problem, "Give the .json file of a page.") from error
    decoder, end, at = json.JSONDecoder(), len(text.rstrip()), 0
    found = []
    while at < end:
        try:
            record, at = decoder.raw_decode(text, _SPACE.match(text, at).end())  # type: ignore[union-attr]
        except (ValueError, RecursionError) as error:
            way = "Give the .json file of a page; it may be cut off or another format."
            raise InputError(path, f"is not JSON ({error})", way) from error
        found.append(page_of(record, name=str(path)))
    if not found:
        raise InputError(path, "holds no page", "Give the .json file of a page.")
    return found


def page_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a page record."""
    schema = _adapter().json_schema(mode="serialization")
    for definition in (schema, *schema["$defs"].values()):
        if definition.get("type") == "object" and "properties" in definition:
            definition["additionalProperties"] = False  # unknown keys are refused; the schema says so too
    line = schema["$defs"]["Line"]
    line["properties"] |= DERIVED
    line["required"] = [*line["required"], *DERIVED]
    schema["properties"]["schema"]["const"] = SCHEMA
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
