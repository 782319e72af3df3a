"""A checkpoint that looks and weighs but does not write: the small reader that ships with the package.

A decoder of a few million parameters that writes freely invents words; asked how well given words fit, it and the ink
witness on its vision tower are a good second pair of eyes. So `read` gives the best path of the witness, as evidence,
`witness` answers about any text, and `score` asks the decoder. Knows a loaded checkpoint; knows no decision.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import transformers

from fusion.config import LocalVlm
from fusion.ctc import Views
from fusion.ink import Ink, InkLine
from fusion.page import Failure, Reading, Recipe
from fusion.vlm.cache import AnswerCache, image_sha256
from fusion.vlm.checkpoint import Checkpoint, fingerprint, first_line
from fusion.vlm.local import LocalReader
from fusion.vlm.protocol import Answer, Query
from fusion.vlm.witness import Witness

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOP = 5
"""Candidates kept per position."""
NBEST = 20
"""Texts that a look proposes as hypotheses."""


class ScoringReader:
    """Looks at crops with the witness of a checkpoint. May be used from several threads; they take turns."""

    name = "local"
    writes = False

    def __init__(self, config: LocalVlm, checkpoint: Checkpoint, witness: Witness) -> None:
        """Take over a loaded checkpoint."""
        self._lock = threading.Lock()
        asking = config.model_copy(update={"prompts": ("glm_ocr",), "batch": max(config.batch, 16)})
        self._decoder = LocalReader(asking, AnswerCache(None), checkpoint)
        self._witness = witness
        self._looks: dict[str, tuple[Views, float]] = {}
        self._recipe = ("glm witness", transformers.__version__, f"{config.model} {fingerprint(checkpoint)}")

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        """The best path of each crop, with what else might stand there; looks of earlier pages are forgotten."""
        with self._lock:
            self._looks = {}
            return [(self._read(query.line),) for query in queries]

    def score(self, query: Query, texts: Sequence[str]) -> list[float] | None:
        """Natural log-probability of each text, and of stopping after it, under the decoder; see `LocalReader.score`."""
        _, stretch = self._looks.get(_key(query.line), (None, 1.0))
        if stretch != 1.0:  # the decoder sees a squashed crop as the witness saw it best
            height, width = query.line.crop.shape[:2]
            size = (max(1, round(width * stretch)), height)
            wide = np.asarray(cv2.resize(query.line.crop, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
            query = replace(query, line=replace(query.line, crop=wide))
        return self._decoder.score(query, texts)

    def witness(self, query: Query) -> Ink | None:
        """The look at a crop that was read last; None where this reader has nothing to say about it."""
        return self._looks.get(_key(query.line), (None, 1.0))[0]

    def ask(self, pixels: NDArray[np.uint8], question: str) -> Answer | Failure:
        """A failure: it can't answer questions."""
        return Failure("vlm", "cannot_answer", "the small reader weighs readings and answers no questions")

    def close(self) -> None:
        """Free the model's memory; a closed reader can't be asked."""
        self._looks = {}
        self._decoder.close()

    def _read(self, line: InkLine) -> Reading | Failure:
        if line.crop.size == 0:
            return Failure("vlm", "empty_crop", "the crop has no pixels")
        text = line.reading.text if line.reading is not None else ""
        if not self._witness.knows(text):
            return Failure(
                "vlm", "not_suited", "the small reader knows Latin script only; of other scripts the OCR speaks alone"
            )
        try:
            look, stretch = self._witness.look(line.crop, len(text))
        except (RuntimeError, ValueError) as error:
            kind = "out_of_memory" if isinstance(error, torch.OutOfMemoryError) else "model_error"
            return Failure("vlm", kind, f"the model could not take this crop ({first_line(error)})")
        self._looks[_key(line)] = (look, stretch)
        engine, version, model = self._recipe
        best, found = look.best, look.nbest(NBEST)
        text = found[0].text if found else best.greedy
        return Reading(
            "vlm",
            text,
            Recipe(engine, version, model, image_sha256(line.crop), prompt_id="look"),
            positions=best.positions(TOP),
            nbest=found,
            score=look.score([text])[0],
            raw=text,
        )


def _key(line: InkLine) -> str:
    return f"{line.id} {image_sha256(line.crop)}"
