"""The same evidence decided on under other rules, and reads that are kept.

A variant that differs in weights or rules alone needs no second look. What it makes of a split is kept in a folder, named by what it
depends on: the code of the package, the engine, the rules, and the items.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from pydantic import TypeAdapter

import fusion
from eval.blind import Sight
from eval.datasets import Item
from eval.systems import Read, Remembers, read_of, read_split
from fusion import fuse
from fusion.config import layered
from fusion.engine import Engine
from fusion.fuse import Fuser
from fusion.onnx import file_sha256
from fusion.store import key_of

Rule = Literal["agreed_stays", "no_lost_digit"]
OFF: Mapping[Rule, tuple[str, object]] = {"agreed_stays": ("_keeps", lambda *_: True), "no_lost_digit": ("LOST", 1e9)}
"""Rules of `fuse.model` that no setting turns off: the name that stands for each there, and what turns it off."""


@dataclass(frozen=True)
class Rules:
    """How evidence is decided on: numbers that replace some of the packaged weights, and rules that are left out."""

    weights: Mapping[str, Any] = field(default_factory=dict)
    off: Sequence[Rule] = ()

    def fuser(self, engine: Engine) -> Fuser:
        """What decides under these numbers; the languages, and with them what their search found, are the engine's."""
        with tempfile.TemporaryDirectory() as folder:
            packaged = json.loads((files("fusion.fuse") / "weights.json").read_text(encoding="utf-8"))
            path = Path(folder) / "weights.json"
            path.write_text(json.dumps(layered(packaged, dict(self.weights))), encoding="utf-8")
            settings = engine.config.fuse.model_copy(update={"weights": path} if self.weights else {})
            return Fuser(settings, engine._fuser._languages)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The rules are off meanwhile."""
        with ExitStack() as patched:
            for rule in self.off:
                patched.enter_context(patch.object(fuse.model, *OFF[rule]))
            yield


def kept_splits(
    engine: Remembers, rules: Sequence[Rules], items: Sequence[Item], folder: Path | None, sight: Sight, *, crop: bool
) -> list[list[Read]]:
    """Read items, and decide under each of several rules; the first are those that what is looked at depends on.

    Reads are kept in a folder: what the same code has read with the same engine is not read again. Positions and n-best lists of
    single readings are left out of them, but for `Read.nbest`.
    """
    deciders = [rule.fuser(engine) for rule in rules]
    if folder is None:
        return _decided(engine, deciders, rules, items, crop)
    keys = [_key(engine, fuser, rule, items, sight, crop) for fuser, rule in zip(deciders, rules, strict=True)]
    paths = [folder / f"{key}.json.gz" for key in keys]
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        found = _decided(engine, deciders, rules, items, crop)
        for path, reads in zip(paths, found, strict=True):
            partial = path.with_suffix(".partial")
            partial.write_bytes(gzip.compress(_READS.dump_json([_lighter(read) for read in reads]), 3))
            partial.replace(path)
    return [_READS.validate_json(gzip.decompress(path.read_bytes())) for path in paths]


def _decided(
    engine: Remembers, deciders: Sequence[Fuser], rules: Sequence[Rules], items: Sequence[Item], crop: bool
) -> list[list[Read]]:
    columns: list[list[Read]] = [[] for _ in rules]
    for item in items:
        for column, fuser, rule in zip(columns, deciders, rules, strict=True):
            engine._fuser = fuser
            with rule.applied():
                if column is columns[0]:
                    (read,) = read_split(engine, [item], crop=crop)
                else:
                    pages = [engine.decide(evidence) for evidence in engine.seen]
                    read = read_of(item, pages, 0.0, engine, crop=crop, fresh=False) if pages else columns[0][-1]
            column.append(read)
    return columns


_READS = TypeAdapter(list[Read])


def _lighter(read: Read) -> Read:
    pages = []
    for page in read.pages:
        lines = [
            replace(line, readings=tuple(replace(one, positions=(), nbest=()) for one in line.readings))
            for line in page.lines
        ]
        pages.append(replace(page, lines=tuple(lines)))
    return replace(read, pages=tuple(pages))


def _key(engine: Remembers, fuser: Fuser, rule: Rules, items: Sequence[Item], sight: Sight, crop: bool) -> str:
    """What reads depend on. Files of an engine's own making count by what is in them, not by where they lie."""
    settings = engine.config.decisive()
    settings["domain"].pop("formulary")
    identities = {name: value for name, value in engine.identities.items() if name not in ("config", "weights")}
    rows = [(item.image, item.reference, file_sha256(item.path) if item.path.exists() else "") for item in items]
    made_by = {**identities, "weights": fuser.identity, "off": list(rule.off), "sight": sight, "crop": crop}
    return key_of(settings=settings, made_by=made_by, code=_code(), items=rows)


@cache
def _code() -> str:
    """SHA-256 over the source of the package and of the evaluation."""
    roots = (Path(fusion.__file__).parent, Path(__file__).parent)
    sources = [path for root in roots for path in sorted(root.rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
