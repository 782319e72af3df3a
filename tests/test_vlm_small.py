"""The small reader: its graphs say what the checkpoint says, and its look can be trusted column by column."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForImageTextToText

import fusion.vlm
from fusion.config import LocalVlm
from fusion.ctc import Views
from fusion.errors import ConfigError, InputError, ReaderError
from fusion.ink import InkLine, image_sha256
from fusion.page import Failure, Reading
from fusion.train.__main__ import app
from fusion.train.graphs import rewrite_graphs
from fusion.train.tower import CtcHead, columns_of, merge_order, pad, soften, tower
from fusion.vlm import Look, Looks, Query, open_reader, small
from fusion.vlm.cache import AnswerCache
from fusion.vlm.local import Checkpoint, LocalReader, load
from fusion.vlm.small import (
    BUDGET,
    CRAMPED,
    GRAPHS,
    HEAD,
    MODEL,
    NARROWEST,
    READER,
    STRETCHES,
    WIDEST,
    WIDTHS,
    SmallModel,
    SmallReader,
    grey,
    level,
    padded,
    softened,
)
from tests import tiny_glm, tiny_reader
from tests.tiny_reader import SIZE, SOFTNESS
from tests.vlm_readers import ocr_reading

PACKAGED = Path(fusion.vlm.__file__).parent / "small"
SIZES = ((40, 130), (48, 300), (20, 15), (5, 1500), (300, 9), (100, 600))
TEXTS = ("abc 012", "", "a", "hhhh", "dead beef 0123+=", "½中z")
"""The last is foreign to the tiny alphabet."""


def picture(text: str, stretch: float = 1.0) -> np.ndarray:
    """Dark writing on light paper, uint8 (40, w, 3)."""
    canvas = np.full((40, 14 + 17 * len(text), 3), 232, np.uint8)
    cv2.putText(canvas, text, (6, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (35, 35, 35), 2)
    return cv2.resize(canvas, (max(1, round(canvas.shape[1] * stretch)), 40), interpolation=cv2.INTER_AREA)


def noise(*shape: int) -> np.ndarray:
    """Grey noise: nothing about it is symmetric, so every exchanged patch shows."""
    return np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)


def query(pixels: np.ndarray, text: str = "") -> Query:
    """A crop, and what the OCR made of it."""
    height, width = pixels.shape[:2]
    corners = ((0.0, 0.0), (float(width), 0.0), (float(width), float(height)), (0.0, float(height)))
    return Query("photo.png", InkLine("l000", corners, pixels, ocr_reading(text), None))


def rgb(single: np.ndarray) -> np.ndarray:
    """A grey crop, uint8 (h, w), as a picture."""
    return np.repeat(single[:, :, None], 3, axis=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights are large enough for attention and positions to matter."""
    return tiny_reader.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load(LocalVlm(model=str(folder), threads=1))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> SmallModel:
    return SmallModel(folder, threads=1)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to change."""
    return shutil.copytree(folder, tmp_path / "copied")


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
    assert small.merge_order(grid[0].numpy(), 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_the_head_gives_frames_per_column_that_are_distributions() -> None:
    head = CtcHead(rows=4, width=16, frames=3, classes=7, hidden=8)
    frames = head(torch.randn(2, 5, 64))
    assert frames.shape == (2, 15, 7)
    torch.testing.assert_close(frames.exp().sum(-1), torch.ones(2, 15))


# --- the graphs ---------------------------------------------------------------------------------------------------


def torch_reader(folder: Path) -> LocalReader:
    """The checkpoint under transformers, asked with the prompt that its decoder was trained on."""
    config = LocalVlm(model=str(folder), threads=1, prompts=("glm_ocr",))
    return LocalReader(config, AnswerCache(None), load(config))


def torch_scores(reader: LocalReader, height: int, pixels: np.ndarray, texts: Sequence[str]) -> list[float]:
    """What the decoder says under transformers: training showed it crops that are levelled and `height` px high."""
    shown = ((grey(pixels, height) + 1) * 127.5).round().astype(np.uint8)
    return reader.score(query(rgb(shown)), texts)


def torch_frames(reader: LocalReader, folder: Path, crops: np.ndarray) -> np.ndarray:
    """What the head says under torch of float32 crops (B, H, W)."""
    settings = json.loads((folder / READER).read_text(encoding="utf-8"))
    vision = reader._open().model.model.visual
    rows, width = crops.shape[1] // vision.patch_size, vision.config.hidden_size
    head = CtcHead(rows, width, settings["frames"], len(settings["alphabet"]) + 1, settings["hidden"])
    head.load_state_dict(load_file(folder / HEAD))
    with torch.inference_mode():
        features = tower(vision, torch.from_numpy(crops))
        return np.asarray(head(columns_of(features, rows, vision.spatial_merge_size)))


Both = tuple[SmallModel, LocalReader, Path]


@pytest.fixture(scope="module", params=["tiny", "packaged"])
def both(request: pytest.FixtureRequest, folder: Path) -> Iterator[Both]:
    """A checkpoint as graphs, and under torch."""
    path = folder if request.param == "tiny" else PACKAGED
    reader = torch_reader(path)
    yield SmallModel(path, threads=1), reader, path
    reader.close()


@pytest.mark.parametrize("size", SIZES)
def test_the_decoder_is_the_checkpoints_own(both: Both, size: tuple[int, int]) -> None:
    ours, reader, _ = both
    pixels = noise(*size, 3)
    expected = torch_scores(reader, ours.height, pixels, TEXTS)
    found = ours.score(pixels, TEXTS)
    assert len({round(score, 3) for score in found}) == len(TEXTS)
    for text, one, other in zip(TEXTS, found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3 * (len(text) + 1)), text


def test_the_decoder_sees_the_crop(both: Both) -> None:
    """Or the agreement above would say little."""
    ours = both[0]
    one, other = (ours.score(noise(40, width, 3), ["abc 012"])[0] for width in (130, 131))
    assert abs(one - other) > 1e-2


@pytest.mark.parametrize(("batch", "units"), [(1, 2), (3, 7), (1, 30)])
def test_the_head_is_the_checkpoints_own(both: Both, batch: int, units: int) -> None:
    ours, reader, folder = both
    crops = noise(batch, ours.height, units * ours.unit).astype(np.float32) / 127.5 - 1
    expected = torch_frames(reader, folder, crops)
    found = ours._frames(crops)
    assert found.shape == expected.shape
    assert found.std() > 0.5
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=1e-3)
    likely = expected > -12
    np.testing.assert_allclose(found[likely], expected[likely], atol=1e-3)


def test_scoring_together_is_scoring_one_by_one(tiny: SmallModel) -> None:
    pixels = picture("abc 0")
    together = tiny.score(pixels, TEXTS)
    assert together == pytest.approx([tiny.score(pixels, [text])[0] for text in TEXTS], abs=1e-4)
    assert all(score < 0 for score in together)
    assert tiny.score(pixels, []) == []


def test_graphs_hold_no_weights() -> None:
    for name in GRAPHS.values():
        graph = onnx.load(str(PACKAGED / name), load_external_data=False).graph
        outside = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in outside]
        assert {place["location"] for place in places} <= {MODEL, HEAD}
        assert sum(int(place["length"]) for place in places) > 1e6
        assert sum(len(tensor.raw_data) for tensor in graph.initializer) < 1e4
        assert (PACKAGED / name).stat().st_size < 300_000


def change(path: Path, seed: int = 1) -> None:
    """Other weights in the same file, stored as training stores them."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: weight + 0.1 * torch.randn(weight.shape, generator=generator) for name, weight in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"} if path.name == MODEL else None)


@pytest.mark.parametrize("fresh_norms", [False, True])
@pytest.mark.parametrize("file", [MODEL, HEAD])
def test_changed_weights_need_no_new_graphs(tmp_path: Path, file: str, fresh_norms: bool) -> None:
    """Even where weights were equal when the graphs were made: a graph that shares them would follow one of them only."""
    folder = tiny_reader.build(tmp_path / "folder", fresh_norms=fresh_norms)
    copied = shutil.copytree(folder, tmp_path / "copied")
    change(copied / file)
    before, after = SmallModel(folder, threads=1), SmallModel(copied, threads=1)
    reader = torch_reader(copied)
    pixels = picture("abc 01")
    crops = padded([grey(pixels, SIZE.height)], before.unit)
    frames = after._frames(crops)
    scores = after.score(pixels, TEXTS)
    np.testing.assert_allclose(frames, torch_frames(reader, copied, crops), atol=1e-3)
    assert scores == pytest.approx(torch_scores(reader, SIZE.height, pixels, TEXTS), abs=1e-2)
    assert np.abs(frames - before._frames(crops)).max() > 0.1
    moved = np.abs(np.array(scores) - before.score(pixels, TEXTS)).max()
    assert moved > 0.1 if file == MODEL else moved == 0
    assert after.identity != before.identity
    reader.close()


def test_graphs_written_anew_say_the_same(folder: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GRAPHS.values():
        (copied / name).unlink()
    app(["graphs", str(copied)], standalone_mode=False)
    assert {path.name for path in copied.iterdir()} == {path.name for path in folder.iterdir()}
    pixels = picture("abc 01")
    old, new = SmallModel(folder, threads=1), SmallModel(copied, threads=1)
    assert new.score(pixels, TEXTS) == old.score(pixels, TEXTS)
    assert new.look(pixels, 6)[0].score(TEXTS) == old.look(pixels, 6)[0].score(TEXTS)
    assert (copied / READER).read_bytes() == (folder / READER).read_bytes()
    assert new.identity == old.identity


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", MODEL, HEAD, READER])
def test_graphs_are_written_for_whole_checkpoints_only(copied: Path, file: str) -> None:
    (copied / file).write_bytes(b"{")
    with pytest.raises(InputError, match="is no checkpoint of the small reader"):
        rewrite_graphs(copied)


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


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1])
def test_a_look_is_softened_as_its_share_was_calibrated(share: float) -> None:
    frames = torch.randn(4, 6, 8).log_softmax(-1)
    np.testing.assert_allclose(softened(frames.numpy(), share), soften(frames, share).exp().numpy(), atol=1e-6)


def test_padding_is_paper_on_the_right_in_whole_units() -> None:
    crops = [np.full((16, width), -0.5, np.float32) for width in (3, 17, 24)]
    batch = padded(crops, 8)
    assert batch.dtype == np.float32
    assert batch.shape == (3, 16, 24)
    for crop, row in zip(crops, batch, strict=True):
        assert (row[:, : crop.shape[1]] == -0.5).all()
        assert (row[:, crop.shape[1] :] == 1).all()
    assert padded([crops[1]], 8).shape == (1, 16, 24)
    assert padded([crops[0]], 8).shape == (1, 16, 8 * NARROWEST)
    assert np.array_equal(pad(crops, 8).numpy(), batch)


# --- a look -------------------------------------------------------------------------------------------------------


def widths_seen(views: Views) -> list[float]:
    """Px at the tower's height that each view is wide, to within a column."""
    column = SIZE.patch / SIZE.frames
    return [len(view.probabilities) * column for view in views.posteriors]


@pytest.mark.parametrize("text", ["a", "abc", "dead beef 0123"])
@pytest.mark.parametrize("stretch", [0.2, 1.0, 3.0])
def test_a_look_is_made_of_distributions_that_end_where_the_crop_ends(
    tiny: SmallModel, text: str, stretch: float
) -> None:
    crop = picture(text, stretch)
    for view in tiny.look(crop, len(text))[0].posteriors:
        sums = view.probabilities.sum(axis=1)
        assert (sums <= 1 + 1e-5).all()
        assert (sums > 0.99).all()
        end = len(view.probabilities) * view.column_px
        assert crop.shape[1] <= end + 1e-6 <= crop.shape[1] + view.column_px + 1e-5


def test_places_are_inside_the_crop_and_in_order(tiny: SmallModel) -> None:
    crop = picture("abc 012")
    look = tiny.look(crop, 7)[0]
    for text in ("abc 012", "a", "hhhh"):
        places = look.place(text)
        assert len(places) == len(text)
        edges = [x for place in places for x in place]
        assert edges == sorted(edges)
        assert edges[0] >= 0
        assert edges[-1] <= crop.shape[1] + look.best.column_px


class Inked(SmallModel):
    """Reads an `a` wherever there is ink, so that places can be told."""

    def _frames(self, crops: np.ndarray) -> np.ndarray:
        batch, _, width = crops.shape
        spots = np.arange(width * SIZE.frames // SIZE.patch) * SIZE.patch // SIZE.frames
        inked = (crops.min(axis=1) < 0)[:, spots]
        table = np.full((batch, len(spots), len(self.alphabet)), 1e-5, np.float32)
        table[:, :, 0] = np.where(inked, 0.01, 0.98)
        table[:, :, 1] = np.where(inked, 0.98, 0.01)
        return np.log(table)


@pytest.mark.parametrize("characters", [1, 12])
def test_every_view_puts_a_letter_where_its_ink_is(folder: Path, characters: int) -> None:
    crop = np.full((40, 160, 3), 230, np.uint8)
    crop[6:34, 112:128] = 20
    look = Inked(folder, threads=1).look(crop, characters)[0]
    assert len(look.posteriors) == (len(STRETCHES) if characters == 1 else len(WIDTHS))
    for view in look.posteriors:
        assert view.greedy == "a"
        ((left, right),) = view.place("a")
        assert left == pytest.approx(112, abs=1.5 * view.column_px)
        assert right == pytest.approx(128, abs=1.5 * view.column_px)


def test_a_squashed_crop_is_looked_at_wider(tiny: SmallModel) -> None:
    text = "dead beef 01"
    crop = picture(text, 0.3)
    assert crop.shape[1] * 16 / 40 / len(text) < CRAMPED
    look = tiny.look(crop, len(text))[0]
    assert len(look.posteriors) == len(WIDTHS)
    assert sorted(widths_seen(look)) == pytest.approx([wide * len(text) for wide in WIDTHS], abs=2)
    qualities = [view.quality for view in look.posteriors]
    assert qualities == sorted(qualities, reverse=True)


def test_a_roomy_crop_is_looked_at_in_widths_around_its_own(tiny: SmallModel) -> None:
    crop = picture("abc", 2.0)
    look = tiny.look(crop, 3)[0]
    assert sorted(widths_seen(look)) == pytest.approx([crop.shape[1] * 16 / 40 * s for s in STRETCHES], abs=2)


def test_a_very_long_crop_is_looked_at_as_often_as_the_budget_allows(tiny: SmallModel) -> None:
    for width in (2000, 4500, 40_000):
        seen = widths_seen(tiny.look(np.full((40, width, 3), 200, np.uint8), 100)[0])
        assert len(seen) == 1 or sum(seen) <= BUDGET + 2
        assert max(seen) <= WIDEST + 2


def test_padding_leaves_no_columns_behind(tiny: SmallModel) -> None:
    """The views of one crop share a batch: the narrow ones are padded, and none of that is kept."""
    crop = picture("abc", 0.4)
    look = tiny.look(crop, 3)[0]
    assert sorted(widths_seen(look)) == pytest.approx([3 * wide for wide in WIDTHS], abs=2)
    alone = tiny.look(np.full((40, 28, 3), 200, np.uint8), 1)[0]  # one view, narrower than the narrowest batch
    assert sorted(widths_seen(alone)) == pytest.approx([28 * 16 / 40 * s for s in STRETCHES], abs=2)
    assert min(widths_seen(alone)) < NARROWEST * tiny.unit


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (300, 2), (900, 30)])
def test_no_crop_is_too_odd_to_be_looked_at(tiny: SmallModel, shape: tuple[int, int]) -> None:
    look = tiny.look(np.full((*shape, 3), 128, np.uint8), 5)[0]
    assert all(math.isfinite(score) for score in look.score(["abc", "", "h"]))


def test_the_score_of_a_look_is_the_ctc_probability_of_the_text(
    tiny: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusion.vlm.small.STRETCHES", (1.0,))
    crop = picture("abc 012", 1.5)
    look = tiny.look(crop, 3)[0]
    assert len(look.posteriors) == 1
    seen = grey(crop, SIZE.height)
    used = len(look.best.probabilities)
    frames = soften(torch.from_numpy(tiny._frames(padded([seen], tiny.unit))), SOFTNESS)[0, :used]
    texts = ["abc", "a", "hh", "0+1=1", "dead beef"]
    expected = []
    for text in texts:
        labels = torch.tensor([[tiny.alphabet.index(c) for c in text]])
        loss = functional.ctc_loss(
            frames[:, None], labels, torch.tensor([used]), torch.tensor([len(text)]), reduction="none"
        )
        expected.append(-float(loss))
    assert look.score(texts) == pytest.approx(expected, abs=1e-3, rel=1e-4)
    assert look.score_cased(texts) == pytest.approx(expected, abs=1e-3, rel=1e-4)


def test_the_score_over_several_views_is_their_mean_log_probability(tiny: SmallModel) -> None:
    look = tiny.look(picture("abcdef", 0.3), 6)[0]
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
def test_the_reader_knows_texts_in_its_script(tiny: SmallModel, text: str, known: bool) -> None:
    assert tiny.knows(text) is known


def test_what_the_head_can_not_spell_is_no_mark_against_a_text(tiny: SmallModel) -> None:
    look = tiny.look(picture("abc"), 3)[0]
    assert tiny.spells == frozenset(SIZE.alphabet)
    assert all(view.spells == tiny.spells for view in look.posteriors)
    unknown, known = look.score(["a½c", "adc"])
    assert unknown > known - 1e-9


# --- files --------------------------------------------------------------------------------------------------------


def test_a_reader_is_what_was_written(tiny: SmallModel) -> None:
    assert (tiny.height, tiny.frames, tiny.softness, tiny.unit) == (SIZE.height, SIZE.frames, SOFTNESS, 2 * SIZE.patch)
    assert tiny.alphabet == ("", *SIZE.alphabet)


HARMS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "of another kind": lambda content: b"\x89PNG\r\n" + bytes(range(256)),
    "cut off": lambda content: content[: len(content) // 2],
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", [*GRAPHS.values(), MODEL, HEAD])
def test_a_missing_or_damaged_file_is_named(copied: Path, file: str, harm: str) -> None:
    content = HARMS[harm]((copied / file).read_bytes())
    (copied / file).unlink()
    if content is not None:
        (copied / file).write_bytes(content)
    with pytest.raises(ReaderError) as caught:
        SmallReader(LocalVlm(model=str(copied), threads=1))
    assert str(copied) in caught.value.subject
    assert file in str(caught.value)


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "null", "{}", '{"height": 16}', "height", "softness", "before"]
)
def test_missing_or_damaged_settings_are_a_reader_error(copied: Path, content: str | None) -> None:
    settings = json.loads((copied / READER).read_text(encoding="utf-8"))
    (copied / READER).unlink()
    if content in settings:  # a setting of another type
        content = json.dumps(settings | {content: "none"})
    if content is not None:
        (copied / READER).write_text(content, encoding="utf-8")
    with pytest.raises(ReaderError, match="holds no settings of a small reader") as caught:
        SmallReader(LocalVlm(model=str(copied), threads=1))
    assert caught.value.subject == str(copied / READER)
    assert "again" in caught.value.way_out


def test_weights_in_other_places_of_their_file_are_refused_or_found(folder: Path, copied: Path) -> None:
    """The graphs know places, not names: the same weights under a longer header would be read as others."""
    save_file(load_file(copied / MODEL), copied / MODEL, metadata={"format": "pt", "note": "stored by another program"})
    pixels = picture("abc")
    try:
        found = SmallModel(copied, threads=1).score(pixels, ["abc"])
    except ReaderError as error:
        assert MODEL in str(error)  # noqa: PT017
    else:
        assert found == pytest.approx(SmallModel(folder, threads=1).score(pixels, ["abc"]), abs=1e-3)


# --- as a second reader -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(folder: Path) -> Iterator[SmallReader]:
    opened = SmallReader(LocalVlm(model=str(folder), threads=1))
    yield opened
    opened.close()


def test_a_folder_with_graphs_opens_as_the_small_reader_and_one_without_as_any_glm(copied: Path) -> None:
    config = LocalVlm(model=str(copied), threads=1)
    opened = open_reader(config)
    assert isinstance(opened, SmallReader)
    opened.close()
    (copied / READER).unlink()
    other = open_reader(config)
    assert isinstance(other, LocalReader)
    other.close()


def test_the_packaged_one_is_the_default() -> None:
    opened = open_reader(LocalVlm(threads=1))
    assert isinstance(opened, SmallReader)
    assert isinstance(opened, Looks)


def test_a_look_is_a_reading_an_ink_and_a_decoder(reader: SmallReader, tiny: SmallModel) -> None:
    asked = query(picture("abc 01"), "abc 0l")
    look = reader.look(asked)
    assert isinstance(look, Look)
    reading, ink = look.reading, look.ink
    assert isinstance(reading, Reading)
    assert isinstance(ink, Views)
    views, stretch = tiny.look(asked.line.crop, 6)
    assert stretch != 1.0
    assert ink.score(["abc", "h"]) == views.score(["abc", "h"])
    assert reading.source == "vlm"
    assert reading.text == reading.raw == reading.nbest[0].text
    assert reading.nbest == views.nbest(small.NBEST)
    assert reading.score == pytest.approx(ink.score([reading.text])[0])
    assert reading.positions == views.best.positions(small.TOP)
    recipe = reading.recipe
    assert (recipe.engine, recipe.prompt_id) == ("glm small", "look")
    assert recipe.model.endswith(f"@{tiny.identity}")
    assert recipe.image_sha256 == image_sha256(asked.line.crop)
    assert tiny.identity in reader.identity


def test_the_decoder_is_shown_a_squashed_crop_as_the_head_saw_it_best(reader: SmallReader, tiny: SmallModel) -> None:
    pixels, text = picture("dead beef 01", 0.3), "dead beef 01"
    stretch = tiny.look(pixels, len(text))[1]
    assert stretch > 1.5
    wide = cv2.resize(pixels, (round(pixels.shape[1] * stretch), pixels.shape[0]), interpolation=cv2.INTER_LINEAR)
    look = reader.look(query(pixels, text))
    assert isinstance(look, Look)
    assert look.score([text, "abc"]) == pytest.approx(tiny.score(wide, [text, "abc"]), abs=1e-4)
    assert look.score([text])[0] != pytest.approx(tiny.score(pixels, [text])[0], abs=1e-2)


def test_another_script_and_an_empty_crop_are_declined(reader: SmallReader) -> None:
    declined = reader.look(query(picture("abc"), "第2步"))
    assert isinstance(declined, Failure)
    assert (declined.stage, declined.kind) == ("vlm", "not_suited")
    empty = reader.look(query(np.zeros((0, 9, 3), np.uint8), "abc"))
    assert isinstance(empty, Failure)
    assert (empty.stage, empty.kind) == ("vlm", "empty_crop")


def test_a_line_that_the_ocr_could_not_read_is_looked_at(reader: SmallReader) -> None:
    asked = query(picture("abc"))
    unread = replace(asked, line=replace(asked.line, reading=None))
    one, other = reader.look(asked), reader.look(unread)
    assert isinstance(one, Look)
    assert isinstance(other, Look)
    assert one.reading == other.reading


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("device", "cuda:0"),
        ("prompts", ("glm_ocr",)),
        ("language", "zh"),
        ("max_tokens", 99),
        ("attempts", 5),
        ("cache", Path("answers.sqlite")),
        ("dtype", "bfloat16"),
        ("batch", 1),
        ("download", True),
    ],
)
def test_settings_of_a_reader_that_writes_are_refused(folder: Path, setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"vlm\.{setting}: means nothing to the small reader"):
        SmallReader(LocalVlm(model=str(folder), **{setting: value}))


def test_no_setting_is_ignored_in_silence() -> None:
    used = {"engine", "model", "threads", "ask", "budget"}  # the last two by the engine
    assert set(LocalVlm.model_fields) == {*used, *small.UNUSED}


def test_threads_see_what_one_alone_sees() -> None:
    """The packaged weights, and crops of different width: nothing of one look may reach another."""
    reader = SmallReader(LocalVlm(threads=1))
    words = ("Napa 500 mg", "tid", "found the old", "12+9=21", "Seclo", "1 tab daily")
    queries = [
        query(picture(word, stretch), word) for word, stretch in zip(words, (1, 2, 0.6, 1.3, 0.4, 1), strict=True)
    ]

    def ask(asked: Query) -> tuple[object, ...]:
        look = reader.look(asked)
        assert isinstance(look, Look)
        assert look.ink is not None
        time.sleep(0.005)  # others look meanwhile
        return look.reading, look.ink.score(words), look.score(words)

    alone = [ask(asked) for asked in queries]
    assert len({reading.text for reading, *_ in alone}) == len(words)
    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(lambda _: [ask(asked) for asked in queries], range(2)):
            assert together == alone
        assert list(pool.map(ask, queries * 2)) == alone * 2
