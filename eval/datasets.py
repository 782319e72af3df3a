"""Splits: a TSV with header `image text writer note`, image paths relative to its folder.

Knows files and normalisations; knows no engine. Every normalisation has a name and is named in every report.

Which rows count, and why:

    RxHandBD test   the publisher's labels are shifted from P0021 to P0081 and wrong in many other places. Only rows whose label
                    was confirmed on the picture count: the 146 of `dev`. A figure over the whole test part measures its labels
    RxHandBD train  labels as published, noisy (case, spelling, "tab" as "Tablet"): readers learn from it, no figure does
    BD words        notes name copies (`has-exact-duplicate`), pictures with two labels (`conflicting-duplicate-label`) and
                    pictures of dev ink (`near-duplicate-of-a-dev-image`): `fit` and `calibrate` leave all three out (`skip_notes`)
    pages           labels by one reader, order of lines unsure: words are counted in any order (`metrics.bags`)

`python -m eval labels SPLIT` finds rows of any split that deserve such a look; see `labels`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusion.errors import InputError


@dataclass(frozen=True, slots=True)
class Item:
    """One row: an image, what is written on it (line breaks as real ones), by whom ("" unknown), and remarks."""

    image: str
    path: Path
    reference: str
    note: str
    writer: str = ""


def load_split(path: Path) -> list[Item]:
    r"""Read a split. Page splits write a line break as the two characters `\n`.

    Raises:
        InputError: missing file, wrong header, row without an image.
    """
    try:
        rows = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"can't be read ({error})", "Check the path of the split; it is UTF-8.") from error
    if not rows or rows[0].split("\t")[:2] != ["image", "text"]:
        raise InputError(path, "is not a split", "Its header is: image, text, writer, note (tab-separated).")
    items = []
    for number, row in enumerate(rows[1:], 2):
        cells = row.split("\t")
        if len(cells) < 2 or not cells[0]:
            raise InputError(f"{path}:{number}", "has no image and text", "Mend the row.")
        writer, note = (cells[n] if len(cells) > n else "" for n in (2, 3))
        items.append(Item(cells[0], path.parent / cells[0], cells[1].replace("\\n", "\n"), note, writer))
    return items


def clusters_of(items: list[Item]) -> list[str]:
    """What errs alike: the writer, of several; else the word, if words occur again and again; else each item by itself."""
    words = {item.reference for item in items}
    if len({item.writer for item in items}) > 1:
        return [item.writer or item.image for item in items]
    return [item.reference if 2 * len(words) < len(items) else item.image for item in items]


def names_of(items: list[Item]) -> list[str]:
    """Distinct texts of a split, as a formulary."""
    return sorted({item.reference for item in items})


def plain(text: str) -> str:
    """NFC, runs of white space (line breaks too) become one space; case and punctuation count."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def letters(text: str) -> str:
    """Lower-case ASCII letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def han(text: str) -> str:
    """NFKC without punctuation, separators and controls; symbols such as = and ÷ stay."""
    return "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c)[0] not in "PZC")


def arithmetic(text: str) -> str:
    """NFKC without white space; dashes are minus, and x, X or * between two digits is ×."""
    squeezed = "".join(unicodedata.normalize("NFKC", text).split())
    squeezed = re.sub("[−–—]", "-", squeezed).replace("∗", "*")
    squeezed = re.sub("[⋅•∙・]", "·", squeezed)
    return re.sub(r"(?<=\d)[xX*](?=\d)", "×", squeezed)


Normalisation = Literal["plain", "letters", "han", "arithmetic"]
NORMALISATIONS: dict[Normalisation, Callable[[str], str]] = {
    "plain": plain,
    "letters": letters,
    "han": han,
    "arithmetic": arithmetic,
}
