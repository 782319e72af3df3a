"""The small reader: a GLM of a few million parameters that looks and scores but does not write. Runs on ONNX Runtime.

A decoder of this size that writes freely invents words; asked how well given words fit, it and the CTC head on its vision
tower are a good second reader. The head sees nothing but the crop; the decoder knows mostly which words to expect.
`fusion.train.graphs` writes the graphs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from fusion.config import LocalVlm
from fusion.ctc import Posterior, Views, fold
from fusion.errors import ConfigError, ReaderError
from fusion.ink import image_sha256
from fusion.onnx import file_sha256, open_session, run
from fusion.page import Failure, Reading, Recipe, is_ideograph
from fusion.vlm.images import fit
from fusion.vlm.protocol import Look, Query

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = "small"  # name in `vlm.model` of the checkpoint that ships with the package
READER, HEAD, MODEL = "reader.json", "ctc_head.safetensors", "model.safetensors"
GRAPHS = {name: f"{name}.onnx" for name in ("look", "prompt", "proceed")}
UNUSED = ("prompts", "language", "max_tokens", "attempts", "cache", "device", "dtype", "batch", "download")
"""Settings of a checkpoint that writes, which mean nothing here."""
MUTE = frozenset("½")  # the one fraction that it was trained on: it takes the others for it
TOP = 5  # candidates kept per position
NBEST = 20  # texts that a look proposes as hypotheses
CRAMPED = 10.0  # px per character, at the tower's height, under which a crop has been squashed and is looked at wider
WIDTHS = (11.0, 13.5, 16.5, 20.0, 24.0)  # px per character at which a cramped crop is looked at: as in training
STRETCHES = (0.7, 0.85, 1.0, 1.2, 1.4)
"""Stretches of the width at which any other crop is looked at. On unseen words five looks err by a fifth less than one."""
BUDGET = 1200.0
"""Px of width that the looks at one crop may have together: five at a word, few at a line, where more gained nothing
(CER .738 on Hooker lines, .737 with 1,600)."""
WIDEST = 1600.0  # px of width that one look may have: bounds time and memory; a line of A4 is about 1,400 wide
NARROWEST = 2  # fewest columns of patches: a single stroke still has paper beside it


def grey(pixels: NDArray[np.uint8], height: int, factor: float = 1.0) -> NDArray[np.float32]:
    """A crop as the tower sees it: grey, `height` px high, `factor` times as wide as natural, paper 1 and ink -1.

    From uint8 (h, w, 3) RGB or (h, w), not empty, to float32 (height, W) in [-1, 1].
    """
    single = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels
    width = max(1, round(single.shape[1] * height / single.shape[0] * factor))
    way = cv2.INTER_AREA if height < single.shape[0] else cv2.INTER_LINEAR
    return level(cv2.resize(single, (width, height), interpolation=way))


def level(single: NDArray[Any]) -> NDArray[np.float32]:
    """Paper to 1 and ink to -1, whatever the light: float32 (H, W) from grey of any range."""
    ink, paper = np.percentile(single, (0.5, 85))
    span = max(float(paper) - float(ink), 16.0)  # an empty crop stays paper and does not become noise
    return np.clip(1.0 + 2.0 * (single.astype(np.float32) - np.float32(paper)) / np.float32(span), -1.0, 1.0)


def padded(crops: Sequence[NDArray[np.float32]], unit: int) -> NDArray[np.float32]:
    """Crops of one height side by side in a batch, float32 (B, H, W), paper on the right up to whole units."""
    widest = max(max(crop.shape[1] for crop in crops), NARROWEST * unit)
    batch = np.ones((len(crops), crops[0].shape[0], math.ceil(widest / unit) * unit), np.float32)
    for row, crop in zip(batch, crops, strict=True):
        row[:, : crop.shape[1]] = crop
    return batch


def softened(frames: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Probabilities of log-probabilities (…, C), a share of every frame spread evenly over the classes."""
    return np.asarray(np.exp(frames) * (1 - share) + share / frames.shape[-1], dtype=np.float32)


def merge_order(grid: NDArray[Any], merge: int) -> NDArray[Any]:
    """(rows, columns, …) to (rows · columns, …) in the order of GLM's image processor: squares of `merge` patches first."""
    rows, columns, *rest = grid.shape
    squares = grid.reshape(rows // merge, merge, columns // merge, merge, *rest)
    return squares.swapaxes(1, 2).reshape(rows * columns, *rest)


def rotary(places: NDArray[np.int64], width: int, theta: float) -> NDArray[np.float32]:
    """Angles of rotary positions (Su et al., "RoFormer", 2021): float32 (…, n, width / 2) of int places (…, n)."""
    speeds = theta ** (-np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    return np.asarray(places[..., None].astype(np.float32) * speeds.astype(np.float32), dtype=np.float32)


class SmallModel:
    """The graphs of a checkpoint and what is needed to use them. Thread-safe."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Open the graphs of a checkpoint.

        Raises:
            ReaderError: a file is missing or broken.
        """
        try:
            settings = json.loads((folder / READER).read_text(encoding="utf-8"))
            self.height, self.frames = int(settings["height"]), int(settings["frames"])
            self.softness = float(settings["softness"])
            self.alphabet: tuple[str, ...] = ("", *settings["alphabet"])
            self._patch, self._merge = int(settings["patch"]), int(settings["merge"])
            self._vision, self._text = settings["vision_rotary"], settings["text_rotary"]
            self._characters: dict[str, int] = settings["characters"]
            self._unknown, self._stop = int(settings["unknown"]), int(settings["stop"])
            self._before, self._after = (np.array(settings[n], dtype=np.int64) for n in ("before", "after"))
            headers: dict[str, str] = settings["headers"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            way = "Export the checkpoint again, or install the package again."
            problem = f"holds no settings of a small reader ({type(error).__name__})"
            raise ReaderError(folder / READER, problem, way) from error
        for name in (MODEL, HEAD):  # the graphs point at places in these files
            if header_sha256(folder / name) != headers.get(name):
                way = (
                    "Write the graphs anew with `python -m fusion.train graphs FOLDER`, or export the checkpoint again."
                )
                raise ReaderError(folder / name, "is not the file that the graphs beside it were made for", way)
        self.unit = self._patch * self._merge  # px of the square that is one image token
        self.spells = frozenset(self.alphabet[1:]) - MUTE  # of other characters it abstains
        self.identity = f"{file_sha256(folder / MODEL)[:12]}{file_sha256(folder / HEAD)[:4]}"
        self._look, self._prompt, self._proceed = (open_session(folder / name, threads) for name in GRAPHS.values())

    def knows(self, text: str) -> bool:
        """Whether a text is in a script of the alphabet: no Chinese, and at least half of its characters are in it."""
        inked = [character for character in fold(text) if not character.isspace()]
        known = sum(character in self.spells for character in inked)
        return not any(map(is_ideograph, inked)) and 2 * known >= len(inked)

    # --- the head ---------------------------------------------------------------------------------------------------

    def look(self, pixels: NDArray[np.uint8], characters: int) -> tuple[Views, float]:
        """The CTC posteriors of a crop, uint8 (h, w, 3) RGB and not empty, and the stretch of the most probable one.

        `characters` is the length of the OCR's reading: it tells a squashed crop from a short word.
        """
        factors = self._factors(pixels.shape[1] / pixels.shape[0] * self.height, max(1, characters))
        crops = [grey(pixels, self.height, factor) for factor in factors]
        table = softened(self._frames(padded(crops, self.unit)), self.softness)
        side = self._patch / self.frames
        views = []
        for crop, rows in zip(crops, table, strict=True):
            used = min(len(rows), math.ceil(crop.shape[1] / side))
            column_px = side * pixels.shape[1] / crop.shape[1]
            views.append(Posterior.compact(rows[:used], self.alphabet, column_px, self.spells))
        ranked = sorted(zip(views, factors, strict=True), key=lambda item: -item[0].quality)
        return Views(tuple(view for view, _ in ranked), agree=True), ranked[0][1]

    def _frames(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-probabilities, float32 (B, T, C), of float32 crops (B, H, W)."""
        (frames,) = run(self._look, self._patches(crops))
        return np.asarray(frames, dtype=np.float32)

    def _factors(self, natural: float, characters: int) -> list[float]:
        """Stretches of a crop `natural` px wide at the tower's height: the middle one first, as many as the budget allows."""
        cramped = natural < CRAMPED * characters
        wanted = [wide * characters / natural for wide in WIDTHS] if cramped else list(STRETCHES)
        chosen: list[float] = []
        for factor in sorted(wanted, key=lambda factor: abs(math.log(factor / wanted[len(wanted) // 2]))):
            if chosen and (sum(chosen) + factor) * natural > BUDGET:
                break
            chosen.append(min(factor, WIDEST / natural))
        return chosen

    def _patches(self, crops: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Crops (B, H, W) for the tower: (B, N, side²) in merge order, and the rotary table (N, d) of their places."""
        batch, height, width = crops.shape
        side, rows, columns = self._patch, height // self._patch, width // self._patch
        cut = crops.reshape(batch, rows, side, columns, side).swapaxes(2, 3).reshape(batch, rows, columns, side * side)
        values = np.stack([merge_order(one, self._merge) for one in cut])
        places = merge_order(np.moveaxis(np.mgrid[:rows, :columns], 0, -1), self._merge)
        down, across = rotary(places.T, self._vision["width"] // 2, self._vision["theta"])
        angles = np.concatenate([down, across, down, across], axis=-1)
        return {"patches": values, "cos": np.cos(angles), "sin": np.sin(angles)}

    # --- the decoder ------------------------------------------------------------------------------------------------

    def score(self, pixels: NDArray[np.uint8], texts: Sequence[str]) -> list[float]:
        """Natural log-probability of each text, and of stopping after it, given the crop.

        The prompt with its image, uint8 (h, w, 3) RGB, goes through the decoder once; the texts continue from its keys
        and values. Characters that the decoder does not know are one character to it.
        """
        if not texts:
            return []
        shown = self._shown(pixels)
        places, start = self._places(shown.shape[0] // self.unit, shown.shape[1] // self.unit)
        tokens = {"before": self._before, "after": self._after}
        logits, keys, values = run(self._prompt, {**self._patches(shown[None]), **tokens, **self._angles(places)})
        ids = [[self._characters.get(character, self._unknown) for character in text] for text in texts]
        width = max(map(len, ids)) + 1
        # Padded with stops: nothing looks ahead, and the first stop is the real one.
        targets = np.array([[*one, *[self._stop] * (width - len(one))] for one in ids], dtype=np.int64)
        table = np.broadcast_to(_log_softmax(logits)[:, None], (len(ids), 1, logits.shape[-1]))
        if width > 1:
            angles = self._angles(np.broadcast_to(np.arange(start, start + width - 1), (3, width - 1)))
            (following,) = run(self._proceed, {"tokens": targets[:, :-1], "keys": keys, "values": values, **angles})
            table = np.concatenate([table, _log_softmax(following)], axis=1)
        chosen = np.take_along_axis(table, targets[:, :, None], axis=2)[:, :, 0]
        return [float(row[: len(one) + 1].sum()) for row, one in zip(chosen, ids, strict=True)]

    def _shown(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A crop as the decoder was trained to see it: level, of whole image tokens, float32 (H, W) in [-1, 1]."""
        single = ((grey(pixels, self.height) + 1) * 127.5).round().astype(np.uint8)
        image = fit(Image.fromarray(np.repeat(single[:, :, None], 3, axis=2)), 2 * self.unit, self.unit)
        width, height = (max(1, round(side / self.unit)) * self.unit for side in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.float32)[:, :, 0] / np.float32(127.5) - 1

    def _places(self, rows: int, columns: int) -> tuple[NDArray[np.int64], int]:
        """Places of the tokens of prompt and image, int (3, n) in time, down and across; and that of the next token.

        Image tokens share their place in time and have rows and columns of their own (Wang et al., "Qwen2-VL", 2024).
        """
        first = len(self._before)
        down, across = (axis.reshape(-1) for axis in np.mgrid[:rows, :columns])
        image = np.stack([np.zeros_like(down), down, across]) + first
        then = first + max(rows, columns)
        end = then + len(self._after)
        before, after = (np.tile(np.arange(*ends), (3, 1)) for ends in ((0, first), (then, end)))
        return np.concatenate([before, image, after], axis=1), end

    def _angles(self, places: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Rotary table, float32 (n, d), of int places (3, n): in time, down and across."""
        angles = rotary(places, self._text["width"], self._text["theta"])
        edges = np.cumsum([0, *self._text["sections"]])
        parts = [angles[n % 3][:, edges[n] : edges[n + 1]] for n in range(len(edges) - 1)]
        whole = np.repeat(np.concatenate(parts, axis=1), 2, axis=1)
        return {"text_cos": np.cos(whole), "text_sin": np.sin(whole)}


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    table = logits.astype(np.float64)
    table = table - table.max(axis=-1, keepdims=True)
    return np.asarray(table - np.log(np.exp(table).sum(axis=-1, keepdims=True)), dtype=np.float64)


class SmallReader:
    """The small reader as a second reader: `Looks`. Keeps nothing between calls."""

    name = "local"

    def __init__(self, config: LocalVlm) -> None:
        """Open the checkpoint that `vlm.model` names.

        Raises:
            ReaderError: it is broken.
            ConfigError: a setting that only a checkpoint that writes has.
        """
        for name in UNUSED:
            if getattr(config, name) != LocalVlm.model_fields[name].default:
                problem = "means nothing to the small reader, which runs on the CPU and does not write"
                raise ConfigError(
                    f"vlm.{name}", problem, f"Leave vlm.{name} out, or name another checkpoint in vlm.model."
                )
        self._model = SmallModel(folder_of(config.model), config.threads)
        self.identity = f"small@{self._model.identity}"
        self._name = f"{Path(config.model).name}@{self._model.identity}"

    def look(self, query: Query) -> Look | Failure:
        """The look at one crop, with its best path as a reading and what else might stand there."""
        crop, text = query.line.crop, query.ocr_text
        if crop.size == 0:
            return Failure("vlm", "empty_crop", "the crop has no pixels")
        if not self._model.knows(text):
            message = "the small reader knows Latin script only; lines in other scripts are left to the OCR"
            return Failure("vlm", "not_suited", message)
        try:
            views, stretch = self._model.look(crop, len(text))
        except ReaderError as error:
            return Failure("vlm", "model_error", error.problem)
        nbest = views.nbest(NBEST)
        text = nbest[0].text if nbest else views.best.greedy
        reading = Reading(
            "vlm",
            text,
            Recipe("glm small", "1", self._name, image_sha256(crop), prompt_id="look"),
            positions=views.best.positions(TOP),
            nbest=nbest,
            score=views.score([text])[0],
            raw=text,
        )
        shown = crop
        if stretch != 1.0:  # the decoder sees a squashed crop as the head saw it best
            size = (max(1, round(crop.shape[1] * stretch)), crop.shape[0])
            shown = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
        return Look(reading, views, lambda texts: self._model.score(shown, texts))

    def close(self) -> None:
        """Do nothing: the memory is freed with the object."""


def header_sha256(path: Path) -> str:
    """SHA-256 of a safetensors file's header and of the size of the file: where its tensors lie; "" for no such file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, 10_000_000))
        return hashlib.sha256(header + str(path.stat().st_size).encode()).hexdigest()
    except OSError:
        return ""


def folder_of(model: str) -> Path:
    """The folder of a checkpoint: the packaged one for `small`."""
    return Path(str(files("fusion.vlm") / SMALL)) if model == SMALL else Path(model)
