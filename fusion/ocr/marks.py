"""What the ink of a line is, beside its text: print or hand, what is struck out, what is in a script that the OCR can't read.

Knows crops and the small network of `python -m fusion.train marks`; knows nothing of what is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.onnx import file_sha256, open_session, run

HEIGHT = 32
"""Height at which lines are looked at, px."""
COLUMN = 4
"""Width of a column of the answer at that height, px."""
WIDEST = 2400
"""A longer line is squeezed to this width, px at that height."""
LIKELY = 0.5
"""Probability from which a column may be struck out, or in another script."""
STRUCK, OTHER = 0.98, 0.88
"""How sure a stretch of such columns must be. Struck out: the surest of them, since the ends are always in doubt; on 2,430
lines and words of handwriting, few of them with strike-outs, 20 stretches are. In another script: their mean."""
NARROWEST = 2
"""Columns of the narrowest stretch."""
RULE = 0.95
"""Share of a crop's width from which a stroke is a rule of the paper."""
MODEL = Path(str(files("fusion.ocr") / "nets" / "marks.onnx"))


@dataclass(frozen=True, slots=True)
class Marked:
    """What the network sees on a line.

    Attributes:
        printed: probability that the line is print, in [0, 1].
        struck: what is struck out, (left, right) px on the crop.
        other_script: what is in another script than Latin and Chinese, likewise.
    """

    printed: float
    struck: tuple[tuple[float, float], ...]
    other_script: tuple[tuple[float, float], ...]


class Marker:
    """The network. May be used from several threads at once."""

    def __init__(self, threads: int) -> None:
        """Load it."""
        self._session = open_session(MODEL, threads)
        self.model = f"marks@{file_sha256(MODEL)[:12]}"

    def look(self, crop: NDArray[np.uint8]) -> Marked:
        """See `Marked`; `crop` is uint8 (h, w, 3), RGB."""
        line = fitted(np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), dtype=np.uint8))
        (logits,) = run(self._session, {"lines": line[None, None]})[0]
        struck, printed, other = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        ink = line.reshape(HEIGHT, -1, COLUMN).max(axis=(0, 2)) > 0.4
        share = float(printed[ink].mean()) if ink.any() else 0.5
        width = float(crop.shape[1])
        crossed = tuple(
            (a, b) for a, b in _stretches(struck, width, lambda own: own.max() >= STRUCK) if b - a < RULE * width
        )
        return Marked(share, crossed, tuple(_stretches(other, width, lambda own: own.mean() >= OTHER)))


def _stretches(
    chances: NDArray[np.float32], width: float, sure: Callable[[NDArray[np.float32]], bool]
) -> list[tuple[float, float]]:
    """Stretches of likely columns that are `sure`, (left, right) px on a crop of some width."""
    edges = np.flatnonzero(np.diff(np.r_[False, chances > LIKELY, False])).reshape(-1, 2)
    column = width / len(chances)
    return [(float(a) * column, float(b) * column) for a, b in edges if b - a >= NARROWEST and sure(chances[a:b])]


def fitted(grey: NDArray[np.uint8], stretch: float = 1.0) -> NDArray[np.float32]:
    """A line as the network takes it: float32 (HEIGHT, W), 0 paper to 1 ink, W a multiple of `COLUMN`.

    Args:
        grey: uint8 (h, w).
        stretch: factor of its width.
    """
    height, width = grey.shape
    wide = min(WIDEST, max(4 * COLUMN, width * HEIGHT / height * stretch))
    size = (round(wide / COLUMN) * COLUMN, HEIGHT)
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if height > HEIGHT else cv2.INTER_LINEAR)
    paper, ink = np.percentile(small, [80, 1])
    light = np.clip((paper - small.astype(np.float32)) / max(float(paper - ink), 24.0), 0, 1)
    return np.asarray(light, dtype=np.float32)
