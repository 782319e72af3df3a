"""CTC posteriors: best path, candidates, n-best list, probability of any string, place of any character.

The posterior of one line is a matrix of T columns by 18,710 characters, nearly all zero; only the characters that are alive
in some column are kept. Graves et al., "Connectionist temporal classification", ICML 2006 (forward variables α, section
4.1); Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", 2014
(prefix beam search).
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from fusion.page import Candidate, Hypothesis, Position

BLANK = 0
ALIVE = 1e-4
"""A character whose probability stays below this in every column is noise and is not kept."""
FLOOR = 1e-5
"""Least probability of a character in a column: a single impossible one must not veto the whole string."""
SPREAD = 1e-3
"""A character takes part in a column of the beam search when its probability is at least this."""
HIDDEN = 0.1
"""Least probability at which a character between two peaks becomes an optional position."""
MISSED = 0.1
"""How often a recogniser reads nothing where a character stands that it does not know. Were it sure to, such characters could
be put anywhere for nothing."""
_UNALIVE, _UNKNOWN, _MUTE = -1, -0x200000, -0x400000
"""First labels of characters that are not alive, of those outside the recogniser's alphabet, and of mute ones; all count
downwards."""
_TINY = 1e-250
"""A forward probability below this may have underflowed: it is computed again in logarithms."""


def fold(text: str) -> str:
    """Lower case and narrow, code point by code point: ß and İ, which fold to two letters, stay as they are.

    >>> fold("１０：３０ AM")
    '10:30 am'
    """
    return text.casefold() if text.isascii() else "".join(map(_fold, text))


@lru_cache(maxsize=65536)
def _fold(character: str) -> str:
    wide = unicodedata.decomposition(character).startswith(("<wide>", "<narrow>"))
    folded = (unicodedata.normalize("NFKC", character) if wide else character).casefold()
    return folded if len(folded) == 1 else character


@dataclass(frozen=True)
class Posterior:
    """The compacted posterior of one line.

    Attributes:
        probabilities: float64 (T, A), column 0 is the blank; rows sum to at most 1 (the rest is not alive).
        alphabet: A texts, one per column of `probabilities`; `alphabet[0]` is "" (blank).
        column_px: width of one column, px on the crop.
        spells: the recogniser's alphabet; None: every character. In `score`, a character outside it is as probable as that
            what stands there is none of those inside.
        mute: characters of the alphabet that the recogniser hardly ever reads right. In `score`, one is as probable as what
            the recogniser takes for it: its best guess.
    """

    probabilities: NDArray[np.float64]
    alphabet: tuple[str, ...]
    column_px: float
    spells: frozenset[str] | None = None
    mute: frozenset[str] = frozenset()

    @classmethod
    def compact(
        cls,
        full: NDArray[np.float32],
        characters: Sequence[str],
        column_px: float,
        spells: frozenset[str] | None = None,
        mute: frozenset[str] = frozenset(),
    ) -> Posterior:
        """Keep the blank and every character that is alive in some column.

        Args:
            full: float32 (T, C), rows sum to 1, class 0 is the blank.
            characters: C texts; `characters[0]` is ignored.
            column_px: see `Posterior`.
            spells: see `Posterior`.
            mute: see `Posterior`.
        """
        alive = np.flatnonzero(full.max(axis=0) >= ALIVE)
        alive = np.concatenate(([BLANK], alive[alive != BLANK]))
        texts = ["", *(unicodedata.normalize("NFC", characters[int(index)]) for index in alive[1:])]
        kept = full[:, alive].astype(np.float64)
        kept[kept < FLOOR / 10] = 0.0  # makes the stored table sparse
        whole = cls(kept, tuple(texts), column_px, spells, mute)._merged(lambda text: text)
        # Single precision, as the network gave it, so that the store keeps it exactly.
        return replace(whole, probabilities=whole.probabilities.astype(np.float32).astype(np.float64))

    @cached_property
    def letters(self) -> Posterior:
        """The posterior over folded letters: upper and lower case, wide and narrow form share one column."""
        merged = self._merged(fold)
        spells = None if self.spells is None else frozenset(map(fold, self.spells))
        return replace(merged, spells=spells, mute=frozenset(map(fold, self.mute)))

    def _merged(self, key: Callable[[str], str]) -> Posterior:
        names: dict[str, int] = {"": BLANK}
        target = [BLANK] + [names.setdefault(key(text), len(names)) for text in self.alphabet[1:]]
        if tuple(names) == self.alphabet:
            return self
        merged = np.zeros((self.probabilities.shape[0], len(names)))
        np.add.at(merged.T, target, self.probabilities.T)
        return replace(self, probabilities=merged, alphabet=tuple(names))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.alphabet)}

    # --- best path ------------------------------------------------------------------------------------------------

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """Runs of the best path as (first column, end column, alphabet index), blanks included."""
        best = self.probabilities.argmax(axis=1)
        edges = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)]
        return tuple((a, b, int(best[a])) for a, b in itertools.pairwise(edges) if a < b)

    @cached_property
    def greedy(self) -> str:
        """The best path's text, NFC."""
        return unicodedata.normalize("NFC", "".join(self.alphabet[index] for _, _, index in self.runs))

    @cached_property
    def quality(self) -> float:
        """Probability of the best path, geometric mean per character read (per line when nothing is read), in [0, 1]."""
        total = float(np.log(np.maximum(self.probabilities.max(axis=1), FLOOR)).sum())
        return math.exp(total / max(1, sum(index != BLANK for _, _, index in self.runs)))

    def positions(self, top_k: int) -> tuple[Position, ...]:
        """Positions with their candidates, left to right; probabilities are those of the peak column of a run."""
        places = []
        for number, (start, end, index) in enumerate(self.runs):
            left, right = start * self.column_px, end * self.column_px
            block = self.probabilities[start:end]
            if index != BLANK:
                peak = block[int(block[:, index].argmax())]
                places.append(Position(left, right, self._candidates(peak, top_k)))
                continue
            peaks = block.max(axis=0)
            peaks[[BLANK, *(self.runs[n][2] for n in (number - 1, number + 1) if 0 <= n < len(self.runs))]] = 0.0
            hidden = int(peaks.argmax())
            if peaks[hidden] >= HIDDEN:
                column = int(block[:, hidden].argmax())
                x = left + column * self.column_px
                places.append(Position(x, x + self.column_px, self._candidates(block[column], top_k), optional=True))
        return tuple(places)

    def _candidates(self, column: NDArray[np.float64], top_k: int) -> tuple[Candidate, ...]:
        best = np.argsort(-column, kind="stable")[: top_k + 1]
        texts = [(self.alphabet[int(i)], float(column[i])) for i in best if i != BLANK and column[i] > FLOOR]
        return tuple(Candidate(text, min(1.0, p)) for text, p in texts[:top_k])

    # --- n-best ---------------------------------------------------------------------------------------------------

    def nbest(self, count: int) -> tuple[Hypothesis, ...]:
        """The most probable strings, best first, no two of which differ only in case.

        The search is over folded letters; each then gets its more probable case. Scores are log-probabilities of the
        letters within the beam.
        """
        return self._in_case(self.letters._beam(count))

    def _in_case(self, found: Sequence[Hypothesis], spelt: Sequence[str] = ()) -> tuple[Hypothesis, ...]:
        """Hypotheses over folded letters, each in its more probable case; see `cased` for `spelt`."""
        own = fold(self.greedy)
        cased = self.cased([h.text for h in found], spelt)
        texts = [self.greedy if h.text == own else text for h, text in zip(found, cased, strict=True)]
        return tuple(Hypothesis(text, h.score) for text, h in zip(texts, found, strict=True))

    def _beam(self, width: int) -> list[Hypothesis]:
        """Prefix beam search over this posterior's own alphabet, best first."""
        beam: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}  # prefix → P(ends in blank), P(in a letter)
        scale = 0.0
        live = self.probabilities >= SPREAD
        live[:, BLANK] = False
        blanks = np.maximum(self.probabilities[:, BLANK], FLOOR).tolist()
        for row, alive, blank in zip(self.probabilities, live, blanks, strict=True):
            indices = np.flatnonzero(alive).tolist()
            if not indices:  # most columns: nothing but blank, every prefix stays
                beam = {prefix: (a + b, 0.0) for prefix, (a, b) in beam.items()}
                scale += math.log(blank)
                continue
            beam = _advance(beam, blank, [(index, float(row[index])) for index in indices])
            if len(beam) > width:
                beam = dict(sorted(beam.items(), key=lambda item: -(item[1][0] + item[1][1]))[:width])
            total = sum(a + b for a, b in beam.values())
            scale += math.log(total)
            beam = {prefix: (a / total, b / total) for prefix, (a, b) in beam.items()}
        texts: dict[str, float] = {}
        for prefix, (a, b) in beam.items():
            text = unicodedata.normalize("NFC", "".join(self.alphabet[index] for index in prefix))
            texts[text] = texts.get(text, 0.0) + a + b
        ranked = sorted(texts.items(), key=lambda item: (-item[1], item[0]))
        return [Hypothesis(text, math.log(p) + scale) for text, p in ranked if p > 0]

    def _cased(self, text: str, places: list[tuple[float, float]], known: Mapping[str, str]) -> str:
        """Each letter in the case that is more probable where the letter stands best."""
        result = []
        for letter, (first, end) in zip(text, places, strict=True):
            own = self._cases.get(letter)
            if own is None:
                result.append(known.get(letter, letter))
            elif len(own) == 1:
                result.append(self.alphabet[own[0]])
            else:
                result.append(self._case(letter, int(first), int(end)))
        return unicodedata.normalize("NFC", "".join(result))

    def _case(self, letter: str, first: int, end: int) -> str:
        """The most probable case of a folded letter in some columns; texts of one line put most letters in the same ones."""
        key = (letter, first, end)
        if key not in self._chosen:
            own = self._cases[letter]
            self._chosen[key] = self.alphabet[own[int(self.probabilities[first : end + 1, own].sum(axis=0).argmax())]]
        return self._chosen[key]

    @cached_property
    def _chosen(self) -> dict[tuple[str, int, int], str]:
        return {}

    def cased(self, texts: Sequence[str], spelt: Sequence[str] = ()) -> list[str]:
        """Folded texts in the case and width that are most probable; as in `spelt` where a letter is not alive."""
        known = {fold(letter): letter for text in reversed(spelt) for letter in reversed(text)}
        places = self.letters._aligned(texts)
        return [self._cased(text, own, known) for text, own in zip(texts, places, strict=True)]

    @cached_property
    def _cases(self) -> dict[str, list[int]]:
        """Folded letter → alphabet indices of its cases."""
        cases: dict[str, list[int]] = {}
        for index, text in enumerate(self.alphabet[1:], 1):
            cases.setdefault(fold(text), []).append(index)
        return cases

    # --- any string -----------------------------------------------------------------------------------------------

    agree = False
    """See `Views`."""

    @cached_property
    def candidates(self) -> frozenset[str]:
        """Folded letters that are likely in some column, but for mute ones."""
        letters = self.letters
        likely = np.flatnonzero(letters.probabilities.max(axis=0) >= SPREAD)
        return frozenset(letters.alphabet[n] for n in likely.tolist() if n != BLANK) - letters.mute

    def columns(self, letters: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
        """Floored probabilities of the blank and of some folded letters: float64 (T, 1 + A), of each view."""
        labels = np.array([BLANK, *(self.letters._label(letter) for letter in letters)])
        return (self.letters._emissions[:, _emission(labels)],)

    def _label(self, character: str) -> int:
        """Alphabet index of a code point; a distinct negative label for each that is not alive or not known."""
        if character in self.mute:
            return _MUTE - ord(character)
        if self.spells is not None and character not in self.spells:
            return _UNKNOWN - ord(character)
        return self._index.get(character, _UNALIVE - ord(character))

    @cached_property
    def _emissions(self) -> NDArray[np.float64]:
        """Floored probabilities, float64 (T, A + 4): the alphabet, then mute, not known, not alive, past the end.

        Where a character is read, a mute one is as probable as that, and one that is not known as that it is none of those
        that are. Where blank is read, both are rare: `MISSED`.
        """
        floored = np.maximum(self.probabilities, FLOOR)
        best = floored.max(axis=1, keepdims=True)
        blank = floored[:, :1] == best
        mute = np.where(blank, MISSED * best, best)
        other = np.where(blank, MISSED * best, np.maximum(1 - best, FLOOR))
        return np.hstack([floored, mute, other, np.full((len(floored), 1), FLOOR), np.zeros((len(floored), 1))])

    @cached_property
    def _logs(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):
            return np.log(self._emissions)

    def score(self, texts: Sequence[str]) -> list[float]:
        """Natural log-probability of the letters of each text, ignoring case and width: the CTC forward variable."""
        return self.letters.score_cased([fold(text) for text in texts])

    def knows(self, text: str) -> bool:
        """Whether every character of a text, case and width aside, is one that the recogniser can read."""
        folded, letters = fold(text), self.letters
        return letters.mute.isdisjoint(folded) and (letters.spells is None or letters.spells.issuperset(folded))

    def score_cased(self, texts: Sequence[str]) -> list[float]:
        """Like `score`, but case counts: it decides between Rosu and rosu once the letters are settled.

        No text with a character that the recogniser does not know scores above its own best guess.
        """
        scores = self._forward(texts)
        known = [self.knows(text) for text in texts]
        if all(known):
            return scores
        (best,) = self._forward([self.greedy])
        return [s if own else min(s, best) for s, own in zip(scores, known, strict=True)]

    def _forward(self, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        index, skip, ends, _ = self._trellis(texts)
        emissions = self._emissions
        alpha = np.zeros(index.shape)
        alpha[:, :2] = emissions[0][index[:, :2]]
        exponents = np.zeros(len(texts), dtype=np.int64)
        leaps = skip[:, 2:].astype(np.float64)
        for step, row in enumerate(emissions[1:], 1):
            leap = alpha[:, :-2] * leaps
            reach = alpha.copy()
            reach[:, 1:] += alpha[:, :-1]
            reach[:, 2:] += leap
            alpha = reach
            alpha *= row.take(index)
            if step % 16 == 0:  # 16 floors of 1e-5 stay far from underflow; powers of two round nothing
                shift = np.frexp(alpha.max(axis=1))[1].astype(np.int64)
                alpha = np.ldexp(alpha, -shift[:, None])
                exponents += shift
        rows = np.arange(len(texts))
        final = alpha[rows, ends] + np.where(ends > 0, alpha[rows, np.maximum(ends - 1, 0)], 0.0)
        mantissas, shift = np.frexp(np.maximum(final, 1e-300))
        scores = np.log(mantissas) + (exponents + shift) * math.log(2)
        poor = np.flatnonzero(final < _TINY)
        if len(poor):
            scores[poor] = self._forward_logs([texts[n] for n in poor])
        return [float(score) for score in scores]

    def _forward_logs(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The forward variable in logarithms: slower, without underflow.

        A text that needs more columns than there are has no alignment; it scores below every text that has one.
        """
        index, skip, ends, needed = self._trellis(texts)
        logs, barred = self._logs, np.where(skip, 0.0, -np.inf)
        alpha = np.full(index.shape, -np.inf)
        alpha[:, :2] = logs[0][index[:, :2]]
        for row in logs[1:]:
            reach = alpha.copy()
            reach[:, 1:] = np.logaddexp(reach[:, 1:], alpha[:, :-1])
            reach[:, 2:] = np.logaddexp(reach[:, 2:], alpha[:, :-2] + barred[:, 2:])
            alpha = reach + row[index]
        rows = np.arange(len(texts))
        final = np.logaddexp(alpha[rows, ends], np.where(ends > 0, alpha[rows, np.maximum(ends - 1, 0)], -np.inf))
        return np.where(needed > len(logs), needed * math.log(FLOOR), final)

    def place(self, text: str) -> tuple[tuple[float, float], ...]:
        """Viterbi forced alignment: (left, right) px on the crop, one pair per code point, not decreasing.

        Case and width are one. A text that needs more columns than there are is spread evenly.
        """
        return tuple((a * self.column_px, b * self.column_px) for a, b in self.letters._aligned([fold(text)])[0])

    def _aligned(self, texts: Sequence[str]) -> list[list[tuple[float, float]]]:
        """Best (first, end) columns of the code points of each text; what is decided is asked for several times."""
        if new := [text for text in texts if text not in self._places]:
            self._places.update(zip(new, self._align(new), strict=True))
        return [self._places[text] for text in texts]

    @cached_property
    def _places(self) -> dict[str, list[tuple[float, float]]]:
        return {}

    def _align(self, texts: Sequence[str]) -> list[list[tuple[float, float]]]:
        index, skip, ends, needed = self._trellis(texts)
        columns = len(self.probabilities)
        places: list[list[tuple[float, float]]] = []
        for path, end, fewest in zip(_viterbi(self._logs, index, skip, ends), ends.tolist(), needed, strict=True):
            count = end // 2
            if fewest > columns:
                step = columns / count
                places.append([(n * step, (n + 1) * step) for n in range(count)])
                continue
            states = np.arange(1, end, 2)
            firsts, lasts = np.searchsorted(path, states), np.searchsorted(path, states, side="right")
            places.append([(float(a), float(b)) for a, b in zip(firsts, lasts, strict=True)])
        return places

    def _trellis(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """CTC states of several texts, letters between blanks.

        Returns:
            index: int64 (N, S), each state's column of `_emissions`.
            skip: bool (N, S), whether a letter may directly follow the letter two states before (they differ).
            ends: int64 (N,), last state of each text.
            needed: int64 (N,), fewest columns that each text needs: a blank separates equal letters.
        """
        letters, spelt, lengths = _spelt(tuple(texts))
        labels = np.array([BLANK, *(self._label(letter) for letter in letters)])[spelt]
        needed = lengths + (labels[:, 1:] == labels[:, :-1]).sum(axis=1, where=labels[:, 1:] != BLANK)
        ends = 2 * lengths
        states = np.full((len(texts), 2 * labels.shape[1] + 1), BLANK)
        states[:, 1::2] = labels
        skip = np.zeros(states.shape, dtype=np.bool_)
        skip[:, 3::2] = (states[:, 3::2] != states[:, 1:-2:2]) & (states[:, 3::2] != BLANK)
        index = _emission(states)
        index[np.arange(states.shape[1]) > ends[:, None]] = -1
        return index, skip, ends, needed


@lru_cache(maxsize=8)
def _spelt(texts: tuple[str, ...]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Texts as numbers of letters: the letters from 1 on; int64 (N, L), 0 behind the end; and int64 (N,), the lengths.

    Kept for the views of a line, which are asked about the same texts one after the other.
    """
    lengths = np.array([len(text) for text in texts])
    letters = sorted(set().union(*texts))
    number = {letter: n for n, letter in enumerate(letters, 1)}
    spelt = np.zeros((len(texts), lengths.max()), dtype=np.int64)
    for row, text in zip(spelt, texts, strict=True):
        row[: len(text)] = [number[letter] for letter in text]
    return letters, spelt, lengths


def _emission(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The columns of `_emissions` of some labels."""
    return np.asarray(np.select([labels <= _MUTE, labels <= _UNKNOWN], [-4, -3], np.maximum(labels, -2)))


def _advance(
    beam: dict[tuple[int, ...], tuple[float, float]], blank: float, letters: list[tuple[int, float]]
) -> dict[tuple[int, ...], tuple[float, float]]:
    """One column of the prefix beam search: every prefix stays, repeats its last letter, or grows by one."""
    new: dict[tuple[int, ...], tuple[float, float]] = {}
    for prefix, (ends_blank, ends_letter) in beam.items():
        last = prefix[-1] if prefix else BLANK
        stays_letter = 0.0
        for index, p in letters:
            grown = (ends_blank + ends_letter) * p
            if index == last:
                stays_letter = ends_letter * p
                grown = ends_blank * p
            if grown >= 1e-12:
                a, b = new.get((*prefix, index), (0.0, 0.0))
                new[*prefix, index] = (a, b + grown)
        a, b = new.get(prefix, (0.0, 0.0))
        new[prefix] = (a + (ends_blank + ends_letter) * blank, b + stays_letter)
    return new


def _viterbi(
    logs: NDArray[np.float64], index: NDArray[np.int64], skip: NDArray[np.bool_], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Best monotone path through the CTC states of several texts: int64 (N, T), the state of each column."""
    barred = np.where(skip, 0.0, -np.inf)
    best = np.full((len(index), index.shape[1] + 2), -np.inf)  # two states before the first, never reached
    best[:, 2:4] = logs[0].take(index[:, :2])
    back = np.zeros((len(logs), *index.shape), dtype=np.uint8)  # how many states the best path to each moved on
    for row, moved in zip(logs[1:], back[1:], strict=True):
        stay, step, leap = best[:, 2:], best[:, 1:-1], best[:, :-2] + barred
        most = np.maximum(stay, step)
        np.copyto(moved, step > stay)
        np.copyto(moved, 2, where=leap > most)
        best[:, 2:] = np.maximum(most, leap) + row.take(index)
    rows, last = np.arange(len(index)), np.maximum(ends - 1, 0)
    state = np.where(best[rows, ends + 2] >= best[rows, last + 2], ends, last)
    paths = np.empty((len(index), len(logs)), dtype=np.int64)
    for t in range(len(logs) - 1, -1, -1):
        paths[:, t] = state
        state = state - back[t, rows, state]
    return paths


def mixture(logs: NDArray[np.float64], agree: bool) -> NDArray[np.float64]:
    """Log-probabilities under several views, float64 (V, …), as those of one: see `Views`."""
    return np.asarray(logs.mean(axis=0) if agree else np.logaddexp.reduce(logs, axis=0) - math.log(len(logs)))


@dataclass(frozen=True, eq=False)
class Views:
    """The posteriors of one line at several widths as one: their mixture; the most probable one first.

    The right width of a squashed word differs from letter to letter, so a text's probability is averaged over the widths.
    With `agree` log-probabilities are averaged: a text must be likely at all widths, which suits a weak recogniser.
    """

    posteriors: tuple[Posterior, ...]
    agree: bool = False

    @property
    def best(self) -> Posterior:
        """The posterior whose best path is the most probable."""
        return self.posteriors[0]

    @property
    def spells(self) -> frozenset[str] | None:
        """The alphabet without its mute characters, None: all; the same for all."""
        return self.best.spells - self.best.mute if self.best.spells is not None else None

    def knows(self, text: str) -> bool:
        """See `Posterior.knows`; the same for all."""
        return self.best.knows(text)

    @property
    def quality(self) -> float:
        """See `Posterior.quality`; that of `best`."""
        return self.best.quality

    def nbest(self, count: int) -> tuple[Hypothesis, ...]:
        """Union of the n-best lists, scored by the mixture, best first; no two differ only in case."""
        if len(self.posteriors) == 1:
            return self.best.nbest(count)
        found = [posterior.letters._beam(count) for posterior in self.posteriors]
        texts = list(dict.fromkeys(hypothesis.text for one in found for hypothesis in one))
        ranked = sorted(zip(texts, self.score(texts), strict=True), key=lambda item: (-item[1], item[0]))
        spelt = [posterior.greedy for posterior in self.posteriors]
        return self.best._in_case([Hypothesis(text, score) for text, score in ranked[:count]], spelt)

    @property
    def candidates(self) -> frozenset[str]:
        """See `Posterior.candidates`; those of all."""
        return frozenset().union(*(posterior.candidates for posterior in self.posteriors))

    def columns(self, letters: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
        """See `Posterior.columns`; one table for each view."""
        return tuple(posterior.columns(letters)[0] for posterior in self.posteriors)

    def score(self, texts: Sequence[str]) -> list[float]:
        """See `Posterior.score` and `Views`."""
        new = list(dict.fromkeys(text for text in texts if text not in self._scores))
        if new:
            scores = self._mean([posterior.score(new) for posterior in self.posteriors])
            self._scores.update(zip(new, scores, strict=True))
        return [self._scores[text] for text in texts]

    @cached_property
    def _scores(self) -> dict[str, float]:
        """Scores so far: the same hypotheses are scored for the decoder's shortlist and for the decision."""
        return {}

    def score_cased(self, texts: Sequence[str]) -> list[float]:
        """See `Posterior.score_cased` and `Views`."""
        return self._mean([posterior.score_cased(texts) for posterior in self.posteriors])

    def cased(self, texts: Sequence[str], spelt: Sequence[str] = ()) -> list[str]:
        """See `Posterior.cased`; that of `best`."""
        return self.best.cased(texts, spelt)

    def _mean(self, scores: list[list[float]]) -> list[float]:
        return [float(value) for value in mixture(np.asarray(scores), self.agree)]

    def place(self, text: str) -> tuple[tuple[float, float], ...]:
        """See `Posterior.place`; that of `best`."""
        return self.best.place(text)
