"""A tiny checkpoint of the small reader, exported as a trained one is, in about two seconds.

Its weights are random, no two alike, and so large that attention and positions matter: what it says is noise, but noise
that depends on every pixel, every character and every weight.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fusion.train.export import export
from fusion.train.learn import Learner
from fusion.train.recipe import Recipe, Size, Stage, Synthetic

SIZE = Size(
    patch=4,
    height=16,
    vision_width=16,
    vision_depth=2,
    vision_heads=2,
    text_width=16,
    text_depth=2,
    text_heads=2,
    head=16,
    alphabet="abcdefgh 0123+=",
)
SOFTNESS = 0.01


def build(folder: Path, seed: int = 4, *, fresh_norms: bool = False) -> Path:
    """Write the checkpoint and return its folder; `fresh_norms`: norms are 1 and biases 0, as before any training."""
    recipe = Recipe(
        work=folder,
        output=folder,
        size=SIZE,
        threads=1,
        compile=False,
        synthetic=Synthetic(fonts=Path("-")),
        stages=(Stage(name="none", steps=1),),
        seed=seed,
    )
    with torch.random.fork_rng(devices=[]):
        learner = Learner(recipe)
        with torch.no_grad():
            for p in (*learner.model.parameters(), *learner.head.parameters()):
                if p.ndim > 1:
                    p.normal_(0, 0.3)
                elif not fresh_norms:
                    p.add_(torch.randn_like(p), alpha=0.2)
    export(learner, folder, "card", SOFTNESS)
    return folder
