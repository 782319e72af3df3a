"""From a trained network to a checkpoint folder: one that loads like any other GLM, with its head, its graphs and its card.

Knows files; trains nothing. The CTC head is calibrated on words that it was not trained on: a share of every frame is
spread over the alphabet, so that a stroke it misreads costs a bounded number of nats.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from fusion.train.crops import Sample
from fusion.train.graphs import write_graphs
from fusion.train.learn import Learner
from fusion.train.network import PROMPT
from fusion.train.tower import pad, soften, tower
from fusion.vlm.small import HEAD, grey

SHARES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
"""Shares tried."""
CLIPPED = 3.0
"""Most nats per character that one label may cost."""


def export(learner: Learner, folder: Path, card: str, softness: float) -> None:
    """Write the checkpoint."""
    size = learner.size
    folder.mkdir(parents=True, exist_ok=True)
    model, words = learner.model.eval(), learner.words
    stop = words.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=stop, do_sample=False)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    images = {
        "image_processor_type": "Glm46VImageProcessor",
        "processor_class": "Glm46VProcessor",
        "size": {"shortest_edge": (2 * size.patch) ** 2, "longest_edge": size.height * 4096},
        "do_rescale": True,
        "patch_size": size.patch,
        "temporal_patch_size": 1,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    settings = {
        "height": size.height,
        "frames": size.frames,
        "hidden": size.head,
        "softness": softness,
        "alphabet": size.alphabet,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=1) + "\n", encoding="utf-8")
    save_file({name: weight.contiguous() for name, weight in learner.head.state_dict().items()}, folder / HEAD)
    write_graphs(model, learner.head.eval(), words, PROMPT, settings, folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # written for one's own eyes otherwise


def calibrate(learner: Learner, samples: Sequence[Sample], batch: int = 32) -> float:
    """The share of `SHARES` under which the labels of unseen samples are the most probable."""
    losses = np.zeros(len(SHARES))
    with torch.inference_mode():
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            views = [grey(sample.pixels, learner.size.height) for sample in part]
            crops = pad(views, 2 * learner.size.patch)
            used = [learner.frames_of(view.shape[1]) for view in views]
            frames = learner.frames(tower(learner.model.model.visual, crops.to(learner.device)))
            for number, share in enumerate(SHARES):
                nats = learner.ctc_losses(soften(frames, share), [sample.text for sample in part], used)
                # Noisy labels: one that is simply wrong must not decide how soft the rest should be.
                losses[number] += float(nats.clamp_max(CLIPPED).sum())
    return SHARES[len(SHARES) - 1 - int(losses[::-1].argmin())]  # of equals the softest
