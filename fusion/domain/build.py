"""`python -m fusion.domain.build`: makes the packaged model of sums anew.

Knows the grammar and the model; needs no network.
"""

from __future__ import annotations

from pathlib import Path

from fusion.domain import ngram, sums

RARE = 3
"""Contexts that occurred less often are left out: shorter ones stand in for them."""


def build(folder: Path) -> None:
    """Write `sums.json` into a folder."""
    counts = ngram.count(sums.shape(line)[0] for line in sums.lines(sums.LINES, sums.SEED))
    kept = {context: after for context, after in counts.items() if len(context) < 2 or sum(after.values()) >= RARE}
    (folder / "sums.json").write_text(ngram.NGram.dumps(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build(Path(__file__).parent / "lists")
