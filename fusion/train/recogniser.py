"""`train recogniser`: PP-OCRv6-small's recogniser, cut to Latin script, trained on with real hands.

Knows the order of the steps and the loss: CTC (Graves et al., 2006) on labels of which some are wrong, and on rendered texts a
divergence from the network it started from, which keeps what that one can read (Li and Hoiem, "Learning without
forgetting", 2016).
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn

from fusion.onnx import open_session
from fusion.train import camera, hands, ppocr
from fusion.train.card import write_card
from fusion.train.fonts import Font, Materials, fetch
from fusion.train.hands import Crop, folded
from fusion.train.mix import Batch, Batches, Mix, Piece, widths
from fusion.train.recipe import RecogniserRecipe, Rendered
from fusion.train.relative import RelativeAdam
from fusion.train.render import render
from fusion.train.texts import Texts

START, STATE = "start.onnx", "state.pt"
CHECKED, BROKEN = 25, 1.6
"""Steps between checks of the loss; above so many times its minimum the weights are reset to the last good ones."""
AHEAD = 4
"""Batches prepared ahead."""
BELIEVING = 0.1
"""Share of the time after which the largest losses are taken for wrong labels."""
JUDGED = {
    "rendered prose": ("english", "letter"),
    "rendered sums": ("sum", "homework"),
    "rendered doses": ("strength", "sig", "dose"),
    "rendered measures": ("measure",),
}
"""Kinds of text of each rendered evaluation set, in held-out handwriting fonts."""
PRINT = "rendered print"
"""The set of all kinds in held-out print fonts."""
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Judged:
    """Crops to evaluate on, as the network takes them.

    Attributes:
        batches: their pixels, in batches of one width.
        letters_only: compare letters and digits only, as the set's labels are no more exact.
    """

    batches: tuple[Batch, ...]
    letters_only: bool


def prepare(recipe: RecogniserRecipe, log: Log) -> None:
    """Fill the work folder: the recogniser to start from, real crops, fonts. What is complete is kept.

    Raises:
        DependencyError: fonts, words or the packaged recogniser are not available.
        InputError: real handwriting can't be read.
    """
    recipe.work.mkdir(parents=True, exist_ok=True)
    start = recipe.work / START
    if not start.is_file():
        from fusion.ocr.weights import packaged_onnx

        source = recipe.start or packaged_onnx(ppocr.NAME)
        ppocr.cut(source, start)
        log(f"cut {source.name} to {len(ppocr.read(start)[1])} characters")
    hands.gather(recipe.hands, start, recipe.work, recipe.threads, log)
    if recipe.rendered is not None:
        _materials(recipe.rendered, recipe.work)
        _accented(recipe.rendered, recipe.work)


def _accented(rendered: Rendered, work: Path) -> list[list[Font]]:
    """Families of fonts that have accented letters."""
    if rendered.accent_fonts is None:
        return []
    families: dict[str, list[Font]] = {}
    for font in fetch(rendered.accent_fonts, work / "fonts").fonts:
        families.setdefault(font.family, []).append(font)
    return list(families.values())


def _materials(rendered: Rendered, work: Path) -> tuple[Materials, Materials]:
    return fetch(rendered.fonts, work / "fonts"), fetch(rendered.print_fonts, work / "fonts")


def train(recipe: RecogniserRecipe, log: Log) -> dict[str, dict[str, dict[str, float]]]:
    """Train for the recipe's time and write the recogniser with its card; a broken run continues from its saved state.

    Returns:
        Before (`start`) and after (`end`): set → share of texts read without an error ("exact") and character error rate
        ("cer"), on held-out material.
    """
    begun = time.monotonic()
    prepare(recipe, log)
    recipe.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    crops = hands.load(recipe.work)
    judged = _real(recipe, crops)
    if recipe.rendered is None:
        mix = Mix(crops, recipe.hands, recipe.shares)
    else:
        written, printed = _materials(recipe.rendered, recipe.work)
        texts = Texts(written.words, _names(recipe, crops, recipe.rendered), recipe.seed)
        accented = _accented(recipe.rendered, recipe.work)
        mix = Mix(crops, recipe.hands, recipe.shares, texts, written.side(False), printed.side(False), accented)
        judged |= _synthetic(recipe.rendered, texts, written, printed, random.Random(f"judged:{recipe.seed}"))
    batches = Batches(mix, recipe.batch, recipe.seed, recipe.workers)  # forks: before CUDA is initialised
    try:
        learner = Learner(recipe, begun)
        resumed = learner.restore()
        log(f"{'resumed' if resumed else 'starting'} on {learner.device}: {len(crops)} real crops")
        figures = {"start": learner.evaluate(judged, learner.start)}
        log(json.dumps({"at": "start", **figures["start"]}))
        figures["end"] = learner.run(batches, judged, log)
    finally:
        batches.close()
    difference = learner.export(recipe.output)
    write_card(recipe, learner, hands.describe(crops), figures, difference)
    log(f"wrote {recipe.output}: {learner.samples} crops, ONNX Runtime differs from torch by {difference:.1e} at most")
    return figures


def _names(recipe: RecogniserRecipe, crops: Sequence[Crop], rendered: Rendered) -> list[str]:
    """Names to render, without those that are, or contain, a held-out word."""
    by_word = {source.name for source in recipe.hands if source.hold_out_by == "word"}
    shut = hands.held_out_words(crops, recipe.hands)
    names = [crop.text for crop in crops if crop.source in by_word and not crop.held_out]
    for path in rendered.names:
        names += path.read_text(encoding="utf-8").splitlines()
    return [name for name in names if name and shut.isdisjoint(map(folded, (name, *name.split())))]


def _real(recipe: RecogniserRecipe, crops: Sequence[Crop]) -> dict[str, Judged]:
    """Evaluation sets of held-out real crops."""
    sets = {}
    for source in recipe.hands:
        own = [crop for crop in crops if crop.source == source.name and crop.held_out]
        pieces = [Piece(crop.pixels, crop.text, crop.source, (1.0, 1.0)) for crop in own]
        sets[f"held-out {source.name}"] = Judged(_plain_batches(pieces), source.kind == "words")
    return {name: judged for name, judged in sets.items() if judged.batches}


def _synthetic(
    rendered: Rendered, texts: Texts, written: Materials, printed: Materials, rng: random.Random
) -> dict[str, Judged]:
    """Evaluation sets of held-out texts in held-out fonts."""
    every = tuple(kind for kinds in JUDGED.values() for kind in kinds)
    sets = {}
    for name, kinds, materials in [
        *((name, kinds, written) for name, kinds in JUDGED.items()),
        (PRINT, every, printed),
    ]:
        pieces = [_drawn(texts, kinds, materials, rng) for _ in range(rendered.judged if materials.fonts else 0)]
        sets[name] = Judged(_plain_batches(pieces), letters_only=False)
    return {name: judged for name, judged in sets.items() if judged.batches}


def _drawn(texts: Texts, kinds: Sequence[str], materials: Materials, rng: random.Random) -> Piece:
    while True:
        text = texts.line(rng, rng.choice(kinds), held_out=True)
        with suppress(ValueError):  # a character that no font has
            return Piece(render(text, materials.side(True) or materials.fonts, rng), text, "rendered", (1.0, 1.0))


def _plain_batches(pieces: Sequence[Piece], most: int = 64) -> tuple[Batch, ...]:
    """Pieces scaled as in inference, except that wide ones are stretched to a multiple of 16 px."""
    rng = random.Random(0)
    grouped: dict[int, list[tuple[NDArray[np.uint8], int, Piece]]] = {}
    for piece in pieces:
        width = widths(piece, rng)[0]
        natural = round(piece.pixels.shape[1] * ppocr.HEIGHT / piece.pixels.shape[0])
        room = ppocr.NARROWEST if width < ppocr.NARROWEST else min(1600, math.ceil(natural / 16) * 16)
        width = min(width, room) if room == ppocr.NARROWEST else room
        pixels = np.zeros((ppocr.HEIGHT, room), np.uint8)
        pixels[:, :width] = cv2.resize(piece.pixels, (width, ppocr.HEIGHT))
        grouped.setdefault(room, []).append((pixels, width, piece))
    batches = []
    for _, rows in sorted(grouped.items()):
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            texts, sources = [row[2].text for row in part], [row[2].source for row in part]
            batches.append(Batch(np.stack([r[0] for r in part]), np.array([r[1] for r in part]), texts, sources))
    return tuple(batches)


class Learner:
    """The network, its average, the network it started from, and the optimiser."""

    def __init__(self, recipe: RecogniserRecipe, begun: float) -> None:
        """Load the network to start from."""
        self.recipe, self.begun = recipe, begun
        self.device = torch.device(recipe.device)
        self.source = recipe.work / START
        network, self.characters = ppocr.read(self.source)
        self.classes = {character: number for number, character in enumerate(self.characters, 1)}
        self.start = network.to(self.device).requires_grad_(False)
        self.network = deepcopy(self.start).requires_grad_(True)
        self.average = deepcopy(self.start)
        self.optimiser = RelativeAdam(self.network, recipe.clip)
        self.rate, self.slower = 0.0, 1.0
        self.best, self.good = math.inf, self.start.state_dict()
        self._marked = 0
        self.steps = self.samples = self.skipped = 0
        self.before = 0.0  # seconds of earlier runs
        self.any_case = {source.name for source in recipe.hands if source.any_case}
        self.distrusted = dict(recipe.distrusted)
        self.distrusted["pad"] = max(self.distrusted.values(), default=0.0)
        self.tethers = {"rendered": recipe.tether, "taught": 0.0}
        self.tethered = recipe.tether > 0 or recipe.tether_real > 0
        self.layout: torch.memory_format = torch.contiguous_format

    def run(self, batches: Batches, judged: dict[str, Judged], log: Log) -> dict[str, dict[str, float]]:
        """Train until only the time for the last evaluation and the export is left."""
        asked = time.monotonic()
        self._choose_layout(batches.next(), log)
        reserve = 15 + 2 * (time.monotonic() - asked)
        feed = _Feed(batches, self)
        try:
            self._learn(feed, reserve, judged, log)
        finally:
            feed.close()
        figures = self.evaluate(judged, self.average)
        log(json.dumps({"at": "end", "steps": self.steps, "samples": self.samples, **figures}))
        self.save()
        return figures

    def _learn(self, feed: _Feed, reserve: float, judged: dict[str, Judged], log: Log) -> None:
        due, window = 1, _Window()
        since = time.monotonic()
        while (share := self._share(reserve)) < 1:
            self._set_rate(share)
            losses = self._step(feed.next(), share > BELIEVING)
            if losses is not None:
                window.add(losses)
                if self.steps % CHECKED == 0:
                    self._check(window.recent(), log)
            if share >= due / self.recipe.reports:
                speed = round((self.samples - self._marked) / (time.monotonic() - since), 1)
                entry = {
                    "at": f"step {self.steps}", "share": round(share, 3), "samples": self.samples,
                    "per_second": speed, "skipped": self.skipped, "waited": round(feed.waited, 1), **window.means(),
                }  # fmt: skip
                log(json.dumps({**entry, **self.evaluate(judged, self.average)}))
                self.save()
                ppocr.write(self.average, self.source, self.recipe.output / "recogniser.onnx")
                due, window, since = int(share * self.recipe.reports) + 1, _Window(), time.monotonic()
                self._marked = self.samples

    def _share(self, reserve: float) -> float:
        """Share of the training time that has passed; `reserve` seconds are kept for what comes after."""
        gone = self.before + time.monotonic() - self.begun
        return gone / max(1e-9, self.recipe.seconds - min(reserve, 0.2 * self.recipe.seconds))

    def _check(self, nats: float, log: Log) -> None:
        """Go back to the last good weights, with half the step length, when the loss diverges."""
        if nats > BROKEN * self.best + 0.2:
            self.slower *= 0.5
            self.network.load_state_dict(self.good)
            self.average.load_state_dict(self.good)
            self.optimiser.forget()
            log(
                json.dumps(
                    {"at": f"step {self.steps}", "ctc": round(nats, 4), "went_back_with_rate_times": self.slower}
                )
            )
            self.best *= 1.1
        else:
            self.best = min(self.best, nats)
            self.good = {name: value.clone() for name, value in self.average.state_dict().items()}

    def _set_rate(self, share: float) -> None:
        warm = self.recipe.warm_up
        factor = share / warm if share < warm else 0.5 * (1 + math.cos(math.pi * (share - warm) / (1 - warm)))
        self.rate = self.recipe.rate * self.slower * max(1e-3, factor)

    def _choose_layout(self, batch: Batch, log: Log) -> None:
        """On a GPU, time both memory layouts and keep the faster; which one depends on the card and the library."""
        if self.device.type != "cuda":
            return
        prepared = _prepared(batch, self)
        times = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            self._lay_out(layout)
            for attempt in range(5):
                if attempt == 2:
                    torch.cuda.synchronize()
                    asked = time.monotonic()
                loss, _ = self._losses(prepared, False)
                torch.autograd.backward(loss)
            torch.cuda.synchronize()
            times[layout] = (time.monotonic() - asked) / 3
        self.network.zero_grad(set_to_none=True)
        self._lay_out(min(times, key=lambda layout: times[layout]))
        self.optimiser.lay_out()
        log(f"layout {self.layout}: " + ", ".join(f"{k} {len(batch.texts) / v:.0f}/s" for k, v in times.items()))

    def _lay_out(self, layout: torch.memory_format) -> None:
        self.layout = layout
        for module in (self.network, self.start, self.average):
            module.to(memory_format=layout)  # type: ignore[call-overload]

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16)

    def _losses(self, prepared: _Prepared, believing: bool) -> tuple[Tensor, Tensor]:
        """The loss, and its two parts (labels, divergence) for the log: float32 (2,)."""
        inputs = camera.photograph(prepared.pixels, prepared.widths).contiguous(memory_format=self.layout)
        with self._autocast():
            rows = self.network(inputs).float().log_softmax(-1)
        nats = self._label_losses(rows, prepared)
        kept = torch.isfinite(nats) & (nats < 50)
        if believing:
            for members, share in prepared.distrusted:
                least = nats[members].kthvalue(max(1, round(len(members) * (1 - share)))).values
                kept[members] &= nats[members] <= least
        ctc = torch.where(kept, nats, 0.0).sum() / kept.sum().clamp_min(1)
        tether = self._divergence(inputs, rows, prepared) if self.tethered else ctc.new_zeros(())
        return ctc + tether, torch.stack([ctc.detach(), tether.detach()])

    def _divergence(self, inputs: Tensor, rows: Tensor, prepared: _Prepared) -> Tensor:
        """Mean Kullback-Leibler divergence, nats a frame, from the network that training began with, as weighed by crop."""
        with torch.no_grad(), self._autocast():
            known: Tensor = self.start(inputs).float().log_softmax(-1)
        divergence = (known.exp() * (known - rows)).sum(-1).mean(-1)
        return (prepared.tethers * divergence).mean()

    @staticmethod
    def _label_losses(rows: Tensor, prepared: _Prepared) -> Tensor:
        """Nats per character of each crop's label, or of the likeliest of its allowed spellings: float32 (B,)."""
        count, frames, _ = rows.shape
        spread = rows.transpose(0, 1).index_select(1, prepared.owners)
        nats = F.ctc_loss(
            spread,
            prepared.targets,
            torch.full((len(prepared.lengths),), frames, dtype=torch.long),
            prepared.lengths,
            reduction="none",
            zero_infinity=True,
        )
        nats = nats / prepared.divisors
        least = torch.full((count,), torch.inf, device=rows.device)
        return least.scatter_reduce(0, prepared.owners, nats, "amin")

    def _step(self, prepared: _Prepared, believing: bool) -> Tensor | None:
        """One step: labels' loss, divergence and the gradients' norm, float32 (3,); None if they are not finite."""
        loss, parts = self._losses(prepared, believing)
        torch.autograd.backward(loss)
        norm = self.optimiser.step(self.rate)
        if not torch.isfinite(norm):
            self.skipped += 1
            return None
        self.steps += 1
        self.samples += len(prepared.pixels)
        decay = min(self.recipe.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return torch.cat([parts, norm[None]])

    @torch.inference_mode()
    def evaluate(self, judged: dict[str, Judged], network: nn.Module) -> dict[str, dict[str, float]]:
        """Set → exact share and character error rate of the best path, regardless of case and runs of spaces."""
        figures = {}
        for name, chosen in judged.items():
            errors = characters = exact = count = 0
            for batch in chosen.batches:
                pixels = torch.from_numpy(batch.pixels).to(self.device)
                inputs = camera.plain(pixels, torch.from_numpy(batch.widths).to(self.device))
                with self._autocast():
                    best = network(inputs).argmax(-1).cpu().tolist()
                for row, text in zip(best, batch.texts, strict=True):
                    read, label = (_comparable(said, chosen.letters_only) for said in (self._spell(row), text))
                    errors += Levenshtein.distance(read, label)
                    characters += len(label)
                    exact += read == label
                    count += 1
            figures[name] = {"exact": round(exact / count, 4), "cer": round(errors / max(1, characters), 4)}
        return figures

    def _spell(self, row: Sequence[int]) -> str:
        kept = [now for before, now in zip((0, *row), row, strict=False) if now and now != before]
        return "".join(self.characters[number - 1] for number in kept)

    def save(self) -> None:
        """Write the state from which a run resumes."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "counts": (self.steps, self.samples, self.skipped),
            "slower": self.slower,
            "seconds": self.before + time.monotonic() - self.begun,
        }
        partial = self.recipe.work / (STATE + ".part")
        torch.save(state, partial)
        partial.replace(self.recipe.work / STATE)

    def restore(self) -> bool:
        """Continue from what `save` wrote; False if there is nothing."""
        path = self.recipe.work / STATE
        if not path.is_file():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps, self.samples, self.skipped = state["counts"]
        self.slower, self.before = state["slower"], state["seconds"]
        self._marked = self.samples
        return True

    def export(self, folder: Path) -> float:
        """Write the average as ONNX; the largest difference between its probabilities in ONNX Runtime and in torch."""
        path = folder / "recogniser.onnx"
        ppocr.write(self.average, self.source, path)
        network, _ = ppocr.read(path)
        session = open_session(path, self.recipe.threads)
        largest = 0.0
        for count, width in ((1, 320), (3, 456)):
            crops = np.random.default_rng(width).uniform(-1, 1, (count, 3, ppocr.HEIGHT, width)).astype(np.float32)
            given = session.run(None, {session.get_inputs()[0].name: crops})[0]
            with torch.inference_mode():
                here = network(torch.from_numpy(crops)).softmax(-1).numpy()
            largest = max(largest, float(np.abs(given - here).max()))
        return largest


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A batch on the device.

    Attributes:
        pixels: uint8 (B, 48, W).
        widths: int64 (B,).
        tethers: float32 (B,), weight of the divergence from the start.
        targets: int64 (N, L), spellings, padded.
        lengths: int64 (N,), on the CPU, where ctc_loss takes them.
        divisors: float32 (N,), the lengths on the device.
        owners: int64 (N,), the crop of each spelling.
        distrusted: crops of a source, int64 (n,), and the share of them that is taken for mislabelled.
    """

    pixels: Tensor
    widths: Tensor
    tethers: Tensor
    targets: Tensor
    lengths: Tensor
    divisors: Tensor
    owners: Tensor
    distrusted: list[tuple[Tensor, float]]


def _prepared(batch: Batch, learner: Learner) -> _Prepared:
    spellings, owners = [], []
    for number, (text, source) in enumerate(zip(batch.texts, batch.sources, strict=True)):
        for spelling in _spellings(text) if source in learner.any_case else (text,):
            known = [learner.classes[c] for c in spelling if c in learner.classes]
            if len(known) == len(text):
                spellings.append(known)
                owners.append(number)
    lengths = torch.tensor([len(spelling) for spelling in spellings])
    padded = np.zeros((len(spellings), int(lengths.max())), np.int64)
    for row, classes in zip(padded, spellings, strict=True):
        row[: len(classes)] = classes
    members = [
        (torch.tensor([n for n, own in enumerate(batch.sources) if own == source], dtype=torch.long), share)
        for source, share in learner.distrusted.items()
    ]

    def sent(tensor: Tensor) -> Tensor:
        if learner.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(learner.device, non_blocking=True)

    return _Prepared(
        sent(torch.from_numpy(batch.pixels)),
        sent(torch.from_numpy(batch.widths)),
        sent(torch.tensor([learner.tethers.get(source, learner.recipe.tether_real) for source in batch.sources])),
        sent(torch.from_numpy(padded)),
        lengths,
        sent(lengths.float()),
        sent(torch.tensor(owners)),
        [(sent(numbers), share) for numbers, share in members if share and len(numbers) > 1],
    )


class _Window:
    """Means of what steps return, without synchronising with the device."""

    def __init__(self) -> None:
        self._sums: Tensor | float = 0.0
        self._recent: list[Tensor] = []
        self._count = 0

    def add(self, losses: Tensor) -> None:
        """One more step."""
        self._sums = self._sums + losses
        self._recent = [*self._recent[-(CHECKED - 1) :], losses]
        self._count += 1

    def recent(self) -> float:
        """Mean loss of the labels over the last steps."""
        return float(torch.stack(self._recent)[:, 0].mean())

    def means(self) -> dict[str, float]:
        """Means over all steps."""
        if not self._count:
            return {}
        ctc, tether, norm = (torch.as_tensor(self._sums) / self._count).tolist()
        return {"ctc": round(ctc, 4), "tether": round(tether, 4), "norm": round(norm, 3)}


class _Feed:
    """Prepares the next batches in a thread while the network works."""

    def __init__(self, batches: Batches, learner: Learner) -> None:
        self.waited = 0.0
        self._make = lambda: _prepared(batches.next(), learner)
        self._thread = ThreadPoolExecutor(1)
        self._ahead = deque(self._thread.submit(self._make) for _ in range(AHEAD))

    def next(self) -> _Prepared:
        """The next batch; raises what went wrong in the thread."""
        asked = time.monotonic()
        prepared = self._ahead.popleft().result()
        self.waited += time.monotonic() - asked
        self._ahead.append(self._thread.submit(self._make))
        return prepared

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


def _spellings(text: str) -> list[str]:
    """A label, and itself in other cases."""
    return list(dict.fromkeys((text, text.lower(), text.upper(), text.capitalize())))


def _comparable(text: str, letters_only: bool) -> str:
    return folded(text) if letters_only else " ".join(text.casefold().split())
