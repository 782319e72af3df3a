"""The ink witness: its tower is the checkpoint's own, and what it says of a crop can be trusted column by column."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from fusion.config import LocalVlm
from fusion.ctc import Views
from fusion.train import network
from fusion.train.export import export
from fusion.train.learn import Learner
from fusion.train.recipe import Recipe, Size, Stage, Synthetic
from fusion.vlm.checkpoint import Checkpoint, load
from fusion.vlm.witness import (
    BUDGET,
    CRAMPED,
    NARROWEST,
    SETTINGS,
    STRETCHES,
    WEIGHTS,
    WIDEST,
    WIDTHS,
    CtcHead,
    Witness,
    columns_of,
    grey,
    level,
    load_witness,
    merge_order,
    pad,
    soften,
    tower,
)
from tests import tiny_glm

SIZE = Size(
    patch=4,
    height=16,
    vision_width=16,
    vision_depth=2,
    vision_heads=2,
    text_width=16,
    text_depth=1,
    text_heads=2,
    head=16,
    alphabet="abcdefgh 0123+=",
)
SOFTNESS = 0.01


def picture(text: str, stretch: float = 1.0) -> np.ndarray:
    """Dark writing on light paper, uint8 (40, w, 3)."""
    canvas = np.full((40, 14 + 17 * len(text), 3), 232, np.uint8)
    cv2.putText(canvas, text, (6, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (35, 35, 35), 2)
    return cv2.resize(canvas, (max(1, round(canvas.shape[1] * stretch)), 40), interpolation=cv2.INTER_AREA)


def noise(*shape: int) -> np.ndarray:
    """Grey noise: nothing about it is symmetric, so every exchanged patch shows."""
    return np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a witness whose weights are large enough for attention and positions to matter."""
    path = tmp_path_factory.mktemp("witness")
    stage = Stage(name="none", steps=1)
    synthetic = Synthetic(fonts=Path("-"))
    recipe = Recipe(
        work=path, output=path, size=SIZE, threads=1, compile=False, synthetic=synthetic, stages=(stage,), seed=4
    )
    learner = Learner(recipe)
    with torch.no_grad():
        for p in (*learner.model.parameters(), *learner.head.parameters()):
            if p.ndim > 1:
                p.normal_(0, 0.3)
    export(learner, path, "card", SOFTNESS)
    return path


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load(LocalVlm(model=str(folder), threads=1))


@pytest.fixture(scope="module")
def witness(checkpoint: Checkpoint) -> Witness:
    assert checkpoint.witness is not None
    return checkpoint.witness


# --- the tower ----------------------------------------------------------------------------------------------------


def stock_features(model: Any, images: Any, crops: np.ndarray) -> torch.Tensor:
    """What `GlmOcrVisionModel` itself has after its last norm for uint8 grey crops (B, H, W), shown as pictures."""
    shown = [Image.fromarray(np.repeat(crop[:, :, None], 3, axis=2)) for crop in crops]
    inputs = images(images=shown, return_tensors="pt")
    vision = model.model.visual
    side = images.patch_size
    assert inputs["image_grid_thw"].tolist() == [[1, crops.shape[1] // side, crops.shape[2] // side]] * len(crops)
    kept: list[torch.Tensor] = []
    hook = vision.post_layernorm.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        with torch.inference_mode():
            vision(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    finally:
        hook.remove()
    return kept[0].view(len(crops), -1, kept[0].shape[-1])


def our_features(model: Any, crops: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return tower(model.model.visual, torch.from_numpy(crops.astype(np.float32) / 127.5 - 1))


@pytest.mark.parametrize(
    ("batch", "height", "width"), [(1, 16, 8), (1, 16, 40), (3, 16, 64), (2, 8, 24), (4, 32, 16), (1, 24, 200)]
)
def test_the_tower_is_the_checkpoints_own(checkpoint: Checkpoint, batch: int, height: int, width: int) -> None:
    crops = noise(batch, height, width)
    stock = stock_features(checkpoint.model, checkpoint.images, crops)
    ours = our_features(checkpoint.model, crops)
    assert stock.std() > 0.5
    torch.testing.assert_close(ours, stock, atol=2e-4, rtol=1e-4)


def test_the_tower_is_the_checkpoints_own_where_a_patch_has_two_frames(tmp_path: Path) -> None:
    stored = tiny_glm.build(tmp_path, "glm_ocr")
    model: Any = AutoModelForImageTextToText.from_pretrained(stored, dtype=torch.float32).eval()
    images = AutoImageProcessor.from_pretrained(stored, backend="pil")
    crops = noise(2, 32, 96)
    torch.testing.assert_close(our_features(model, crops), stock_features(model, images, crops), atol=1e-3, rtol=1e-3)


def test_the_features_of_a_crop_do_not_depend_on_its_company(checkpoint: Checkpoint) -> None:
    crops = noise(3, 16, 48)
    together = our_features(checkpoint.model, crops)
    for crop, row in zip(crops, together, strict=True):
        torch.testing.assert_close(our_features(checkpoint.model, crop[None])[0], row, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "columns", "merge"), [(4, 10, 2), (2, 2, 2), (6, 3, 3), (4, 6, 1)])
def test_columns_come_back_from_left_to_right_and_top_to_bottom(rows: int, columns: int, merge: int) -> None:
    grid = torch.arange(2 * rows * columns * 3).view(2, rows, columns, 3)
    back = columns_of(merge_order(grid, merge), rows, merge)
    assert torch.equal(back, grid.transpose(1, 2).reshape(2, columns, rows * 3))


def test_merge_order_takes_squares_first() -> None:
    grid = torch.arange(8).view(1, 2, 4)
    assert merge_order(grid, 2).tolist() == [[0, 1, 4, 5, 2, 3, 6, 7]]


def test_the_head_gives_frames_per_column_that_are_distributions() -> None:
    head = CtcHead(rows=4, width=16, frames=3, classes=7, hidden=8)
    frames = head(torch.randn(2, 5, 64))
    assert frames.shape == (2, 15, 7)
    torch.testing.assert_close(frames.exp().sum(-1), torch.ones(2, 15))


# --- what is done to a crop ---------------------------------------------------------------------------------------


def test_levelling_brings_paper_to_one_and_ink_to_minus_one() -> None:
    single = cv2.cvtColor(picture("abc 12"), cv2.COLOR_RGB2GRAY)
    plain = level(single)
    assert plain.dtype == np.float32
    assert plain.shape == single.shape
    assert plain.min() == -1
    assert plain.max() == 1
    assert float(np.median(plain)) == 1


@pytest.mark.parametrize(("factor", "shift"), [(1.0, -40), (0.5, 0), (0.5, 110), (0.3, 20), (1.1, 3)])
def test_levelling_does_not_see_brightness_or_contrast(factor: float, shift: int) -> None:
    single = cv2.cvtColor(picture("dead beef"), cv2.COLOR_RGB2GRAY).astype(np.float32)
    other = single * factor + shift
    np.testing.assert_allclose(level(other), level(single), atol=1e-4)
    rounded = np.clip(other, 0, 255).round().astype(np.uint8)
    np.testing.assert_allclose(level(rounded), level(single), atol=2 / (factor * 197))


@pytest.mark.parametrize("value", [0, 17, 255])
def test_empty_paper_stays_paper(value: int) -> None:
    paper = np.full((20, 60), value, np.uint8)
    assert (level(paper) == 1).all()
    faint = np.clip(paper.astype(int) + np.random.default_rng(1).integers(-1, 2, paper.shape), 0, 255).astype(np.uint8)
    assert level(faint).min() >= 0.7


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.25])
def test_a_crop_is_grey_of_the_towers_height_and_its_own_proportions(factor: float) -> None:
    crop = picture("ab 01")
    seen = grey(crop, 16, factor)
    assert seen.dtype == np.float32
    assert seen.shape == (16, round(crop.shape[1] * 16 / 40 * factor))
    assert -1 <= seen.min() < 0 < seen.max() <= 1
    assert np.array_equal(seen, grey(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), 16, factor))


def test_a_sliver_still_has_a_column_of_pixels() -> None:
    assert grey(np.zeros((400, 1, 3), np.uint8), 16).shape == (16, 1)
    assert grey(noise(1, 9), 16).shape == (16, 144)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1])
def test_softened_frames_stay_distributions_and_bound_the_loss(share: float) -> None:
    sharp = torch.full((9, 2, 5), -1e4)
    sharp[:, :, 0] = 0.0  # nothing but blank, beyond doubt
    soft = soften(sharp, share)
    torch.testing.assert_close(soft.exp().sum(-1), torch.ones(9, 2))
    assert soft.min() >= math.log(share / 5) - 1e-5
    labels, lengths = torch.tensor([[1, 2, 1], [3, 3, 4]]), torch.tensor([3, 3])
    losses = functional.ctc_loss(soft, labels, torch.tensor([9, 9]), lengths, reduction="none")
    assert (losses <= -3 * math.log(share / 5) - 6 * math.log1p(-share)).all()
    assert soften(sharp, 0.0) is sharp


def test_softening_keeps_the_order_of_the_classes() -> None:
    frames = torch.randn(4, 6, 8).log_softmax(-1)
    assert torch.equal(soften(frames, 0.1).argsort(-1), frames.argsort(-1))


def test_padding_is_paper_on_the_right_in_whole_units() -> None:
    crops = [np.full((16, width), -0.5, np.float32) for width in (3, 17, 24)]
    batch = pad(crops, 8)
    assert batch.shape == (3, 16, 24)
    for crop, row in zip(crops, batch, strict=True):
        assert (row[:, : crop.shape[1]] == -0.5).all()
        assert (row[:, crop.shape[1] :] == 1).all()
    assert pad([crops[1]], 8).shape == (1, 16, 24)
    assert pad([crops[0]], 8).shape == (1, 16, 8 * NARROWEST)


# --- a look -------------------------------------------------------------------------------------------------------


def widths_seen(views: Views) -> list[float]:
    """Px at the tower's height that each view is wide, to within a column."""
    column = SIZE.patch / SIZE.frames
    return [len(view.probabilities) * column for view in views.posteriors]


@pytest.mark.parametrize("text", ["a", "abc", "dead beef 0123"])
@pytest.mark.parametrize("stretch", [0.2, 1.0, 3.0])
def test_a_look_is_made_of_distributions_that_end_where_the_crop_ends(
    witness: Witness, text: str, stretch: float
) -> None:
    crop = picture(text, stretch)
    for view in witness.look(crop, len(text))[0].posteriors:
        sums = view.probabilities.sum(axis=1)
        assert (sums <= 1 + 1e-5).all()
        assert (sums > 0.99).all()
        end = len(view.probabilities) * view.column_px
        assert crop.shape[1] <= end + 1e-6 <= crop.shape[1] + view.column_px + 1e-5


def test_places_are_inside_the_crop_and_in_order(witness: Witness) -> None:
    crop = picture("abc 012")
    look = witness.look(crop, 7)[0]
    for text in ("abc 012", "a", "hhhh"):
        places = look.place(text)
        assert len(places) == len(text)
        edges = [x for place in places for x in place]
        assert edges == sorted(edges)
        assert edges[0] >= 0
        assert edges[-1] <= crop.shape[1] + look.best.column_px


class Inked(Witness):
    """A witness that reads an `a` wherever there is ink, so that places can be told."""

    def frames(self, crops: torch.Tensor) -> torch.Tensor:
        batch, _, width = crops.shape
        spots = torch.arange(width * SIZE.frames // SIZE.patch) * SIZE.patch // SIZE.frames
        inked = (crops.amin(dim=1) < 0)[:, spots]
        table = torch.full((batch, len(spots), len(self.alphabet)), 1e-5)
        table[:, :, 0] = torch.where(inked, 0.01, 0.98)
        table[:, :, 1] = torch.where(inked, 0.98, 0.01)
        return table.log()


@pytest.mark.parametrize("characters", [1, 12])
def test_every_view_puts_a_letter_where_its_ink_is(witness: Witness, characters: int) -> None:
    crop = np.full((40, 160, 3), 230, np.uint8)
    crop[6:34, 112:128] = 20
    look = Inked(witness.vision, witness.head, SIZE.height, witness.alphabet).look(crop, characters)[0]
    assert len(look.posteriors) == (len(STRETCHES) if characters == 1 else len(WIDTHS))
    for view in look.posteriors:
        assert view.greedy == "a"
        ((left, right),) = view.place("a")
        assert left == pytest.approx(112, abs=1.5 * view.column_px)
        assert right == pytest.approx(128, abs=1.5 * view.column_px)


def test_a_squashed_crop_is_looked_at_wider(witness: Witness) -> None:
    text = "dead beef 01"
    crop = picture(text, 0.3)
    assert crop.shape[1] * 16 / 40 / len(text) < CRAMPED
    look = witness.look(crop, len(text))[0]
    assert len(look.posteriors) == len(WIDTHS)
    assert sorted(widths_seen(look)) == pytest.approx([wide * len(text) for wide in WIDTHS], abs=2)
    qualities = [view.quality for view in look.posteriors]
    assert qualities == sorted(qualities, reverse=True)


def test_a_roomy_crop_is_looked_at_in_widths_around_its_own(witness: Witness) -> None:
    crop = picture("abc", 2.0)
    look = witness.look(crop, 3)[0]
    assert sorted(widths_seen(look)) == pytest.approx([crop.shape[1] * 16 / 40 * s for s in STRETCHES], abs=2)


def test_a_very_long_crop_is_looked_at_as_often_as_the_budget_allows(witness: Witness) -> None:
    for width in (2000, 4500, 40_000):
        seen = widths_seen(witness.look(np.full((40, width, 3), 200, np.uint8), 100)[0])
        assert len(seen) == 1 or sum(seen) <= BUDGET + 2
        assert max(seen) <= WIDEST + 2


def test_padding_leaves_no_columns_behind(witness: Witness) -> None:
    """The views of one crop share a batch: the narrow ones are padded, and none of that is kept."""
    crop = picture("abc", 0.4)
    look = witness.look(crop, 3)[0]
    assert sorted(widths_seen(look)) == pytest.approx([3 * wide for wide in WIDTHS], abs=2)
    alone = witness.look(np.full((40, 28, 3), 200, np.uint8), 1)[0]  # one view, narrower than the narrowest batch
    assert sorted(widths_seen(alone)) == pytest.approx([28 * 16 / 40 * s for s in STRETCHES], abs=2)
    assert min(widths_seen(alone)) < NARROWEST * witness.unit


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (300, 2), (900, 30)])
def test_no_crop_is_too_odd_to_be_looked_at(witness: Witness, shape: tuple[int, int]) -> None:
    look = witness.look(np.full((*shape, 3), 128, np.uint8), 5)[0]
    assert all(math.isfinite(score) for score in look.score(["abc", "", "h"]))


def test_the_score_of_a_look_is_the_ctc_probability_of_the_text(
    witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusion.vlm.witness.STRETCHES", (1.0,))
    crop = picture("abc 012", 1.5)
    look = witness.look(crop, 3)[0]
    assert len(look.posteriors) == 1
    seen = grey(crop, SIZE.height)
    with torch.inference_mode():
        used = len(look.best.probabilities)
        frames = soften(witness.frames(pad([seen], witness.unit)), SOFTNESS)[0, :used]
    texts = ["abc", "a", "hh", "0+1=1", "dead beef"]
    expected = []
    for text in texts:
        labels = torch.tensor([[witness.alphabet.index(c) for c in text]])
        loss = functional.ctc_loss(
            frames[:, None], labels, torch.tensor([used]), torch.tensor([len(text)]), reduction="none"
        )
        expected.append(-float(loss))
    assert look.score(texts) == pytest.approx(expected, abs=1e-3, rel=1e-4)
    assert look.score_cased(texts) == pytest.approx(expected, abs=1e-3, rel=1e-4)


def test_the_score_over_several_views_is_their_mean_log_probability(witness: Witness) -> None:
    look = witness.look(picture("abcdef", 0.3), 6)[0]
    for text in ("abc", "gh 0"):
        each = [view.score([text])[0] for view in look.posteriors]
        assert look.score([text])[0] == pytest.approx(sum(each) / len(each), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("abc 0123", True),
        ("", True),
        ("   ", True),
        ("ABC ＡＢ１", True),  # case and width are one
        ("abz", True),
        ("az", True),  # half of them
        ("azz", False),
        ("a z z z", False),  # spaces do not count
        ("zzz", False),
        ("中", False),
        ("abcdef 中", False),  # Chinese is another reader's
        ("abcあ", False),
        ("½ ② a", False),
    ],
)
def test_a_witness_knows_texts_in_its_script(witness: Witness, text: str, known: bool) -> None:
    assert witness.knows(text) is known


def test_what_a_witness_can_not_spell_is_no_mark_against_a_text(witness: Witness) -> None:
    look = witness.look(picture("abc"), 3)[0]
    assert witness.spells == frozenset(SIZE.alphabet)
    assert all(view.spells == witness.spells for view in look.posteriors)
    unknown, known = look.score(["a½c", "adc"])
    assert unknown > known - 1e-9


# --- files --------------------------------------------------------------------------------------------------------


def test_without_files_there_is_no_witness(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert load_witness(tmp_path, checkpoint.model.model.visual) is None
    assert load_witness(tmp_path / "none", checkpoint.model.model.visual) is None


def test_a_witness_is_what_was_written(folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    loaded = load_witness(folder, checkpoint.model.model.visual)
    assert loaded is not None
    assert (loaded.height, loaded.softness, loaded.unit) == (SIZE.height, SOFTNESS, 2 * SIZE.patch)
    assert loaded.alphabet == ("", *SIZE.alphabet)
    assert not loaded.head.training
    fresh = network.head(SIZE)
    (tmp_path / SETTINGS).write_text((folder / SETTINGS).read_text(encoding="utf-8"), encoding="utf-8")
    save_file(dict(fresh.state_dict()), tmp_path / WEIGHTS)
    other = load_witness(tmp_path, checkpoint.model.model.visual)
    assert other is not None
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), other.head.parameters(), strict=True))
