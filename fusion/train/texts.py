"""Texts for synthetic lines: names of medicines, prescriptions, sums, homework, English, letters and codes.

Knows what people write by hand and how much of it is held out for evaluation. Does not know pictures.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import resources

ALPHABET = "".join(chr(code) for code in range(32, 127)) + "×÷°½¼¾²³≤≥√π£µ–—’“”"
"""Every character that a text may hold, beside the letters of `ACCENTED`."""
LONGEST = 40
"""Characters of the longest text."""
KINDS = {
    "name": 14,
    "pseudo": 20,
    "strength": 12,
    "sig": 8,
    "sum": 16,
    "homework": 5,
    "english": 15,
    "letter": 6,
    "code": 4,
}
"""Kinds of text and how often each is drawn, relative to each other."""
_HELD_OUT = 20  # one text in so many
_TRIES = 400
_LEARNT = 12_000  # rare words the name model sees beside the names

_SAY: dict[str, list[str]] = json.loads(
    resources.files("fusion.train").joinpath("vocabulary.json").read_text(encoding="utf-8")
)
ACCENTED = frozenset("".join(_SAY["accented"]))
"""Characters of the words with accents, in several languages."""


class Texts:
    """Draws texts; two objects made of the same things draw the same texts from generators in the same state."""

    def __init__(self, words: Sequence[Sequence[str]], names: Sequence[str], seed: int) -> None:
        """Sort the words by how they are used and learn how names are spelt.

        Args:
            words: tiers of English words, most common first, at least one word in all.
            names: names to draw and to learn from, such as medicines of a training set; may be empty. Characters out of
                `ALPHABET` are left out.
            seed: of the choice of rare words that the model of names sees.
        """
        rng = random.Random(f"texts:{seed}")
        self._tiers = [list(tier) for tier in words if tier]
        self._names = [name for name in (_fit(name) for name in names) if name]
        rare = list(self._tiers[-1])
        learnt = rng.sample(rare, min(_LEARNT, len(rare)))
        self._mixed = _Spelling([*self._names * 3, *learnt])
        self._spelling = _Spelling(self._names) if len(self._names) >= 200 else self._mixed
        self._buckets = [_sort_words(tier) for tier in self._tiers]
        self._draws: dict[str, Callable[[random.Random], str]] = {
            "name": self._name,
            "pseudo": self._pseudo,
            "strength": self._strength,
            "sig": self._sig,
            "sum": _sum,
            "homework": self._homework,
            "english": self._english,
            "letter": self._letter,
            "code": _code,
            "dose": _dose,
            "measure": _measure,
            "accented": self._accented,
        }

    def line(self, rng: random.Random, kind: str | None = None, *, held_out: bool = False) -> str:
        """One text of 1 to `LONGEST` characters of `ALPHABET`, without spaces at its ends.

        Args:
            rng: source of all chance.
            kind: one of `KINDS`, "dose", "measure" or "accented"; None draws one of `KINDS` by its weight.
            held_out: draw from the texts kept for evaluation instead of those for training.
        """
        # Short lists of names may have nothing on the side asked for: then a name is made up.
        for attempt in range(10 * _TRIES):
            drawn = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
            text = _fit(self._draws[drawn if attempt < _TRIES else "pseudo"](rng))
            if text and self.held_out(text) == held_out:
                return text
        raise ValueError(f"no text of kind {kind} on the side asked for")

    @staticmethod
    def held_out(text: str) -> bool:
        """Whether a text belongs to evaluation: about 1 in 20, whatever its case and spaces."""
        folded = "".join(text.casefold().split())
        return int.from_bytes(hashlib.blake2b(folded.encode(), digest_size=4).digest(), "big") % _HELD_OUT == 0

    def _word(self, rng: random.Random, bucket: str = "any") -> str:
        weights = [2.0**-n for n in range(len(self._tiers))]
        tier = rng.choices(range(len(self._tiers)), weights)[0]
        return rng.choice(self._buckets[tier].get(bucket) or self._buckets[tier]["any"])

    def _name(self, rng: random.Random) -> str:
        return _recase(rng, rng.choice(self._names)) if self._names else self._pseudo(rng)

    def _pseudo(self, rng: random.Random) -> str:
        chance = rng.random()
        if chance < 0.4:
            name = self._spelling.draw(rng)
        elif chance < 0.65:
            name = self._mixed.draw(rng)
        else:
            middles = "".join(rng.choices(_SAY["middles"], k=rng.choice((0, 0, 1, 1, 2))))
            name = (
                rng.choice(_SAY["prefixes"]) + middles + rng.choice(_SAY["stems"] if chance < 0.87 else _SAY["trade"])
            )
        return _recase(rng, name[:18].strip(" -'"))

    def _strength(self, rng: random.Random) -> str:
        name = self._name(rng) if rng.random() < 0.4 else self._pseudo(rng)
        parts = [rng.choice(_SAY["forms"])] if rng.random() < 0.6 else []
        parts.append(name)
        if rng.random() < 0.12:
            parts.append(rng.choice(_SAY["tails"]))
        if rng.random() < 0.75:
            dose = rng.choice(_SAY["doses"]) + (f"/{rng.choice(_SAY['doses'])}" if rng.random() < 0.08 else "")
            unit = rng.choice(_SAY["units"]) if rng.random() < 0.8 else ""
            glued = rng.choice(("", " "))
            parts.append(f"({dose}{glued}{unit})" if rng.random() < 0.15 else f"{dose}{glued}{unit}")
        numbering = f"{rng.randint(1, 9)}{rng.choice('.)')} " if rng.random() < 0.15 else ""
        return numbering + " ".join(parts)

    def _sig(self, rng: random.Random) -> str:
        when, count, days = (
            rng.choice(_SAY["when"]),
            rng.choice(("1", "1", "2", "½", "1-2", "i", "ii", "3")),
            rng.choice((3, 5, 7, 10, 14, 30)),
        )
        plus = rng.choice("++-–")
        times = plus.join(rng.choices(("0", "1", "1", "½", "2"), k=rng.choice((3, 3, 3, 4))))
        form = rng.choice(("tab", "tabs", "cap", "tsp", "ml", "puff", "drops", "T", "amp"))
        route = rng.choice(("PO", "po", "IV", "IM", "SC", "SL", "by mouth", ""))
        options = (
            times,
            f"{times} x {days} days",
            f"{times} {rng.choice('×x')} {days}d",
            f"{count} {form} {route} {when}",
            f"Sig: {count} {form} {route} {when} prn {rng.choice(_SAY['for'])}",
            f"{count} {form} {when} for {rng.choice(_SAY['for'])}",
            f"take {count} {form} {when}",
            when,
            f"{when} x {days} days",
            f"{rng.choice('×x')} {days} {rng.choice(('days', 'd', '/7', 'weeks', 'day'))}",
            f"Disp {rng.choice(('#', ''))}{rng.choice((10, 14, 20, 21, 28, 30, 60, 90))}",
            f"#{rng.randint(5, 99)} ({rng.choice(('thirty', 'ten', 'sixty', 'twenty', 'ninety'))})",
            f"Refill{rng.choice(('', 's', 's:', ':'))} {rng.randint(0, 6)}",
            f"BP {rng.randint(90, 190)}/{rng.randint(50, 110)}{rng.choice(('', ' mmHg'))}",
            f"P {rng.randint(50, 130)}/min",
            f"Wt {rng.randint(3, 110)} {rng.choice(('kg', 'Kg', 'lbs'))}",
            f"Temp {rng.randint(96, 104)}.{rng.randint(0, 9)}°F",
            f"SpO2 {rng.randint(80, 100)}%",
            f"Age {rng.randint(1, 95)} {rng.choice(('y', 'yrs', 'Y/M', 'F'))}",
            _date(rng),
            rng.choice(_SAY["signs"]),
        )
        return rng.choice(options)

    def _homework(self, rng: random.Random) -> str:
        root = rng.randint(2, 15)
        return rng.choice(_SAY["homework"]).format(
            n=rng.randint(1, 30),
            sum=_sum(rng),
            english=self._phrase(rng),
            small=rng.randint(1, 20),
            big=rng.randint(10, 999),
            letter=rng.randint(2, 9),
            unit=rng.choice(_SAY["lengths"]),
            first=rng.choice(_SAY["first_names"]),
            last=rng.choice(_SAY["surnames"]),
            cap=rng.choice("ABCDE"),
            low=rng.choice("abcdeivx"),
            date=_date(rng),
            things=rng.choice(_SAY["things"]),
            square=root * root,
            root=root,
        )

    def _phrase(self, rng: random.Random) -> str:
        subject = rng.choice(_SAY["pronouns" if rng.random() < 0.3 else "subjects"])
        frame = rng.choice(_SAY["frames"]).replace("{s}", subject)
        # Every slot gets a word of its own, which str.format could not give.
        return re.sub(r"\{(\w+)\}", lambda slot: self._word(rng, slot[1]), frame)

    def _accented(self, rng: random.Random) -> str:
        words = rng.choices(_SAY["accented"], k=rng.choice((1, 1, 2, 3)))
        if rng.random() < 0.3:
            words.insert(rng.randrange(len(words) + 1), str(rng.randint(1, 500)))
        return " ".join(words).upper() if rng.random() < 0.05 else " ".join(words)

    def _english(self, rng: random.Random) -> str:
        if rng.random() < 0.15:
            return _recase(rng, self._word(rng))
        text = self._phrase(rng)
        chance = rng.random()
        if chance < 0.45:
            text = text[0].upper() + text[1:]
        elif chance < 0.52:
            text = text.title() if chance < 0.49 else text.upper()
        elif chance < 0.85:
            text = text.lower()
        if rng.random() < 0.45:
            text += rng.choice("....,,,?!;:")
        if rng.random() < 0.05:
            text = rng.choice(("“{}”", '"{}"', "({})", "'{}'", "- {}", "“{}", "{} —", "{} -")).format(text)
        if rng.random() < 0.04:
            text = text.replace(" ", ", ", 1)
        return text.replace("'", "’") if rng.random() < 0.3 else text

    def _letter(self, rng: random.Random) -> str:
        genus = rng.choice(_SAY["genera"])
        day = rng.randint(1, 28)
        text = rng.choice(_SAY["letter"]).format(
            name=rng.choice(_SAY["surnames"]),
            date=f"{rng.choice(_SAY['months'])} {day}{rng.choice(('', 'th', '.'))} {rng.randint(1838, 1899)}",
            plant=f"{genus} {rng.choice(_SAY['species'])}",
            genus=genus,
            day=f"{day}{'st' if day in (1, 21) else 'nd' if day in (2, 22) else 'rd' if day in (3, 23) else 'th'}",
            high=rng.randint(20, 170) * 100,
            small=rng.randint(1, 40),
            english=self._phrase(rng),
        )
        if len(text) > LONGEST or rng.random() < 0.25:
            # A line of a letter begins and ends anywhere in a sentence.
            words = text.split()
            start = rng.randrange(max(1, len(words) - 2))
            text = " ".join(words[start : start + rng.randint(2, 7)])
        return text


class _Spelling:
    """Model of spelling: which letter follows three others."""

    def __init__(self, words: Sequence[str]) -> None:
        followers: defaultdict[str, list[str]] = defaultdict(list)
        for word in words:
            padded = f"   {word.lower()}\n"
            for at in range(3, len(padded)):
                followers[padded[at - 3 : at]].append(padded[at])
        self._followers = {context: "".join(letters) for context, letters in followers.items()}

    def draw(self, rng: random.Random) -> str:
        """A word of 3 to 18 characters, lower case."""
        for _ in range(50):
            word = "   "
            while len(word) < 22 and not word.endswith("\n"):
                word += rng.choice(self._followers[word[-3:]])
            if word.endswith("\n") and len(word) >= 7:
                return word.strip()
        return word.strip()[:18]


def _fit(text: str) -> str:
    """Cut at a space to at most `LONGEST` characters; empty when a character is out of the alphabet."""
    text = " ".join(text.split())
    if len(text) > LONGEST:
        text = text[: LONGEST + 1].rsplit(" ", 1)[0][:LONGEST]
    return text if all(character in ALPHABET or character in ACCENTED for character in text) else ""


def _sort_words(words: Sequence[str]) -> dict[str, list[str]]:
    """Words by what they can stand for, told by their endings: enough for sentences that look like sentences."""
    endings = {
        "d": ("ly",),
        "a": ("ous", "ful", "al", "ive", "able", "less", "ish", "ent", "y"),
        "v": ("ed",),
        "ing": ("ing",),
        "ns": ("ers", "ions", "ts", "ds", "ks", "rs", "les", "ngs"),
    }
    buckets: dict[str, list[str]] = {key: [] for key in ("any", "n", *endings)}
    for word in words:
        buckets["any"].append(word)
        for key, ends in endings.items():
            if word.endswith(ends):
                buckets[key].append(word)
                break
        else:
            buckets["n"].append(word)
    return buckets


def _recase(rng: random.Random, text: str) -> str:
    chance = rng.random()
    if chance < 0.55:
        return text[:1].upper() + text[1:].lower()
    return text.lower() if chance < 0.75 else text.upper() if chance < 0.88 else text


def _dose(rng: random.Random) -> str:
    """What stands beside a medicine's name: strength, times of day, duration, number."""
    strength = f"{rng.choice(_SAY['doses'])}{rng.choice(('', ' '))}{rng.choice(_SAY['units'])}"
    times = rng.choice("++-").join(rng.choices(("0", "1", "1", "½", "2"), k=3))
    return rng.choice(
        (
            strength,
            strength,
            strength.strip("%"),
            f"({strength})",
            times,
            times,
            rng.choice(_SAY["when"]),
            f"{rng.choice('x×')} {rng.randint(1, 30)} {rng.choice(('days', 'd', 'wks', 'months'))}",
            f"{rng.randint(1, 2)} {rng.choice(('tab', 'cap', 'tsf', 'ml', 'puff'))} {rng.choice(_SAY['when'])}",
            f"{rng.randint(1, 90)}",
            f"#{rng.randint(1, 90)}",
            _measure(rng),
        )
    )


def _measure(rng: random.Random) -> str:
    """A quantity with a fraction, or with a sign that only measures have."""
    whole, fraction = rng.choice(("", "", "", "1", "1", "2", "3", "10")), rng.choice("¼½¾")
    amount = f"{whole}{fraction}"
    if rng.random() < 0.25:
        amount = f"{whole} {rng.randint(1, 3)}/{rng.choice((2, 3, 4))}".strip()
    form = rng.choice(("tab", "tabs", "tablet", "ml", "tsp", "cup", "kg", "T", "cap", "h", "hr", ""))
    unit = rng.choice(("m²", "cm²", "mg/m²", "m³", "cm³", "mm³", "µmol/L", "µg", "µl", "µg/ml", "kg/m²", "°C"))
    number = rng.choice((str(rng.randint(1, 99)), f"{rng.randint(0, 9)}.{rng.randint(1, 9)}"))
    when = rng.choice(_SAY["when"])
    return rng.choice(
        (
            f"{amount} {form}",
            f"{amount}{form}",
            f"{form} {amount}",
            f"{amount} {form} {when}",
            f"{amount} {form} {when}",
            f"{amount} {when}",
            f"{number}{rng.choice(('', ' '))}{unit}",
            f"{number}{rng.choice(('', ' '))}{unit}",
        )
    )


def _date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 31), rng.randint(1, 12), rng.randint(1980, 2026)
    mark = rng.choice("//-..")
    short = f"{day:02d}{mark}{month:02d}{mark}{str(year)[rng.choice((0, 2)) :]}"
    return rng.choice(
        (
            short,
            short,
            f"{day} {_SAY['months'][month - 1][:3]} {year}",
            f"{_SAY['months'][month - 1]} {day}, {year}",
            f"{day}{mark}{month}{mark}{year}",
        )
    )


def _code(rng: random.Random) -> str:
    letters = rng.choice(
        ("ABCDEFGHJKLMNPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "ABCDEFxyz0123456789", "0123456789")
    )
    text = "".join(rng.choices(letters + "0123456789", k=rng.randint(1, 10)))
    if len(text) > 4 and rng.random() < 0.4:
        at = rng.randint(2, len(text) - 2)
        text = text[:at] + rng.choice("-/. #_:") + text[at:]
    if rng.random() < 0.08:
        text += rng.choice("!@#$%^&*()[]{}<>|~+=?;:'\"\\`")
    return text


def _sum(rng: random.Random) -> str:
    """A sum or an equation, right about half the time, in one of several habits of writing."""
    made, answer = rng.choice((_plain, _plain, _plain, _chain, _equation, _fractions, _percent))(rng)
    if rng.random() < 0.45:
        answer = _spoil(rng, answer)
    ending = rng.choice(("=", "=", "=", "=", "=", "<", ">", "≤", "≥")) if rng.random() < 0.25 else "="
    text = made if rng.random() < 0.08 else f"{made}={answer if rng.random() < 0.88 else rng.choice(('', '?'))}"
    text = text.replace("=", ending, 1) if "x" not in made else text
    times, divide = rng.choice("××××x*"), rng.choice("÷÷÷/:")
    text = text.replace("×", times).replace("÷", divide)
    if rng.random() < 0.4:
        text = re.sub(r"(?<=[\w)%°])\s*([-+×÷*:=<>≤≥])\s*", r" \1 ", text)
    return text.strip()


def _spoil(rng: random.Random, answer: str) -> str:
    """The answer with one digit changed, as someone who can't reckon would have it."""
    digits = [at for at, character in enumerate(answer) if character.isdigit()]
    if not digits:
        return answer
    at = rng.choice(digits)
    return answer[:at] + rng.choice("0123456789") + answer[at + 1 :]


def _plain(rng: random.Random) -> tuple[str, str]:
    top = rng.choice((9, 12, 20, 99, 99, 999))
    a, b = rng.randint(0, top), rng.randint(1, top)
    if rng.random() < 0.15:
        tenths = rng.randint(1, 99)
        return f"{a}.{rng.randint(1, 9)}+{b}.{tenths}", f"{a + b}.{rng.randint(0, 99)}"
    return rng.choice(
        ((f"{a}+{b}", str(a + b)), (f"{a}-{b}", str(a - b)), (f"{a}×{b}", str(a * b)), (f"{a * b}÷{b}", str(a)))
    )


def _chain(rng: random.Random) -> tuple[str, str]:
    a, b, c, d = (rng.randint(1, 15) for _ in range(4))
    forms = (
        (f"{a}+{b}+{c}", a + b + c),
        (f"{a}+{b}-{c}", a + b - c),
        (f"({a}+{b})×{c}", (a + b) * c),
        (f"{a}×({b}-{c})", a * (b - c)),
        (f"{a}+{b}×{c}", a + b * c),
        (f"{a}×{b}+{c}×{d}", a * b + c * d),
        (f"({a}+{b})-({c}+{d})", a + b - c - d),
        (f"{a}-{b}+{c}-{d}", a - b + c - d),
        (f"{a * b}÷{a}+{c}", b + c),
    )
    made, value = rng.choice(forms)
    return made, str(value)


def _equation(rng: random.Random) -> tuple[str, str]:
    a, b, root, n = rng.randint(2, 12), rng.randint(1, 20), rng.randint(-9, 15), rng.choice("xxxyabn")
    forms = (
        (f"{n}+{b}", root + b),
        (f"{n}-{b}", root - b),
        (f"{a}{n}", a * root),
        (f"{a}{n}+{b}", a * root + b),
        (f"{a}{n}-{b}", a * root - b),
        (f"{a}({n}+{b})", a * (root + b)),
        (f"{n}", root),
        (f"{n}/{a}", root),
        (f"{a}a+{b}b", f"{root}b"),
        (f"x+{a}y", b),
    )
    made, value = rng.choice(forms)
    return made, str(value)


def _fractions(rng: random.Random) -> tuple[str, str]:
    a, b, c, d = (rng.randint(1, 9) for _ in range(4))
    mark = rng.choice("++-×÷")
    value = {"+": (a * d + c * b, b * d), "-": (a * d - c * b, b * d), "×": (a * c, b * d), "÷": (a * d, b * c)}[mark]
    return f"{a}/{b}{mark}{c}/{d}", f"{value[0]}/{value[1]}"


def _percent(rng: random.Random) -> tuple[str, str]:
    a, b = rng.choice((5, 10, 15, 20, 25, 30, 50, 75)), rng.randint(1, 40) * 20
    return rng.choice(
        ((f"{a}% of {b}", f"{a * b / 100:g}"), (f"{b}×{a}%", f"{a * b / 100:g}"), (f"{a}/100", f"{a / 100:g}"))
    )
