"""Mistakes made on purpose: does a reader write what stands there, or what should stand there?

`overcorrection.tsv` holds lines with a wrong character, a misspelling or a wrong sum, each with the stretch that is wrong
and what it would be if it were right; written for this project. They are drawn with the hands of `samples/make.py`, so every
figure is one on synthetic writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.datasets import NORMALISATIONS, Normalisation, load_split
from eval.samples.make import CHILD, CLERK, FLATMATE, FRIEND, PHARMACIST, PUPIL, SCHOOLGIRL, Desk, Hand, save
from eval.systems import Read, engine_for, read_split

MISTAKES = Path(__file__).parent / "overcorrection.tsv"
SEED, ROUNDS = 20261125, 2000
HANDS: dict[str, tuple[Hand, ...]] = {
    "wrong character": (PUPIL, CLERK, FLATMATE),
    "misspelling": (SCHOOLGIRL, FRIEND, PHARMACIST),
    "wrong sum": (CHILD, SCHOOLGIRL, PUPIL),
}
NORMAL: dict[str, Normalisation] = {"wrong character": "han", "misspelling": "plain", "wrong sum": "arithmetic"}
VARIANTS: dict[str, tuple[str, ...]] = {
    **{f"language × {weight:g}": (f"fuse.language_weight={weight}",) for weight in (0, 0.5, 1, 2, 4, 8)},
    "homework profile": ("domain.profile=homework",),
    "prescription profile": ("domain.profile=prescription",),
}
"""What is compared: the weight of the languages from none to far too much, and the profiles at the fitted weight."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A line as it is written, the stretch that is wrong, and what it would be if it were right."""

    kind: str
    text: str
    wrong: str
    right: str


def mistakes() -> list[Mistake]:
    """All of them, in the order of the file."""
    return [Mistake(*row.split("\t")) for row in MISTAKES.read_text(encoding="utf-8").splitlines()[1:]]


def draw(fonts: Path, folder: Path) -> None:
    """Draw every line in every hand of its kind: images and `dev.tsv`, in the order of `mistakes` times hands."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = ["image\ttext\twriter\tnote"]
    for number, mistake in enumerate(mistakes()):
        for place, hand in enumerate(HANDS[mistake.kind]):
            desk = Desk(fonts, np.random.default_rng([SEED, number, place]))
            size = hand.size
            page = desk.paper(3 * size, round(size * (2 + 0.95 * _width(mistake.text))), (0.96, 0.96, 0.93))
            boxes = desk.write(page, mistake.text, hand, size, 2 * size)
            left, right = min(b[0] for b in boxes), max(b[2] for b in boxes)
            top, bottom = min(b[1] for b in boxes), max(b[3] for b in boxes)
            crop = page[max(0, top - 10) : bottom + 10, max(0, left - 12) : right + 12]
            name = f"images/{number:03d}_{place}.png"
            save(desk.expose(crop, 0.8, 0.012, 0.1), folder / name)
            rows.append(f"{name}\t{mistake.text}\t{hand.family}\tsynthetic")
    (folder / "dev.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _width(text: str) -> float:
    return sum(1.0 if ord(c) > 0x2E80 else 0.62 for c in text)


def measure(folder: Path, progress: Callable[[str], None]) -> str:
    """Read the drawn lines and say, per kind, how often the mistake stands as written and how often it was mended."""
    items = load_split(folder / "dev.tsv")
    expected = [m for m in mistakes() for _ in HANDS[m.kind]]
    reads: dict[str, list[Read]] = {}
    for name, sets in VARIANTS.items():
        progress(name)
        with engine_for(None, (*sets, f"store.folder={folder / 'store'}")) as engine:  # each line is looked at once
            reads[name] = list(read_split(engine, items, crop=True))
    texts = {"OCR only": [read.ocr for read in next(iter(reads.values()))]}
    texts |= {name: [read.fused for read in own] for name, own in reads.items()}
    return table(texts, expected)


def table(texts: Mapping[str, Sequence[str]], expected: Sequence[Mistake]) -> str:
    """What each system, the OCR first, made of the mistakes: a Markdown table."""
    lines = [
        f"Mistakes on purpose, synthetic: n = {len(expected)}, 95 % bootstrap over lines",
        "",
        "| kind | n | system | as written | mended | mended minus OCR only |",
        "|---|---|---|---|---|---|",
    ]
    for kind in (*HANDS, "all"):
        own = [n for n, mistake in enumerate(expected) if kind in (mistake.kind, "all")]
        found = {name: outcomes([said[n] for n in own], [expected[n] for n in own]) for name, said in texts.items()}
        _, base = next(iter(found.values()))
        for number, (name, (kept, mended)) in enumerate(found.items()):
            gap = _difference(mended, base) if number else ""
            lines.append(f"| {kind} | {len(own)} | {name} | {kept.mean():.3f} | {mended.mean():.3f} | {gap} |")
    return "\n".join(lines)


def outcomes(said: Sequence[str], expected: Sequence[Mistake]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each text has the mistake, and whether it has what would be right in its place: two bool (n,)."""
    kept, mended = [], []
    for text, mistake in zip(said, expected, strict=True):
        normal = NORMALISATIONS[NORMAL[mistake.kind]]
        read, wrong, right = (normal(part).lower() for part in (text, mistake.wrong, mistake.right))
        kept.append(wrong in read)
        mended.append(wrong not in read and right in read)
    return np.array(kept), np.array(mended)


def _difference(a: np.ndarray, b: np.ndarray) -> str:
    pick = np.random.default_rng(SEED).integers(0, len(a), (ROUNDS, len(a)))
    low, high = np.percentile(a[pick].mean(axis=1) - b[pick].mean(axis=1), [2.5, 97.5])
    return f"{a.mean() - b.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
