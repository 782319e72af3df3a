"""`python -m fusion.train.lists`: makes the packaged lists and the model of sums anew; `lists/SOURCE.md` names the sources.

Knows the sources' forms and the grammar of sums; needs no network, since the sources are given as files.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from fusion.domain import ngram, sums
from fusion.domain.lexicon import letters
from fusion.train import grammar

RARE = 3
"""Contexts of the model of sums that occurred less often are left out: shorter ones stand in for them."""
TRUSTED = 3
"""A label that occurs so often is taken as spelt right; one that occurs once and is a letter away from it is not kept."""
_SALTS = frozenset(
    [
        "hydrochloride",
        "hcl",
        "sodium",
        "potassium",
        "acetate",
        "sulfate",
        "phosphate",
        "succinate",
        "tartrate",
        "maleate",
        "mesylate",
        "besylate",
        "citrate",
        "fumarate",
        "calcium",
        "nitrate",
        "bromide",
        "chloride",
        "hydrobromide",
        "tosylate",
        "hyclate",
        "monohydrate",
        "axetil",
        "proxetil",
        "disoproxil",
        "xinafoate",
        "propionate",
        "dipropionate",
        "furoate",
        "valerate",
        "pamoate",
        "lactate",
        "gluconate",
        "magnesium",
        "medoxomil",
        "xr",
        "er",
        "sr",
        "la",
    ]
)
_DRUG_LIKE = re.compile(r"(in|ol|ide|ine|mycin|cillin|statin|one|pam|lone|zole|tan)$")
_FORM = re.compile(r"^(?:tab|cap|inj|syp|syr|susp|drop)s?\b\.?\s*", re.IGNORECASE)


def brands(labels: Iterable[str], common: frozenset[str]) -> list[str]:
    """Names among noisy labels of prescription words: the most usual spelling of each, likely misspellings left out.

    Args:
        labels: as they stand beside the crops.
        common: English words, lower-case; a label that is one is no name.
    """
    spelt: dict[str, Counter[str]] = {}
    for label in labels:
        name = _FORM.sub("", label.strip())
        if len(letters(name)) >= 2 and re.search(r"[A-Za-z]{2}", name):
            spelt.setdefault(letters(name), Counter())[name] += 1
    total = {key: sum(own.values()) for key, own in spelt.items()}
    sure = [key for key, count in total.items() if count >= TRUSTED]
    kept = [
        key
        for key, count in total.items()
        if (count > 1 or not any(key != s and Levenshtein.distance(key, s, score_cutoff=1) <= 1 for s in sure))
        and not (key in common and not _DRUG_LIKE.search(key))
    ]
    return sorted((spelt[key].most_common(1)[0][0] for key in kept), key=str.casefold)


def generics(names: Iterable[str], common: frozenset[str]) -> list[str]:
    """Single-word names without their salts; plain English words that do not look like drugs are household products."""
    found = set()
    for name in names:
        words = name.lower().split()
        if len(words) == 2 and words[1] in _SALTS:
            words = words[:1]
        plain = len(words) == 1 and re.fullmatch(r"[a-z]{4,}", words[0])
        if plain and (words[0] not in common or _DRUG_LIKE.search(words[0])):
            found.add(words[0])
    return sorted(found)


def build_sums(folder: Path) -> None:
    """Write `sums.json` into a folder."""
    counts = ngram.count(sums.shape(line)[0] for line in grammar.lines(grammar.LINES, grammar.SEED))
    kept = {context: after for context, after in counts.items() if len(context) < 2 or sum(after.values()) >= RARE}
    (folder / "sums.json").write_text(ngram.NGram.dumps(kept) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write what the given sources allow; without any, the model of sums alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rxhandbd", type=Path, help="RxHandBD's training labels, a TSV with a column `text`.")
    parser.add_argument("--names", type=Path, help="Drug names of parsigs, one a line.")
    parser.add_argument("--common", type=Path, help="English words, one a line.")
    given = parser.parse_args(arguments)
    folder = Path(str(files("fusion.domain"))) / "lists"
    build_sums(folder)
    common = frozenset(given.common.read_text(encoding="utf-8").lower().split()) if given.common else frozenset()
    if given.rxhandbd:
        with given.rxhandbd.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        kept = [row["text"] for row in rows if "near-duplicate-of-a-dev-image" not in (row["note"] or "")]
        _write(folder / "drugs_rx.txt", brands(kept, common))
    if given.names:
        _write(folder / "drugs_en.txt", generics(given.names.read_text(encoding="utf-8").splitlines(), common))


def _write(path: Path, names: Sequence[str]) -> None:
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


if __name__ == "__main__":
    main()
