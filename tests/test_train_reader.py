"""Training the small reader: what is learnt is what the engine asks, a broken run goes on, and files are found wanting by name."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eval.datasets import load_split
from fusion.config import LocalVlm
from fusion.ctc import Views
from fusion.errors import ConfigError, InputError
from fusion.ink import InkLine
from fusion.page import Reading
from fusion.train import adapt as adapting
from fusion.train import learn
from fusion.train import reader as whole
from fusion.train.__main__ import main
from fusion.train.crops import ROOM, Deck, Sample, cuts, distort, in_share, join, load_ink, read_crop, splice
from fusion.train.export import SHARES, calibrate, export
from fusion.train.learn import Batch, Decks, Learner, draw
from fusion.train.muon import Muon, orthogonal
from fusion.train.recipe import Ink, Recipe, Stage, Synthetic, load_recipe
from fusion.vlm import open_reader
from fusion.vlm.cache import AnswerCache
from fusion.vlm.local import LocalReader, load
from fusion.vlm.protocol import Look, Query
from fusion.vlm.small import GRAPHS, READER, SmallModel, SmallReader, grey
from tests import tiny_reader

SIZE = tiny_reader.SIZE.model_copy(update={"vision_depth": 1, "text_depth": 1})
UNIT = 2 * SIZE.patch
WORDS = [
    *("a", "bad", "cab", "deaf", "face", "beach", "head", "egg", "hag", "fad", "bed", "chef", "edge", "badge", "cage"),
    *("ace", "add", "each", "fade", "gaffe", "0123", "1+2=3", "3+0=3", "12", "20", "ah", "he", "be", "dad", "ebb"),
]
LINES = ["a bad egg", "he fed a chef", "dead beef 0123", "1+2=3 each"]


def picture(text: str, height: int = ROOM) -> np.ndarray:
    """Dark writing on light paper, uint8 (height, w)."""
    canvas = np.full((40, 14 + 17 * len(text)), 232, np.uint8)
    cv2.putText(canvas, text, (6, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (35,), 2)
    return cv2.resize(canvas, (round(canvas.shape[1] * height / 40), height), interpolation=cv2.INTER_AREA)


def samples(texts: Sequence[str] = WORDS) -> list[Sample]:
    return [Sample(picture(text), text) for text in texts]


def decks(trust: float = 1.0) -> Decks:
    return Decks((Deck(samples()),), Deck(samples(WORDS[::2])), Deck(samples(LINES)), (trust,))


def make_recipe(work: Path, *stages: Stage, **changes: Any) -> Recipe:
    work.mkdir(parents=True, exist_ok=True)
    stages = stages or (Stage(name="look", steps=40, batch=8, rate=0.2),)
    fixed = {"work": work, "output": work / "out", "size": SIZE, "threads": 1, "compile": False}
    return Recipe(**{**fixed, "synthetic": Synthetic(fonts=Path("-")), "stages": stages, "report_every": 5, **changes})


def nothing() -> dict[str, float]:
    return {}


def train(learner: Learner, log: Callable[[str], None] = lambda line: None, trust: float = 1.0) -> Learner:
    learner.run(decks(trust), nothing, log)
    return learner


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {**learner.model.state_dict(), **{f"head.{k}": v for k, v in learner.head.state_dict().items()}}


def same(one: Learner, other: Learner) -> bool:
    ours, theirs = weights(one), weights(other)
    return all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def stir(learner: Learner) -> Learner:
    """Weights so large that attention and positions matter: a fresh network hardly looks at either."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in (*learner.model.parameters(), *learner.head.parameters()):
            if p.ndim > 1:
                p.normal_(0, 0.3, generator=generator)
    return learner


def levelled(text: str, width: int, seed: int = 0) -> np.ndarray:
    """A crop that needs nothing done to it: the tower's height, whole units, paper 255 and ink 0, uint8 (16, width)."""
    crop = np.full((SIZE.height, width), 255, np.uint8)
    cv2.putText(crop, text, (1, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0,), 1)
    generator = np.random.default_rng(seed)
    spots = generator.integers(0, SIZE.height, 6 + width // 4), generator.integers(0, width, 6 + width // 4)
    crop[spots] = generator.integers(0, 200, len(spots[0]))
    crop.ravel()[:: crop.size // 12] = 0
    return crop


def query(pixels: np.ndarray) -> Query:
    """A grey crop as the engine asks about it."""
    shown = np.repeat(pixels[:, :, None], 3, axis=2)
    height, width = shown.shape[:2]
    corners = ((0.0, 0.0), (float(width), 0.0), (float(width), float(height)), (0.0, float(height)))
    return Query("photo.png", InkLine("l000", corners, shown, None, None))


# --- training is about the real pipeline --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stirred(tmp_path_factory: pytest.TempPathFactory) -> tuple[Learner, Path]:
    """A learner with strong random weights, and the checkpoint that it exports."""
    work = tmp_path_factory.mktemp("stirred")
    learner = stir(Learner(make_recipe(work)))
    export(learner, work / "out", "card", 0.0)
    return learner, work / "out"


@pytest.fixture(scope="module")
def writer(stirred: tuple[Learner, Path]) -> LocalReader:
    """The exported decoder as any other GLM that writes, asked with its fixed prompt."""
    config = LocalVlm(model=str(stirred[1]), threads=1, prompts=("glm_ocr",))
    return LocalReader(config, AnswerCache(None), load(config))


def loss_in_training(learner: Learner, crops: Sequence[np.ndarray], texts: Sequence[str]) -> float:
    batch = torch.from_numpy(np.stack(crops).astype(np.float32) / 127.5 - 1)
    with torch.inference_mode():
        return float(learner.decoder_loss(learner.features(batch), batch.shape[2] // SIZE.patch, texts))


@pytest.mark.parametrize("width", [UNIT, 2 * UNIT, 5 * UNIT, 12 * UNIT])
def test_the_decoder_is_taught_what_it_will_be_asked(
    stirred: tuple[Learner, Path], writer: LocalReader, width: int
) -> None:
    texts = ["bad", "0123 +=", "a"]
    crops = [levelled(text, width, seed) for seed, text in enumerate(texts)]
    checkpoint = load(LocalVlm(model=str(stirred[1]), threads=1))
    nats, tokens = 0.0, 0
    for crop, text in zip(crops, texts, strict=True):
        asked = query(crop)
        assert np.array_equal(np.asarray(checkpoint.view(asked.line.crop)), asked.line.crop)
        scores = writer.score(asked, [text])
        alone = loss_in_training(stirred[0], [crop], [text])
        assert alone == pytest.approx(-scores[0] / (len(text) + 1), abs=2e-4)
        nats, tokens = nats - scores[0], tokens + len(text) + 1
    assert loss_in_training(stirred[0], crops, texts) == pytest.approx(nats / tokens, abs=2e-4)


def test_the_decoders_loss_depends_on_every_part_of_the_crop_and_the_text(stirred: tuple[Learner, Path]) -> None:
    """Otherwise the agreement above would prove little."""
    learner = stirred[0]
    crop = levelled("bad", 5 * UNIT)
    right = loss_in_training(learner, [crop], ["bad"])
    assert abs(right - loss_in_training(learner, [crop[:, ::-1]], ["bad"])) > 1e-2
    assert abs(right - loss_in_training(learner, [np.roll(crop, UNIT, axis=1)], ["bad"])) > 1e-3
    assert abs(right - loss_in_training(learner, [crop], ["dab"])) > 1e-2


def test_the_token_ids_of_training_are_those_of_the_exported_tokenizer(
    stirred: tuple[Learner, Path], writer: LocalReader
) -> None:
    from fusion.vlm.asking import Question

    prompt = writer._prompt(Question(np.zeros((16, 16, 3), np.uint8), "Text Recognition:"))
    ids = writer._open().tokenizer(prompt, add_special_tokens=False)["input_ids"]
    wanted = ["[gMASK]", "<sop>", "<|user|>", "<|begin_of_image|>", "<|image|>", "<|end_of_image|>"]
    assert ids == stirred[0].words.convert_tokens_to_ids([*wanted, "Text Recognition:", "<|assistant|>"])
    assert all(
        writer._open().tokenizer(text, add_special_tokens=False)["input_ids"]
        == stirred[0].words.convert_tokens_to_ids(list(text))
        for text in SIZE.alphabet
    )


def look_at(reader: object, asked: Query) -> Look:
    assert isinstance(reader, SmallReader)
    look = reader.look(asked)
    assert isinstance(look, Look)
    return look


def test_an_exported_reader_sees_what_the_learner_sees(
    stirred: tuple[Learner, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, folder = stirred
    monkeypatch.setattr("fusion.vlm.small.STRETCHES", (1.0,))
    reader = open_reader(LocalVlm(model=str(folder), threads=1))
    assert reader is not None
    for text in ("bad egg", "fed 3", "beach"):
        whole = round(picture(text).shape[1] / 4 / UNIT) * UNIT * 4  # of whole units, so that neither pads
        crop = cv2.resize(picture(text), (whole, ROOM))
        look = look_at(reader, query(crop))
        assert look.reading is not None
        assert isinstance(look.ink, Views)
        assert look.ink.best.greedy == learner.read([Sample(crop, text)])[0]
        scores = look.ink.score([text, look.reading.text])
        assert scores[1] == pytest.approx(look.reading.score)
        with torch.inference_mode():
            shown = torch.from_numpy(grey(crop, SIZE.height))[None]
            nats = float(learner.ctc_losses(learner.frames(learner.features(shown)), [text]))
        assert scores[0] == pytest.approx(-nats * len(text), rel=1e-3)
    reader.close()


def test_the_reader_that_ships_asks_the_decoder_what_it_was_taught(stirred: tuple[Learner, Path]) -> None:
    learner, folder = stirred
    reader = open_reader(LocalVlm(model=str(folder), threads=1))
    assert reader is not None
    crop, texts = levelled("bad", 6 * UNIT), ["bad", "0123 +="]
    asked = query(crop)
    scores = SmallModel(folder, threads=1).score(asked.line.crop, texts)
    taught = [-(len(text) + 1) * loss_in_training(learner, [crop], [text]) for text in texts]
    assert scores == pytest.approx(taught, abs=2e-3)
    with pytest.MonkeyPatch.context() as patch:  # one look, in its own proportions, as the decoder was shown it
        patch.setattr("fusion.vlm.small.STRETCHES", (1.0,))
        assert look_at(reader, asked).score(texts) == pytest.approx(taught, abs=2e-3)
    reader.close()


def test_the_heads_loss_is_the_score_of_a_look(stirred: tuple[Learner, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.vlm.small.STRETCHES", (1.0,))
    crop = levelled("bad", 8 * UNIT)
    with torch.inference_mode():
        frames = stirred[0].frames(stirred[0].features(torch.from_numpy(grey(crop, SIZE.height))[None]))
        losses = stirred[0].ctc_losses(frames, ["bad"])
    look, _ = SmallModel(stirred[1], threads=1).look(np.repeat(crop[:, :, None], 3, axis=2), 3)
    assert len(look.posteriors) == 1
    assert look.score(["bad"])[0] == pytest.approx(-3 * float(losses[0]), rel=1e-4)


def test_an_export_leaves_a_whole_checkpoint_and_nothing_else(stirred: tuple[Learner, Path]) -> None:
    names = {path.name for path in stirred[1].iterdir()}
    weights = {"model.safetensors", "ctc_head.safetensors"}
    words = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    settings = {"config.json", "generation_config.json", "preprocessor_config.json", READER, "README.md"}
    assert names == weights | words | settings | set(GRAPHS.values())


# --- a run --------------------------------------------------------------------------------------------------------


BOTH = (
    Stage(name="look", steps=7, batch=6, rate=0.1, lines=0.3, ink=0.5),
    Stage(name="speak", steps=7, batch=6, rate=0.1, lines=0.3, ink=0.5, decoder=True, slower=0.25),
)


def fixed_loss(learner: Learner, decoder: bool = False) -> float:
    batch = draw(decks(), Stage(name="x", steps=1, batch=30, ink=1, lines=0), (16, UNIT), *randomness(5))
    with torch.inference_mode():
        return float(learner.loss(batch, Stage(name="x", steps=1, decoder=decoder)))


def randomness(seed: int) -> tuple[random.Random, np.random.Generator]:
    return random.Random(seed), np.random.default_rng(seed)


def test_forty_steps_lower_the_loss(tmp_path: Path) -> None:
    stage = Stage(name="look", steps=40, batch=12, rate=0.2, decoder=True)
    learner = Learner(make_recipe(tmp_path, stage, report_every=20))
    lines: list[str] = []
    before = fixed_loss(learner), fixed_loss(learner, decoder=True)
    train(learner, lines.append)
    after = fixed_loss(learner), fixed_loss(learner, decoder=True)
    assert after[0] < 0.8 * before[0]
    assert after[1] - after[0] < 0.95 * (before[1] - before[0])
    rows = [json.loads(line) for line in lines]
    assert [(row["stage"], row["step"]) for row in rows] == [("look", 20), ("look", 40)]
    assert rows[1]["loss"] < rows[0]["loss"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    return train(Learner(make_recipe(tmp_path_factory.mktemp("unbroken"), *BOTH, report_every=3)))


def test_two_runs_from_one_seed_are_identical_and_another_seed_differs(tmp_path: Path, unbroken: Learner) -> None:
    again = train(Learner(make_recipe(tmp_path / "again", *BOTH, report_every=3)))
    assert same(unbroken, again)
    other = train(Learner(make_recipe(tmp_path / "other", *BOTH, report_every=3, seed=2)))
    assert not same(unbroken, other)


def test_where_a_run_reports_changes_nothing(tmp_path: Path, unbroken: Learner) -> None:
    assert same(unbroken, train(Learner(make_recipe(tmp_path, *BOTH, report_every=5))))


@pytest.mark.parametrize("broken_at", [3, 7, 9, 12, 14])
def test_a_broken_run_goes_on_to_the_same_weights(tmp_path: Path, unbroken: Learner, broken_at: int) -> None:
    def breaks(line: str) -> None:
        if json.loads(line)["step"] >= broken_at:
            raise KeyboardInterrupt

    plan = make_recipe(tmp_path, *BOTH, report_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(Learner(plan), breaks)
    learner = Learner(plan)
    found = learner.restore()
    assert found == (broken_at > 3)
    assert learner.done < broken_at
    train(learner)
    assert learner.done == 14
    assert same(unbroken, learner)


@pytest.mark.parametrize("broken_at", [3, 9])
def test_a_broken_run_goes_on_with_the_words_that_it_had_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_at: int
) -> None:
    monkeypatch.setattr(learn, "BELIEVED", 1e3)
    spliced = [stage.model_copy(update={"ink": 1.0, "splice": 0.5}) for stage in BOTH]

    def breaks(line: str) -> None:
        if json.loads(line)["step"] >= broken_at:
            raise KeyboardInterrupt

    whole = train(Learner(make_recipe(tmp_path / "whole", *spliced, report_every=3)))
    plan = make_recipe(tmp_path / "broken", *spliced, report_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(Learner(plan), breaks)
    learner = Learner(plan)
    learner.restore()
    assert same(whole, train(learner))
    plain = train(Learner(make_recipe(tmp_path / "plain", *spliced, report_every=3, seed=2)))
    assert not same(whole, plain)


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    plan = make_recipe(tmp_path, Stage(name="look", steps=3, batch=4))
    done = train(Learner(plan))
    again = Learner(plan)
    assert again.restore()
    assert same(done, train(again))


def test_a_state_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_recipe(tmp_path, Stage(name="look", steps=3, batch=4))
    learner = train(Learner(plan))
    before = (tmp_path / "state.pt").read_bytes()

    def half(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        learner.save([])
    assert (tmp_path / "state.pt").read_bytes() == before


def test_without_a_state_nothing_is_restored(tmp_path: Path) -> None:
    assert not Learner(make_recipe(tmp_path)).restore()


def test_a_stage_without_the_decoder_leaves_it_alone(tmp_path: Path) -> None:
    fresh = weights(Learner(make_recipe(tmp_path)))
    trained = weights(train(Learner(make_recipe(tmp_path, Stage(name="look", steps=3, batch=4)))))
    for name, weight in trained.items():
        decoder = "language_model" in name or "lm_head" in name or ".merger." in name or "downsample" in name
        assert torch.equal(weight, fresh[name]) == decoder, name


def test_start_from_takes_over_every_weight(stirred: tuple[Learner, Path], tmp_path: Path) -> None:
    learner = Learner(make_recipe(tmp_path, seed=7))
    assert not same(learner, stirred[0])
    learner.start_from(stirred[1])
    assert same(learner, stirred[0])


def test_only_the_largest_losses_are_distrusted(tmp_path: Path) -> None:
    learner = Learner(make_recipe(tmp_path))
    stage = Stage(name="look", steps=1, batch=10, ink=1.0, lines=0.0)
    batch = draw(decks(0.8), stage, (SIZE.height, UNIT), *randomness(3))
    assert batch.trust == 0.8
    with torch.inference_mode():
        losses = learner.ctc_losses(learner.frames(learner.features(batch.crops)), batch.texts).sort().values
        assert losses[-1] > losses[0]
        assert float(learner.loss(batch, stage)) == pytest.approx(float(losses[:8].mean()))
        whole = Batch(batch.crops, batch.texts, 1.0)
        assert float(learner.loss(whole, stage)) == pytest.approx(float(losses.mean()))
        none = Batch(batch.crops, batch.texts, 0.0)
        assert float(learner.loss(none, stage)) == pytest.approx(float(losses[0]))


def test_rendered_batches_are_trusted_whole() -> None:
    stage = Stage(name="look", steps=1, batch=4, ink=0.0, lines=0.0)
    assert all(draw(decks(0.5), stage, (SIZE.height, UNIT), *randomness(n)).trust == 1.0 for n in range(5))


@pytest.mark.parametrize("read", ["aceh", "bceh"])
def test_a_reader_that_is_surely_wrong_is_softened_and_one_that_is_right_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    learner = Learner(make_recipe(tmp_path))
    table = torch.full((40, len(SIZE.alphabet) + 1), 1e-9)
    for frame in range(40):
        letter = learner.classes[read[frame // 10]] if frame % 10 == 5 else 0
        table[frame, letter] = 1 - 15e-9
    monkeypatch.setattr(learner, "frames", lambda features: table.log().expand(len(features), -1, -1))
    monkeypatch.setattr(learner, "frames_of", lambda width: 40)
    share = calibrate(learner, samples(["aceh"] * 3), batch=2)
    assert (share == 0.0) if read == "aceh" else (share in SHARES[1:-1])


def test_calibration_takes_one_of_the_shares_tried(stirred: tuple[Learner, Path]) -> None:
    assert calibrate(stirred[0], samples()) in SHARES


def test_the_error_rate_is_pooled_and_blind_to_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(make_recipe(tmp_path))
    monkeypatch.setattr(learner, "read", lambda _: ["BAD", "", "hex"])
    assert learner.error_rate(samples(["bad", "egg", "he"])) == pytest.approx(4 / 8)
    monkeypatch.setattr(learner, "read", lambda _: [])
    assert learner.error_rate([]) == 0


def test_reading_keeps_the_order_of_the_samples(stirred: tuple[Learner, Path]) -> None:
    words = samples(["badge", "a", "0123", "dead beef", "12"])
    each = [stirred[0].read([word])[0] for word in words]
    assert stirred[0].read(words, batch=1) == each


# --- Muon ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 16), (192, 192), (192, 576), (384, 192)])
def test_orthogonal_evens_the_singular_values_and_keeps_the_directions(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    least = min(shape)
    given, factors = [], []
    for scale in (1e-3, 1.0, 50.0):
        u = torch.linalg.qr(torch.randn(shape[0], least, generator=generator))[0]
        v = torch.linalg.qr(torch.randn(shape[1], least, generator=generator))[0]
        given.append(scale * (u * torch.linspace(0.5, 1.0, least)) @ v.T)
        factors.append((u, v))
    found = orthogonal(torch.stack(given), 4)
    assert found.shape == (3, *shape)
    for matrix, (u, v) in zip(found, factors, strict=True):
        values = torch.linalg.svdvals(matrix)
        assert 0.6 < values.min() <= values.max() < 1.3
        inner = u.T @ matrix @ v
        torch.testing.assert_close(inner, torch.diag(inner.diag()), atol=1e-3, rtol=0)
        assert inner.diag().min() > 0.6


def test_orthogonal_leaves_nothing_as_nothing() -> None:
    assert (orthogonal(torch.zeros(1, 4, 6), 4) == 0).all()


def test_muon_steps_only_what_has_a_gradient_and_goes_downhill() -> None:
    torch.manual_seed(0)
    moved, left = torch.nn.Parameter(torch.randn(8, 4)), torch.nn.Parameter(torch.randn(8, 4))
    target = torch.randn(8, 4)
    kept = left.detach().clone()
    muon = Muon([{"params": [moved, left], "lr": 0.05}])
    losses = []
    for _ in range(60):
        muon.zero_grad()
        loss = (moved - target).square().sum()
        loss.backward()
        muon.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    assert torch.equal(left, kept)


# --- crops --------------------------------------------------------------------------------------------------------


def write_split(folder: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    """A split of (image, text, note) with a picture per row."""
    for name, text, _ in rows:
        cv2.imwrite(str(folder / name), picture(text or " "))
    path = folder / "train.tsv"
    lines = ["image\ttext\twriter\tnote", *(f"{name}\t{text}\tw1\t{note}" for name, text, note in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def ink_of(data: Path, **changes: Any) -> Ink:
    return Ink(name="made", data=data, licence="ours", attribution="drawn here", **changes)


def test_the_kept_out_part_and_the_training_part_are_disjoint_and_complete(tmp_path: Path) -> None:
    rows = [(f"{n:03}.png", "abcdefgh"[n % 8] + "0123"[n // 8 % 4] + "+=0123"[n // 32], "") for n in range(60)]
    split = write_split(tmp_path, rows)
    for share in (0.0, 0.3, 0.5):
        ink = ink_of(split, hold_out=share)
        inside, outside = (load_ink(ink, SIZE.alphabet, held_out=side) for side in (False, True))
        texts = [{sample.text for sample in part} for part in (inside, outside)]
        assert texts[0].isdisjoint(texts[1])
        assert sorted([s.text for s in inside] + [s.text for s in outside]) == sorted(text for _, text, _ in rows)
        assert {text for name, text, _ in rows if in_share(name, share)} == texts[1]
        assert abs(len(outside) - 60 * share) < 12
        assert all(sample.pixels.shape[0] == ROOM and sample.pixels.dtype == np.uint8 for sample in inside)


def test_a_row_stays_on_its_side_whatever_else_is_in_the_split(tmp_path: Path) -> None:
    rows = [(f"{n:03}.png", "abcdefgh"[n % 8] + "0123"[n // 8], "") for n in range(30)]

    def kept_out(some: Sequence[tuple[str, str, str]]) -> set[str]:
        ink = ink_of(write_split(tmp_path, some), hold_out=0.4)
        return {sample.text for sample in load_ink(ink, SIZE.alphabet, held_out=True)}

    assert 0 < len(kept_out(rows)) < len(rows)
    assert kept_out(rows[::3]) == kept_out(rows) & {text for _, text, _ in rows[::3]}


def test_lines_are_held_out_by_whole_writers(tmp_path: Path) -> None:
    writers = [f"w{n}" for n in range(12)]
    rows = [(f"{n:03}.png", "abcdefgh 012"[n % 12] + "0123"[n // 12], writers[n % 12]) for n in range(48)]
    for name, text, _ in rows:
        cv2.imwrite(str(tmp_path / name), picture(text))
    split = tmp_path / "train.tsv"
    split.write_text("image\ttext\twriter\n" + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    ink = ink_of(split, hold_out=0.4, hold_out_by="writer")
    out = {sample.text for sample in load_ink(ink, SIZE.alphabet, held_out=True)}
    shut = {writer for writer in writers if in_share(writer, 0.4)}
    assert 0 < len(shut) < 12
    assert out == {text for _, text, writer in rows if writer in shut}
    assert {s.text for s in load_ink(ink, SIZE.alphabet)} == {text for _, text, writer in rows if writer not in shut}


def test_rows_without_writers_are_not_held_out_by_writer(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), picture("bad"))
    (tmp_path / "s.tsv").write_text("image\ttext\n1.png\tbad\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"s\.tsv: names no writer of 1\.png"):
        load_ink(ink_of(tmp_path / "s.tsv", hold_out_by="writer"), SIZE.alphabet)


def test_a_letter_with_an_accent_counts_as_the_letter_where_the_alphabet_lacks_it(tmp_path: Path) -> None:
    rows = [("1.png", "bád", ""), ("2.png", "he\u0301", ""), ("3.png", "œ", ""), ("4.png", "1≠2", "")]
    split = write_split(tmp_path, rows)
    assert [sample.text for sample in load_ink(ink_of(split, hold_out=0.0), SIZE.alphabet)] == ["bad", "he"]
    assert [s.text for s in load_ink(ink_of(split, hold_out=0.0), SIZE.alphabet + "é")] == ["bad", "hé"]


def test_noted_empty_and_foreign_rows_are_skipped(tmp_path: Path) -> None:
    rows = [
        ("1.png", "bad", ""),
        ("2.png", "egg", "near-duplicate-of-a-dev-image, faint"),
        ("3.png", "zoo", ""),
        ("4.png", "", ""),
        ("5.png", "Bad", ""),
        ("6.png", "he", "faint"),
    ]
    ink = ink_of(write_split(tmp_path, rows), hold_out=0.0, skip_notes=("near-duplicate",))
    assert [sample.text for sample in load_ink(ink, SIZE.alphabet)] == ["bad", "he"]
    assert [s.text for s in load_ink(ink.model_copy(update={"skip_notes": ()}), SIZE.alphabet)] == ["bad", "egg", "he"]


def test_rows_may_lack_writer_and_note(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), picture("bad"))
    (tmp_path / "s.tsv").write_text("image\ttext\n1.png\tbad\n", encoding="utf-8")
    ink = ink_of(tmp_path / "s.tsv", hold_out=0.0, skip_notes=("x",))
    assert [sample.text for sample in load_ink(ink, SIZE.alphabet)] == ["bad"]


def test_a_split_or_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tsv: can't be read"):
        load_ink(ink_of(tmp_path / "none.tsv"), SIZE.alphabet)
    (tmp_path / "bad.tsv").write_bytes(b"image\ttext\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"bad\.tsv: can't be read"):
        load_ink(ink_of(tmp_path / "bad.tsv"), SIZE.alphabet)
    split = write_split(tmp_path, [("1.png", "bad", "")])
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1\.png: is no image"):
        load_ink(ink_of(split, hold_out=0.0), SIZE.alphabet)


def test_a_crop_is_brought_to_one_height_and_stretched(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((32, 80, 3), 200, np.uint8))
    cv2.imwrite(str(tmp_path / "thin.png"), np.full((640, 10), 200, np.uint8))
    assert read_crop(tmp_path / "a.png").shape == (ROOM, 160)
    assert read_crop(tmp_path / "a.png", 2.25).shape == (ROOM, 360)
    assert read_crop(tmp_path / "thin.png").shape == (ROOM, 8)


def test_words_are_joined_to_a_line_with_white_between(tmp_path: Path) -> None:
    words = samples(["bad", "egg", "12"])
    line = join(words, random.Random(1))
    assert line.text == "bad egg 12"
    assert line.pixels.dtype == np.uint8
    assert line.pixels.shape[0] == ROOM
    assert line.pixels.shape[1] < sum(word.pixels.shape[1] for word in words) + 52
    inked = (line.pixels < 100).any(axis=0).astype(int)
    gaps = np.diff(np.flatnonzero(np.diff(np.concatenate(([0], inked, [0])))))[1::2]
    assert sorted(gaps)[-2] >= 6
    assert line.pixels.max() == 255
    again = join(words, random.Random(1))
    assert np.array_equal(line.pixels, again.pixels)
    assert join(words[:1], random.Random(1)).text == "bad"
    assert join([Sample(np.full((ROOM, 40), 9, np.uint8), "a")] * 2, random.Random(1)).text == "a a"


def places_of(text: str) -> list[tuple[float, float]]:
    """Where `picture` puts each letter, px."""
    factor = ROOM / 40
    edges = [6 + cv2.getTextSize(text[:n], cv2.FONT_HERSHEY_SIMPLEX, 0.8, 2)[0][0] for n in range(len(text) + 1)]
    return [(a * factor, b * factor) for a, b in itertools.pairwise(edges)]


def test_a_word_is_cut_where_there_is_no_ink() -> None:
    pixels = picture("bad egg")
    columns = cuts(pixels, places_of("bad egg"))
    assert len(columns) == 6
    assert list(columns) == sorted(columns)
    assert (pixels[:, list(columns)] > 200).all()
    assert cuts(pixels, places_of("b")) == ()
    # Places outside of the crop, all in one column, and a crop without ink are cut somewhere inside.
    for places in ([(-9.0, -5.0), (500.0, 510.0)], [(3.0, 4.0)] * 3):
        assert all(0 <= column < pixels.shape[1] for column in cuts(pixels, places))
    assert len(cuts(np.full((ROOM, 40), 255, np.uint8), [(0.0, 20.0), (20.0, 40.0)])) == 1


def test_a_spliced_word_has_the_ink_of_both() -> None:
    one, two = samples(["bad", "egg"])
    left, right = cuts(one.pixels, places_of("bad")), cuts(two.pixels, places_of("egg"))
    made = splice(one, two, 2, 1, (left[1], right[0]))
    assert made.text == "bagg"
    assert made.pixels.dtype == np.uint8
    assert made.pixels.shape == (ROOM, left[1] + two.pixels.shape[1] - right[0])
    inked = (made.pixels < 60).any(axis=0)
    assert inked[: left[1]].sum() == pytest.approx((one.pixels[:, : left[1]] < 60).any(axis=0).sum(), abs=3)
    assert splice(one, two, 3, 1, (one.pixels.shape[1], right[0])).text == "badgg"


def test_spliced_words_are_new_words_of_about_the_same_length() -> None:
    deck = Deck(samples(WORDS[:15]))
    like = deck.samples[7]
    deck.cuts = {n: cuts(sample.pixels, places_of(sample.text)) for n, sample in enumerate(deck.samples) if n % 2}
    drawn = [deck.draw_spliced(like, random.Random(seed)) for seed in range(40)]
    assert all(abs(len(sample.text) - len(like.text)) <= 1 for sample in drawn)
    assert len({sample.text for sample in drawn} - set(WORDS)) > 10
    alone = Deck(samples(["a", "cabbage", "be"]))
    alone.cuts = {1: cuts(alone.samples[1].pixels, places_of(alone.samples[1].text))}
    assert alone.draw_spliced(Sample(picture("gaffebeach"), "gaffebeach"), random.Random(1)).text == "gaffebeach"


def test_only_words_whose_label_the_head_believes_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = stir(Learner(make_recipe(tmp_path)))
    words = samples(["bad", "a", "egg", "face"])
    assert learner.cut(words) == {}
    monkeypatch.setattr(learn, "BELIEVED", 1e3)
    found = learner.cut(words)
    assert set(found) == {0, 2, 3}  # one letter can't be cut
    assert {n: len(columns) for n, columns in found.items()} == {0: 2, 2: 2, 3: 3}


def test_a_batch_holds_the_share_of_spliced_words() -> None:
    found = decks()
    for deck in found.ink:
        deck.cuts = {n: cuts(s.pixels, places_of(s.text)) for n, s in enumerate(deck.samples) if len(s.text) > 1}

    def strange(share: float) -> float:
        stage = Stage(name="x", steps=1, batch=24, ink=1, lines=0, splice=share)
        texts = [t for seed in range(12) for t in draw(found, stage, (SIZE.height, UNIT), *randomness(seed)).texts]
        return sum(text not in WORDS for text in texts) / len(texts)

    assert strange(0.0) == 0.0
    assert 0.1 < strange(0.4) < 0.5 < strange(1.0)


@pytest.mark.parametrize("size", [(16, 72), (48, 144), (16, 16), (48, 480)])
def test_a_distorted_crop_fills_its_frame_within_range(size: tuple[int, int]) -> None:
    for seed in range(25):
        crop = distort(Sample(picture("bad egg"), "bad egg"), *size, *randomness(seed))
        assert crop.shape == size
        assert crop.dtype == np.float32
        assert -1 <= crop.min() < 0 < crop.max() <= 1
        assert float(np.median(crop)) > 0.3


def test_distortion_depends_on_its_randomness_alone() -> None:
    sample = Sample(picture("beach"), "beach")
    before = sample.pixels.copy()
    crops = [distort(sample, 16, 96, *randomness(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])
    assert np.array_equal(sample.pixels, before)


def test_a_batch_is_equal_crops_whose_width_is_whole_units() -> None:
    widths = set()
    for seed in range(30):
        stage = Stage(name="x", steps=1, batch=9, ink=0.5, lines=0.4)
        batch = draw(decks(), stage, (SIZE.height, UNIT), *randomness(seed))
        count, height, width = batch.crops.shape
        assert count == len(batch.texts) in (9, 3)
        assert height == SIZE.height
        assert width % UNIT == 0
        assert width >= 2 * UNIT
        assert set("".join(batch.texts)) <= set(SIZE.alphabet)
        widths.add(width)
    assert len(widths) > 3
    assert all(width % 24 == 0 for width in learn.WIDTHS)  # the unit of the checkpoint that ships


def test_a_batch_of_real_lines_is_smaller_and_in_its_own_proportions() -> None:
    long = "dead beef 0123 bad egg 1+2=3 each face"
    real = Decks((Deck(samples([long] * 5)),), Deck(samples()), Deck(samples()), (0.9,))
    batch = draw(real, Stage(name="x", steps=1, batch=24, ink=1, lines=0), (48, 24), *randomness(1))
    natural = picture(long).shape[1] * 48 / ROOM
    assert 4 <= len(batch.texts) < 24
    assert 0.65 * natural < batch.crops.shape[2] < 1.2 * natural
    assert batch.crops.shape[2] % 24 == 0
    assert batch.trust == 0.9


def test_without_real_ink_everything_is_rendered() -> None:
    bare = Decks((), Deck(samples(["bad"])), Deck(samples(["bad egg"])), ())
    for seed in range(6):
        batch = draw(bare, Stage(name="x", steps=1, batch=6, ink=1, lines=0.5), (16, UNIT), *randomness(seed))
        assert set(batch.texts) in ({"bad"}, {"bad egg"})


def test_a_deck_draws_neighbours_in_width() -> None:
    deck = Deck(samples(["a" * n for n in range(1, 40)]))
    drawn = deck.draw(3, random.Random(2))
    lengths = [len(sample.text) for sample in drawn]
    assert max(lengths) - min(lengths) < 18
    assert len(Deck(samples(["a"])).draw(5, random.Random(1))) == 5


# --- adapting -----------------------------------------------------------------------------------------------------


def write_corrections(folder: Path, texts: Sequence[str], extra: str = "") -> Path:
    rows = []
    for number, text in enumerate(texts):
        cv2.imwrite(str(folder / f"{number}.png"), picture(text))
        rows.append(json.dumps({"image": f"{number}.png", "text": text}))
    path = folder / "corrections.jsonl"
    path.write_text("\n".join(rows) + "\n" + extra, encoding="utf-8")
    return path


def go_on(data: Path, start: Path, output: Path, log: Callable[[str], None] = lambda line: None) -> dict[str, float]:
    return adapting.adapt_reader(data, start, output, steps=5, batch=4, rate=0.01, threads=1, bf16=False, log=log)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes a minute and is none of these tests' business."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.mark.usefixtures("uncompiled")
def test_adapting_writes_a_checkpoint_that_opens_as_a_model(stirred: tuple[Learner, Path], tmp_path: Path) -> None:
    data = write_corrections(tmp_path, [*WORDS, "zoo"])
    lines: list[str] = []
    rates = go_on(data, stirred[1], tmp_path / "mine", lines.append)
    assert set(rates) == {"before", "after"}
    assert "26 corrections to learn from, 4 kept out, 1 left out" in lines[0]
    reader = open_reader(LocalVlm(model=str(tmp_path / "mine"), threads=1))
    assert isinstance(look_at(reader, query(picture("bad"))).reading, Reading)
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert "5 steps on 26 corrected crops" in card
    kept = load_split(tmp_path / "mine" / adapting.KEPT_OUT)
    assert len(kept) == 4
    assert {item.reference for item in kept} <= set(WORDS)
    assert all(item.path.is_file() for item in kept)
    mine = Learner(make_recipe(tmp_path / "again"))
    mine.start_from(tmp_path / "mine")
    assert not same(mine, stirred[0])


def test_the_same_corrections_are_kept_out_whoever_is_taught() -> None:
    rows = [(Path(f"{number}.png"), f"line {number}") for number in range(400)]
    every = dict(zip(rows, adapting._kept_out(rows), strict=True))
    assert 20 < sum(every.values()) < 60
    fewer = rows[::-3]
    assert adapting._kept_out(fewer) == [every[row] for row in fewer]
    assert adapting._kept_out(rows[:1]) == [True]


@pytest.mark.parametrize(
    "row",
    [
        "not json",
        "[1, 2]",
        '"text"',
        "5",
        '{"image": "0.png"}',
        '{"text": "bad"}',
        '{"image": "0.png", "text": "bad", "stretch": "wide"}',
        '{"image": "0.png", "text": "bad", "stretch": NaN}',
        '{"image": "0.png", "text": "bad", "stretch": 0}',
        '{"image": "0.png", "text": null}',
        '{"image": 5, "text": "bad"}',
    ],
)
def test_a_bad_correction_is_named_with_its_file_and_row(tmp_path: Path, row: str) -> None:
    data = write_corrections(tmp_path, WORDS, extra="\n" + row + "\n")
    with pytest.raises(InputError) as caught:
        adapting.load_corrections(data, SIZE.alphabet)
    assert str(caught.value).startswith(f"{data}:{len(WORDS) + 2}: is no correction")


def test_too_few_corrections_are_refused(tmp_path: Path) -> None:
    data = write_corrections(tmp_path, [*WORDS[: adapting.FEWEST - 1], "zoo", "zebra"])
    with pytest.raises(InputError, match=rf"corrections\.jsonl: holds {adapting.FEWEST - 1} usable corrections"):
        adapting.load_corrections(data, SIZE.alphabet)
    with pytest.raises(InputError, match=r"holds 0 usable"):
        adapting.load_corrections(write_corrections(tmp_path, []), SIZE.alphabet)


def test_a_missing_image_or_file_is_named(tmp_path: Path) -> None:
    data = write_corrections(tmp_path, WORDS)
    (tmp_path / "7.png").unlink()
    with pytest.raises(InputError, match=r"7\.png: is no image that can be read"):
        adapting.load_corrections(data, SIZE.alphabet)
    with pytest.raises(InputError, match=r"none\.jsonl: can't be read"):
        adapting.load_corrections(tmp_path / "none.jsonl", SIZE.alphabet)
    (tmp_path / "latin.jsonl").write_bytes(b'{"image": "a.png", "text": "\xe9"}')
    with pytest.raises(InputError, match=r"latin\.jsonl: can't be read"):
        adapting.load_corrections(tmp_path / "latin.jsonl", SIZE.alphabet)


def test_a_correction_may_be_stretched(tmp_path: Path) -> None:
    row = json.dumps({"image": "0.png", "text": " bad ", "stretch": 2})
    loaded, strange = adapting.load_corrections(write_corrections(tmp_path, WORDS, extra=row), SIZE.alphabet)
    assert strange == 0
    (image, last), (_, first) = loaded[-1], loaded[0]
    assert (image, last.text) == (tmp_path / "0.png", "bad")
    assert last.pixels.shape[1] == pytest.approx(2 * first.pixels.shape[1], abs=1)


@pytest.mark.parametrize("harm", ["no config.json", f"no {READER}", f"broken {READER}", "no folder"])
def test_a_start_without_a_head_is_named(stirred: tuple[Learner, Path], tmp_path: Path, harm: str) -> None:
    start = tmp_path / "start"
    if harm != "no folder":
        start.mkdir()
        for name in ("config.json", READER, "model.safetensors", "ctc_head.safetensors"):
            if harm != f"no {name}":
                (start / name).write_bytes((stirred[1] / name).read_bytes())
        if harm.startswith("broken"):
            (start / READER).write_text('{"height": 16}', encoding="utf-8")
    with pytest.raises(InputError, match=r"start: is no checkpoint"):
        go_on(write_corrections(tmp_path, WORDS), start, tmp_path / "mine")


# --- a whole run --------------------------------------------------------------------------------------------------


def test_a_second_run_goes_on_from_a_checkpoint_and_names_its_data(
    stirred: tuple[Learner, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fonts.yaml").write_text(
        'fonts: [{licence: OFL-1.1}]\nwords: {package: words, version: "1"}\n', encoding="utf-8"
    )
    split = write_split(tmp_path, [(f"{n}.png", word, "") for n, word in enumerate(WORDS)])
    recipe = make_recipe(
        tmp_path / "work",
        Stage(name="again", steps=1, batch=4, rate=1e-9),
        start=stirred[1],
        ink=(ink_of(split, hold_out=0.3),),
        synthetic=Synthetic(fonts=tmp_path / "fonts.yaml"),
    )
    monkeypatch.setattr(whole, "_rendered", lambda _: {"train": samples([*WORDS, *LINES]), "judged": samples()})
    figures = whole.train(recipe, lambda _: None)
    assert set(figures) == {"held-out made", "rendered words"}
    for file in ("ctc_head.safetensors", "model.safetensors"):
        before, after = (load_file(folder / file) for folder in (stirred[1], recipe.output))
        assert all(torch.allclose(weight, after[name], atol=1e-6) for name, weight in before.items())
    card = (recipe.output / "README.md").read_text(encoding="utf-8")
    assert f"going on from `{stirred[1]}`" in card
    assert "- made: " in card
    assert "ours. drawn here" in card


@pytest.mark.parametrize(
    "change", [{"alphabet": SIZE.alphabet[::-1]}, {"vision_depth": 2}, {"text_depth": 2}, {"head": 8}]
)
def test_a_start_of_another_size_is_named(
    stirred: tuple[Learner, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    learner = Learner(make_recipe(tmp_path, size=SIZE.model_copy(update=change)))
    with pytest.raises(InputError, match="can't be gone on from"):
        learner.start_from(stirred[1])


def test_weights_are_averaged_with_those_of_the_start(stirred: tuple[Learner, Path], tmp_path: Path) -> None:
    learner = Learner(make_recipe(tmp_path, seed=9))
    ours, starts = ([p.detach().clone() for p in one.model.parameters()] for one in (learner, stirred[0]))
    learner.average_with(stirred[1], 0.25)
    assert any(not torch.equal(a, b) for a, b in zip(ours, starts, strict=True))
    for mixed, own, start in zip(learner.model.parameters(), ours, starts, strict=True):
        assert torch.allclose(mixed, 0.75 * own + 0.25 * start, atol=1e-6)


def test_a_source_of_which_nothing_is_left_is_named(tmp_path: Path) -> None:
    split = write_split(tmp_path, [("1.png", "??", "")])
    with pytest.raises(InputError, match=r"train\.tsv: holds nothing to train on"):
        whole.train(make_recipe(tmp_path / "work", ink=(ink_of(split),)), lambda _: None)


# --- recipes and the command --------------------------------------------------------------------------------------


GOOD = "work: w\noutput: o\nsynthetic: {fonts: f.yaml}\nstages: [{name: a, steps: 1}]\n"


def test_a_recipe_is_read_and_can_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_recipe(path).stages[0].name == "a"
    assert load_recipe(path, {"seed": 5}).seed == 5
    for name in ("small_reader", "cursive"):
        assert load_recipe(Path(__file__).parent.parent / f"configs/train/{name}.yaml").ink


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b\n",
        "a: [",
        GOOD + "unknown: 1\n",
        GOOD.replace("steps: 1", "steps: 0"),
        GOOD.replace("steps: 1", "steps: 1, speed: 2"),
        GOOD.replace("stages: [{name: a, steps: 1}]", "stages: []"),
        GOOD.replace("work: w\n", ""),
        GOOD + "threads: 0\n",
        "just words",
    ],
)
def test_a_bad_recipe_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml: is no training recipe"):
        load_recipe(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: is no training recipe"):
        load_recipe(tmp_path / "none.yaml")


def test_the_command_explains_itself() -> None:
    call = [sys.executable, "-m", "fusion.train", "--help"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    listed = set(re.findall(r"^\W*([\w-]+)", done.stdout, re.M))
    assert {"reader", "recogniser", "adapt", "adapt-reader", "graphs", "lora"} <= listed


@pytest.mark.parametrize(
    "arguments",
    [
        ["reader", "--config"],
        ["adapt", "--output", "o", "--data"],
        ["adapt", "--output", "o", "--data", "d", "--start"],
        ["adapt-reader", "--output", "o", "--data"],
        ["graphs"],
    ],
)
def test_an_error_of_the_user_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fusion.train", *arguments, "none.file"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("none.file: ")
    assert not list(tmp_path.iterdir())
