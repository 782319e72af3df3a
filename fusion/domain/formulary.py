"""Lists of names as files."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path

from fusion.errors import InputError


def read_names(path: Path) -> list[str]:
    """Names of a formulary, UTF-8: one per line, # begins a comment line; or CSV with a column `name`.

    Raises:
        InputError: the file can't be read, is not UTF-8, is broken CSV, or holds no name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(path, f"can't be read ({error.strerror})", "Check domain.formulary.") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "is not UTF-8", "Save the formulary as UTF-8 text, one name a line.") from error
    names = _column(text, path) if path.suffix.lower() == ".csv" else _lines(text)
    if not any(character.isalnum() for name in names for character in name):
        raise InputError(path, "holds no name", "Write one name a line, or CSV with a column `name`.")
    return names


def packaged(name: str) -> list[str]:
    """Names of a list that ships, e.g. `drugs_en`; sources are in `lists/SOURCE.md`."""
    return _lines((files("fusion.domain") / "lists" / f"{name}.txt").read_text(encoding="utf-8"))


def drug_names() -> list[str]:
    """All packaged drug names in Latin script."""
    return packaged("drugs_rx") + packaged("drugs_en")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip() and not line.startswith("#")]


def _column(text: str, path: Path) -> list[str]:
    """The column `name`, else the only column."""
    try:
        header, *rows = [row for row in csv.reader(text.splitlines(), strict=True) if row] or [[]]
    except csv.Error as error:
        way = "Fix the file, or give one name a line as .txt."
        raise InputError(path, f"is not valid CSV ({error})", way) from error
    titles = [title.strip().casefold() for title in header]
    if "name" not in titles and len(titles) != 1:
        raise InputError(path, "has no column `name`", "Name the column in the first row.")
    place = titles.index("name") if "name" in titles else 0
    found = rows if "name" in titles else [header, *rows]
    return [row[place].strip() for row in found if len(row) > place and row[place].strip()]
