"""Inputs in an object store, or wherever else fsspec reaches: `s3://bucket/scans`, `gs://…`, `memory://…`.

They are fetched one at a time, when they are read, and nothing of them is left behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from fusion.config import IntakeConfig
from fusion.errors import FULL, DependencyError, FusionError, InputError
from fusion.intake import SUFFIXES


def is_remote(name: str | Path) -> bool:
    """Whether a name is an address and no path."""
    return "://" in str(name)


def remote_files(url: str) -> list[str]:
    """The files behind an address: itself, those of a folder that can be read, or those that fit a pattern.

    Raises:
        InputError: there are none, or the store can't be asked.
    """
    with _store(url) as (store, path):
        found = [path] if store.isfile(path) else store.glob(path) if has_magic(path) else store.find(path)
        files = [one for one in sorted(found) if one == path or _is_meant(PurePosixPath(one).relative_to(_root(path)))]
        if not files:
            raise InputError(url, "does not exist, or holds no file that can be read", "Check the address.")
        return [store.unstrip_protocol(one) for one in files]


def _root(path: str) -> PurePosixPath:
    """The folder that all files behind an address lie in."""
    parts = PurePosixPath(path).parts
    return PurePosixPath(*itertools.takewhile(lambda part: not has_magic(part), parts))


def _is_meant(inside: PurePosixPath) -> bool:
    """Whether a file of a folder can be read and is not hidden."""
    return inside.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in inside.parts)


@contextmanager
def fetched(name: str | Path, config: IntakeConfig, folder: Path) -> Iterator[Path]:
    """A local file with the content of an input, in a folder of its own below `folder`, until it is read; a path is itself.

    Raises:
        InputError: it can't be fetched, or is over `intake.max_file_mb`.
    """
    if not is_remote(name):
        yield Path(name)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as own:
        file = Path(own) / (PurePosixPath(str(name)).name or "input")
        with _store(str(name)) as (store, path):
            size = store.size(path)
            if size is None or size / 1e6 > config.max_file_mb:
                much = f"{size / 1e6:.3g} MB" if size is not None else "of unknown size"
                problem = f"is {much}, over the limit of {config.max_file_mb:g} MB"
                raise InputError(name, problem, "Make the file smaller or raise intake.max_file_mb.")
            store.get_file(path, str(file))
        yield file


@contextmanager
def _store(url: str) -> Iterator[tuple[Any, str]]:
    """The store of an address, and the place in it; its errors become ours."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise DependencyError(url, "needs fsspec, which is not installed", "pip install 'fusion[remote]'") from error
    try:
        yield url_to_fs(url)
    except FusionError:
        raise
    except Exception as error:  # the errors of the stores share no base
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        way = "Check the address, and that what fsspec needs for it is installed and may read it."
        raise InputError(url, f"can't be fetched ({type(error).__name__})", way) from error
