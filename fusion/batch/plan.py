"""Which inputs a configuration names, in which order, and what they are called: the plan of a run.

Knows folders, patterns, lists and tables of paths. Opens no photograph.
"""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusion.batch.remote import is_remote, remote_files
from fusion.config import BatchConfig, Config
from fusion.errors import ConfigError, DependencyError, InputError
from fusion.intake import list_inputs
from fusion.output.formats import stems

LISTS = (".txt", ".csv", ".parquet")
"""Suffixes of files that name inputs and are none themselves."""
_SHOWN = 3  # inputs named of those by which two plans differ


@dataclass(frozen=True, slots=True)
class Input:
    """One input, a row of the results; or some pages of it, for one worker.

    Attributes:
        number: place in the plan, from 0.
        path: as found; an address is a text.
        stem: what its files are called, different for every input.
        problem: why there is nothing to read, None for what may be read.
        pages: numbers of the pages to read, from 1; None: all.
        of: pages that the input has; 1 until they are counted.
    """

    number: int
    path: Path | str
    stem: str
    problem: str | None = None
    pages: range | None = None
    of: int = 1

    @property
    def key(self) -> tuple[int, int]:
        """Its number, and that of its first page."""
        return self.number, self.pages.start if self.pages is not None else 1

    @property
    def singles(self) -> tuple[Input, ...]:
        """Its pages, each by itself."""
        return tuple(replace(self, pages=range(n, n + 1)) for n in self.pages) if self.pages is not None else (self,)


@dataclass(frozen=True, slots=True)
class Plan:
    """The inputs in order, and all settings that a result depends on, as JSON values."""

    inputs: tuple[Input, ...]
    settings: dict[str, Any]

    def dump(self) -> str:
        """One row of settings, then one for each input."""
        rows = [self.settings, *(str(one.path) for one in self.inputs)]
        return "".join(json.dumps(row) + "\n" for row in rows)

    def difference(self, stored: str) -> str:
        """What is different in a plan that `dump` wrote, in words; "" where nothing is."""
        if not stored.strip():
            return "its plan.jsonl is missing or empty"
        settings, *paths = map(json.loads, stored.splitlines())
        if [str(one.path) for one in self.inputs] == paths and settings == self.settings:
            return ""
        before, now = _flat(settings), _flat(self.settings)
        changed = [
            f"{key}: {json.dumps(before.get(key))} there, {json.dumps(now.get(key))} here"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        ours, theirs = {str(one.path): None for one in self.inputs}, dict.fromkeys(paths)
        changed += _named("more", [path for path in ours if path not in theirs])
        changed += _named("fewer", [path for path in theirs if path not in ours])
        return "; ".join(changed) or "the same inputs in another order"


def make_plan(config: Config) -> Plan:
    """The plan of `config.batch`.

    Raises:
        ConfigError: no input is named.
    """
    if not config.batch.inputs:
        raise ConfigError("batch.inputs", "names no input", "List files or folders under `batch: inputs:`.")
    output = os.path.abspath(config.batch.output)
    found: dict[Path | str, str | None] = {}
    for entry in config.batch.inputs:
        for path, problem in _expanded(entry, config.batch):
            local = str(path).removeprefix("file://")
            ours = not is_remote(local) and os.path.abspath(local).startswith(output + os.sep)
            if not ours:  # results are no inputs of the next run
                found.setdefault(path, problem)
    named = zip(found.items(), stems(list(map(str, found))), strict=True)
    inputs = (Input(number, path, stem, problem) for number, ((path, problem), stem) in enumerate(named))
    return Plan(tuple(inputs), {**config.decisive(), "formats": sorted(config.batch.formats)})


def _expanded(name: str, batch: BatchConfig) -> Iterator[tuple[Path | str, str | None]]:
    """The inputs behind one entry, each with why it can't be read."""
    entry = Path(name)
    try:
        if is_remote(name):
            yield from ((url, None) for url in remote_files(name))
            return
        if entry.suffix.lower() in LISTS and entry.is_file():
            for path in _listed(entry, batch.column):
                yield from _expanded(path, batch) if is_remote(path) else _files(entry.parent / path)
        elif glob.has_magic(str(entry)) and not entry.exists():
            for name in sorted(glob.glob(str(entry), recursive=True)) or [str(entry)]:
                yield from _files(Path(name))
        else:
            yield from _files(entry)
    except InputError as error:
        yield name if is_remote(name) else entry, str(error)


def _files(path: Path) -> Iterator[tuple[Path, str | None]]:
    """A file itself, or the files of a folder."""
    try:
        yield from ((file, None) for file in list_inputs([path]))
    except InputError as error:
        yield path, str(error)


def _listed(path: Path, column: str) -> list[str]:
    """The paths that a list or a table names; relative ones start at its own folder."""
    try:
        if path.suffix.lower() == ".parquet":
            return _parquet_column(path, column)
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if path.suffix.lower() == ".txt":
                return [row for row in file.read().splitlines() if row.strip()]
            table = csv.DictReader(file)
            if column not in (table.fieldnames or ()):
                raise _no_column(path, column, table.fieldnames or ())
            return [row[column] for row in table if row[column]]
    except OSError as error:
        raise InputError(path, f"can't be read ({error.strerror or error})", "Check that you may read it.") from error
    except csv.Error as error:
        raise InputError(path, f"is no CSV ({error})", "Save it as CSV with commas, in UTF-8.") from error


def _parquet_column(path: Path, column: str) -> list[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DependencyError(path, "needs pyarrow, which is not installed", "pip install 'fusion[parquet]'") from error
    try:
        file = parquet.ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise _no_column(path, column, file.schema_arrow.names)
        return [str(value) for value in file.read([column])[column].to_pylist() if value]
    except ArrowException as error:
        raise InputError(path, "is no Parquet file that can be read", "Write it anew.") from error


def _no_column(path: Path, column: str, there: Any) -> InputError:
    return InputError(path, f"has no column {column!r}", f"Set batch.column to one of: {', '.join(there)}.")


def _named(word: str, paths: list[str]) -> list[str]:
    shown = ", ".join(paths[:_SHOWN]) + (" …" if len(paths) > _SHOWN else "")
    return [f"{len(paths)} {word} inputs here: {shown}"] if paths else []


def _flat(settings: dict[str, Any], place: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{place}{key}.") if isinstance(value, dict) else {place + key: value}
    return found
