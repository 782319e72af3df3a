"""Evidence as records that can be stored, loaded and decided on again; and a folder of records, found by content.

A record is named by what it was made from: the bytes of its input, the settings of its stage and the identity of its
model. A store may be deleted at any time. Records are npz files: arrays as they are, the rest as JSON. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, FiniteFloat, PositiveInt, TypeAdapter

from fusion.ctc import Posterior, Views
from fusion.errors import InputError
from fusion.ink import Evidence, Ink, InkLine, Seen
from fusion.page import Check, Failure, Finding, Reading

FORMAT = "fusion.evidence/3"
T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
_Name = Annotated[str, Field(min_length=1)]
_PAGE = {
    "id": _Name,
    "sha256": str,
    "width": PositiveInt,
    "height": PositiveInt,
    "angle": FiniteFloat,
    "findings": tuple[Finding, ...],
    "checks": tuple[Check, ...],
    "failures": tuple[Failure, ...],
    "identities": dict[str, str],
}
"""Fields of `Evidence` that are JSON values, with their types."""
_LINE = {
    "id": _Name,
    "polygon": tuple[tuple[FiniteFloat, FiniteFloat], ...],
    "reading": Reading | None,
    "failures": tuple[Failure, ...],
    "hand": Reading | None,
    "region": str,
    "printed": FiniteFloat | None,
    "struck": tuple[tuple[FiniteFloat, FiniteFloat], ...],
    "other_script": tuple[tuple[FiniteFloat, FiniteFloat], ...],
}
"""Fields of `InkLine` that are JSON values, with their types."""
_UNPACKING = (EOFError, NotImplementedError, OSError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)
_CONTENT = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
_DAMAGE = (*_UNPACKING, *_CONTENT, Image.DecompressionBombError)
"""What the libraries that unpack a record raise where its bytes were changed. pydantic's is a ValueError."""


class Store:
    """A folder of records. Processes may share it: a record is written whole or not at all, and always the same."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is made when the first record is written; None keeps nothing."""
        self._folder = folder
        self.found = 0
        """Records that were there when they were asked for."""

    def recall(
        self,
        key: str,
        load: Callable[[bytes], T],
        make: Callable[[], T],
        dump: Callable[[T], bytes],
        worth: Callable[[T], bool] = lambda made: True,
    ) -> T:
        """The record of a key; where there is none, or none that can be read, it is made, and kept if it is worth it."""
        if self._folder is None:
            return make()
        path = self._folder / key[:2] / key
        try:
            loaded = load(path.read_bytes())
        except (OSError, InputError):
            made = make()
        else:
            self.found += 1
            return loaded
        if worth(made):
            with suppress(ValueError):  # the look of a plug-in has no form to be stored in
                _write(path, dump(made))
        return made


def key_of(**parts: object) -> str:
    """The name of a record: SHA-256 over what it was made from, JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; a store that can't be written costs time, never a result."""
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)  # other users of a shared store may read it
        os.replace(name, path)
    except OSError:
        if name:
            Path(name).unlink(missing_ok=True)


# --- records --------------------------------------------------------------------------------------------------------


def dump_evidence(evidence: Evidence) -> bytes:
    """All that was seen on a page as one npz file. A look that is not a CTC posterior can't be stored: ValueError."""
    head = {name: _plain(kind, getattr(evidence, name)) for name, kind in _PAGE.items()}
    return _pack(head, evidence.lines, {"transform": evidence.transform})


def load_evidence(content: bytes, *, name: str = "evidence record") -> Evidence:
    """What `dump_evidence` wrote.

    Raises:
        InputError: it is no such record, a broken one, or one that holds an impossible value.
    """
    try:
        head, lines, arrays = _unpack(content)
        fields = {field: _typed(kind, head[field]) for field, kind in _PAGE.items()}
        transform = np.asarray(arrays["transform"], dtype=np.float64)
        _require(transform.shape == (3, 3) and bool(np.isfinite(transform).all()), "the transform is no homography")
        return Evidence(**fields, transform=transform, lines=lines)
    except _DAMAGE as error:
        raise _broken(name, error) from error


def dump_lines(lines: Sequence[Seen]) -> bytes:
    """Lines alone, as a stage leaves them."""
    return _pack({}, lines, {})


def load_lines(content: bytes) -> tuple[Seen, ...]:
    """What `dump_lines` wrote; InputError for what is no such record."""
    try:
        return _unpack(content)[1]
    except _DAMAGE as error:
        raise _broken("record", error) from error


def _pack(head: dict[str, Any], lines: Sequence[Seen], arrays: Arrays) -> bytes:
    stored = [_line_out(seen, f"l{number}", arrays) for number, seen in enumerate(lines)]
    text = json.dumps({"format": FORMAT, **head, "lines": stored}, ensure_ascii=False, separators=(",", ":"))
    arrays["head"] = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _unpack(content: bytes) -> tuple[dict[str, Any], tuple[Seen, ...], Arrays]:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    text = arrays["head"].tobytes().decode("utf-8", "surrogatepass")
    head = json.loads(text, parse_constant=_number)
    _require(isinstance(head, dict) and head.get("format") == FORMAT, "the format is another one")
    lines = tuple(_line_in(line, f"l{number}", arrays) for number, line in enumerate(head["lines"]))
    _require(len({seen.line.id for seen in lines}) == len(lines), "two lines have one id")
    return head, lines, arrays


def _number(constant: str) -> float:
    _require(constant != "NaN", "a number is NaN")
    return float(constant)


def _line_out(seen: Seen, name: str, arrays: Arrays) -> dict[str, Any]:
    line = seen.line
    stream = io.BytesIO()
    Image.fromarray(line.crop).save(stream, "PNG", compress_level=1)
    arrays[f"{name}.crop"] = np.frombuffer(stream.getvalue(), dtype=np.uint8)
    return {
        **{field: _plain(kind, getattr(line, field)) for field, kind in _LINE.items()},
        "ink": _ink_out(line.ink, f"{name}.ink", arrays),
        "hand_ink": _ink_out(line.hand_ink, f"{name}.hand", arrays),
        "asked": seen.asked,
        "answers": [
            {"reading": _plain(Reading, one)} if isinstance(one, Reading) else {"failure": _plain(Failure, one)}
            for one in seen.answers
        ],
        "look": _ink_out(seen.look, f"{name}.look", arrays),
        "scores": dict(seen.scores),
    }


def _line_in(line: Mapping[str, Any], name: str, arrays: Arrays) -> Seen:
    crop = Image.open(io.BytesIO(arrays[f"{name}.crop"].tobytes()))
    _require(crop.mode == "RGB" and crop.width * crop.height < 2e8, "a crop is not RGB, or too large")
    answers = tuple(
        _typed(Reading, one["reading"]) if "reading" in one else _typed(Failure, one["failure"])
        for one in line["answers"]
    )
    return Seen(
        InkLine(
            **{field: _typed(kind, line[field]) for field, kind in _LINE.items()},
            crop=np.asarray(crop, dtype=np.uint8),
            ink=_ink_in(line["ink"], f"{name}.ink", arrays),
            hand_ink=_ink_in(line["hand_ink"], f"{name}.hand", arrays),
        ),
        _typed(bool, line["asked"]),
        answers,
        _ink_in(line["look"], f"{name}.look", arrays),
        _typed(dict[str, float], line["scores"]),
    )


def _ink_out(ink: Ink | None, name: str, arrays: Arrays) -> dict[str, Any] | None:
    """A look as its posteriors, each a table without its zeros (compressed sparse rows)."""
    if ink is None:
        return None
    if not isinstance(ink, Views):
        raise ValueError(f"a look of type {type(ink).__name__} can't be stored")
    parts = []
    for number, posterior in enumerate(ink.posteriors):
        table = posterior.probabilities
        rows, columns = np.nonzero(table)
        values = table[rows, columns]
        single = values.astype(np.float32)  # exact for what a network gave; a table made otherwise keeps its digits
        key = f"{name}.{number}"
        arrays[f"{key}.values"] = single if np.array_equal(single, values) else values
        arrays[f"{key}.columns"] = columns.astype(np.uint16)
        arrays[f"{key}.rows"] = np.bincount(rows, minlength=len(table)).astype(np.uint16)
        spells = None if posterior.spells is None else "".join(sorted(posterior.spells))
        known = {"spells": spells, "mute": "".join(sorted(posterior.mute))}
        parts.append({"alphabet": list(posterior.alphabet), "column_px": posterior.column_px, **known})
    return {"agree": ink.agree, "posteriors": parts}


def _ink_in(stored: Mapping[str, Any] | None, name: str, arrays: Arrays) -> Views | None:
    if stored is None:
        return None
    posteriors = []
    for number, part in enumerate(stored["posteriors"]):
        alphabet = _typed(tuple[str, ...], part["alphabet"])
        column_px, spells = _typed(FiniteFloat, part["column_px"]), _typed(str | None, part["spells"])
        values, columns, counts = (arrays[f"{name}.{number}.{key}"] for key in ("values", "columns", "rows"))
        _require(alphabet[0] == "" and column_px > 0, "a look has no blank or columns without width")
        _require(bool((columns >= 0).all()), "a column number is negative")
        table = np.zeros((len(counts), len(alphabet)))
        table[np.repeat(np.arange(len(counts)), counts), columns] = values
        _require(bool((table >= 0).all() and (table.sum(axis=1) < 1.001).all()), "a probability is not in [0, 1]")
        known = None if spells is None else frozenset(spells)
        posteriors.append(Posterior(table, alphabet, column_px, known, frozenset(_typed(str, part["mute"]))))
    return Views(tuple(posteriors), _typed(bool, stored["agree"]))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _broken(name: str, error: Exception) -> InputError:
    problem = str(error) if type(error) is ValueError else type(error).__name__  # others may quote the page
    return InputError(name, f"is no record of what was seen ({problem})", "Read the photograph again.")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _plain(kind: Any, value: Any) -> Any:
    return _adapter(kind).dump_python(value, mode="json")


def _typed(kind: Any, value: Any) -> Any:
    return _adapter(kind).validate_python(value)
