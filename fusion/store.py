"""What readers said, as records that can be stored, loaded and decided on again; and a folder of them, found by content.

A record is named by what it was made from: the bytes of its input, the settings of its stage and the identity of its
model. A store may be deleted at any time. Records are npz files: tables as they
are, the rest as JSON. Nothing is unpickled. Knows the dataclasses of `ink` and `page`; knows no engine.
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
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter

from fusion.ctc import Posterior, Views
from fusion.errors import InputError
from fusion.ink import Evidence, Ink, InkLine, Seen
from fusion.page import Check, Failure, Finding, Reading

FORMAT = "fusion.evidence/2"
T = TypeVar("T")
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the libraries that unpack a record raise where its bytes were changed. pydantic's is a ValueError."""


class Store:
    """A folder of records. Processes may share it: a record is written whole or not at all, and always the same."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is made when the first record is written; None keeps nothing."""
        self._folder = folder

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
            return load(path.read_bytes())
        except (OSError, InputError):
            made = make()
            if worth(made):
                try:
                    _write(path, dump(made))
                except ValueError:  # a plug-in's look of a kind of its own has no form to be stored in
                    return made
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
    arrays: dict[str, NDArray[Any]] = {"transform": evidence.transform}
    head = {
        "format": FORMAT,
        "id": evidence.id,
        "sha256": evidence.sha256,
        "width": evidence.width,
        "height": evidence.height,
        "angle": evidence.angle,
        "findings": _plain(tuple[Finding, ...], evidence.findings),
        "checks": _plain(tuple[Check, ...], evidence.checks),
        "failures": _plain(tuple[Failure, ...], evidence.failures),
        "identities": dict(evidence.identities),
        "lines": [_line_out(seen, f"l{number}", arrays) for number, seen in enumerate(evidence.lines)],
    }
    return _pack(head, arrays)


def load_evidence(content: bytes, *, name: str = "evidence record") -> Evidence:
    """What `dump_evidence` wrote.

    Raises:
        InputError: it is no such record, or a broken one.
    """
    head, arrays = _unpack(content, name)
    try:
        return Evidence(
            id=_typed(str, head["id"]),
            sha256=_typed(str, head["sha256"]),
            width=_typed(int, head["width"]),
            height=_typed(int, head["height"]),
            angle=_typed(float, head["angle"]),
            transform=np.asarray(arrays["transform"], dtype=np.float64).reshape(3, 3),
            findings=_typed(tuple[Finding, ...], head["findings"]),
            checks=_typed(tuple[Check, ...], head["checks"]),
            failures=_typed(tuple[Failure, ...], head["failures"]),
            identities=_typed(dict[str, str], head["identities"]),
            lines=tuple(_line_in(line, f"l{number}", arrays) for number, line in enumerate(head["lines"])),
        )
    except _DAMAGE as error:
        raise _broken(name, error) from error


def dump_lines(lines: Sequence[Seen]) -> bytes:
    """Lines alone, as a stage leaves them."""
    arrays: dict[str, NDArray[Any]] = {}
    head = {"format": FORMAT, "lines": [_line_out(seen, f"l{n}", arrays) for n, seen in enumerate(lines)]}
    return _pack(head, arrays)


def load_lines(content: bytes) -> tuple[Seen, ...]:
    """What `dump_lines` wrote; InputError for what is no such record."""
    head, arrays = _unpack(content, "record")
    try:
        return tuple(_line_in(line, f"l{number}", arrays) for number, line in enumerate(head["lines"]))
    except _DAMAGE as error:
        raise _broken("record", error) from error


def _line_out(seen: Seen, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    line = seen.line
    arrays[f"{name}.crop"] = np.frombuffer(_png(line.crop), dtype=np.uint8)
    return {
        "id": line.id,
        "polygon": line.polygon,
        "reading": _plain(Reading | None, line.reading),
        "failures": _plain(tuple[Failure, ...], line.failures),
        "ink": _ink_out(line.ink, f"{name}.ink", arrays),
        "hand": _plain(Reading | None, line.hand),
        "hand_ink": _ink_out(line.hand_ink, f"{name}.hand", arrays),
        "region": line.region,
        "asked": seen.asked,
        "answers": [
            {"reading": _plain(Reading, one)} if isinstance(one, Reading) else {"failure": _plain(Failure, one)}
            for one in seen.answers
        ],
        "look": _ink_out(seen.look, f"{name}.look", arrays),
        "scores": dict(seen.scores),
    }


def _line_in(line: Mapping[str, Any], name: str, arrays: Mapping[str, NDArray[Any]]) -> Seen:
    crop = np.asarray(Image.open(io.BytesIO(arrays[f"{name}.crop"].tobytes())), dtype=np.uint8)
    return Seen(
        InkLine(
            _typed(str, line["id"]),
            _typed(tuple[tuple[float, float], ...], line["polygon"]),
            crop,
            _typed(Reading | None, line["reading"]),
            _ink_in(line["ink"], f"{name}.ink", arrays),
            _typed(tuple[Failure, ...], line["failures"]),
            _typed(Reading | None, line["hand"]),
            _ink_in(line["hand_ink"], f"{name}.hand", arrays),
            _typed(str, line["region"]),
        ),
        _typed(bool, line["asked"]),
        tuple(
            _typed(Reading, one["reading"]) if "reading" in one else _typed(Failure, one["failure"])
            for one in line["answers"]
        ),
        _ink_in(line["look"], f"{name}.look", arrays),
        _typed(dict[str, float], line["scores"]),
    )


def _ink_out(ink: Ink | None, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any] | None:
    """A look as its posteriors, each a table without its zeros (compressed sparse rows)."""
    if ink is None:
        return None
    if not isinstance(ink, Views):
        raise ValueError(f"a look of type {type(ink).__name__} can't be stored")
    parts = []
    for number, posterior in enumerate(ink.posteriors):
        table = posterior.probabilities
        rows, columns = np.nonzero(table)
        key = f"{name}.{number}"
        values = table[rows, columns]
        single = values.astype(np.float32)  # exact for what a network gave; a table made otherwise keeps its digits
        arrays[f"{key}.values"] = single if np.array_equal(single, values) else values
        arrays[f"{key}.columns"] = columns.astype(np.uint16)
        arrays[f"{key}.rows"] = np.bincount(rows, minlength=len(table)).astype(np.uint16)
        spells = None if posterior.spells is None else "".join(sorted(posterior.spells))
        parts.append({"alphabet": list(posterior.alphabet), "column_px": posterior.column_px, "spells": spells})
    return {"agree": ink.agree, "posteriors": parts}


def _ink_in(stored: Mapping[str, Any] | None, name: str, arrays: Mapping[str, NDArray[Any]]) -> Views | None:
    if stored is None:
        return None
    posteriors = []
    for number, part in enumerate(stored["posteriors"]):
        counts = arrays[f"{name}.{number}.rows"]
        table = np.zeros((len(counts), len(part["alphabet"])))
        rows = np.repeat(np.arange(len(counts)), counts)
        table[rows, arrays[f"{name}.{number}.columns"]] = arrays[f"{name}.{number}.values"]
        spells = None if part["spells"] is None else frozenset(part["spells"])
        posteriors.append(Posterior(table, tuple(part["alphabet"]), part["column_px"], spells))
    return Views(tuple(posteriors), stored["agree"])


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _pack(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, head=np.frombuffer(text, dtype=np.uint8), **arrays)
    return stream.getvalue()


def _unpack(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        head = json.loads(arrays.pop("head").tobytes().decode("utf-8", "surrogatepass"))
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise ValueError("another format")
        return head, arrays
    except _DAMAGE as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> InputError:
    return InputError(name, f"is no record of what was seen ({type(error).__name__})", "Read the photograph again.")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _plain(kind: Any, value: Any) -> Any:
    return _adapter(kind).dump_python(value, mode="json")


def _typed(kind: Any, value: Any) -> Any:
    return _adapter(kind).validate_python(value)
