"""The most probable texts of a line under all who looked at it and all who expect something of it.

A label-synchronous beam search: all prefixes of one length are weighed together, each by the probability that the line
begins so under every CTC posterior (the CTC prefix score of Watanabe et al., "Hybrid CTC/attention architecture for
end-to-end speech recognition", IEEE J. Sel. Top. Signal Process. 11(8), 2017, algorithm 2) and under every expectation.
Posteriors may differ in their numbers of columns. Only the columns near the end of the prefixes are looked at, so that the
cost grows with the length of the line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion.ctc import mixture
from fusion.ink import Expectation, Ink, Prior

WIDTH = 24
"""Prefixes kept per length."""
NAMED = 8
"""Prefixes kept per length beside those, in which a name of a list goes on: a name that the ink speaks for in the end may be
misread at its beginning, and would be lost there (compare the banks of Post and Vilar, "Fast lexically constrained decoding
with dynamic beam allocation", NAACL 2018)."""
CHOICES = 4
"""So many times `WIDTH` grown prefixes, the best under the ink alone, are weighed by the expectations; beside them those in
which a name goes on, and of each prefix the likeliest."""
BEHIND = 16.0
"""Nats by which a prefix may be behind the best one of its length, and behind the best whole text: a heuristic, since
expectations bound nothing."""
HOPELESS = 10.0
"""Nats per unit of the looks' weights by which the ink may put a grown prefix behind the best one: what the ink so speaks
against is not weighed by the expectations, unless a reader wrote its last letter or a name goes on with it."""
NEGLIGIBLE = 26.0
"""Nats below a prefix's most probable end from which another place to end is left out."""
AHEAD = 24
"""Columns looked at beyond the last place where a prefix may end; more if they turn out to be too few."""
NEVER = -1e9
"""Logarithm of 0: finite, so that differences stay numbers."""
Logs = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Look:
    """A posterior in the search.

    Attributes:
        weight: factor of its log-probabilities, at least 0.
        ink: the posterior.
        reading: its own best text; none with a letter that it does not know is more probable.
    """

    weight: float
    ink: Ink
    reading: str


def search(
    looks: Sequence[Look],
    expected: Sequence[tuple[float, Expectation]],
    count: int,
    also: str = "",
    names: Prior | None = None,
) -> list[str]:
    """At most `count` texts in folded letters, best first.

    Args:
        looks: at least one.
        expected: weight and expectation of each.
        count: texts wanted.
        also: letters to try beside those that are likely under some look.
        names: the prefixes in which one of them goes on are weighed by the expectations, and some of them kept, even where
            the ink says more for many others.
    """
    letters = sorted(frozenset(also).union(*(look.ink.candidates for look in looks)))
    prefixes = _Prefixes(looks, letters)
    hopeless = HOPELESS * sum(look.weight for look in looks)
    written = np.array([letter in also for letter in letters], dtype=np.bool_)
    places = {letter: number for number, letter in enumerate(letters)}
    beam = [""]
    done: dict[str, float] = {}
    while True:
        ended = prefixes.ended()
        for weight, expectation in expected:
            ended = ended + weight * np.asarray(expectation.score(beam))
        done.update(zip(beam, ended.tolist(), strict=True))
        if not letters:
            break
        flat = prefixes.grown().ravel()
        kept = np.argpartition(-flat, min(CHOICES * WIDTH, len(flat)) - 1)[: CHOICES * WIDTH]
        kept = kept[written[kept % len(letters)] | (flat[kept] >= flat[kept].max() - hopeless)]
        named = _named(beam, places, names)
        # A prefix that its expectations have kept is not dropped for what its ink was before: its likeliest letter is weighed.
        own = np.arange(len(beam)) * len(letters) + flat.reshape(len(beam), -1).argmax(axis=1)
        kept = np.union1d(np.union1d(kept, named), own)
        owners, chosen = np.divmod(kept, len(letters))
        texts = [beam[owner] + letters[letter] for owner, letter in zip(owners, chosen, strict=True)]
        scores = flat[kept]
        for weight, expectation in expected:
            scores = scores + weight * np.asarray(expectation.begins(texts))
        least = sorted(done.values(), reverse=True)[count - 1] if len(done) >= count else -math.inf
        bound = max(least, max(done.values()) - BEHIND, float(scores.max()) - BEHIND)
        ranked = np.argsort(-scores, kind="stable")
        beside = ranked[WIDTH:][np.isin(kept[ranked[WIDTH:]], named)][:NAMED]
        order = [n for n in (*ranked[:WIDTH].tolist(), *beside.tolist()) if scores[n] > bound]
        if not order:
            break
        beam = [texts[n] for n in order]
        prefixes.advance(owners[order], chosen[order])
    return sorted(done, key=lambda text: (-done[text], text))[:count]


def _named(beam: Sequence[str], places: Mapping[str, int], names: Prior | None) -> NDArray[np.int64]:
    """Flat places, in a table of prefixes by letters, of the prefixes grown by a letter with which a name goes on."""
    if names is None:
        return np.zeros(0, dtype=np.int64)
    grown = [
        number * len(places) + places[letter]
        for number, text in enumerate(beam)
        for letter in names.follows(text)
        if letter in places
    ]
    return np.array(grown, dtype=np.int64)


class _Prefixes:
    """The weighed sum of all looks' log-probabilities of the prefixes of the beam."""

    def __init__(self, looks: Sequence[Look], letters: Sequence[str]) -> None:
        self._looks = looks
        views = [(n, table) for n, look in enumerate(looks) for table in look.ink.columns(letters)]
        lengths = sorted({len(table) for _, table in views})
        groups = [[(n, table) for n, table in views if len(table) == length] for length in lengths]
        self._groups = [_Forward(np.stack([table for _, table in group])) for group in groups]
        self._look_of_view = np.array([n for group in groups for n, _ in group])
        self._unknown = np.array([[not look.ink.knows(letter) for letter in letters] for look in looks])
        self._most = [look.ink.score([look.reading])[0] for look in looks]
        self._strange = np.zeros((len(looks), 1), dtype=np.bool_)  # prefixes that hold a letter unknown to a look

    def grown(self) -> Logs:
        """Of each prefix with one letter more: (B, A)."""
        views = np.concatenate([group.grown() for group in self._groups])
        return self._sum(views, self._strange[:, :, None] | self._unknown[:, None])

    def ended(self) -> Logs:
        """Of each prefix as the whole text: (B,)."""
        return self._sum(np.concatenate([group.ended() for group in self._groups]), self._strange)

    def advance(self, owners: NDArray[np.int64], letters: NDArray[np.int64]) -> None:
        """Make the prefixes of `owners` with one of `letters` more the beam."""
        self._strange = self._strange[:, owners] | self._unknown[:, letters]
        for group in self._groups:
            group.advance(owners, letters)

    def _sum(self, views: Logs, strange: NDArray[np.bool_]) -> Logs:
        """Views of a look are one, see `ctc.Views`; no text with a letter unknown to a look beats its own reading there."""
        total = np.zeros(views.shape[1:])
        for n, (look, most) in enumerate(zip(self._looks, self._most, strict=True)):
            mean = mixture(views[self._look_of_view == n], look.ink.agree)
            total += look.weight * np.where(strange[n], np.minimum(mean, most), mean)
        return total


class _Forward:
    """The forward variables of the beam's prefixes under posteriors with the same number of columns.

    `_before[v, b, t]` is the log-probability under posterior v that prefix b is what was read before column `_first` + t;
    `_blank` is the part of it after which a blank has been seen, or nothing.
    """

    def __init__(self, tables: NDArray[np.float64]) -> None:
        """Start with the empty prefix. `tables`: float64 (V, T, 1 + A), blank first."""
        self._letters = np.ascontiguousarray(tables[:, :, 1:])
        logs = np.log(tables)
        self._logs, self._blanks = np.ascontiguousarray(logs[:, :, 1:].transpose(0, 2, 1)), logs[:, :, 0]
        self._columns = tables.shape[1]
        self._first, self._last = 0, np.array([-1])
        start = np.zeros((len(tables), 1))
        self._blank = np.concatenate([start, np.cumsum(self._blanks, axis=1)], axis=1)[:, None]
        self._before = self._blank
        self._shrink()

    def grown(self) -> Logs:
        """Prefix scores: log Σ_t P(prefix before column t) · P(letter in column t), float64 (V, B, A)."""
        count = min(self._before.shape[2], self._columns - self._first)
        if count == 0:
            return np.full((*self._before.shape[:2], self._letters.shape[2]), NEVER)
        most = self._before.max(axis=2, keepdims=True)
        block = self._letters[:, self._first : self._first + count]
        mass = np.exp(self._before[:, :, :count] - most) @ block
        again = np.flatnonzero(self._last >= 0)  # the same letter again needs a blank before it
        own = self._last[again]
        apart = np.exp(self._blank[:, again, :count] - most[:, again])
        mass[:, again, own] = (apart * block[:, :, own].transpose(0, 2, 1)).sum(axis=2)
        return np.asarray(np.log(np.maximum(mass, 1e-300)) + most)

    def ended(self) -> Logs:
        """Log-probability of each prefix as the whole text: float64 (V, B)."""
        if self._first + self._before.shape[2] <= self._columns:
            return np.full(self._before.shape[:2], NEVER)
        return np.asarray(self._before[:, :, -1])

    def advance(self, owners: NDArray[np.int64], letters: NDArray[np.int64]) -> None:
        """See `_Prefixes.advance`."""
        same = (self._last[owners] == letters)[:, None]
        start = np.where(same, self._blank[:, owners], self._before[:, owners])
        ahead = AHEAD
        while True:
            end = min(self._first + start.shape[2] + ahead, self._columns)
            before, blank = self._forward(start, letters, end)
            if end == self._columns or (before[:, :, -1] < before.max(axis=2) - NEGLIGIBLE).all():
                break
            ahead *= 2
        self._before, self._blank, self._last = before, blank, letters
        self._shrink()

    def _forward(self, start: Logs, letters: NDArray[np.int64], end: int) -> tuple[Logs, Logs]:
        """`_before` and `_blank` of prefixes grown by a letter that starts where `start` says, up to column `end`."""
        first, (views, beam, width) = self._first, start.shape
        count = end - first
        begins = np.full((views, beam, count), NEVER)
        begins[:, :, :width] = start[:, :, :count]
        # α(t) = y(t) · (α(t-1) + start(t)) is a sum over the column where the letter starts; y as a running product.
        own = np.cumsum(self._logs[:, letters, first:end], axis=2)
        begins[:, :, 1:] -= own[:, :, :-1]
        letter = own + np.logaddexp.accumulate(begins, axis=2)
        blanks = np.cumsum(self._blanks[:, None, first:end], axis=2)
        blank = np.full((views, beam, count + 1), NEVER)
        blank[:, :, 2:] = blanks[:, :, 1:] + np.logaddexp.accumulate(letter[:, :, :-1] - blanks[:, :, :-1], axis=2)
        before = blank.copy()
        before[:, :, 1:] = np.logaddexp(blank[:, :, 1:], letter)
        return before, blank

    def _shrink(self) -> None:
        """Leave out columns where no prefix ends with a probability that counts."""
        alive = (self._before >= self._before.max(axis=2, keepdims=True) - NEGLIGIBLE).any(axis=(0, 1))
        places = np.flatnonzero(alive)
        first, last = int(places[0]), int(places[-1])
        self._before, self._blank = self._before[:, :, first : last + 1], self._blank[:, :, first : last + 1]
        self._first += first
