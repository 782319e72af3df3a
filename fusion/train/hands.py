"""Real handwriting for the recogniser, gathered into one folder: crops, labels, the held-out flag, where a crop may be cut.

Knows the splits on disk and the recogniser that aligns them once; trains nothing. The folder holds all that the training
needs, so that it can be copied to a machine without the data sets.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.errors import InputError
from fusion.onnx import open_session
from fusion.train.crops import in_share, read_grey
from fusion.train.ppocr import COLUMN, HEIGHT, NARROWEST
from fusion.train.recipe import Hands

ROOM = {"words": 64, "lines": 56}
"""Height of stored crops, px: more than the network takes, so that enlarged ones stay sharp."""
QUALITY = {"words": 75, "lines": 60}
"""WebP quality of stored crops."""
SURE = {"words": -1.2, "lines": -1.5}
"""Least mean log-probability of the aligned characters at which a cut is trusted."""
WHITE = 4
"""Least width of the gap in which a line may be cut, px at `ROOM`."""
_PLAINER = str.maketrans("‘’ʼ“”", "'''\"\"")  # handwriting does not tell them apart
HELD_OUT_NOTE = "held out"
"""Note of a row that is kept for evaluation, see `Hands.hold_out_by`."""
_INK, _ORDER = "ink.webp", "ink.jsonl"


@dataclass(frozen=True, slots=True)
class Crop:
    """A crop of real handwriting.

    Attributes:
        source: name of the data set.
        writer: who wrote it, or "".
        text: the label.
        held_out: for evaluation only.
        cuts: (column px, number of the first character right of it), from left to right: between the letters of a
            word, in the gaps between the words of a line (then the character at that number is the space).
        pixels: uint8 (h, w), grey, as wide as it was written.
    """

    source: str
    writer: str
    text: str
    held_out: bool
    cuts: tuple[tuple[int, int], ...]
    pixels: NDArray[np.uint8]


def folded(text: str) -> str:
    """The form in which words are compared: letters and digits, lower case."""
    return "".join(character for character in text.casefold() if character.isalnum())


def held_out_words(crops: Sequence[Crop], sources: Sequence[Hands]) -> set[str]:
    """The words, folded, that training must not show: those of the sources that hold out by word."""
    by_word = {source.name for source in sources if source.hold_out_by == "word"}
    return {folded(crop.text) for crop in crops if crop.held_out and crop.source in by_word}


def gather(sources: Sequence[Hands], start: Path, folder: Path, threads: int, log: Callable[[str], None]) -> None:
    """Read the sources and write `folder`, unless it is complete already.

    Args:
        sources: what to read.
        start: ONNX file of the recogniser that aligns the labels.
        folder: created if missing.
        threads: CPU threads of the recogniser.
        log: takes a line at a time.

    Raises:
        InputError: a split or an image can't be read.
    """
    if (folder / _ORDER).is_file():
        return
    splits = [(source, _rows(source.data)) for source in sources]  # a missing one shows before the long part
    folder.mkdir(parents=True, exist_ok=True)
    session = open_session(start, threads)
    characters = [*session.get_modelmeta().custom_metadata_map["character"].split("\n"), " "]
    classes = {character: number for number, character in enumerate(characters, 1)}
    lines, dropped, at = [], 0, 0
    with (folder / _INK).open("wb") as packed:
        for source, rows in splits:
            for name, text, writer, note in rows:
                text = spelt(text, classes)
                if not text or any(reason in note for reason in source.skip_notes):
                    dropped += 1
                    continue
                grey = _read(source.data.parent / name, ROOM[source.kind], source.upright)
                cuts = find_cuts(session, grey, [classes[c] for c in text], source.kind)
                by_note = source.hold_out_by == "note"
                unit = folded(text) if source.hold_out_by == "word" else writer
                data = cv2.imencode(".webp", grey, [cv2.IMWRITE_WEBP_QUALITY, QUALITY[source.kind]])[1].tobytes()
                packed.write(data)
                lines.append(
                    {
                        "source": source.name,
                        "writer": writer,
                        "text": text,
                        "held_out": note == HELD_OUT_NOTE if by_note else in_share(unit, source.hold_out),
                        "cuts": cuts,
                        "bytes": [at, len(data)],
                    }
                )
                at += len(data)
                if len(lines) % 1000 == 0:
                    log(f"gathered {len(lines)} crops")
    partial = folder / (_ORDER + ".part")
    partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    partial.replace(folder / _ORDER)
    log(f"gathered {len(lines)} crops, {dropped} rows left out")


def load(folder: Path) -> list[Crop]:
    """The crops of a folder that `gather` wrote."""
    packed = (folder / _INK).read_bytes()
    crops = []
    for line in (folder / _ORDER).read_text(encoding="utf-8").splitlines():
        entry: dict[str, Any] = json.loads(line)
        at, length = entry.pop("bytes")
        pixels = cv2.imdecode(np.frombuffer(packed, np.uint8, length, at), cv2.IMREAD_GRAYSCALE)
        cuts = tuple((column, number) for column, number in entry.pop("cuts"))
        crops.append(Crop(**entry, cuts=cuts, pixels=np.asarray(pixels, np.uint8)))
    return crops


def describe(crops: Sequence[Crop]) -> list[dict[str, Any]]:
    """How many crops, writers and held-out ones there are of each source."""
    described = []
    for name in dict.fromkeys(crop.source for crop in crops):
        own = [crop for crop in crops if crop.source == name]
        described.append(
            {
                "source": name,
                "trained_on": sum(not crop.held_out for crop in own),
                "held_out": sum(crop.held_out for crop in own),
                "writers": len({crop.writer for crop in own if crop.writer}),
                "words": len({folded(crop.text) for crop in own}),
            }
        )
    return described


def find_cuts(session: Any, grey: NDArray[np.uint8], label: Sequence[int], kind: str) -> list[tuple[int, int]]:
    """Where a crop may be cut, by the alignment of its label with the recogniser's posterior.

    Args:
        session: of the recogniser.
        grey: uint8 (h, w).
        label: classes of the characters.
        kind: "words" are cut between letters, "lines" between words.
    """
    width = max(8, round(grey.shape[1] * HEIGHT / grey.shape[0]))
    table = np.zeros((1, 3, HEIGHT, max(NARROWEST, width)), np.float32)
    table[..., :width] = cv2.resize(grey, (width, HEIGHT)).astype(np.float32) / 127.5 - 1
    posterior = session.run(None, {session.get_inputs()[0].name: table})[0][0]
    found = align(np.log(np.maximum(posterior, 1e-6)), label)
    if found is None:
        return []
    frames, chances = found
    scale = COLUMN * grey.shape[1] / width
    middles = [(frame + 0.5) * scale for frame in frames]
    ink = (1 - paper_white(grey)).sum(axis=0)
    space = session.get_outputs()[0].shape[2] - 1
    if kind == "words":
        return _between_letters(ink, middles) if float(np.mean(chances)) > SURE["words"] else []
    return _between_words(ink, middles, [n for n, c in enumerate(label) if c == space], chances)


def align(rows: NDArray[np.float32], label: Sequence[int]) -> tuple[list[int], list[float]] | None:
    """Forced alignment: the most probable CTC path that spells the label, by Viterbi.

    Args:
        rows: float32 (T, C), log-probabilities, class 0 is the blank.
        label: classes.

    Returns:
        Frame and log-probability of each character, at its best frame; None when there are too few frames.
    """
    states = np.zeros(2 * len(label) + 1, np.int64)
    states[1::2] = label
    emitted = rows[:, states]
    skips = np.zeros(len(states), bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(len(states), -np.inf, np.float32)
    best[:2] = emitted[0, :2]
    back = np.zeros(emitted.shape, np.int8)
    for t in range(1, len(emitted)):
        ways = np.full((3, len(states)), -np.inf, np.float32)
        ways[0], ways[1, 1:] = best, best[:-1]
        ways[2, 2:] = np.where(skips[2:], best[:-2], -np.inf)
        back[t] = ways.argmax(axis=0)
        best = ways.max(axis=0) + emitted[t]
    state = len(states) - 1 if best[-1] > best[-2] else len(states) - 2
    if not np.isfinite(best[state]):
        return None
    frames, chances = [0] * len(label), [-np.inf] * len(label)
    for t in range(len(emitted) - 1, -1, -1):
        if state % 2 and emitted[t, state] > chances[state // 2]:
            frames[state // 2], chances[state // 2] = t, float(emitted[t, state])
        state -= int(back[t, state])
    return frames, chances


def paper_white(grey: NDArray[Any]) -> NDArray[np.float32]:
    """Grey levels normalised to paper 1 and ink 0: float32 (h, w)."""
    ink, paper = np.percentile(grey, (0.5, 85))
    span = max(float(paper) - float(ink), 16.0)
    return np.clip(1 + (grey.astype(np.float32) - np.float32(paper)) / np.float32(span), 0, 1)


def _between_letters(ink: NDArray[Any], middles: Sequence[float]) -> list[tuple[int, int]]:
    cuts = []
    for number in range(1, len(middles)):
        first = min(max(0, round(middles[number - 1])), len(ink) - 1)
        last = max(first + 1, min(len(ink), round(middles[number]) + 1))
        cuts.append((first + int(ink[first:last].argmin()), number))
    return cuts


def _between_words(
    ink: NDArray[Any], middles: Sequence[float], spaces: Sequence[int], chances: Sequence[float]
) -> list[tuple[int, int]]:
    cuts = []
    for number in spaces:
        if not 0 < number < len(middles) - 1:
            continue
        if float(np.mean(chances[max(0, number - 4) : number + 5])) < SURE["lines"]:
            continue
        first, last = round(middles[number - 1]), round(middles[number + 1])
        white = np.flatnonzero(ink[first:last] < 1.5)
        runs = np.split(white, np.flatnonzero(np.diff(white) > 1) + 1) if len(white) else []
        longest = max(runs, key=len, default=white)
        if len(longest) >= WHITE:
            cuts.append((first + int(longest[len(longest) // 2]), number))
    return cuts


def _rows(path: Path) -> list[tuple[str, str, str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"can't be read ({error})", "Check the paths in the recipe.") from error
    rows = []
    for number, line in enumerate(lines, 2):
        cells = line.rstrip("\r").split("\t")
        if line.strip():
            if len(cells) < 2:
                way = "A row is image, text, writer, note with tabs between."
                raise InputError(f"{path}:{number}", "has no text", way)
            name, text, writer, note = (*cells, "", "")[:4]
            rows.append((name, text, writer, note))
    return rows


def spelt(text: str, classes: dict[str, int]) -> str:
    """Text in the recogniser's characters; empty if it has others."""
    text = " ".join(unicodedata.normalize("NFC", text).translate(_PLAINER).split())
    return text if all(character in classes for character in text) else ""


def _read(path: Path, height: int, upright: float) -> NDArray[np.uint8]:
    single = read_grey(path)
    width = max(8, round(single.shape[1] * upright * height / single.shape[0]))
    return np.asarray(cv2.resize(single, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
