"""Medications of a prescription, and checks for a pharmacist.

The checks follow the list of error-prone abbreviations of the Institute for Safe Medication Practices (ISMP); the text is
never changed. Patient data are not looked for.
"""

from __future__ import annotations

import csv
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import regex

from fusion.domain import sig
from fusion.domain.places import field_at
from fusion.errors import InputError
from fusion.page import Check, Field, Line, Page, Place, Record
from fusion.placement import extent, overlap

_NUMBERING = regex.compile(r"^\s*(?P<item>\(?\d{1,2}\s*[.、)）:]|[①-⑳])(?!\d)\s*")
_HEADER = regex.compile(
    r"^\s*(?:(?:dr|name|age|sex|date|address|tel|phone|reg|patient|clinic|hospital|diagnosis|dx)\b|mbbs|(?:rx|r/|℞)\W*$|"
    r"姓名|性别|年龄|科别|科室|日期|医院|诊断|医师|电话|住址|处方|门诊)",
    regex.IGNORECASE,
)
_PREFIX = regex.compile(
    r"^\s*(?:(?:tab|cap|inj|syp|syr|susp|oint|drop|cream|gel|supp)s?\b\.?|[TC]\.)\s*", regex.IGNORECASE
)
_RX = regex.compile(r"^\s*(?:rx\b|r/|℞)[\s:.]*", regex.IGNORECASE)
_SHORT = regex.compile(r"[TC]\.", regex.IGNORECASE)
"""A form as one letter before the name: tablet, capsule."""
_ASIDE = regex.compile(
    r"^\s*(?:"
    r"(?:bp|wt|ht|pulse|temp|pr|hr|rr|spo2|bmi|hb|hba1c|fbs|rbs|ppbs|tsh|wbc|esr|crp|hct|plt|bun|s\.?\s?cr)\b\.?\s*[:=]?\s*\d"
    r"|[tp]\s*[:=]\s*\d"
    r"|(?:c[/l]o|co(?!-)|k/c/o|h/o|o/e|s/p|complain\w*|history)\b"
    r"|(?:review|follow.?up|f/u|next visit|see (?:me|again)|come back|r/v)\b"
    r"|(?:refills?|label|signature|substitut\w*|dispense as written|daw|generic|void|allerg(?:y|ies|ic))\b"
    r"|体温|血压|脉搏|呼吸|主诉|复诊|复查|过敏|身高|体重)",
    regex.IGNORECASE,
)
"""Vitals, lab values, complaints, review dates, and what is printed on a pad: text beside the drugs, part of none."""
_CONCENTRATION = regex.compile(r"\d\s*(?:[mµμ]?(?:g|mol)|iu|u)\s*/\s*(?:dl|l)\b|\d\s*mmhg\b", regex.IGNORECASE)
"""Units in which laboratories measure and nobody doses."""
PRINT, HAND = 0.9, 0.5
"""Probabilities of print from which a line surely is print, and below which it is handwriting."""
BELONGS = 2.0
"""Greatest white space between a line of directions and its drug's last line, in heights of the line."""
_DRUG = regex.compile(r"\p{L}[\p{L}\p{Pd}']*(?:[ ]\p{L}[\p{L}\p{Pd}']{2,})*(?:\s?\d{1,4}(?=\s*$))?")
_HAN_DRUG = regex.compile(r"\p{Han}{2,}")
R = TypeVar("R")
_EDGE = regex.compile(r"[\p{Latin}\p{N}]")
_MASS = {"mcg": 1e-3, "mg": 1.0, "g": 1e3}
"""Milligrams per unit."""


@dataclass(frozen=True, slots=True)
class Range:
    """Usual single doses of a drug, in `unit`."""

    drug: str
    low: float
    high: float
    unit: str


@dataclass(frozen=True, slots=True)
class Lookalike:
    """A name, as it is found in a line, and the names that it is taken for."""

    name: regex.Pattern[str]
    others: tuple[str, ...]


def read_ranges(path: Path) -> tuple[Range, ...]:
    """Ranges from a CSV with the columns drug, low, high, unit.

    Raises:
        InputError: the file can't be read, a column is missing, or a row (named) is no range.
    """
    way = "Write CSV with the columns drug, low, high, unit; e.g. amoxicillin,250,1000,mg."
    found = []
    for number, row in enumerate(_rows(path, csv.DictReader, way), 2):
        try:
            one = Range(row["drug"].strip(), float(row["low"]), float(row["high"]), row["unit"].strip().casefold())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(path, f"row {number} is no range ({type(error).__name__})", way) from error
        if not (one.drug and 0 <= one.low <= one.high < float("inf")):
            raise InputError(path, f"row {number} is no range", way)
        found.append(one)
    return tuple(found)


def read_lookalikes(path: Path) -> tuple[Lookalike, ...]:
    """Names that are taken for each other, from a CSV with such names in each row.

    Raises:
        InputError: the file can't be read, or a row (named) has fewer than two names.
    """
    way = "Write CSV without a header, names that are taken for each other in each row; e.g. Losec,Lasix."
    others: dict[str, list[str]] = {}
    for number, row in enumerate(_rows(path, csv.reader, way), 1):
        names = [unicodedata.normalize("NFC", name.strip()) for name in row if name.strip()]
        if len(names) == 1:
            raise InputError(path, f"row {number} has one name", way)
        for name in names:
            known = others.setdefault(name, [])
            known += (other for other in names if other != name and other not in known)
    return tuple(Lookalike(_as_written(name), tuple(names)) for name, names in others.items())


def _as_written(name: str) -> regex.Pattern[str]:
    """A name in any case; a Latin letter or digit at its edge must also end a word."""
    edges = [r"(?<![\p{Latin}\p{N}])", r"(?![\p{Latin}\p{N}])"]
    before, after = (edge if _EDGE.fullmatch(end) else "" for edge, end in zip(edges, (name[0], name[-1]), strict=True))
    return regex.compile(before + regex.escape(name) + after, regex.IGNORECASE | regex.FULLCASE)


def _rows(path: Path, reader: Callable[..., Iterable[R]], way: str) -> list[R]:
    """The rows of a CSV file; an InputError with the way out if it can't be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"can't be read ({type(error).__name__})", way) from error


def medications(page: Page, known: Callable[[str], bool]) -> tuple[Record, ...]:
    """Drugs with strength, dose and directions, in reading order; `known` says whether a word is a listed name.

    A medication begins with a numbered line, a form, a listed name, or a word with a strength. A line below belongs to it
    if it holds directions and stands close to it; vitals, complaints, review dates and what is printed on the pad don't,
    whether by its words or by its letters.
    """
    records: list[list[Field]] = []
    drug = last = None
    for line in page.lines:
        text = line.text
        if not text.strip():
            continue
        if _beside_the_drugs(text):
            last = None
            continue
        parts = sig.parse(text)
        name = _drug(text, parts, known)
        if name is None and len(page.lines) == 1 and len(text.split()) == 1 and text.isalpha():
            name = (0, len(text))  # a word that was cut out
        if name is not None:
            number = _NUMBERING.match(text)
            item = [field_at("item", [(line, number.start("item"), number.end("item"))])] if number else []
            records.append([field_at("drug", [(line, *name)]), *item])
            drug = line
        elif last is None or not parts or _gap(last, line, page.angle) > BELONGS:
            last = None if parts else last
            continue
        elif _of_the_pad(line, drug):
            continue
        records[-1] += _fields(line, parts, name)
        last = line
    return tuple(Record("medication", tuple(fields)) for fields in records)


def _beside_the_drugs(text: str) -> bool:
    """Whether a line is about the patient, the visit or the pad."""
    return any(pattern.search(text) for pattern in (_HEADER, _ASIDE, _CONCENTRATION))


def _of_the_pad(line: Line, drug: Line | None) -> bool:
    """Whether a line is surely print while the drug's is handwriting."""
    return (
        drug is not None
        and drug.printed is not None
        and drug.printed < HAND
        and line.printed is not None
        and line.printed >= PRINT
    )


def _gap(above: Line, below: Line, angle: float) -> float:
    """White space between two lines of a column, in heights of the lower one; infinite where they share no column."""
    upper, lower = extent(above.polygon, angle), extent(below.polygon, angle)
    height = max(lower[3] - lower[1], 1.0)
    beside = lower[1] < upper[3] - height / 2
    return -overlap(upper, lower, 1) / height if overlap(upper, lower, 0) > 0 or beside else float("inf")


def _drug(text: str, parts: Sequence[sig.Part], known: Callable[[str], bool]) -> tuple[int, int] | None:
    """Code points of the drug's name; None when the line begins no medication."""
    numbered, recipe = _NUMBERING.match(text), _RX.match(text)
    start = numbered.end() if numbered else recipe.end() if recipe else 0
    prefixed = _PREFIX.match(text[start:])
    start += prefixed.end() if prefixed else 0
    end = next((part.start for part in parts if part.start >= start and part.name != "form"), len(text))
    if parts and parts[0].start <= start < parts[0].end and parts[0].name != "form":
        return None  # directions come first: no drug
    match = _DRUG.match(text[start:end]) or _HAN_DRUG.match(text[start:end])
    if match is None:
        return None
    left, right = start, start + match.end()
    for part in parts:  # 阿莫西林胶囊: the form is a field of its own
        if part.name == "form" and left < part.start < right:
            right = part.start
    right = left + len(text[left:right].rstrip())
    strength = any(part.name == "strength" and part.start >= right for part in parts)
    words = [text[left:right], *text[left:right].split()]
    listed = any(known(word) for word in words)
    letter = right - left == 1 and text[left:right].isascii()
    if (letter or set(map(str.casefold, words)) <= sig.terms()) and not (listed or numbered or prefixed):
        return None  # S. 5 ml, da 100 ml
    alone = len(words) <= 3 and right >= len(text.rstrip()) and (numbered or prefixed)
    return (left, right) if right > left and (listed or strength or alone or (prefixed and parts)) else None


def _fields(line: Line, parts: Sequence[sig.Part], name: tuple[int, int] | None) -> list[Field]:
    """The fields of a line; words that were not understood are kept as `text`."""
    text = line.text
    directions = any(part.name in ("frequency", "when", "as_needed") for part in parts)
    found = []
    for part in parts:
        kind = "dose" if part.name == "strength" and name is None and directions else part.name
        found.append(field_at(kind, [(line, part.start, part.end)], part.value))
    lead = _NUMBERING.match(text)
    start = lead.end() if lead else 0
    short = _SHORT.match(text, start) if name is not None else None
    if short is not None:
        unit = {"T": "tablet", "C": "capsule"}[short[0][0].upper()]
        found.append(field_at("form", [(line, *short.span())], {"unit": unit}))
    understood = [(0, short.end() if short else start), *([name] if name else []), *((p.start, p.end) for p in parts)]
    rest = text
    for start, end in understood:
        rest = rest[:start] + " " * (end - start) + rest[end:]
    for match in regex.finditer(r"\S*[\p{L}\p{N}]\S*(?:\s\S+)*?(?=\s{2,}|\s*$)", rest):
        if match[0].strip().casefold() not in sig.terms():
            found.append(field_at("text", [(line, match.start(), match.end())]))
    return found


# --- checks ---------------------------------------------------------------------------------------------------------

_PATTERNS = (
    ("abbreviation_unit", r"(?<=\d\s?)(?:IU|U|u)(?![A-Za-z])", "is taken for 0, 4 or cc: write “units”"),
    (
        "abbreviation_daily",
        r"(?i)(?<![A-Za-z.])(?:Q\.?D|O\.?D)(?![A-Za-z])\.?",
        "is taken for QID or the right eye: write “daily”",
    ),
    (
        "abbreviation_other_day",
        r"(?i)(?<![A-Za-z.])Q\.?O\.?D(?![A-Za-z])\.?",
        "is taken for daily: write “every other day”",
    ),
    ("abbreviation_microgram", r"(?<=\d\s?)(?:[μµ]g|ug)(?![A-Za-z])", "is taken for mg: write “mcg”"),
    ("abbreviation_cc", r"(?<=\d\s?)cc(?![A-Za-z])", "is taken for units: write “mL”"),
    (
        "abbreviation_morphine",
        r"(?<![A-Za-z])(?:MSO4|MgSO4|MS)(?![A-Za-z])",
        "morphine and magnesium sulfate are taken for each other",
    ),
    ("abbreviation_half_strength", r"(?<![A-Za-z])HS(?![A-Za-z])", "means half-strength and bedtime"),
    ("abbreviation_subcutaneous", r"(?<![A-Za-z])SC(?![A-Za-z])", "is taken for SL: write “subcut”"),
    ("trailing_zero", r"(?<![\d.])\d+\.0+(?!\d)", "the point is overlooked and the dose is tenfold"),
    (
        "run_together",
        r"(?<![\d+–-])[0-3½](?:\s?\+\s?[0-3½]){1,2}\d{1,2}(?![\d+])"
        r"|(?<![\d+–-])[0-3½](?:\s?[–-]\s?[0-3½]){2}\d{1,2}(?=\s?(?:days?|d|weeks?|months?|天|日|周)(?!\p{L}))",
        "may be two numbers run together: 1+0+1 and 7",
    ),
    ("naked_decimal", r"(?<![\d.])\.\d+", "the point is overlooked: write a zero before it"),
    (
        "letter_in_number",
        r"(?<![A-Za-z\d])(?=[\dOolI|]*[OolI|])(?=[\dOolI|]*\d)[\dOolI|]{2,}(?=\s?(?:mg|g|ml|mcg|tab|cap|片|粒|\s|$))",
        "holds a letter that looks like a digit",
    ),
    (
        "letter_for_number",
        r"(?<![A-Za-z\d])[lI|O](?=\s(?:tab|cap|ml|mg|drop|puff|amp|vial)s?\b)",
        "is a letter and may be a number",
    ),
)
"""Kind of check, pattern, and what the message says of the match."""


def checks(
    page: Page,
    records: Sequence[Record],
    known: Callable[[str], bool],
    *,
    ranges: Sequence[Range],
    lookalikes: Sequence[Lookalike],
    most_drugs: int,
) -> tuple[Check, ...]:
    """Checks of a page with its medications; `known` says whether a word is a listed name."""
    found: list[Check] = []
    for line in page.lines:
        for kind, pattern, why in _PATTERNS:
            for match in regex.finditer(pattern, line.text):
                found.append(Check(kind, f"“{match[0].strip()}” {why}", (Place(line.id, *match.span()),)))
    word = [len(line.text.split()) for line in page.lines] == [1]  # a word that was cut out has no dose
    for record in records:
        found += ([] if word else _incomplete(record)) + _unlisted(record, known) + _out_of_range(record, ranges)
    found += _unplaced(page, records) + _missing_items(records) + _looking_alike(page, lookalikes)
    if len(records) > most_drugs:
        found.append(Check("many_drugs", f"{len(records)} drugs, more than {most_drugs}", review=False))
    return tuple(found)


def _unplaced(page: Page, records: Sequence[Record]) -> list[Check]:
    """Directions from the first drug on that were given to no drug: by their place, or since they are printed."""
    placed = {place.line for record in records for place in record.places}
    below = list(itertools.dropwhile(lambda line: records and line.id not in placed, page.lines))
    return [
        Check("unplaced", f"“{line.text}” was given to no drug", (Place(line.id, 0, len(line.text)),))
        for line in below
        if len(page.lines) > 1 and line.id not in placed and not _beside_the_drugs(line.text)
        if any(part.name in ("strength", "dose", "frequency") for part in sig.parse(line.text))
    ]


def _missing_items(records: Sequence[Record]) -> list[Check]:
    """Numbers that the written count of items leaves out: a drug that was not read, or read as part of another."""
    numbered = [(field, unicodedata.normalize("NFKC", field.text)) for r in records if (field := r.get("item"))]
    values = [(field, int(digits[0])) for field, text in numbered if (digits := regex.search(r"\d+", text))]
    return [
        Check("missing_item", f"after item {own} comes item {after}", field.places)
        for (_, own), (field, after) in itertools.pairwise(values)
        if own + 1 < after <= own + 5
    ]


def _looking_alike(page: Page, lookalikes: Sequence[Lookalike]) -> list[Check]:
    """Names of the site's own list of look-alikes, with what they are taken for."""
    found = []
    for line in page.lines:
        for one in lookalikes:
            for match in one.name.finditer(line.text):
                message = f"“{match[0]}” may be taken for {', '.join(one.others)}"
                found.append(Check("look_alike", message, (Place(line.id, *match.span()),)))
    return found


def _incomplete(record: Record) -> list[Check]:
    """Missing and unparsed doses and frequencies."""
    drug = record.get("drug")
    assert drug is not None
    directions = {
        "dose": record.get("dose"),
        "frequency": record.get("frequency") or record.get("when") or record.get("as_needed"),
    }
    found = []
    for name, field in directions.items():
        if field is None:
            found.append(Check(f"missing_{name}", f"no {name} is written for {drug.text}", drug.places, review=False))
        elif not field.value:
            found.append(Check(f"unread_{name}", f"“{field.text}” could not be understood as a {name}", field.places))
    return found


def _unlisted(record: Record, known: Callable[[str], bool]) -> list[Check]:
    """Drugs that no list has: not for review, since no list is complete."""
    return [
        Check("unlisted_drug", f"“{field.text}” is in no list of drugs", field.places, review=False)
        for field in record.fields
        if field.name == "drug" and not any(known(word) for word in [field.text, *field.text.split()])
    ]


def _out_of_range(record: Record, ranges: Sequence[Range]) -> list[Check]:
    """Single doses outside the range of the drug, where both are known."""
    drug, strength, dose = record.get("drug"), record.get("strength"), record.get("dose")
    taken = _milligrams(strength, dose)
    found: list[Check] = []
    if drug is None or taken is None:
        return found
    for one in ranges:
        if one.drug.casefold() != drug.text.casefold() or one.unit not in _MASS:
            continue
        low, high = one.low * _MASS[one.unit], one.high * _MASS[one.unit]
        if not low <= taken <= high:
            message = f"a single dose of {drug.text} comes to {taken:g} mg, outside {low:g} to {high:g} mg"
            places = tuple(place for field in (strength, dose) if field is not None for place in field.places)
            found.append(Check("dose_out_of_range", message, places))
    return found


def _milligrams(strength: Field | None, dose: Field | None) -> float | None:
    """Mass of a single dose: as written, or strength times number of units, or strength per volume times volume."""
    given = dose.value if dose is not None else {}
    if given.get("unit") in _MASS:
        return float(given["value"]) * _MASS[str(given["unit"])]
    per = strength.value if strength is not None else {}
    if per.get("unit") not in _MASS or "value" not in given:
        return None
    mass = float(per["value"]) * _MASS[str(per["unit"])]
    if "per_unit" not in per:
        return mass * float(given["value"]) if given["unit"] in ("tablet", "capsule", "pill", "sachet") else None
    return mass / float(per["per_value"]) * float(given["value"]) if per["per_unit"] == given["unit"] else None
