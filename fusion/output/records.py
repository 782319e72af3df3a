"""Pages as JSON: writing, reading back with validation, and the schema, all derived from the dataclasses of `page.py`.

Knows that the record is one JSON object in UTF-8 that names its schema version. Does not know what the fields mean: no
field is named here except `schema`, so a new field in `page.py` is in the record and in the schema at once.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fusion.errors import InputError
from fusion.page import SCHEMA, Page

_SHOWN = 5
"""Most problems listed in one message: a wrong file has hundreds, and the first ones say what it is."""


@cache
def _adapter() -> TypeAdapter[Page]:
    return TypeAdapter(Page)


def dump_page(page: Page) -> str:
    """A page as JSON: keys in the order of the dataclasses, text as itself, not escaped.

    Raises:
        ValueError: a number is infinite or not a number. JSON has no sign for that; null would mean "unknown".
    """
    return json.dumps(_adapter().dump_python(page), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def load_page(text: str | bytes, *, name: str = "page record") -> Page:
    """Read a page back and check it: every type, every range, every invariant of the model, no unknown key.

    Args:
        text: what `dump_page` wrote.
        name: what the message calls the input, e.g. the file name.

    Raises:
        InputError: with the problems and where they are. It quotes nothing of the page's own text.
    """
    _check_schema(text, name)
    try:
        return _adapter().validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'record'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        ]
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            name,
            f"is not a valid page record ({'; '.join(problems[:_SHOWN])}{more})",
            "Give a file that `fusion` wrote, unedited, or mend the named places.",
        ) from error


def _check_schema(text: str | bytes, name: str) -> None:
    """A record of another version must not be half understood, and one without a version is not ours."""
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            name, f"is not JSON ({error})", "Give the .json file of a page; it may be cut off or another format."
        ) from error
    found = record.get("schema") if isinstance(record, dict) else None
    if found != SCHEMA:
        raise InputError(
            name,
            f"has schema {found!r}; this version reads {SCHEMA!r}" if found else f"names no schema {SCHEMA!r}",
            "Give a page record, or read the photograph again with this version.",
        )


def page_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what `dump_page` writes."""
    schema = _adapter().json_schema(mode="serialization")
    for definition in (schema, *schema.get("$defs", {}).values()):
        if definition.get("type") == "object" and "properties" in definition:
            definition["additionalProperties"] = False  # load_page refuses unknown keys; the schema says so too
    schema["properties"]["schema"]["const"] = SCHEMA
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
