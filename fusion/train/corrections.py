"""Corrections: crops with their right texts, as a JSONL file that a person or a program has written.

Knows the file; opens no image and knows no model.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

from fusion.errors import InputError

STRETCHES = (0.1, 10.0)
"""Least and greatest factor of a crop's width: no writing is squashed more than that."""
HELD_OUT = 0.1
"""Share of the corrections that is kept out, to see what the rest has taught."""


def read_rows(path: Path) -> list[tuple[Path, str, float]]:
    """Image, text and stretch of every row.

    Each row is `{"image": "crop.png", "text": "what it says"}`, the image relative to the file; `stretch` widens a
    squashed crop. Texts are NFC, without white space around them, and may be empty.

    Raises:
        InputError: names the row and what is wrong with it.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"can't be read ({error})", "Give a JSONL file in UTF-8.") from error
    rows = []
    for number, row in enumerate(content.split("\n"), 1):  # JSON may hold what else `splitlines` takes for an end
        if not row.strip():
            continue
        try:
            item = json.loads(row)
            image, text, stretch = item["image"], item["text"], float(item.get("stretch", 1.0))
            if not (isinstance(image, str) and isinstance(text, str)):
                raise TypeError("image and text are strings")
            if not STRETCHES[0] <= stretch <= STRETCHES[1]:
                raise ValueError("stretch is between {:g} and {:g}".format(*STRETCHES))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            way = 'Each row is {"image": "crop.png", "text": "what it says"}.'
            raise InputError(f"{path}:{number}", f"is no correction ({type(error).__name__}: {error})", way) from error
        rows.append((path.parent / image, unicodedata.normalize("NFC", text).strip(), stretch))
    return rows
