"""`train reader`: from texts, fonts and real handwriting to a checkpoint.

Knows the order of work; the parts know how.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from collections.abc import Callable, Sequence

import yaml

from fusion.errors import InputError
from fusion.train.crops import Deck, Sample, load_ink
from fusion.train.export import calibrate, export
from fusion.train.fonts import Materials, fetch
from fusion.train.learn import Decks, Learner
from fusion.train.recipe import Recipe
from fusion.train.render import pool
from fusion.train.texts import Texts

JUDGED = 600
"""Rendered texts, in held-out fonts and words, that a run is judged on."""


def train(recipe: Recipe, log: Callable[[str], None]) -> dict[str, float]:
    """Train, or go on with, the network of a recipe, export it, and return its error rates on what it never saw.

    Raises:
        DependencyError: fonts or words can't be had.
        InputError: real handwriting, or the checkpoint to go on from, can't be used.
    """
    recipe.work.mkdir(parents=True, exist_ok=True)
    alphabet = recipe.size.alphabet
    learner = Learner(recipe)
    resumed = learner.restore()
    if recipe.start is not None and not resumed:
        learner.start_from(recipe.start)
    ink = [load_ink(source, alphabet) for source in recipe.ink]
    for source, inside in zip(recipe.ink, ink, strict=True):
        if not inside:
            raise InputError(source.data, "holds nothing to train on", "Keep less out, or look at its texts.")
    unseen = [load_ink(source, alphabet, held_out=True) for source in recipe.ink]
    rendered = _rendered(recipe)
    short = recipe.synthetic.longest_word
    judged = rendered["judged"]
    decks = Decks(
        tuple(Deck(source) for source in ink),
        Deck([s for s in rendered["train"] if len(s.text) <= short]),
        Deck([s for s in rendered["train"] if len(s.text) > short]),
        tuple(1 - source.distrust for source in recipe.ink),
    )
    log(f"{'resumed at' if resumed else 'starting at'} step {learner.done}: {sum(map(len, ink))} real crops")

    def report() -> dict[str, float]:
        sets = {
            **{f"held-out {source.name}": own for source, own in zip(recipe.ink, unseen, strict=True)},
            "rendered words": [s for s in judged if len(s.text) <= short],
            "rendered lines": [s for s in judged if len(s.text) > short],
        }
        return {name: round(learner.error_rate(samples), 4) for name, samples in sets.items() if samples}

    learner.run(decks, report, log)
    if recipe.start is not None and recipe.keep:
        learner.average_with(recipe.start, recipe.keep)
    softness = calibrate(learner, [sample for own in unseen for sample in own] or judged)
    figures = report()
    counts = [(len(inside), len(outside)) for inside, outside in zip(ink, unseen, strict=True)]
    export(learner, recipe.output, _card(recipe, learner, figures, counts), softness)
    log(f"wrote {recipe.output}: softness {softness}, {figures}")
    return figures


def _card(recipe: Recipe, learner: Learner, figures: dict[str, float], counts: Sequence[tuple[int, int]]) -> str:
    """The model card: what it is made of, what it may be used for, how good it is and where it fails.

    `counts`: of each source, how many crops were trained on and how many kept out.
    """
    count = sum(p.numel() for p in (*learner.model.parameters(), *learner.head.parameters())) / 1e6
    listing = yaml.safe_load(recipe.synthetic.fonts.read_text(encoding="utf-8"))
    fonts = Counter(font["licence"] for font in listing["fonts"] if not font.get("held_out"))
    return CARD.format(
        count=count,
        height=recipe.size.height,
        made=f"going on from `{recipe.start}`" if recipe.start else "from nothing",
        ink="\n".join(
            f"- {source.name}: {inside} crops, {outside} more kept out by {source.hold_out_by}. {source.licence}. {source.attribution}"
            for source, (inside, outside) in zip(recipe.ink, counts, strict=True)
        ),
        lines=recipe.synthetic.lines,
        fonts=", ".join(f"{n} under {licence}" for licence, n in sorted(fonts.items())),
        names=", ".join(f"`{path.name}`" for path in recipe.synthetic.names) or "no list",
        package=f"{listing['words']['package']} {listing['words']['version']}",
        steps=", ".join(f"{stage.name} {stage.steps} steps of {stage.batch}" for stage in recipe.stages),
        rates="\n".join(f"| {name} | {rate:.3f} |" for name, rate in figures.items()),
    )


CARD = """---
license: apache-2.0
language: en
pipeline_tag: image-text-to-text
---
# fusion small reader

A GLM of {count:.1f} million parameters (`glm_ocr`, float32) with a CTC head on its vision tower (`ctc_head.safetensors`).
It looks at a crop of one word or line, {height} px high, and says how well a text fits the strokes. It is meant to be
weighed together with an OCR's own posterior, never to be believed alone.

Made by `python -m fusion.train reader`, {made} ({steps}).

## Data

{ink}
- {lines} rendered texts: handwriting fonts from npm `@fontsource` packages ({fonts}; each is named in
  `configs/train/fonts.yaml`), English words of {package} (SCOWL), names of the real words' labels and of {names} (see
  the project's `fusion/domain/lists/SOURCE.md`), phrases and sums written for this project.

## Character error rates of the head alone (best path, case aside, nothing of it trained on)

| set | CER |
|---|---|
{rates}

`rendered words` and `rendered lines` are rendered in fonts and words that training never saw, the other sets are the real
crops kept out. Figures of the whole engine with it stand in the project's README.

## Limits

Latin script, digits and signs of arithmetic only; no Chinese; letters with accents are read without. Its decoder
writes text that looks right and is not there: the project never lets it write.
"""


def names_of(recipe: Recipe) -> list[str]:
    """Names that rendered texts are drawn from: the words of the real crops' labels, and the recipe's lists.

    Raises:
        InputError: a split or a list can't be read.
    """
    labels = [sample.text for source in recipe.ink for sample in load_ink(source, recipe.size.alphabet)]
    names = [word for label in labels for word in label.split()]
    try:
        lists = [path.read_text(encoding="utf-8").splitlines() for path in recipe.synthetic.names]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "synthetic.names", f"a list can't be read ({error})", "Check the paths in the recipe."
        ) from error
    return names + [name for listed in lists for name in listed if name]


def _rendered(recipe: Recipe) -> dict[str, list[Sample]]:
    """Rendered training lines, and lines in held-out fonts and words; kept in the work folder, one file per recipe."""
    drawn_from = f"{recipe.synthetic!r} {recipe.size.alphabet} {recipe.seed} {recipe.ink!r}"
    path = recipe.work / f"rendered-{hashlib.sha256(drawn_from.encode()).hexdigest()[:12]}.pkl"
    if not path.is_file():
        names, materials = names_of(recipe), fetch(recipe.synthetic.fonts, recipe.work / "materials")
        made = {
            "train": _render(recipe, materials, names, recipe.synthetic.lines, held_out=False),
            "judged": _render(recipe, materials, names, JUDGED, held_out=True),
        }
        path.write_bytes(pickle.dumps(made))
    with path.open("rb") as file:
        kept: dict[str, list[Sample]] = pickle.load(file)  # written above, by this program
    return kept


def _render(recipe: Recipe, materials: Materials, names: list[str], count: int, *, held_out: bool) -> list[Sample]:
    fonts = [font for font in materials.fonts if font.held_out == held_out]
    drawn = pool(
        Texts(materials.words, names, recipe.seed), fonts, count, recipe.seed, recipe.threads, held_out=held_out
    )
    return [Sample(pixels, text) for pixels, text in drawn if set(text) <= set(recipe.size.alphabet)]
