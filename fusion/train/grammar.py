"""A grammar of sums and school algebra: random lines, from which `domain.sums` learns what such lines look like.

Results are drawn at random: a wrong sum is as probable as a right one, so the model can never correct a pupil.
"""

from __future__ import annotations

import random
from collections.abc import Callable

LINES, SEED = 20_000, 1
"""Lines that the packaged model is counted on, and their seed."""
_NAMED = ("log", "sin", "cos", "tan", "ln")
_VARIABLES = "xxxxyyyyzzaabbccnnmmkktpqrstuvwhij"
_BINARY = "+++---×××÷÷/·±"
_RELATIONS = "=====≤≥≠<>"


def lines(count: int, seed: int) -> list[str]:
    """Lines of sums and simple algebra without spaces."""
    rng = random.Random(seed)
    kinds: list[tuple[float, Callable[[random.Random], str]]] = [
        (0.45, _sum),
        (0.3, _algebra),
        (0.08, _function),
        (0.06, _tuple),
        (0.06, _series),
        (0.06, _short),
        (0.03, _set),
    ]
    makers = rng.choices([make for _, make in kinds], [share for share, _ in kinds], k=count)
    return [make(rng) for make in makers]


def _number(rng: random.Random) -> str:
    digits = rng.choices((1, 2, 3, 4, 5), (50, 25, 15, 6, 4))[0]
    whole = str(rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
    kind = rng.random()
    if kind < 0.06:
        return f"{whole}.{rng.randrange(10 ** rng.randint(1, 4))}"
    return f"{whole[:-3]},{whole[-3:]}" if digits > 3 and kind < 0.25 else whole


def _operand(rng: random.Random, depth: int) -> str:
    if depth and rng.random() < 0.3:
        return f"({_chain(rng, depth - 1)})"
    return _number(rng)


def _chain(rng: random.Random, depth: int) -> str:
    parts = [_operand(rng, depth)]
    for _ in range(rng.choices((1, 2, 3, 4), (60, 25, 10, 5))[0]):
        parts += [rng.choice(_BINARY), _operand(rng, depth)]
    return ("-" if rng.random() < 0.05 else "") + "".join(parts)


def _sum(rng: random.Random) -> str:
    """7+5=13, 12÷4, (3+4)×2≤15 or 7÷2=3…1; nobody has worked it out."""
    if rng.random() < 0.08:  # the same number over and over: 1+1+1+1=4
        return "+".join([_number(rng)] * rng.randint(2, 6)) + ("=" + _number(rng) if rng.random() < 0.6 else "")
    text = _chain(rng, rng.choices((0, 1, 2), (60, 30, 10))[0])
    for _ in range(rng.choices((0, 1, 2), (35, 57, 8))[0]):
        text += rng.choice(_RELATIONS) + (_number(rng) if rng.random() < 0.8 else _chain(rng, 1))
    if rng.random() < 0.03:
        text += "…" + str(rng.randrange(10))
    return text if rng.random() < 0.92 or "=" not in text else text[: text.index("=") + 1]


def _variable(rng: random.Random) -> str:
    letter = rng.choice(_VARIABLES)
    return letter.upper() if rng.random() < 0.08 else letter


def _term(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return _number(rng)
    letters = "".join(_variable(rng) for _ in range(rng.choices((1, 2, 3), (78, 18, 4))[0]))
    if kind > 0.9:
        return rng.choice(
            (
                f"{letters}/{_number(rng)}",
                f"{_number(rng)}/{letters}",
                f"{letters}/{_variable(rng)}",
                f"{letters}!",
                f"{_number(rng)}!",
                f"{rng.choice(_NAMED)}({letters})",
                f"{rng.choice(_NAMED)}{letters}",
                f"({letters}{rng.choice('+-')}{_number(rng)})",
                f"{letters}·{_variable(rng)}",
                f"{_number(rng)}×{letters}",
            )
        )
    if kind < 0.6:
        return letters
    return (str(rng.randint(2, 20)) if rng.random() < 0.9 else _number(rng)) + letters


def _polynomial(rng: random.Random, depth: int = 1) -> str:
    parts = ["-" if rng.random() < 0.08 else "", _term(rng)]
    for _ in range(rng.choices((0, 1, 2, 3, 4), (25, 35, 22, 12, 6))[0]):
        grouped = depth and rng.random() < 0.12
        parts += [
            rng.choice("+++---=" if len(parts) > 8 else "++--"),
            f"({_polynomial(rng, 0)})" if grouped else _term(rng),
        ]
    if depth and rng.random() < 0.1:
        return f"{_term(rng)}({_polynomial(rng, 0)})" + (f"({_polynomial(rng, 0)})" if rng.random() < 0.4 else "")
    return "".join(parts)


def _algebra(rng: random.Random) -> str:
    """20x-8y=20, s≥1, p(1-p)."""
    if rng.random() < 0.06:  # -2≤x≤2
        sign = rng.choice(("≤", "<", "≥", ">"))
        return f"{rng.choice(('', '', '-'))}{_number(rng)}{sign}{_variable(rng)}{sign}{_term(rng)}"
    text = _polynomial(rng)
    for _ in range(rng.choices((0, 1, 2), (25, 65, 10))[0]):
        text += rng.choice(_RELATIONS) + (_number(rng) if rng.random() < 0.5 else _polynomial(rng))
    return text


def _function(rng: random.Random) -> str:
    """f(1.99)=3.99, E(t)≤E(0)."""

    def call() -> str:
        name = rng.choice("fffggghhuvwpEPFG")
        inside = ",".join(rng.choice((_number, _variable, _term))(rng) for _ in range(rng.choices((1, 2), (85, 15))[0]))
        return f"{name}({inside})"

    right = call() if rng.random() < 0.3 else rng.choice((_number, _polynomial))(rng)
    return call() + rng.choice(_RELATIONS) + right


def _tuple(rng: random.Random) -> str:
    """(4/3,2/3) and 0,1,2."""
    parts = [
        f"{rng.randint(1, 9)}/{rng.randint(2, 9)}" if rng.random() < 0.2 else rng.choice((_number, _term))(rng)
        for _ in range(rng.choices((2, 3, 4), (50, 35, 15))[0])
    ]
    return f"({','.join(parts)})" if rng.random() < 0.8 else ",".join(parts)


def _series(rng: random.Random) -> str:
    """1+2+3+…+n, 2×3×5×…."""
    sign = rng.choice("++×-,")
    parts = [_term(rng) for _ in range(rng.randint(2, 4))]
    parts += [rng.choice(("…", "...", "⋯"))] + ([_term(rng)] if rng.random() < 0.8 else [])
    return (f"{_variable(rng)}=" if rng.random() < 0.3 else "") + sign.join(parts)


def _set(rng: random.Random) -> str:
    """{7,7}={7}."""
    own = ",".join(_term(rng) for _ in range(rng.randint(1, 4)))
    return (
        "{"
        + own
        + "}"
        + ("={" + ",".join(_term(rng) for _ in range(rng.randint(1, 3))) + "}" if rng.random() < 0.5 else "")
    )


def _short(rng: random.Random) -> str:
    """x=13, n!-1, 1+L."""
    kind = rng.random()
    if kind < 0.5:
        return _variable(rng) + rng.choice(_RELATIONS) + _number(rng)
    if kind < 0.7:
        return _term(rng) + "!" + rng.choice("+-=·") + _term(rng)
    return _term(rng) + rng.choice("+-/") + _term(rng)
