"""Searchable PDF: the photograph, and over it invisible text where it is written (ISO 32000-1; text rendering mode 3).

The text is what is on the paper, gaps as `□`: nobody finds or copies what was supplied. It is shown on the baseline of its line, in
runs that are scaled to their place: a character where that is known, else the smallest stretch whose place is. The font has one
glyph, a box that is never drawn and stands for every character; a `ToUnicode` map says which. The page record is attached, with
everything that text alone can't hold.
"""

from __future__ import annotations

import io
import itertools
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusion.output.crops import photo_scale
from fusion.output.markup import clean
from fusion.output.units import Glyph, baseline, corners, glyphs
from fusion.page import Line, Page, joined
from fusion.records import dump_page

Point = tuple[float, float]
_SIDE = 842.0
"""Long side of a page, points: that of A4."""
_SIZE = 0.6
"""Font size as a share of the height of a line. With a smaller one, programs take the space between words for one between
columns; with a larger one, they run lines together that stand beside each other."""
_BLOCK = 100
"""Most entries of a block in a CMap (Adobe Technical Note 5014): Ghostscript discards a map that has more."""
_UPRIGHT = {
    1: (1, 0, 0, 1, 0, 0),
    2: (-1, 0, 0, 1, 1, 0),
    3: (-1, 0, 0, -1, 1, 1),
    4: (1, 0, 0, -1, 0, 1),
    5: (0, -1, -1, 0, 1, 1),
    6: (0, -1, 1, 0, 0, 1),
    7: (0, 1, 1, 0, 0, 0),
    8: (0, 1, -1, 0, 1, 0),
}
"""EXIF orientation → the matrix that puts the stored picture upright in the unit square (x right, y up)."""


def pdf_document(sheets: Iterable[tuple[Page, NDArray[np.uint8], Path | bytes | None]]) -> bytes:
    """One PDF of some pages.

    Args:
        sheets: pages with their photograph as displayed, uint8 (H, W, 3) RGB, and the file or bytes that it was decoded
            from: a JPEG is embedded as it is, everything else without loss.

    Raises:
        InputError: a photograph does not fit its page.
    """
    file = _File()
    codes: dict[str, int] = {}
    font, tree = file.reserve(), file.reserve()
    kids, attached = [], []
    for page, photo, source in sheets:
        photo_scale(photo, page)
        scale = _SIDE / max(page.width, page.height)
        width, height = page.width * scale, page.height * scale
        picture, matrix = _picture(file, photo, source)
        a, b, c, d, e, f = (v * size for v, size in zip(matrix, (width, height) * 3, strict=True))
        drawn = (
            f"q {_n(a, b, c, d, e, f)} cm /P Do Q\nBT 3 Tr /F 1 Tf\n{''.join(_text(page, scale, height, codes))}ET\n"
        )
        content = file.stream(drawn.encode())
        resources = f"<< /XObject << /P {picture} 0 R >> /Font << /F {font} 0 R >> >>"
        kid = f"<< /Type /Page /Parent {tree} 0 R /MediaBox [0 0 {_n(width, height)}] /Resources {resources} "
        kids.append(file.add(f"{kid}/Contents {content} 0 R >>".encode()))
        record = file.stream(dump_page(page).encode(), "/Type /EmbeddedFile /Subtype /application#2Fjson ")
        name = f"(page{len(kids):05}.json)"  # names of a tree ascend
        entry = f"<< /Type /Filespec /F {name} /UF {name} /EF << /F {record} 0 R >> >>"
        attached.append(f"{name} {file.add(entry.encode())} 0 R")
    file.put(tree, f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{kid} 0 R' for kid in kids)}] >>".encode())
    _font(file, font, codes)
    names = f"<< /EmbeddedFiles << /Names [{' '.join(attached)}] >> >>"
    return file.finish(file.add(f"<< /Type /Catalog /Pages {tree} 0 R /Names {names} >>".encode()))


def _text(page: Page, scale: float, height: float, codes: dict[str, int]) -> Iterator[str]:
    """Operators that show the text of each line, stretch by stretch."""
    for line in page.lines:
        sides = corners(line.polygon)
        tall = max(math.dist(sides[0], sides[3]), 1.0)
        size = _SIZE * scale * tall
        origin, along = _direction(line, tall)
        for start, width, text in _runs(glyphs(line), origin, along):
            shown = "".join(f"{codes.setdefault(char, len(codes) + 1):04X}" for char in clean(text))
            wide = max(width * scale / len(text), 0.01)
            x, y = ((at + step * start) * scale for at, step in zip(origin, along, strict=True))
            matrix = _n(wide * along[0], -wide * along[1], size * along[1], size * along[0], x, height - y)
            yield f"{matrix} Tm <{shown}> Tj\n"


def _direction(line: Line, tall: float) -> tuple[Point, Point]:
    """Where a line's text starts, px, and in which direction it runs.

    Programs put a line together from characters of one height: what slopes by less than its own height runs level.
    """
    (x, y), (end, low) = baseline(line)
    length, angle = math.hypot(end - x, low - y), math.atan2(low - y, end - x)
    level = round(angle / (math.pi / 2)) * (math.pi / 2)
    if length * abs(math.sin(angle - level)) <= tall:
        angle = level
    along = math.cos(angle), math.sin(angle)
    return ((x + end - along[0] * length) / 2, (y + low - along[1] * length) / 2), along


def _runs(found: list[Glyph], origin: Point, along: Point) -> Iterator[tuple[float, float, str]]:
    """Start and width along the baseline, px, and text of each stretch whose place is known."""
    for _, group in itertools.groupby(found, key=lambda glyph: (glyph.polygon, id(glyph.span) if glyph.placed else 0)):
        run = list(group)
        place = joined(run[0].polygon, run[-1].polygon)
        left, right = (
            ((place[a][0] + place[b][0]) / 2 - origin[0]) * along[0]
            + ((place[a][1] + place[b][1]) / 2 - origin[1]) * along[1]
            for a, b in ((0, 3), (1, 2))
        )
        yield left, right - left, "".join(glyph.text for glyph in run)


def _picture(file: _File, photo: NDArray[np.uint8], source: Path | bytes | None) -> tuple[int, tuple[int, ...]]:
    """The photograph as an object, and the matrix that puts it upright."""
    data = source.read_bytes() if isinstance(source, Path) else source
    if data is not None and data.startswith(b"\xff\xd8"):
        with Image.open(io.BytesIO(data)) as image:
            turn = image.getexif().get(0x0112, 1)
            size = image.size if turn < 5 else image.size[::-1]
            if image.mode in ("RGB", "L") and size == photo.shape[1::-1] and turn in _UPRIGHT:
                colour = "RGB" if image.mode == "RGB" else "Gray"
                return file.stream(data, _image(*image.size, colour) + "/Filter /DCTDecode ", raw=True), _UPRIGHT[turn]
    # PNG's "up" predictor (15 lets each row name its own): neighbouring rows are alike.
    rows = photo.reshape(photo.shape[0], -1)
    predicted = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    tagged = np.insert(predicted, 0, 2, axis=1)
    parameters = f"/DecodeParms << /Predictor 15 /Colors 3 /Columns {photo.shape[1]} >> "
    return file.stream(tagged.tobytes(), _image(photo.shape[1], photo.shape[0], "RGB") + parameters), _UPRIGHT[1]


def _image(width: int, height: int, colour: str) -> str:
    return f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /Device{colour} /BitsPerComponent 8 "


def _font(file: _File, number: int, codes: dict[str, int]) -> None:
    """A composite font in which every code is the one box, one em wide; `ToUnicode` says what it stands for."""
    program = _box_font()
    embedded = file.stream(program, f"/Length1 {len(program)} ")
    glyph = file.stream(b"\0\0" + b"\0\1" * len(codes))
    flags = "/Flags 4 /FontBBox [0 -200 1000 800] /ItalicAngle 0 /Ascent 800 /Descent -200 /CapHeight 800 /StemV 80"
    described = file.add(f"<< /Type /FontDescriptor /FontName /Box {flags} /FontFile2 {embedded} 0 R >>".encode())
    system = "/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >>"
    kind = f"/Type /Font /BaseFont /Box /DW 1000 {system} /FontDescriptor {described} 0 R"
    child = file.add(f"<< {kind} /Subtype /CIDFontType2 /CIDToGIDMap {glyph} 0 R >>".encode())
    unicode = file.stream(_to_unicode(codes))
    whole = f"/Subtype /Type0 /Encoding /Identity-H /DescendantFonts [{child} 0 R] /ToUnicode {unicode} 0 R"
    file.put(number, f"<< /Type /Font /BaseFont /Box {whole} >>".encode())


def _to_unicode(codes: dict[str, int]) -> bytes:
    """A CMap from codes to UTF-16BE, surrogate pairs for what lies beyond the basic plane."""
    rows = [f"<{code:04X}> <{char.encode('utf-16-be').hex().upper()}>\n" for char, code in codes.items()]
    blocks = [rows[at : at + _BLOCK] for at in range(0, len(rows), _BLOCK)]
    mapped = "".join(f"{len(block)} beginbfchar\n{''.join(block)}endbfchar\n" for block in blocks)
    return (
        "/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n"
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def\n"
        "/CMapName /Adobe-Identity-UCS def\n/CMapType 2 def\n"
        f"1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n{mapped}"
        "endcmap\nCMapName currentdict /CMap defineresource pop\nend\nend\n"
    ).encode()


def _box_font() -> bytes:
    """A TrueType font of two glyphs, nothing and a box of one em (1000 units); PDFium drops text without extent."""
    corners = struct.pack(">4h4h", 0, 0, 1000, 0, -200, 1000, 0, -1000)  # steps in x, then in y
    box = struct.pack(">5hHH4B", 1, 0, -200, 1000, 800, 3, 0, 1, 1, 1, 1) + corners
    tables = {
        b"glyf": box,
        b"head": struct.pack(
            ">4L2H2q4h2H3h", 0x10000, 0x10000, 0, 0x5F0F3CF5, 0, 1000, 0, 0, 0, -200, 1000, 800, 0, 8, 2, 0, 0
        ),
        b"hhea": struct.pack(">L3hH11hH", 0x10000, 800, -200, 0, 1000, 0, 0, 1000, 1, 0, 0, 0, 0, 0, 0, 0, 1),
        b"hmtx": struct.pack(">Hhh", 1000, 0, 0),
        b"loca": struct.pack(">3H", 0, 0, len(box) // 2),
        b"maxp": struct.pack(">L14H", 0x10000, 2, 4, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0),
    }
    head = struct.pack(">L4H", 0x10000, len(tables), 64, 2, 32)
    at, listed, body = len(head) + 16 * len(tables), b"", b""
    for name, table in tables.items():
        padded = table + b"\0" * (-len(table) % 4)
        check = sum(struct.unpack(f">{len(padded) // 4}L", padded)) & 0xFFFFFFFF
        listed += struct.pack(">4s3L", name, check, at + len(body), len(table))
        body += padded
    return head + listed + body


def _n(*numbers: float) -> str:
    return " ".join(f"{number:.3f}".rstrip("0").rstrip(".") for number in numbers)


class _File:
    """Objects of a PDF, numbered from 1."""

    def __init__(self) -> None:
        self._objects: list[bytes] = []

    def reserve(self) -> int:
        """A number for an object that comes later."""
        return self.add(b"")

    def put(self, number: int, content: bytes) -> None:
        self._objects[number - 1] = content

    def add(self, content: bytes) -> int:
        """A new object; returns its number."""
        self._objects.append(content)
        return len(self._objects)

    def stream(self, content: bytes, entries: str = "", *, raw: bool = False) -> int:
        """A new stream, deflated unless it is `raw`."""
        body = content if raw else zlib.compress(content)
        filtered = "" if raw else "/Filter /FlateDecode "
        head = f"<< {entries}{filtered}/Length {len(body)} >>\nstream\n".encode()
        return self.add(head + body + b"\nendstream")

    def finish(self, root: int) -> bytes:
        """The file, with its table of objects."""
        out = io.BytesIO()
        out.write(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
        places = []
        for number, content in enumerate(self._objects, 1):
            places.append(out.tell())
            out.write(b"%d 0 obj\n%b\nendobj\n" % (number, content))
        start = out.tell()
        out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1))
        out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
        out.write(b"trailer\n<< /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(places) + 1, root, start))
        return out.getvalue()
