"""Intake: every format, every bad file, geometry that maps back, findings that mean something. All images made here."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from fusion.config import IntakeConfig
from fusion.errors import InputError
from fusion.ink import PageImage
from fusion.intake import SUFFIXES, count_pages, list_inputs, open_pages, pdfium
from fusion.intake.geometry import find_sheet, level, measure_skew, project, turned_by, warp
from fusion.intake.raster import to_rgb
from fusion.view import look, shrink

CONFIG = IntakeConfig()
RAW = IntakeConfig(deskew=False, rectify=False)
Rgb = NDArray[np.uint8]
pytestmark = pytest.mark.filterwarnings(
    "ignore::PIL.Image.DecompressionBombWarning",  # pytest undoes the filter that the room itself sets
    "ignore:Corrupt EXIF data",
)


# --- making pages -------------------------------------------------------------------------------------------------


def write_lines(width: int = 1100, height: int = 850, *, seed: int = 0, ink: int = 40, paper: int = 232) -> Rgb:
    """A page of pretend handwriting: characters of random strokes on level lines, clear of the borders."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (paper,) * 3)
    draw = ImageDraw.Draw(image)
    for top in range(110, height - 140, 62):
        for left in range(110, width - 150, 38):
            if rng.random() < 0.12:
                continue
            rise = int(rng.integers(-3, 4))
            strokes = np.add(rng.integers(0, 30, size=(4, 2, 2)), (left, top + rise))
            for stroke in strokes.tolist():
                draw.line([tuple(point) for point in stroke], fill=(ink,) * 3, width=3)
    return np.array(image)


@cache
def written(seed: int) -> Rgb:
    return write_lines(seed=seed)


def turn(photo: Rgb, angle: float, paper: int = 232) -> Rgb:
    """Turn counter-clockwise on a canvas of the same size."""
    return np.array(Image.fromarray(photo).rotate(angle, Image.Resampling.BICUBIC, fillcolor=(paper,) * 3))


def photograph(
    sheet: Rgb, corners: list[tuple[float, float]], size: tuple[int, int]
) -> tuple[Rgb, NDArray[np.float64]]:
    """Lay a sheet on a dark table so that its corners fall where told; also the homography sheet → photograph."""
    height, width = sheet.shape[:2]
    box = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=np.float32)
    onto = cv2.getPerspectiveTransform(box, np.array(corners, dtype=np.float32))
    photo = cv2.warpPerspective(sheet, onto, size, flags=cv2.INTER_AREA, borderValue=(70, 60, 50))
    return np.asarray(photo, dtype=np.uint8), np.asarray(onto, dtype=np.float64)


def save(folder: Path, photo: Rgb, name: str = "page.png") -> Path:
    path = folder / name
    Image.fromarray(photo).save(path)
    return path


def read(path: Path, config: IntakeConfig = CONFIG, *, crop: bool = False) -> PageImage:
    (page,) = open_pages(path, config, crop=crop)
    return page


def kinds(page: PageImage) -> set[str]:
    return {finding.kind for finding in page.findings}


def refused(path: Path, config: IntakeConfig = CONFIG) -> InputError:
    with pytest.raises(InputError) as caught:
        list(open_pages(path, config))
    assert path.name in str(caught.value)
    assert caught.value.way_out in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def clean() -> Rgb:
    return write_lines()


# --- formats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "jpg", "gif"])
def test_formats_round_trip(tmp_path: Path, clean: Rgb, suffix: str) -> None:
    path = tmp_path / f"page.{suffix}"
    Image.fromarray(clean).save(path, **({"lossless": True} if suffix == "webp" else {}))
    page = read(path, RAW)
    assert page.id == f"page.{suffix}"
    assert page.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (page.width, page.height) == (1100, 850)
    assert page.pixels.dtype == np.uint8
    assert page.pixels.flags.c_contiguous
    tolerance = 4 if suffix == "jpg" else 0
    assert float(np.abs(page.pixels.astype(int) - clean).mean()) <= tolerance


def test_type_is_told_by_content(tmp_path: Path, clean: Rgb) -> None:
    path = tmp_path / "scan.pdf"
    Image.fromarray(clean).save(path, format="PNG")
    assert np.array_equal(read(path, RAW).pixels, clean)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.full((40, 60, 3), 255, np.uint8)
    upright[:20, :20] = (255, 0, 0)  # top left
    upright[20:, 40:] = (0, 0, 255)  # bottom right
    # How a camera stores it: EXIF 2.32, tag 274, "row 0 is / column 0 is".
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"phone.{suffix}"
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    page = read(path, crop=True)
    assert (page.width, page.height) == (60, 40)
    assert np.abs(page.pixels[10, 10].astype(int) - (255, 0, 0)).max() < 12
    assert np.abs(page.pixels[30, 50].astype(int) - (0, 0, 255)).max() < 12
    assert np.abs(page.pixels[10, 50].astype(int) - 255).max() < 12


def test_damaged_exif_does_not_lose_the_picture(tmp_path: Path, clean: Rgb) -> None:
    path = tmp_path / "odd.jpg"
    Image.fromarray(clean).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert read(path, RAW).pixels.shape == clean.shape


def test_transparency_is_laid_on_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    rgba.putpixel((1, 0), (200, 0, 0, 255))
    assert to_rgb(rgba).tolist() == [[[255, 255, 255], [200, 0, 0]]]
    la = Image.new("LA", (1, 1), (0, 0))
    assert to_rgb(la).tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 1, 2, 3])
    assert to_rgb(palette).tolist() == [[[10, 20, 30], [10, 20, 30]]]
    palette.info["transparency"] = 0
    palette.putpixel((1, 0), 1)
    assert to_rgb(palette).tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_cmyk_and_one_bit(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    assert np.abs(read(tmp_path / "c.jpg", crop=True).pixels[8, 8].astype(int) - (255, 0, 0)).max() < 12
    Image.new("1", (8, 8), 1).save(tmp_path / "b.tif")
    assert (read(tmp_path / "b.tif", crop=True).pixels == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16).repeat(4, axis=0)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(levels).save(path)
    assert read(path, crop=True).pixels[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (np.array([[0, 65535]], np.int32), [0, 255]),
        (np.array([[0, 1 << 20]], np.int32), [0, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[7.0, 7.0]], np.float32), [255, 255]),
        (np.array([[np.nan, 1.0]], np.float32), [0, 255]),
    ],
)
def test_grey_without_agreed_white(levels: NDArray[np.float32], expected: list[int]) -> None:
    assert to_rgb(Image.fromarray(levels))[0, :, 0].tolist() == expected


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("white", "black", "red")]
    path = tmp_path / "moving.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    page = read(path, crop=True)
    assert page.id == "moving.webp"
    assert (page.pixels == 255).all()


def save_tiff(path: Path, greys: list[int]) -> None:
    frames = [Image.new("L", (30, 20), grey) for grey in greys]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def test_tiff_pages(tmp_path: Path) -> None:
    save_tiff(tmp_path / "fax.tif", [10, 120, 250])
    pages = list(open_pages(tmp_path / "fax.tif", CONFIG, crop=True))
    assert [page.id for page in pages] == ["fax.tif#1", "fax.tif#2", "fax.tif#3"]
    assert [int(page.pixels[0, 0, 0]) for page in pages] == [10, 120, 250]
    assert "intake.max_pages" in str(refused(tmp_path / "fax.tif", IntakeConfig(max_pages=2)))
    assert len(list(open_pages(tmp_path / "fax.tif", IntakeConfig(max_pages=3), crop=True))) == 3


@pytest.mark.parametrize("suffix", ["pdf", "tif"])
def test_some_pages_of_a_document(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"fax.{suffix}"
    frames = [Image.new("RGB", (60, 40), (grey,) * 3) for grey in (10, 60, 120, 180, 250)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert count_pages(path, CONFIG) == 5
    some = list(open_pages(path, CONFIG, crop=True, pages=range(2, 4)))
    assert [page.id for page in some] == [f"fax.{suffix}#2", f"fax.{suffix}#3"]
    assert [abs(int(page.pixels[9, 9, 0]) - grey) < 9 for page, grey in zip(some, (60, 120), strict=True)] == [True] * 2
    assert len(list(open_pages(path, CONFIG, crop=True, pages=range(5, 9)))) == 1
    with pytest.raises(InputError, match=r"over the limit|more than 4 pages"):
        count_pages(path, IntakeConfig(max_pages=4))


def test_broken_tiff_page_is_named_after_the_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "fax.tif"
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    path.write_bytes(path.read_bytes()[:-2000])  # the last page's strip runs out
    pages = open_pages(path, CONFIG, crop=True)
    assert [next(pages).id, next(pages).id] == ["fax.tif#1", "fax.tif#2"]
    with pytest.raises(InputError, match=r"fax\.tif#3"):
        next(pages)


def save_pdf(path: Path, sheets: list[Rgb], dpi: int = 100) -> None:
    images = [Image.fromarray(sheet) for sheet in sheets]
    images[0].save(path, format="PDF", save_all=True, append_images=images[1:], resolution=dpi, quality=95)


def test_pdf_pages(tmp_path: Path, clean: Rgb) -> None:
    path = tmp_path / "note.pdf"
    save_pdf(path, [clean, np.full_like(clean, 255)])
    config = IntakeConfig(pdf_dpi=100, deskew=False, rectify=False)
    first, second = open_pages(path, config)
    assert (first.id, second.id) == ("note.pdf#1", "note.pdf#2")
    assert abs(first.width - 1100) <= 1
    assert float(np.abs(first.pixels[:850, :1100].astype(int) - clean).mean()) < 6
    assert int(second.pixels.min()) > 250
    save_pdf(path, [clean])
    (only,) = open_pages(path, IntakeConfig(pdf_dpi=200))
    assert only.id == "note.pdf#1"
    assert abs(only.width - 2200) <= 2
    assert not only.findings


def test_two_pdfs_may_be_read_in_turns(tmp_path: Path, clean: Rgb) -> None:
    save_pdf(tmp_path / "a.pdf", [clean, clean])
    save_pdf(tmp_path / "b.pdf", [clean, clean])
    config = IntakeConfig(pdf_dpi=50)
    interleaved = zip(open_pages(tmp_path / "a.pdf", config), open_pages(tmp_path / "b.pdf", config), strict=True)
    assert [(a.id, b.id) for a, b in interleaved] == [("a.pdf#1", "b.pdf#1"), ("a.pdf#2", "b.pdf#2")]


def test_a_reader_that_takes_its_time_loses_no_page(tmp_path: Path, clean: Rgb) -> None:
    save_pdf(tmp_path / "a.pdf", [clean, clean, clean], dpi=50)
    script = Path(pdfium.__file__).read_text(encoding="utf-8").replace("SECONDS = 10", "SECONDS = 1")
    command = [sys.executable, "-c", script, str(tmp_path / "a.pdf"), "150", "40", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        time.sleep(2)  # the first page is being written all the while
        written, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert written.count(b'"width"') == 3


def pdf_of(*objects: bytes) -> bytes:
    """A PDF of these objects, numbered from 1; the first is its catalogue."""
    content, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj %s endobj\n" % (number, text)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    trailer = b"trailer <</Root 1 0 R /Size %d>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(content))
    return content + head + table + trailer


def stream(text: bytes, more: bytes = b"") -> bytes:
    return b"<<%s /Length %d>> stream\n%s\nendstream" % (more, len(text), text)


def test_pages_around_a_bad_one_are_read(tmp_path: Path) -> None:
    """Page 2 draws a form that draws a form ... ten times each, eight deep: 10^8 squares from a few hundred bytes."""
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Resources<</XObject<</F 5 0 R>>>>/Contents %d 0 R>>"
    forms = [
        stream(b"/F Do " * 10, b"/Type/XObject/Subtype/Form/BBox[0 0 99 99]/Resources<</XObject<</F %d 0 R>>>>" % below)
        for below in range(6, 13)
    ]
    last = stream(b"0 0 9 9 re f", b"/Type/XObject/Subtype/Form/BBox[0 0 99 99]")
    (tmp_path / "bomb.pdf").write_bytes(
        pdf_of(
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 3/Kids[3 0 R 4 0 R 3 0 R]>>",
            page % 14,
            page % 13,
            *forms,
            last,
            stream(b"/F Do"),
            stream(b"10 10 50 50 re f"),
        )
    )
    found = []
    with pytest.raises(InputError, match=r"bomb\.pdf#2: can't be drawn within the limits"):
        found.extend(image.id for image in open_pages(tmp_path / "bomb.pdf", IntakeConfig()))
    assert found == ["bomb.pdf#1", "bomb.pdf#3"]


@pytest.mark.parametrize(
    ("picture", "why"),
    [(b"\xff\xd8\xff\xe0 no picture at all", "can't be decoded"), (None, "")],
    ids=["undecodable", "white"],
)
def test_a_pdf_page_whose_picture_is_lost_is_no_empty_page(tmp_path: Path, picture: bytes | None, why: str) -> None:
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Resources<</XObject<</P 5 0 R>>>>/Contents 4 0 R>>"
    if picture is None:
        picture = cv2.imencode(".jpg", np.full((20, 30), 255, np.uint8))[1].tobytes()
    image = b"/Type/XObject/Subtype/Image/Width 30/Height 20/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/DCTDecode"
    pages = b"<</Type/Pages/Count 1/Kids[3 0 R]>>"
    contents = stream(b"q 300 0 0 200 0 0 cm /P Do Q")
    content = pdf_of(b"<</Type/Catalog/Pages 2 0 R>>", pages, page, contents, stream(picture, image))
    (tmp_path / "fax.pdf").write_bytes(content)
    if why:
        assert why in str(refused(tmp_path / "fax.pdf", IntakeConfig()))
    else:
        assert [one.id for one in open_pages(tmp_path / "fax.pdf", IntakeConfig())] == ["fax.pdf#1"]


def test_a_page_of_a_plan_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d 300]>>"
    content = pdf_of(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 3/Kids[3 0 R 4 0 R 5 0 R]>>",
        page % 300,
        page % 999_999,
        page % 300,
    )
    (tmp_path / "plan.pdf").write_bytes(content)
    found = []
    with pytest.raises(InputError, match=r"plan\.pdf#2: .*megapixels"):
        found.extend(image.id for image in open_pages(tmp_path / "plan.pdf", IntakeConfig()))
    assert found == ["plan.pdf#1", "plan.pdf#3"]


def test_light_ink_on_nothing_is_laid_on_black(tmp_path: Path) -> None:
    for ink, paper in ((250, 0), (20, 255)):
        layer = np.zeros((200, 300, 4), np.uint8)
        layer[80:90, 50:250] = (ink, ink, ink, 255)
        Image.fromarray(layer).save(tmp_path / "note.png")
        pixels = read(tmp_path / "note.png", RAW).pixels
        assert pixels[10, 10].tolist() == [paper] * 3
        assert pixels[85, 100].tolist() == [ink] * 3


def test_eight_bits_in_a_file_of_sixteen_stay_what_they_are(tmp_path: Path) -> None:
    levels = np.full((60, 80), 240, np.uint16)
    levels[20:30] = 12
    Image.fromarray(levels).save(tmp_path / "scan.png")
    pixels = read(tmp_path / "scan.png", RAW).pixels
    assert (int(pixels[5, 5, 0]), int(pixels[25, 5, 0])) == (240, 12)


# --- inputs -------------------------------------------------------------------------------------------------------


def test_folders_are_expanded_sorted_and_filtered(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "sub/c.Pdf", "notes.txt", "._a.png", "d.tiff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list_inputs([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.png", "b.JPG", "d.tiff", "sub/c.Pdf"]
    named = tmp_path / "notes.txt"
    assert list_inputs([str(named), tmp_path, named]) == [named, *found]


def test_bad_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png"):
        list_inputs([tmp_path / "gone.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        list_inputs([tmp_path / "empty"])
    assert "empty" in str(caught.value)
    assert all(suffix in caught.value.way_out for suffix in SUFFIXES)


# --- bad files ----------------------------------------------------------------------------------------------------


def encoded(photo: Rgb, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, format=kind)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing of it."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 99))]
    packed = (
        struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


ENCRYPTED_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
    b"3 0 obj<</Filter/Standard/V 1/R 2/P -4/O<" + b"41" * 32 + b">/U<" + b"42" * 32 + b">>>endobj\n"
    b"trailer<</Root 1 0 R/Encrypt 3 0 R/ID[<00><00>]>>\n%%EOF\n"
)


@pytest.mark.parametrize(
    ("name", "content", "problem", "way_out"),
    [
        ("empty.jpg", b"", "empty", "again"),
        ("text.jpg", b"dear diary, " * 40, "not an image", "JPEG, PNG"),
        ("phone.jpg", b"\0\0\0\x18ftypheic" + b"\0" * 64, "not an image", "export it as JPEG"),
        ("short.pdf", b"%PDF-1.7\n garbage", "broken PDF", "new PDF"),
        ("secret.pdf", ENCRYPTED_PDF, "password", "without the password"),
        ("bomb.png", png_header(60_000, 60_000), "has 3600 megapixels, over the 179", "cut it up"),
        ("large.png", png_header(15_000, 10_000), "megapixels", "intake.max_megapixels"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, problem: str, way_out: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path / name)
    assert error.subject == name
    assert problem in error.problem
    assert way_out in error.way_out


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_images(tmp_path: Path, clean: Rgb, kind: str) -> None:
    content = encoded(clean, kind)
    (tmp_path / "cut.img").write_bytes(content[: len(content) // 2])
    assert "again" in refused(tmp_path / "cut.img").way_out


def test_missing_and_folder(tmp_path: Path) -> None:
    assert "does not exist" in str(refused(tmp_path / "gone.jpg"))
    (tmp_path / "album.jpg").mkdir()
    assert "folder" in str(refused(tmp_path / "album.jpg"))


def test_limits_of_the_configuration(tmp_path: Path, clean: Rgb) -> None:
    path = save(tmp_path, clean, "big.bmp")
    assert "intake.max_file_mb" in str(refused(path, IntakeConfig(max_file_mb=0.5)))
    assert "intake.max_megapixels" in str(refused(path, IntakeConfig(max_megapixels=0.9)))
    save_pdf(tmp_path / "big.pdf", [clean, clean])
    assert "intake.max_pages" in str(refused(tmp_path / "big.pdf", IntakeConfig(max_pages=1)))
    error = refused(tmp_path / "big.pdf", IntakeConfig(max_megapixels=0.9))
    assert error.subject == "big.pdf"
    assert "#1 has" in error.problem
    assert "#2 has" in error.problem
    assert "intake.pdf_dpi" in error.way_out


SMALL = {kind: encoded(write_lines(300, 280), kind) for kind in ("JPEG", "PNG", "TIFF", "WEBP")}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(SMALL)), where=st.floats(0, 1), junk=st.binary(min_size=1, max_size=40))
def test_damage_is_refused_or_read_but_never_crashes(tmp_path: Path, kind: str, where: float, junk: bytes) -> None:
    content = bytearray(SMALL[kind])
    start = int(where * where * (len(content) - 1))  # headers more often than pixels
    content[start : start + len(junk)] = junk
    path = tmp_path / "fuzz.img"
    path.write_bytes(content)
    try:
        pages = list(open_pages(path, IntakeConfig(max_megapixels=1), crop=True))
    except InputError as error:
        outcome = str(error)
    else:
        outcome = pages[0].id
        assert all(page.pixels.shape == (page.height, page.width, 3) for page in pages)
    assert "fuzz.img" in outcome


# --- geometry -----------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(angle=st.floats(-10, 10), seed=st.integers(0, 3))
def test_skew_of_written_lines(angle: float, seed: int) -> None:
    grey, _ = shrink(turn(written(seed), -angle))
    assert measure_skew(look(grey).ink) == pytest.approx(angle, abs=0.7)


def test_no_skew_without_lines() -> None:
    rng = np.random.default_rng(1)
    assert measure_skew(np.zeros((700, 1000), bool)) == 0.0
    assert measure_skew(rng.random((700, 1000)) < 0.05) == 0.0
    assert measure_skew(np.ones((700, 1000), bool)) == 0.0
    strip = np.zeros((60, 1000), bool)
    strip[20:40, 100:900] = True
    assert measure_skew(strip) == 0.0


@given(
    angle=st.floats(-40, 40),
    width=st.integers(5, 4000),
    height=st.integers(5, 4000),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
)
def test_levelling_keeps_every_point_on_the_canvas(angle: float, width: int, height: int, x: float, y: float) -> None:
    transform, size = level(np.eye(3), (width, height), angle)
    assert turned_by(transform, size) == pytest.approx(angle, abs=1e-6)
    point = np.array([[x * (width - 1), y * (height - 1)]])
    (there,) = project(np.linalg.inv(transform), point)
    assert -0.51 <= there[0] <= size[0] - 0.49
    assert -0.51 <= there[1] <= size[1] - 0.49
    assert project(transform, there[None])[0] == pytest.approx(point[0], abs=1e-6)


def spots(photo: Rgb, centres: list[tuple[int, int]]) -> Rgb:
    """Magenta discs: nothing else here has that colour."""
    marked = photo.copy()
    for centre in centres:
        cv2.circle(marked, centre, 7, (255, 0, 255), -1, cv2.LINE_AA)
    return marked


def find_spots(pixels: Rgb) -> NDArray[np.float64]:
    """Centres of the discs, float64 (N, 2)."""
    colour = pixels.astype(int)
    mask = ((colour[:, :, 0] > 200) & (colour[:, :, 1] < 110) & (colour[:, :, 2] > 200)).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(mask)
    return np.asarray(centres[1:][stats[1:, 4] > 60])


CENTRES = [(60, 60), (1040, 60), (60, 790), (1040, 790), (550, 425)]


@pytest.mark.parametrize("angle", [-9.0, -3.3, 4.0, 8.5])
def test_a_turned_page_maps_back(tmp_path: Path, clean: Rgb, angle: float) -> None:
    photo = turn(spots(clean, CENTRES[-1:]), -angle)
    page = read(save(tmp_path, photo))
    assert page.angle == pytest.approx(angle, abs=0.4)
    assert "skew" in kinds(page)
    back = project(page.transform, find_spots(page.pixels))
    assert np.abs(back - find_spots(photo)).max() < 0.5
    assert abs(measure_skew(look(shrink(page.pixels)[0]).ink)) < 0.4


@pytest.mark.parametrize(
    "corners",
    [
        [(190, 110), (1000, 140), (1120, 800), (90, 830)],  # leaning back
        [(120, 150), (1050, 60), (1110, 720), (180, 870)],  # turned to the left
        [(150, 60), (1060, 190), (1040, 770), (130, 850)],  # from the side
    ],
)
def test_a_sheet_at_an_angle_maps_back(tmp_path: Path, clean: Rgb, corners: list[tuple[float, float]]) -> None:
    photo, onto = photograph(spots(clean, CENTRES), corners, (1250, 920))
    page = read(save(tmp_path, photo))
    assert (page.width, page.height) == (1250, 920)
    found = find_spots(page.pixels)
    assert len(found) == 5
    truth = project(onto, np.array(CENTRES, dtype=np.float64))
    back = project(page.transform, found)
    for point in truth:
        assert np.linalg.norm(back - point, axis=1).min() < 2
    # The discs stood at the corners of a rectangle, and do again.
    order = found[np.argsort(found[:, 1])]
    (top_left, top_right), (bottom_left, _) = (pair[np.argsort(pair[:, 0])] for pair in (order[:2], order[3:]))
    assert abs(top_left[1] - top_right[1]) < 6
    assert abs(top_left[0] - bottom_left[0]) < 6
    assert "perspective" in kinds(page)


def test_rectify_off_leaves_the_table_but_says_so(tmp_path: Path, clean: Rgb) -> None:
    photo, _ = photograph(clean, [(190, 110), (1000, 110), (1120, 800), (90, 800)], (1250, 920))
    page = read(save(tmp_path, photo), RAW)
    assert np.array_equal(page.pixels, photo)
    assert np.array_equal(page.transform, np.eye(3))
    assert any("intake.rectify" in finding.message for finding in page.findings)


def test_doubtful_sheets_are_left_alone(clean: Rgb) -> None:
    cut_off, _ = photograph(clean, [(190, -60), (1000, -60), (1120, 800), (90, 800)], (1250, 920))
    small, _ = photograph(clean, [(390, 310), (700, 310), (720, 500), (370, 500)], (1250, 920))
    for photo in (clean, cut_off, small):
        assert find_sheet(shrink(photo)[0]) is None


def test_a_sheet_seen_from_above_is_left_alone(tmp_path: Path, clean: Rgb) -> None:
    photo, _ = photograph(clean, [(75, 35), (1174, 35), (1174, 884), (75, 884)], (1250, 920))
    page = read(save(tmp_path, photo))
    assert np.array_equal(page.pixels, photo)
    assert not kinds(page) & {"perspective", "skew"}


def test_the_border_is_filled_with_paper() -> None:
    photo = np.full((300, 400, 3), (240, 230, 210), np.uint8)
    transform, size = level(np.eye(3), (400, 300), 10.0)
    assert np.abs(warp(photo, transform, size).astype(int) - (240, 230, 210)).max() <= 1


# --- findings -----------------------------------------------------------------------------------------------------


def blurred(photo: Rgb) -> Rgb:
    return np.array(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(4)))


def with_glare(photo: Rgb) -> Rgb:
    """A lamp's reflection with soft edges that swallows strokes."""
    height, width = photo.shape[:2]
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - width * 0.6, y - height * 0.5)
    light = np.clip((260 - distance) / 60, 0, 1)[:, :, None]
    return np.asarray(np.clip(photo * 0.9 * (1 - light) + 255 * light, 0, 255), dtype=np.uint8)


def test_a_clean_page_has_no_findings_and_is_left_alone(tmp_path: Path, clean: Rgb) -> None:
    page = read(save(tmp_path, clean))
    assert page.findings == ()
    assert page.angle == 0.0
    assert np.array_equal(page.pixels, clean)
    assert np.array_equal(page.transform, np.eye(3))


@pytest.mark.parametrize(
    "photo",
    [
        write_lines(paper=255, ink=0),  # a scan: white is not glare
        write_lines(paper=120, ink=20),  # a dark room
        write_lines(paper=40, ink=230),  # chalk on a board
        write_lines(3300, 2500),  # a phone
        np.full((800, 1000, 3), 235, np.uint8),  # nothing written
        np.random.default_rng(0).normal(200, 5, (800, 1000, 3)).clip(0, 255).astype(np.uint8),  # nothing but grain
    ],
    ids=["scan", "dark", "board", "large", "blank", "grain"],
)
def test_good_pages_have_no_findings(tmp_path: Path, photo: Rgb) -> None:
    assert kinds(read(save(tmp_path, photo))) == set()


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("small", lambda photo: np.ascontiguousarray(photo[:700])),
        ("blur", blurred),
        ("glare", with_glare),
        ("low_contrast", lambda _: write_lines(paper=200, ink=172)),
        ("skew", lambda photo: turn(photo, 3)),
        ("perspective", lambda p: photograph(p, [(190, 20), (1000, 20), (1160, 890), (60, 890)], (1250, 920))[0]),
    ],
)
def test_each_finding(tmp_path: Path, clean: Rgb, kind: str, make: Callable[[Rgb], Rgb]) -> None:
    page = read(save(tmp_path, make(clean)))
    assert kinds(page) == {kind}
    (finding,) = page.findings
    crossed_down = kind in ("small", "blur", "low_contrast")
    assert (finding.value < finding.limit) == crossed_down
    assert math.isfinite(finding.value)
    assert len(finding.message) > 20


def test_limits_come_from_the_configuration(tmp_path: Path, clean: Rgb) -> None:
    strict = IntakeConfig(small_side=5000, blur=1e6, contrast=255)
    assert kinds(read(save(tmp_path, clean), strict)) == {"small", "blur", "low_contrast"}
    lax = IntakeConfig(small_side=0, blur=0, glare=1, contrast=0, skew=45, perspective=1)
    assert kinds(read(save(tmp_path, turn(blurred(clean), 5)), lax)) == set()


def test_a_crop_is_left_as_it_is(tmp_path: Path, clean: Rgb) -> None:
    word = np.ascontiguousarray(turn(clean, 6)[300:500, 300:800])
    page = read(save(tmp_path, word), crop=True)
    assert np.array_equal(page.pixels, word)
    assert np.array_equal(page.transform, np.eye(3))
    assert page.angle == 0.0
    assert not kinds(page) & {"small", "skew", "perspective"}
    for size in ((1, 1), (1, 300), (40, 2)):
        assert read(save(tmp_path, np.zeros((*size, 3), np.uint8)), crop=True).pixels.shape == (*size, 3)
        assert read(save(tmp_path, np.zeros((*size, 3), np.uint8))).pixels.shape == (*size, 3)


def test_reading_twice_gives_the_same(tmp_path: Path, clean: Rgb) -> None:
    photo, _ = photograph(clean, [(190, 110), (1000, 140), (1120, 800), (90, 830)], (1250, 920))
    first, second = (read(save(tmp_path, photo)) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.transform, second.transform)
    assert first.findings == second.findings
    assert first.angle == second.angle
