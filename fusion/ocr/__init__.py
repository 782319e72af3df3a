"""The OCR room: an upright page in, lines in reading order out, each with candidates and answers about any string.

Knows PP-OCR, CTC and the order of lines; knows nothing of a second reader or of decisions. Nothing is dropped for a
low score: those lines are the job.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import regex
from numpy.typing import NDArray

from fusion.config import OcrConfig
from fusion.ctc import Posterior, Views
from fusion.ink import Ink, InkLine, Language, PageImage, image_sha256
from fusion.ocr import fractions, layout, search, squares
from fusion.ocr.layout import Region
from fusion.ocr.marks import Marker
from fusion.ocr.onnx import HEIGHT, OnnxModels, Recognizer, column_px
from fusion.ocr.order import reading_order
from fusion.onnx import runtime_version
from fusion.page import Failure, Polygon, Position, Reading, Recipe, is_ideograph
from fusion.view import View as SmallView
from fusion.view import look, shrink

__all__ = ["OcrReader"]

LATIN = Path(str(files("fusion.ocr") / "latin" / "recogniser.onnx"))
"""PP-OCR's recogniser trained on with real Latin hands; its card stands beside it."""
TWO_WAY = frozenset("018AHIMNOSTUVWXYZbdilmnopqstvwxz|+-=×÷:. ()一二三十人入八大口日目田中山木土王□")
"""Characters that read as well in the mirror, or as one of each other."""
_TAUGHT = regex.compile(r"[\p{Latin}\p{Nd}\p{P}\p{Sc}\p{Sk}+=<>|×÷±°½¼¾²³µ≤≥√π ]")
"""Characters in what the recogniser of Latin hands was trained on; its other classes are left from PP-OCR's alphabet."""
MUTE = frozenset("¼½¾µμ")
"""Characters that PP-OCR lists and reads right on fewer than a third of lines drawn with them; so it can't speak against
one of them either."""
LOOKS = 3
"""Looks kept at a line that was read at several widths."""
SURE = 0.6
"""A region in which the detector is less sure than this is a line only if it can be read."""
UPRIGHT = 0.85
"""A page whose longest lines read at least so well stands upright: PP-OCR reads no other so."""
LEAD = 6
"""Lines by whose reading the way up is judged."""
BETTER = 0.15
"""How much better they must read the other way."""
FEW = 2
"""Lines that are enough to judge the way up by, if they read better by `CLEAR`."""
CLEAR = 0.3
"""How much better lines must read for that."""
ENOUGH = 4
"""Characters that must be read the way up that is better."""
ONE_WAY = 2
"""Characters that show which way is right, in what a faint line reads in the mirror, if it shows through."""
MIRRORED = 0.08
"""How much better a faint line that can be read must read in the mirror to show through; one that can't, better at all."""
LOOSE_LETTERS = 2
"""Letters and digits that must be read in ink that the detector passes over."""


@dataclass(frozen=True, slots=True)
class _View:
    """A crop the way it is best read, and what the OCR sees then.

    Attributes:
        crop: uint8 (h, w, 3), RGB.
        looks: at it, the best first.
        stretches: horizontal factor of each look.
        turns: quarters that the crop was turned, counter-clockwise.
    """

    crop: NDArray[np.uint8]
    looks: Views
    stretches: tuple[float, ...]
    turns: int = 0

    @property
    def quality(self) -> float:
        return self.looks.best.quality

    @property
    def text(self) -> str:
        return self.looks.best.greedy


@dataclass(frozen=True, slots=True)
class _Place:
    """A place on the page: corners, what the OCR sees there, and what that is."""

    quad: NDArray[np.float64]
    view: _View
    kind: Literal["line", "unread", "not_writing", "uncovered"]


class Models(Protocol):
    """What finds and recognises writing: PP-OCR under one of two runtimes.

    Attributes:
        engine, version, model: what a reading's recipe records.
        detection_model: name of the model that finds regions.
        characters: one text per class of a posterior; the first is the blank.
    """

    engine: str
    version: str
    model: str
    detection_model: str
    characters: tuple[str, ...]

    def regions(self, pixels: NDArray[np.uint8]) -> list[Region]:
        """Regions of writing on a page, in no order."""
        ...

    def posteriors(self, crops: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """CTC posterior of each crop."""
        ...

    def close(self) -> None:
        """Give the models' memory back."""
        ...


def open_models(config: OcrConfig) -> Models:
    """The models that a configuration names; see `OnnxModels` and `PaddleModels` for errors."""
    if config.engine == "onnx":
        return OnnxModels(config)
    from fusion.ocr.paddle import PaddleModels

    return PaddleModels(config)


class OcrReader:
    """Finds lines and reads them. Keeps no state between pages, and may be used from several threads at once."""

    def __init__(self, config: OcrConfig) -> None:
        """Load the models; see `open_models` for errors."""
        self._config = config
        self._engine = open_models(config)
        self._latin = Recognizer(config.hand_model or LATIN, "latin hands", config.threads)
        self._marker = Marker(config.threads)
        self._spells = frozenset(filter(_TAUGHT.fullmatch, self._latin.characters[1:]))

    def read(self, page: PageImage, *, crop: bool = False) -> tuple[InkLine, ...]:
        """Lines of a page in reading order.

        Writing that nobody can read is a line too, with a failure for a reading; so is, at the end, what was found and is no
        line (`not_writing`, `uncovered`).

        Args:
            page: upright page.
            crop: the image is one word or one line: read it whole, without detection.
        """
        height, width = page.pixels.shape[:2]
        if crop:
            whole = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
            view = self._view(page.pixels, self._config.stretches)
            if view.text and self._is_no_writing(view):  # a crop is a line, also where nobody can read it
                return tuple(_numbered([_unread(_Place(whole, view, "unread"))], "l", "r000"))
            return tuple(_numbered([self._line(_Place(whole, view, "line"))], "l", "r000"))
        small, to_page = shrink(page.pixels)
        seen, scale = look(small), float(to_page[0, 0])
        places = [self._place(page.pixels, one) for one in self._regions(page.pixels, seen, scale)]
        places += self._loose(page.pixels, [one.quad for one in places], seen, scale)
        places = self._with_fractions(page.pixels, places, seen, scale)
        found = [one for one in places if one.kind in ("line", "unread")]
        left_out = [one for one in places if one.kind not in ("line", "unread")]
        lines = [self._line(one) if one.kind == "line" else _unread(one) for one in found]
        return (*_in_order(lines, seen, scale), *_numbered([_unread(one) for one in left_out], "x"))

    def joined(self, page: PageImage, lines: Sequence[InkLine], languages: Sequence[Language]) -> tuple[InkLine, ...]:
        """A page's lines, with Chinese characters that stand apart joined to rows or columns, if that is more probable.

        The detector joins characters to the nearest ones: on squared paper, above all if it was photographed at an angle, to
        those above and below, or to none. See `squares`.

        Args:
            page: as it was read.
            lines: what `read` found on it.
            languages: that may tell rows from columns.
        """
        best, made, most = squares.Layout([], []), list[InkLine](), squares.MORE
        for one in squares.layouts(lines):
            taken = [lines[n] for n in one.apart]
            spoken = squares.concerned(taken, languages)
            if not spoken:
                continue
            read = [self._line(self._place(page.pixels, Region(quad, 1.0))) for quad in one.quads]
            if (gain := squares.gain(read, taken, spoken)) > most:
                best, made, most = one, read, gain
        if not made:
            return tuple(lines)
        kept = [line for n, line in enumerate(lines) if n not in best.apart]
        small, to_page = shrink(page.pixels)
        found = [*(line for line in kept if line.region), *made]
        return (*_in_order(found, look(small), float(to_page[0, 0])), *(line for line in kept if not line.region))

    def _regions(self, pixels: NDArray[np.uint8], seen: SmallView, scale: float) -> list[Region]:
        """Where the detector sees lines; those that it ran together are parted."""
        regions = [Region(layout.upright_corners(corners), sure) for corners, sure in self._engine.regions(pixels)]
        regions = search.join_upright(regions)
        parted = search.part_columns([quad for quad, _ in regions], seen, scale)
        return [Region(quad, sure) for parts, (_, sure) in zip(parted, regions, strict=True) for quad in parts]

    def _place(self, pixels: NDArray[np.uint8], region: Region) -> _Place:
        """What the OCR sees in a region."""
        view = self._view(layout.cut_out(pixels, region.corners), self._config.page_stretches)
        if self._is_no_writing(view):
            return _Place(region.corners, view, "not_writing")
        readable = region.probability >= SURE or view.quality >= self._config.poor
        return _Place(region.corners, view, "line" if readable else "unread")

    def _loose(
        self, pixels: NDArray[np.uint8], quads: Sequence[NDArray[np.float64]], seen: SmallView, scale: float
    ) -> Iterator[_Place]:
        """Ink that the detector passes over: a line where it reads well."""
        for quad in search.uncovered(quads, seen, scale):
            view = self._view(layout.cut_out(pixels, quad), self._config.page_stretches)
            reads = view.quality >= self._config.poor and sum(map(str.isalnum, view.text)) >= LOOSE_LETTERS
            yield _Place(quad, view, "line" if reads else "uncovered")

    def _with_fractions(
        self, pixels: NDArray[np.uint8], regions: Sequence[_Place], seen: SmallView, scale: float
    ) -> list[_Place]:
        """The regions with each row of fractions as one line, laid out anew, where it is read with all its bars."""
        quads, texts = [one.quad for one in regions], [one.view.text for one in regions]
        single, rows = set(range(len(regions))), []
        for row in fractions.rows(quads, texts, seen, scale):
            view = self._view(fractions.laid_out(pixels, row), self._config.page_stretches)
            bars = sum(len(part.boxes) > 1 for part in row)
            if view.quality >= self._config.poor and view.text.count("/") == bars:
                members = [number for part in row for number in part.numbers]
                corners = np.concatenate([quads[number] for number in members])
                rows.append(_Place(layout.around(corners), view, "line"))
                single -= set(members)
        return [*(regions[number] for number in sorted(single)), *rows]

    def turns(self, page: PageImage, lines: Sequence[InkLine]) -> int:
        """Quarter turns counter-clockwise after which a page stands upright, judged by how its longest lines read.

        0 where it does, in doubt, and for Chinese written from top to bottom.

        Args:
            page: as it was read.
            lines: what `read` found on it.
        """
        quads = [layout.upright_corners(np.array(line.polygon)) for line in lines]
        lead = sorted(range(len(quads)), key=lambda n: -max(_sides(quads[n])))[:LEAD]
        tall = [n for n in lead if layout.height_of(quads[n]) > layout.TALL * layout.width_of(quads[n])]
        all_tall = sum(layout.height_of(quad) > layout.TALL * layout.width_of(quad) for quad in quads)
        sideways = 2 * len(tall) > len(lead) and 2 * all_tall > len(quads)
        lead = tall if sideways else [n for n in lead if n not in tall]
        inks = [lines[n].ink for n in lead]
        if not lead or (not sideways and _mean([(ink.quality, 1) for ink in inks if ink is not None]) >= UPRIGHT):
            return 0
        crops = [layout.cut_out(page.pixels, quads[n]) for n in lead]
        known = [None if sideways else _narrowest(ink) for ink in inks]
        way, looks = self._better_way(crops, known, (1, 3) if sideways else (0, 2))
        return 0 if sideways and way == 1 and self._is_vertical(crops, looks) else way

    def _better_way(
        self, crops: Sequence[NDArray[np.uint8]], known: Sequence[Posterior | None], ways: tuple[int, int]
    ) -> tuple[int, list[Posterior]]:
        """The one of two ways up in which lines clearly read better, 0 if neither, and the looks at lines that way.

        `known`: the look at each line as it is, where there is one.
        """
        looks: dict[int, list[Posterior]] = {way: [] for way in ways}
        for crop, own in zip(crops, known, strict=True):
            for way in ways:
                looks[way].append(own if own is not None and way == 0 else self._plain(_turned(crop, way)))
            quality = {way: _mean([(one.quality, len(one.greedy)) for one in looks[way]]) for way in ways}
            best, other = sorted(ways, key=lambda way: -quality[way])
            margin = quality[best] - quality[other]
            enough = sum(len(one.greedy) for one in looks[best]) >= ENOUGH
            # Of lines on their side each has a say: they may be Chinese from top to bottom.
            if 0 in ways and enough and len(looks[best]) >= FEW and margin > CLEAR:
                break
        return (best if enough and margin > BETTER else 0), looks[best]

    def _is_vertical(self, crops: Sequence[NDArray[np.uint8]], looks: Sequence[Posterior]) -> bool:
        """Whether Chinese characters stand upright in tall lines that read turned counter-clockwise: as they are, half read too.

        PP-OCR has learnt columns turned that way: it reads characters upright and lying on their left side, no others.
        """
        same = total = 0
        for crop, seen in zip(crops, looks, strict=True):
            text = seen.greedy
            if not any(map(is_ideograph, text)):
                continue
            for character, cell in zip(text, np.array_split(crop, len(text)), strict=True):
                total += 1
                same += self._plain(np.ascontiguousarray(cell)).greedy == character
        return 2 * same > total > 0

    def _is_no_writing(self, view: _View) -> bool:
        """Whether a place holds a dotted rule, a dot, or what shows through from the other side."""
        return search.is_no_writing(view.crop, view.text) or (search.is_faint(view.crop) and self._is_mirrored(view))

    def _is_mirrored(self, view: _View) -> bool:
        """Whether a line reads better in the mirror: it shows through from the other side of the sheet."""
        mirrored = self._plain(np.ascontiguousarray(view.crop[:, ::-1]))
        one_way = sum(character not in TWO_WAY for character in mirrored.greedy)
        margin = MIRRORED if view.quality >= self._config.poor else 0.0
        return one_way >= ONE_WAY and mirrored.quality > view.quality + margin

    def _plain(self, crop: NDArray[np.uint8]) -> Posterior:
        """One look at a crop as it is."""

        def read(picture: NDArray[np.uint8], column: float) -> Posterior:
            return Posterior.compact(self._engine.posteriors([picture])[0], self._engine.characters, column)

        return _wider(crop, 1.0, read)

    @property
    def identity(self) -> str:
        """What its readings depend on beside the settings: models and runtime."""
        engine = self._engine
        return f"{engine.detection_model} {engine.model} {self._latin.model} {self._marker.model} {engine.engine} {engine.version}"

    def close(self) -> None:
        """Give the models' memory back."""
        self._engine.close()
        self._latin = self._marker = None  # type: ignore[assignment]

    def _view(self, crop: NDArray[np.uint8], stretches: Sequence[float]) -> _View:
        """The crop as it is; where it is tall also turned both ways."""
        view = self._view_at_widths(crop, stretches)
        if crop.shape[0] <= layout.TALL * crop.shape[1]:
            return view
        for turns in (1, 3):
            other = self._view_at_widths(_turned(crop, turns), stretches, turns)
            if len(other.text) > 1 and other.quality > view.quality:
                view = other
        return view

    def _view_at_widths(self, crop: NDArray[np.uint8], stretches: Sequence[float], turns: int = 0) -> _View:
        """Looks at a crop: as it is; where that is poor or cramped also stretched."""

        def read(picture: NDArray[np.uint8], column: float) -> Posterior:
            return Posterior.compact(self._engine.posteriors([picture])[0], self._engine.characters, column, mute=MUTE)

        seen = {1.0: _wider(crop, 1.0, read)}
        on_ink = crop.shape[1] / column_px(*crop.shape[1::-1])
        cramped = on_ink < self._config.cramped * max(1, len(seen[1.0].greedy))
        if cramped or seen[1.0].quality < self._config.poor:
            seen |= {factor: _wider(crop, factor, read) for factor in stretches}
        best = sorted(seen, key=lambda factor: -seen[factor].quality)[:LOOKS]
        return _View(crop, Views(tuple(seen[factor] for factor in best)), tuple(best), turns)

    def _hand(self, view: _View) -> tuple[Reading, Views] | tuple[None, None]:
        """The looks of the recogniser of Latin hands, at the widths that suit PP-OCR; none at a character that it can't spell."""
        if not self._spells.issuperset(view.text.replace("μ", "µ")):  # PP-OCR writes the Greek letter for the sign
            return None, None

        def read(picture: NDArray[np.uint8], column: float) -> Posterior:
            return Posterior.compact(self._latin.posterior(picture), self._latin.characters, column, self._spells)

        seen = [_wider(view.crop, factor, read) for factor in view.stretches]
        looks = Views(tuple(sorted(seen, key=lambda posterior: -posterior.quality)))
        recipe = Recipe("pp-ocr/latin hands", runtime_version(), self._latin.model, image_sha256(view.crop))
        return self._reading("hand", looks, recipe, float(view.crop.shape[1])), looks

    def _line(self, place: _Place) -> InkLine:
        crop, ink, engine = place.view.crop, place.view.looks, self._engine
        recipe = Recipe(f"pp-ocr/{engine.engine}", engine.version, engine.model, image_sha256(crop))
        reading = self._reading("ocr", ink, recipe, float(crop.shape[1]))
        failures = () if ink.best.greedy else (Failure("ocr", "empty", "the OCR reads nothing on this line"),)
        hand, hand_ink = self._hand(place.view)
        seen = self._marker.look(crop)
        return InkLine(
            "",
            _polygon(place),
            crop,
            reading,
            ink,
            failures,
            hand,
            hand_ink,
            printed=seen.printed,
            struck=seen.struck,
            other_script=seen.other_script,
        )

    def _reading(self, source: Literal["ocr", "hand"], looks: Views, recipe: Recipe, width: float) -> Reading:
        best = looks.best
        return Reading(
            source=source,
            text=best.greedy,
            recipe=recipe,
            positions=_within(best.positions(self._config.top_k), width),
            nbest=looks.nbest(self._config.nbest),
            score=looks.score([best.greedy])[0],
            raw=best.greedy,
        )


def _in_order(found: Sequence[InkLine], seen: SmallView, scale: float) -> list[InkLine]:
    """Lines as a person reads them, named. Notes at a right angle to the body are regions of their own, on their side of it."""
    quads = [layout.upright_corners(np.array(line.polygon)) for line in found]
    texts = [line.reading.text if line.reading is not None else "" for line in found]
    turned = [n for n, quad in enumerate(quads) if not np.allclose(quad[0], found[n].polygon[0])]
    body = [n for n in range(len(found)) if n not in turned]
    if len(turned) >= len(body):
        body, turned = list(range(len(found))), []
    braces = search.braces(quads, seen, scale)
    order = reading_order([quads[n] for n in body], [texts[n] for n in body], braces)
    regions = [[body[index] for index in region] for region in order]
    if turned:
        middle = float(np.median([quads[n][:, 0].mean() for n in body]))
        turned.sort(key=lambda n: tuple(quads[n].mean(axis=0)))
        before = [[n] for n in turned if quads[n][:, 0].mean() < middle]
        regions = [*before, *regions, *([n] for n in turned if quads[n][:, 0].mean() >= middle)]
    homes = [f"r{number:03d}" for number, region in enumerate(regions) for _ in region]
    ordered = _numbered([found[n] for region in regions for n in region], "l")
    return [replace(line, region=home) for line, home in zip(ordered, homes, strict=True)]


def _narrowest(ink: Ink | None) -> Posterior | None:
    """Of the looks at a line of a page the one at its own width: the others, of which none was left out, are wider."""
    return min(ink.posteriors, key=lambda look: len(look.probabilities)) if isinstance(ink, Views) else None


def _numbered(lines: Sequence[InkLine], letter: str, region: str = "") -> list[InkLine]:
    """Lines with their names on the page."""
    return [replace(line, id=f"{letter}{n:03d}", region=region) for n, line in enumerate(lines)]


_UNREAD = {
    "unread": "something that may be writing stands here and can't be read",
    "not_writing": "a dotted rule, a dot, or writing that shows through from the other side",
    "uncovered": "ink that belongs to no line",
}
"""Kind of failure of a place that is not read → message."""


def _unread(place: _Place) -> InkLine:
    """A place that is not read, with the reason."""
    failure = Failure("ocr", place.kind, _UNREAD[place.kind])
    return InkLine("", _polygon(place), place.view.crop, None, None, (failure,))


def _polygon(place: _Place) -> Polygon:
    """Corners clockwise from the start of the line: of a turned one that is not the top left."""
    return tuple((float(x), float(y)) for x, y in np.roll(place.quad, -place.view.turns, axis=0))


def _turned(crop: NDArray[np.uint8], quarters: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rot90(crop, quarters))


def _sides(quad: NDArray[np.float64]) -> tuple[float, float]:
    return layout.width_of(quad), layout.height_of(quad)


def _mean(values: Sequence[tuple[float, int]]) -> float:
    """Weighted mean; 0.0 for none."""
    total = sum(weight for _, weight in values)
    return sum(value * weight for value, weight in values) / total if total else 0.0


def _within(positions: Sequence[Position], width: float) -> tuple[Position, ...]:
    """Positions cut at the crop's edge: a last letter may be written on the padding behind it."""
    return tuple(replace(p, left=min(p.left, width), right=min(p.right, width)) for p in positions)


def _wider(crop: NDArray[np.uint8], factor: float, read: Callable[[NDArray[np.uint8], float], Posterior]) -> Posterior:
    """A crop read `factor` times wider; `read` gets the picture and the width of its columns, px on the crop."""
    picture = _sized(crop, factor)
    return read(picture, column_px(*picture.shape[1::-1]) * crop.shape[1] / picture.shape[1])


def _sized(crop: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The crop made `factor` times wider and, if it is higher than the recognisers see it, as small as they do.

    They shrink by INTER_LINEAR, which skips rows of a high crop: strokes break (figures in docs/evaluation.md).
    """
    height, width = crop.shape[:2]
    low = min(height, HEIGHT)
    size = max(1, math.ceil(round(width * factor) * low / height))
    if low < height:
        crop = np.asarray(cv2.resize(crop, (width, low), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if size == width:
        return crop
    way = cv2.INTER_AREA if size < width else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (size, low), interpolation=way), dtype=np.uint8)
