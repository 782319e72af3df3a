"""All results of a run in input order, put together from its record and the files of its pages.

They can be made again at any time, and are replaced whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from fusion.batch.record import PAGES, PageRow, Record, Row, whole
from fusion.errors import DependencyError
from fusion.formats import Format

_GROUP = 1000  # pages put into Parquet at a time


def write_tables(record: Record, folder: Path, *, csv: bool, parquet: bool) -> None:
    """Write `results.jsonl`, a row per input; with `csv` also `records.csv`, with `parquet` `results.parquet`.

    A table of an earlier run that is not wanted any more is removed: it would be out of date.
    """
    for name, wanted in (("records.csv", csv), ("results.parquet", parquet)):
        if not wanted:
            (folder / name).unlink(missing_ok=True)
    with whole(folder / "results.jsonl") as file:
        for row in record.rows():
            # A file name may be no Unicode; `backslashreplace` writes its bytes as the escapes of JSON.
            text = json.dumps(_result(row, folder), ensure_ascii=False) + "\n"
            file.write(text.encode("utf-8", "backslashreplace"))
    if csv:
        with whole(folder / "records.csv") as file:
            for number, path in enumerate(_files(record, folder, Format.CSV)):
                header, _, rows = path.read_bytes().partition(b"\r\n")
                file.write((header + b"\r\n" if number == 0 else b"") + rows)
    if parquet:
        _write_parquet(record, folder)


def require_parquet() -> None:
    """DependencyError where Parquet can't be written: known before the first page is read."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        way = "pip install 'fusion[parquet]', or leave it out: results.jsonl says the same."
        raise DependencyError("batch.parquet", "needs pyarrow, which is not installed", way) from error


def _result(row: Row, folder: Path) -> dict[str, Any]:
    pages = [_page(page, folder) for page in row.pages]
    return {"input": row.input, "status": row.status, "stage": row.stage, "reason": row.reason, "pages": pages}


def _page(page: PageRow, folder: Path) -> dict[str, Any]:
    text = next((folder / PAGES / name for name in page.files if Format.of(name) is Format.TEXT), None)
    return {
        "page": page.page,
        "text": text.read_text(encoding="utf-8").rstrip("\n") if text is not None else None,
        "lines": page.lines,
        "asked": page.asked,
        "stretches": page.stretches,
        "review": page.review,
        "understood": page.understood,
        "files": list(page.files),
    }


def _files(record: Record, folder: Path, format_: Format) -> Iterator[Path]:
    for row in record.rows():
        for page in row.pages:
            yield from (folder / PAGES / name for name in page.files if Format.of(name) is format_)


def _flat(record: Record, folder: Path) -> Iterator[dict[str, Any]]:
    """A row per page; an input without pages has one too, whose page is null."""
    nothing = dict.fromkeys(("page", "text", "lines", "asked", "stretches", "review", "understood", "files"))
    for row in record.rows():
        result = _result(row, folder)
        for page in result.pop("pages") or [nothing]:
            yield {**result, "input": row.input.encode("utf-8", "backslashreplace").decode(), **page}


def _write_parquet(record: Record, folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = [(name, pa.string()) for name in ("input", "status", "stage", "reason", "page", "text")]
    counts = [(name, pa.int32()) for name in ("lines", "asked", "stretches", "review")]
    schema = pa.schema([*texts, *counts, ("understood", pa.bool_()), ("files", pa.list_(pa.string()))])
    rows = _flat(record, folder)
    with whole(folder / "results.parquet") as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))
