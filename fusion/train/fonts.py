"""Materials of the synthetic lines: handwriting fonts and English words out of pinned npm packages.

Knows npm, tar archives and licences. Does not know what is written with the fonts, nor how.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fusion.errors import ConfigError, DependencyError

LICENCES = ("OFL-1.1", "Apache-2.0")
"""The only licences a font may have: weights trained on its pictures can then be given on freely."""
TIERS = ((10, 20), (35, 40), (50, 55, 60), (70,))
"""SCOWL sizes that make up each tier of words, most common first."""
_BATCH = 16  # packages per call of npm: a call costs about a second to start
_SECONDS = 300


@dataclass(frozen=True)
class Font:
    """One handwriting font file.

    Attributes:
        family: name of the family, such as `caveat`.
        path: file that FreeType opens (woff2, ttf, otf).
        licence: SPDX identifier.
        held_out: for evaluation only, never for training.
        capitals: draws small letters as capitals, so that texts with small letters must not be drawn with it.
        subset: part of the family's characters that the file holds, as the package names it.
    """

    family: str
    path: Path
    licence: str
    held_out: bool = False
    capitals: bool = False
    subset: str = "latin"


@dataclass(frozen=True)
class Materials:
    """What synthetic lines are made of.

    Attributes:
        fonts: all fonts, those held out included.
        words: tiers of English words, most common first; lower case, letters and apostrophes only.
    """

    fonts: tuple[Font, ...]
    words: tuple[tuple[str, ...], ...]

    def side(self, held_out: bool) -> tuple[Font, ...]:
        """The fonts of one side of the split: for evaluation (`held_out`) or for training."""
        return tuple(font for font in self.fonts if font.held_out == held_out)


@dataclass(frozen=True)
class Package:
    """A package of the npm registry, and what the listing says of it."""

    name: str
    version: str
    licence: str
    held_out: bool = False
    capitals: bool = False
    subset: str = "latin"

    @property
    def spec(self) -> str:
        """Name and version, as npm takes them."""
        return f"{self.name}@{self.version}"

    @property
    def slug(self) -> str:
        """File name that npm gives the archive, without its ending."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}"

    @property
    def family(self) -> str:
        """Name of the font's family."""
        return self.name.rsplit("/", 1)[-1]


def fetch(listing: Path, folder: Path) -> Materials:
    """Download what is not in `folder` yet, and say what there is.

    Args:
        listing: YAML file with the keys `fonts` (a list) and `words` (one package); configs/train/fonts.yaml.
        folder: cache; made when missing. Nothing is asked of the network when it is complete.

    Returns:
        Fonts in the order of the listing, and tiers of words (`TIERS`).

    Raises:
        ConfigError: the listing can't be read, or names a licence that is not allowed.
        DependencyError: npm is not installed, a package does not come or is not what the listing says.
    """
    fonts, words = _read_listing(listing)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [p for p in (*fonts, words) if not _target(p, folder, font=p is not words).is_file()]
    if wanted:
        with tempfile.TemporaryDirectory(dir=folder) as archives:
            pack(wanted, Path(archives))
            for package in wanted:
                target = _target(package, folder, font=package is not words)
                _unpack(package, Path(archives) / f"{package.slug}.tgz", target, font=package is not words)
    tiers = json.loads(_target(words, folder, font=False).read_text(encoding="utf-8"))
    return Materials(
        fonts=tuple(
            Font(p.family, _target(p, folder, font=True), p.licence, p.held_out, p.capitals, p.subset) for p in fonts
        ),
        words=tuple(tuple(tier) for tier in tiers),
    )


def _read_listing(listing: Path) -> tuple[list[Package], Package]:
    way_out = "See configs/train/fonts.yaml for how it is written"
    try:
        read = yaml.safe_load(listing.read_text(encoding="utf-8"))
        fonts = [_package(entry) for entry in read["fonts"]]
        words = _package(read["words"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(listing, f"not a list of fonts and words ({error})", way_out) from error
    for font in fonts:
        if font.licence not in LICENCES:
            raise ConfigError(font.spec, f"licence {font.licence} is not one of {', '.join(LICENCES)}", "Drop the font")
    return fonts, words


def _package(entry: dict[str, Any]) -> Package:
    keys = {**entry}
    return Package(name=str(keys.pop("package")), version=str(keys.pop("version")), **keys)


def _target(package: Package, folder: Path, *, font: bool) -> Path:
    subset = "" if package.subset == "latin" else f"-{package.subset}"
    return folder / (f"{package.slug}{subset}.woff2" if font else f"{package.slug}.json")


def pack(packages: Sequence[Package], folder: Path) -> None:
    """Download the archives of packages, as `slug`.tgz, into a folder; DependencyError where one does not come."""
    npm = shutil.which("npm")
    if npm is None:
        raise DependencyError("npm", "not installed", "Install Node.js with npm, or copy a filled fonts folder here")
    batches = [packages[start : start + _BATCH] for start in range(0, len(packages), _BATCH)]
    with ThreadPoolExecutor(4) as threads:
        for batch, complaint in zip(batches, threads.map(lambda b: _call(npm, b, folder), batches), strict=True):
            for package in batch:
                # One bad package spoils its whole call, so each one that is missing is asked for by itself.
                if not (folder / f"{package.slug}.tgz").is_file():
                    complaint = _call(npm, [package], folder)
                if not (folder / f"{package.slug}.tgz").is_file():
                    reason = complaint or "no archive came"
                    raise DependencyError(package.spec, f"npm did not deliver it ({reason})", "Check the network")


def _call(npm: str, packages: Sequence[Package], folder: Path) -> str:
    """Last line that npm complained with; empty when all went well."""
    specs = [package.spec for package in packages]
    command = [npm, "pack", "--loglevel=error", "--pack-destination", str(folder), *specs]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} s"
    lines = [line for line in done.stderr.splitlines() if line.strip() and "complete log" not in line]
    return lines[0] if done.returncode and lines else ""


@contextmanager
def opened(package: Package, archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive of a package, whose licence is what the listing says.

    Raises:
        DependencyError: it is not, or the archive lacks what is then sought in it.
    """
    try:
        with tarfile.open(archive) as tar:
            said = json.loads(member(tar, "package/package.json")).get("license")
            if said != package.licence:
                problem = f"the package says its licence is {said}, the listing says {package.licence}"
                raise DependencyError(package.spec, problem, "Look at the package and mend or drop the entry")
            yield tar
    except (KeyError, tarfile.TarError, ValueError) as error:
        problem = f"the archive lacks what is needed ({error})"
        raise DependencyError(package.spec, problem, "Pin another version in the listing") from error


def member(tar: tarfile.TarFile, name: str) -> bytes:
    """The content of a file of an archive; KeyError if there is none."""
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()


def _unpack(package: Package, archive: Path, target: Path, *, font: bool) -> None:
    with opened(package, archive) as tar:
        if font:
            content = member(tar, f"package/files/{package.family}-{package.subset}-400-normal.woff2")
        else:
            content = json.dumps([_tier(tar, sizes) for sizes in TIERS]).encode()
    # Renamed into place when complete, so that a run cut off leaves no half file that passes for a font.
    partial = target.with_suffix(".part")
    partial.write_bytes(content)
    partial.replace(target)


def _tier(tar: tarfile.TarFile, sizes: Sequence[int]) -> list[str]:
    words: set[str] = set()
    for size in sizes:
        words.update(json.loads(member(tar, f"package/english-words-{size}.json")))
    return sorted(w for w in words if w.islower() and w.isascii() and w.replace("'", "").isalpha())
