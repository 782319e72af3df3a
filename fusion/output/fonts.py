"""Fonts that are installed already. Nothing is downloaded: a machine that reads patients' notes may have no network.

Knows where systems and PaddleX keep fonts, which families hold Chinese, and which font can draw a given character.
Does not know pages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import ImageFont

CJK_FAMILIES = (
    "notosanscjk",
    "notosanssc",
    "sourcehansans",
    "pingfang",
    "msyh",
    "microsoftyahei",
    "lxgwwenkai",
    "wqy",
    "droidsansfallback",
    "hiraginosansgb",
    "stheiti",
    "simhei",
    "simsun",
    "simfang",
    "notoserifcjk",
    "uming",
    "ukai",
    "arialunicode",
)
"""Beginnings of file names, letters and digits only, lower case; best for small sizes on a screen first."""
WIDE_FAMILIES = ("notosans-regular", "dejavusans", "liberationsans-regular", "arial", "segoeui", "helvetica")
HOW_TO_GET_CJK = "Debian/Ubuntu: apt install fonts-noto-cjk (or fonts-wqy-zenhei)"
_SUFFIXES = (".ttf", ".ttc", ".otf")
_PROBE = "中国处方"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_folders() -> tuple[Path, ...]:
    """Folders where fonts may be, nearest to the user first; those that don't exist included."""
    home = Path.home()
    share = os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(os.pathsep)
    folders = [
        Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "fonts",
        home / ".fonts",
        Path(os.environ.get("PADDLE_PDX_CACHE_HOME") or home / ".paddlex") / "fonts",
        *(Path(folder) / "fonts" for folder in share if folder),
    ]
    if sys.platform == "darwin":
        folders += [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    elif sys.platform == "win32":
        folders += [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
    return tuple(folders)


def find_font(folders: Sequence[Path], families: Sequence[str], probe: str) -> Path | None:
    """The first installed font of the preferred families that can draw every character of `probe`."""
    found: list[tuple[int, str, Path]] = []
    for folder in folders:
        for path in folder.rglob("*") if folder.is_dir() else ():
            rank = _rank(path, families)
            if rank is not None:
                found.append((rank, path.name, path))
    return next((path for _, _, path in sorted(found) if _covers(path, probe)), None)


def _rank(path: Path, families: Sequence[str]) -> int | None:
    if path.suffix.lower() not in _SUFFIXES:
        return None
    name = path.stem.lower().replace("_", "").replace(" ", "")
    bare = name.replace("-", "")
    weights = ("bold", "black", "italic", "oblique", "thin", "light")
    for n, family in enumerate(families):
        if name.startswith(family) or bare.startswith(family):
            # An odd weight is better than no font, so it is put behind everything instead of being left out.
            return n + (len(families) if any(weight in name for weight in weights) else 0)
    return None


def _covers(path: Path, probe: str) -> bool:
    try:
        font = ImageFont.truetype(str(path), 16)
    except OSError:  # not a font in spite of its name
        return False
    return all(draws(font, character) for character in probe)


@cache
def cjk_font() -> Path | None:
    """The font for Chinese, or None when none is installed."""
    return find_font(font_folders(), CJK_FAMILIES, _PROBE)


@cache
def _wide_font() -> Path | None:
    """A font with accented Latin, Greek and arrows, which Pillow's built-in one lacks."""
    return find_font(font_folders(), WIDE_FAMILIES, "é½→")


def draws(font: Font, character: str) -> bool:
    """Whether the font has the character, told by whether it looks like one that no font has."""
    if character.isspace():
        return True
    return _picture(font, character) != _picture(font, "\ufffe")


def _picture(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


class Pen:
    """Fonts of one size; picks for each character the first font that has it.

    Args:
        size: em height, px.
        cjk: a font file for Chinese; None: the one that is installed, if any.

    Attributes:
        size: em height, px.
        writes_cjk: whether there is a font for Chinese.
    """

    def __init__(self, size: int, cjk: Path | None = None) -> None:
        self.size = size
        self._fonts: list[Font] = [ImageFont.load_default(size)]
        chinese = cjk or cjk_font()
        self.writes_cjk = chinese is not None
        for path in (chinese, _wide_font()):
            if path is not None:
                self._fonts.append(ImageFont.truetype(str(path), size))
        self._known: dict[str, Font | None] = {}

    @property
    def latin(self) -> Font:
        """Pillow's built-in font."""
        return self._fonts[0]

    def font(self, character: str) -> Font | None:
        """The font that draws a character, or None when none of the installed ones does."""
        if character not in self._known:
            self._known[character] = next((font for font in self._fonts if draws(font, character)), None)
        return self._known[character]

    def missing(self, text: str) -> str:
        """The characters of a text that no installed font has, each once."""
        return "".join(dict.fromkeys(character for character in text if self.font(character) is None))

    def width(self, text: str) -> float:
        """Advance width of a text that may mix fonts, px."""
        return sum(font.getlength(run) for run, font in self.runs(text))

    def runs(self, text: str) -> list[tuple[str, Font]]:
        """A text cut where the font changes; a character that no font has is written as `U+1F600`."""
        made: list[tuple[str, Font]] = []
        for character in text:
            font = self.font(character)
            shown, font = (character, font) if font is not None else (f"U+{ord(character):04X}", self.latin)
            if made and made[-1][1] is font:
                made[-1] = (made[-1][0] + shown, font)
            else:
                made.append((shown, font))
        return made
