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
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, FiniteFloat, PositiveInt, TypeAdapter

from fusion.ctc import Posterior, Views
from fusion.errors import InputError
from fusion.ink import Evidence, Ink, InkLine, Seen, Weighed
from fusion.page import Check, Failure, Finding, Reading

FORMAT = "fusion.evidence/4"
T = TypeVar("T")
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
        self.keeps = folder is not None
        """Whether anything is kept."""
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


@cache
def code_sha256(*names: str) -> str:
    """SHA-256 over modules and folders of this package: what a stage makes may change with its code."""
    package = files("fusion")
    found = [package / name for name in names]
    for folder in [one for one in found if one.is_dir()]:
        found += sorted((one for one in folder.iterdir() if one.name.endswith(".py")), key=lambda one: one.name)
    return hashlib.sha256(b"".join(one.read_bytes() for one in found if one.is_file())).hexdigest()


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


def dump_weighed(weighed: Weighed) -> bytes:
    """A weighed line: a line of JSON, then its table, little-endian float64; in zlib's format, which has a checksum."""
    head = json.dumps([FORMAT, weighed.texts, weighed.silent, weighed.quality], ensure_ascii=False)
    return zlib.compress(head.encode("utf-8", "surrogatepass") + b"\n" + weighed.table.astype("<f8").tobytes(), 1)


def load_weighed(content: bytes) -> Weighed:
    """What `dump_weighed` wrote; InputError for what is no such record."""
    try:
        head, _, table = zlib.decompress(content).partition(b"\n")
        made_by, texts, silent, quality = json.loads(head.decode("utf-8", "surrogatepass"))
        _require(made_by == FORMAT and len(texts) == len(silent) > 0 and len(quality) == 3, "the format is another one")
        values = np.frombuffer(table, dtype="<f8").astype(np.float64).reshape(len(texts), -1)
        _require(bool(np.isfinite(values).all()), "a number is not finite")
        return Weighed(tuple(texts), values, tuple(silent), tuple(quality))
    except _DAMAGE as error:
        raise _broken("record", error) from error


def ink_sha256(ink: Ink | None) -> str:
    """SHA-256 over all that a look says; ValueError for what is not a CTC posterior."""
    digest = hashlib.sha256(repr(ink.agree if ink is not None else None).encode())
    for posterior in _views(ink).posteriors if ink is not None else ():
        spells = "" if posterior.spells is None else f"+{''.join(sorted(posterior.spells))}"
        digest.update(repr((posterior.alphabet, posterior.column_px, spells, sorted(posterior.mute))).encode())
        digest.update(posterior.probabilities.tobytes())
    return digest.hexdigest()


class _Arrays:
    """Arrays of all lines, those of a kind end to end: an npz file of few arrays is read ten times faster."""

    def __init__(self, whole: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._whole = whole or {}
        self._parts: defaultdict[str, list[NDArray[Any]]] = defaultdict(list)
        self._taken: Counter[str] = Counter()

    def add(self, kind: str, part: NDArray[Any]) -> None:
        """Put a part behind the others of its kind."""
        self._parts[kind].append(part)

    def joined(self) -> dict[str, NDArray[Any]]:
        """All parts, as they are stored."""
        return {kind: np.concatenate(parts) for kind, parts in self._parts.items()}

    def take(self, kind: str, count: int) -> NDArray[Any]:
        """The next `count` numbers of a kind, in the order in which they were added."""
        start = self._taken[kind]
        self._taken[kind] += count
        part = self._whole[kind][start : start + count]
        _require(count >= 0 and len(part) == count, "an array is too short")
        return part


def _pack(head: dict[str, Any], lines: Sequence[Seen], more: Mapping[str, NDArray[Any]]) -> bytes:
    arrays = _Arrays()
    stored = [_line_out(seen, arrays) for seen in lines]
    text = json.dumps({"format": FORMAT, **head, "lines": stored}, ensure_ascii=False, separators=(",", ":"))
    arrays.add("head", np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8))
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays.joined(), **more)
    return stream.getvalue()


def _unpack(content: bytes) -> tuple[dict[str, Any], tuple[Seen, ...], Mapping[str, NDArray[Any]]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        whole = {key: stored[key] for key in stored.files}
    text = whole["head"].tobytes().decode("utf-8", "surrogatepass")
    head = json.loads(text, parse_constant=_number)
    _require(isinstance(head, dict) and head.get("format") == FORMAT, "the format is another one")
    arrays = _Arrays(whole)
    lines = tuple(_line_in(line, arrays) for line in head["lines"])
    _require(len({seen.line.id for seen in lines}) == len(lines), "two lines have one id")
    return head, lines, whole


def _number(constant: str) -> float:
    _require(constant != "NaN", "a number is NaN")
    return float(constant)


def _line_out(seen: Seen, arrays: _Arrays) -> dict[str, Any]:
    line = seen.line
    stream = io.BytesIO()
    Image.fromarray(line.crop).save(stream, "PNG", compress_level=1)
    crop = np.frombuffer(stream.getvalue(), dtype=np.uint8)
    arrays.add("crops", crop)
    return {
        "crop": len(crop),
        **{field: _plain(kind, getattr(line, field)) for field, kind in _LINE.items()},
        "ink": _ink_out(line.ink, arrays),
        "hand_ink": _ink_out(line.hand_ink, arrays),
        "asked": seen.asked,
        "answers": [
            {"reading": _plain(Reading, one)} if isinstance(one, Reading) else {"failure": _plain(Failure, one)}
            for one in seen.answers
        ],
        "look": _ink_out(seen.look, arrays),
        "scores": dict(seen.scores),
    }


def _line_in(line: Mapping[str, Any], arrays: _Arrays) -> Seen:
    crop = Image.open(io.BytesIO(arrays.take("crops", _typed(int, line["crop"])).tobytes()))
    _require(crop.mode == "RGB" and crop.width * crop.height < 2e8, "a crop is not RGB, or too large")
    answers = tuple(
        _typed(Reading, one["reading"]) if "reading" in one else _typed(Failure, one["failure"])
        for one in line["answers"]
    )
    return Seen(
        InkLine(
            **{field: _typed(kind, line[field]) for field, kind in _LINE.items()},
            crop=np.asarray(crop, dtype=np.uint8),
            ink=_ink_in(line["ink"], arrays),
            hand_ink=_ink_in(line["hand_ink"], arrays),
        ),
        _typed(bool, line["asked"]),
        answers,
        _ink_in(line["look"], arrays),
        _typed(dict[str, float], line["scores"]),
    )


def _ink_out(ink: Ink | None, arrays: _Arrays) -> dict[str, Any] | None:
    """A look as its posteriors, each a table without its zeros (compressed sparse rows)."""
    if ink is None:
        return None
    parts = []
    for posterior in _views(ink).posteriors:
        table = posterior.probabilities
        rows, columns = np.nonzero(table)
        values = table[rows, columns]
        single = values.astype(np.float32)  # exact for what a network gave; a table made otherwise keeps its digits
        arrays.add("values", single if np.array_equal(single, values) else values)
        arrays.add("columns", columns.astype(np.uint16))
        arrays.add("rows", np.bincount(rows, minlength=len(table)).astype(np.uint16))
        spells = None if posterior.spells is None else "".join(sorted(posterior.spells))
        known = {"spells": spells, "mute": "".join(sorted(posterior.mute)), "rows": len(table)}
        parts.append({"alphabet": list(posterior.alphabet), "column_px": posterior.column_px, **known})
    return {"agree": ink.agree, "posteriors": parts}


def _views(ink: Ink) -> Views:
    if not isinstance(ink, Views):
        raise ValueError(f"a look of type {type(ink).__name__} can't be stored")
    return ink


def _ink_in(stored: Mapping[str, Any] | None, arrays: _Arrays) -> Views | None:
    if stored is None:
        return None
    posteriors = []
    for part in stored["posteriors"]:
        alphabet = _typed(tuple[str, ...], part["alphabet"])
        column_px, spells = _typed(FiniteFloat, part["column_px"]), _typed(str | None, part["spells"])
        counts = arrays.take("rows", _typed(int, part["rows"]))
        values, columns = (arrays.take(kind, int(counts.sum())) for kind in ("values", "columns"))
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
