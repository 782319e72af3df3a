"""Training the recogniser: the network is that of the file, held-out material stays out, broken runs resume."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import random
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from PIL import ImageFont

from eval.datasets import load_split
from fusion.config import load_config
from fusion.engine import Engine
from fusion.errors import InputError, ReaderError
from fusion.ocr import LATIN
from fusion.ocr.weights import packaged_onnx
from fusion.onnx import file_sha256, open_session
from fusion.train import adapt as adapting
from fusion.train import camera, hands, ppocr
from fusion.train import mix as mixing
from fusion.train import recogniser as training
from fusion.train import render as rendering
from fusion.train.__main__ import main
from fusion.train.corrections import HELD_OUT
from fusion.train.crops import in_share
from fusion.train.fonts import Font, Materials
from fusion.train.hands import Crop, folded, held_out_words
from fusion.train.mix import WIDTHS, Batch, Batches, Mix, Piece, batches, bend, fits, pack
from fusion.train.recipe import Hands, RecogniserRecipe, Shares, load_recogniser_recipe
from fusion.train.recogniser import Learner
from fusion.train.relative import RelativeAdam, sizes
from fusion.train.texts import Texts

ROOT = Path(__file__).parent.parent
WORDS = (("the", "house", "water", "quickly", "green", "walked"), ("abate", "antenna", "bonfire"), ("ammonites",))
NAMES = ("Napa", "Seclo", "Ceevit", "Fexo", "Monas", "Zimax", "Tofen", "Rolac", "Ace", "Deslor", "Omidon", "Alatrol")
LINES = ("the house of the green water", "he walked quickly to the mill", "dear sister we are all well")
KINDS = tuple(Shares.model_fields)
SOURCES = (
    Hands(name="words", data=Path("words.tsv"), kind="words", hold_out=0.3, hold_out_by="word", any_case=True,
          distrust=0.1, licence="MIT", attribution="nobody"),
    Hands(name="lines", data=Path("lines.tsv"), kind="lines", hold_out=0.3, licence="CC0", attribution="nobody"),
)  # fmt: skip


def written(text: str, height: int = 64) -> np.ndarray:
    width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.3, 2)[0][0] + 12
    grey = np.full((height, width), 235, np.uint8)
    cv2.putText(grey, text, (6, height - 20), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (40,), 2, cv2.LINE_AA)
    return grey


def made_crops() -> list[Crop]:
    crops = []
    for number, name in enumerate((*NAMES, "Nafexo")):  # what "Na|pa" and "Fe|xo" could be spliced to
        pixels = written(name)
        cuts = tuple((n * pixels.shape[1] // len(name), n) for n in range(1, len(name)))
        crops.append(Crop("words", f"w{number}", name, name == "Nafexo" or not number % 5, cuts, pixels))
    for number, (writer, text) in enumerate(itertools.product(("anna", "bert"), LINES)):
        pixels = written(f"{text} {number}", 56)
        spaces = [n for n, c in enumerate(text) if c == " "]
        cuts = tuple((n * pixels.shape[1] // (len(text) + 2), n) for n in spaces)
        crops.append(Crop("lines", writer, f"{text} {number}", writer == "bert", cuts, pixels))
    return crops


@pytest.fixture(scope="module")
def font(tmp_path_factory: pytest.TempPathFactory) -> Font:
    """The font that Pillow carries within itself, as a file."""
    built_in = ImageFont.load_default(20)
    assert isinstance(built_in, ImageFont.FreeTypeFont)
    assert isinstance(built_in.path, io.BytesIO)
    path = tmp_path_factory.mktemp("fonts") / "built_in.ttf"
    path.write_bytes(built_in.path.getvalue())
    return Font("built-in", path, "OFL-1.1")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged recogniser, cut to Latin script."""
    path = tmp_path_factory.mktemp("start") / training.START
    ppocr.cut(packaged_onnx(ppocr.NAME), path)
    return path


@pytest.fixture
def recipe(start: Path, tmp_path: Path) -> RecogniserRecipe:
    work = tmp_path / "work"
    work.mkdir()
    (work / training.START).symlink_to(start)
    rendered = {"fonts": ROOT / "configs/train/fonts.yaml", "print_fonts": ROOT / "configs/train/print_fonts.yaml"}
    return RecogniserRecipe.model_validate(
        {"work": work, "output": tmp_path / "out", "hands": [source.model_dump() for source in SOURCES],
         "rendered": {**rendered, "judged": 1}, "threads": 1, "batch": 4, "rate": 3e-3, "seconds": 5, "reports": 1}
    )  # fmt: skip


def mix_of(crops: Sequence[Crop], fonts: Sequence[Font], shares: Shares | None = None) -> Mix:
    texts = Texts(WORDS, [crop.text for crop in crops if not crop.held_out], seed=1)
    return Mix(crops, SOURCES, shares or Shares(), texts, fonts, fonts)


def only(kind: str) -> Shares:
    return Shares(**{name: float(name == kind) for name in KINDS})


def batch_of(*texts: str, labels: Sequence[str] | None = None) -> Batch:
    pictures = [cv2.resize(written(text), (120, ppocr.HEIGHT)) for text in texts]
    pieces = [Piece(picture, label, "words") for picture, label in zip(pictures, labels or texts, strict=True)]
    return pack(list(zip(pictures, pieces, strict=True)), ppocr.NARROWEST)


# --- the network and its file -------------------------------------------------------------------------------------


def test_torch_and_onnx_runtime_agree_on_the_packaged_file_the_cut_one_and_one_written_back(
    start: Path, tmp_path: Path
) -> None:
    packaged, again = packaged_onnx(ppocr.NAME), tmp_path / "again.onnx"
    network, characters = ppocr.read(start)
    ppocr.write(network, start, again)
    crops = np.random.default_rng(1).uniform(-1, 1, (2, 3, ppocr.HEIGHT, 336)).astype(np.float32)
    given = {}
    for path in (packaged, start, again):
        read, listed = ppocr.read(path)
        session = open_session(path, 1)
        given[path] = session.run(None, {session.get_inputs()[0].name: crops})[0]
        with torch.inference_mode():
            own = read(torch.from_numpy(crops)).softmax(-1).numpy()
        assert own.shape == (2, 336 // ppocr.COLUMN, len(listed) + 1)
        assert np.abs(own - given[path]).max() < 1e-4
    assert np.array_equal(given[start], given[again])
    assert ppocr.read(again)[1] == characters
    assert all(map(ppocr.is_latin, characters))
    # The cut keeps the ratios of what is left.
    whole = ppocr.read(packaged)[1]
    kept = given[packaged][..., [0, *(whole.index(c) + 1 for c in characters[:-1]), len(whole)]]
    assert np.abs(kept / kept.sum(-1, keepdims=True) - given[start]).max() < 1e-4


def test_another_network_is_refused_by_name(start: Path, tmp_path: Path) -> None:
    model = onnx.load(str(start))
    model.graph.node.pop(0)
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(ReaderError, match=r"other\.onnx.*not the recogniser"):
        ppocr.read(tmp_path / "other.onnx")
    del model.metadata_props[:]
    with pytest.raises(ReaderError, match="lists no characters"):
        ppocr.characters_of(model)


def test_the_shipped_recogniser_is_the_one_of_its_card() -> None:
    model = onnx.load(str(LATIN))
    characters = ppocr.characters_of(model)
    classes = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    card = (LATIN.parent / "README.md").read_text(encoding="utf-8")
    assert len(characters) + 1 == classes
    assert len(set(characters)) == len(characters)
    assert f"cut to {len(characters)} characters" in card
    assert re.findall(r"`([0-9a-f]{64})`", card) == [file_sha256(LATIN)]
    assert ppocr.read(LATIN)[0].head.out_features == classes


# --- the material -------------------------------------------------------------------------------------------------


def split(folder: Path, name: str, rows: Sequence[tuple[str, str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["image\ttext\twriter\tnote"]
    for number, (text, writer, note) in enumerate(rows):
        cv2.imwrite(str(folder / f"{name}{number}.png"), written(text))
        lines.append(f"{name}{number}.png\t{text}\t{writer}\t{note}")
    (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / f"{name}.tsv"


def test_gathered_crops_keep_words_and_writers_on_one_side(start: Path, tmp_path: Path) -> None:
    words = [(name, "", "") for name in NAMES[:4]] + [(NAMES[0].upper(), "", ""), ("Near", "", "near-duplicate")]
    lines = [(LINES[0], writer, "") for writer in ("ann", "bob", "eve")] + [("漢字" * 2, "ann", "")]
    sources = [
        SOURCES[0].model_copy(update={"data": split(tmp_path, "w", words), "skip_notes": ("near",), "hold_out": 0.5}),
        SOURCES[1].model_copy(update={"data": split(tmp_path, "l", lines), "hold_out": 0.5}),
    ]
    told: list[str] = []
    hands.gather(sources, start, tmp_path / "work", 1, told.append)
    crops = hands.load(tmp_path / "work")
    assert told == ["gathered 8 crops, 2 rows left out"]
    assert [crop.text for crop in crops] == [*NAMES[:4], NAMES[0].upper(), *[LINES[0]] * 3]
    for crop in crops:
        name = folded(crop.text) if crop.source == "words" else crop.writer
        assert crop.held_out == in_share(name, 0.5)
        assert all(0 <= column <= crop.pixels.shape[1] and 0 < n < len(crop.text) for column, n in crop.cuts)
        assert all(crop.text[n] == " " for _, n in crop.cuts if crop.source == "lines")
    assert sum(len(crop.cuts) for crop in crops if crop.source == "lines") > 6
    assert crops[0].held_out == crops[4].held_out
    hands.gather(sources, start, tmp_path / "work", 1, told.append)
    assert len(told) == 1


def test_a_missing_split_and_a_missing_image_are_named(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.yaml"
    text = (ROOT / "configs/train/recogniser.yaml").read_text(encoding="utf-8").replace("../shared", str(tmp_path))
    recipe.write_text(text.replace("work: build", f"start: {start}\nwork: build"), encoding="utf-8")
    options = ["--config", str(recipe), "--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["train", "recogniser", *options, "--gather"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "rx_rxhandbd/train.tsv" in capsys.readouterr().err.replace("\n", "")
    data = split(tmp_path, "w", [("Napa", "", "")])
    (tmp_path / "w0.png").unlink()
    with pytest.raises(InputError, match=r"w0\.png"):
        hands.gather([SOURCES[0].model_copy(update={"data": data})], start, tmp_path / "work", 1, print)


def test_the_recipe_that_ships_is_valid_and_the_command_line_wins() -> None:
    path = ROOT / "configs/train/recogniser.yaml"
    assert load_recogniser_recipe(path, {"batch": 256, "device": "cuda"}).batch == 256
    assert load_recogniser_recipe(path).distrusted == {"RxHandBD": 0.06, "latin cursive": 0.01}


# --- the mixture --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", ["fonts", "%"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_piece_fits_its_width(
    kind: str, lacking: str, font: Font, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "fonts" and kind in ("hand", "print"):
        pytest.skip("needs a font")
    draws = rendering._Face.draws
    monkeypatch.setattr(rendering._Face, "draws", lambda face, c: c != "%" and draws(face, c))
    monkeypatch.setattr(mixing, "_FORMS", ("5%", "Tab."))  # so that the missing sign turns up often
    mix = mix_of(made_crops(), [] if lacking == "fonts" else [font], only(kind))
    made = batches(mix, 4, 1, 0)
    for batch in itertools.islice(made, 4):
        room = batch.pixels.shape[2]
        assert batch.pixels.shape == (len(batch.texts), ppocr.HEIGHT, room)
        assert room in WIDTHS
        assert batch.widths.max() <= room
        for text, source in zip(batch.texts, batch.sources, strict=True):
            repeats = sum(a == b for a, b in itertools.pairwise(text))
            assert 0 < len(text) + repeats <= room // ppocr.COLUMN
            assert "%" not in text
            assert source in ("words", "lines", "pad", "rendered", "taught")


def test_no_piece_shows_a_held_out_word_or_writer(font: Font) -> None:
    crops = made_crops()
    mix, rng = mix_of(crops, [font]), random.Random(4)
    shut = held_out_words(crops, SOURCES)
    assert shut == {"napa", "zimax", "omidon", "nafexo"}
    inks = [crop.pixels for crop in crops if crop.held_out]
    for way in (mix._word, mix._spliced, mix._pad, mix._line, mix._joined):
        for _ in range(150):
            piece = way(rng)
            assert shut.isdisjoint(map(folded, piece.text.split()))
            assert not {"3", "4", "5"} & set(piece.text) or piece.source == "pad"  # the held-out writer's lines
            assert not any(piece.pixels is ink for ink in inks)
    assert not any(mix.neighbour(rng) is ink for ink in inks for _ in range(50))


def test_a_spliced_word_is_never_a_held_out_one(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = [replace(crop, held_out=crop.text == "Nafexo") for crop in made_crops() if crop.text in ("Napa", "Nafexo")]
    fexo = Crop("words", "", "Fexo", False, ((0, 0),), written("Fexo"))
    napa = replace(crops[0], cuts=((20, 2),))
    mix = mix_of([napa, fexo, crops[1]], [], only("spliced"))
    said = {mix._spliced(random.Random(n)).text for n in range(60)}
    assert said == {"Napa", "Fexo"}


def test_names_with_a_held_out_word_are_not_rendered(recipe: RecogniserRecipe, tmp_path: Path) -> None:
    listed = tmp_path / "names.txt"
    listed.write_text("NAPA\nNapa Extra\nSeclo\n\nParacetamol\n", encoding="utf-8")
    rendered = recipe.rendered.model_copy(update={"names": (listed,)})
    names = training._names(recipe, made_crops(), rendered)
    assert {"Seclo", "Paracetamol"} <= set(names)
    assert not {"NAPA", "Napa", "Napa Extra", ""} & set(names)


def test_the_same_seed_gives_the_same_batches(font: Font) -> None:
    first, second = (next(batches(mix_of(made_crops(), [font]), 6, 7, 0)) for _ in range(2))
    assert first.texts == second.texts
    assert np.array_equal(first.pixels, second.pixels)


def test_a_worker_makes_what_this_process_would(font: Font) -> None:
    mix = mix_of(made_crops(), [font])
    alone, workers = Batches(mix, 4, 3, 0), Batches(mix, 4, 3, 1)
    try:
        assert workers.next().texts == alone.next().texts
    finally:
        workers.close()


def test_workers_end_even_where_a_library_catches_the_signal(font: Font) -> None:
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        workers = Batches(mix_of(made_crops(), [font]), 4, 3, 1)
        workers.next()
        processes = multiprocessing.active_children()
        workers.close()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert processes
    assert not any(process.is_alive() for process in processes)


def test_a_label_needs_a_frame_more_between_equal_characters() -> None:
    assert fits("a" * 10, 8 * 20)
    assert not fits("a" * 11, 8 * 20)
    assert fits("ab" * 9, 8 * 20)


def test_distortion_keeps_the_ink() -> None:
    noise = np.random.default_rng(1)
    for seed in range(30):
        bent = bend(written("Ceevit"), 140, random.Random(seed), noise)
        assert bent.shape == (ppocr.HEIGHT, 140)
        assert float(np.median(bent)) - float(bent.min()) > 60


def test_augmentation_stays_in_range_and_leaves_the_padding_alone() -> None:
    batch = batch_of("Napa", "Seclo")
    pixels, widths = torch.from_numpy(batch.pixels), torch.from_numpy(batch.widths)
    for made in (camera.photograph(pixels, widths), camera.plain(pixels, widths)):
        assert made.shape == (2, 3, ppocr.HEIGHT, ppocr.NARROWEST)
        assert made.abs().max() <= 1
        assert not made[..., 120:].any()


# --- the steps ----------------------------------------------------------------------------------------------------


def test_a_step_moves_small_kernels_and_large_ones_by_the_same_share() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 4))
    with torch.no_grad():
        network[0].weight.mul_(100)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser = RelativeAdam(network)
    network(torch.randn(16, 8)).square().sum().backward()
    assert optimiser.step(0.01) > 0
    for old, new, size in zip(before, network.parameters(), sizes(network), strict=True):
        assert float(((new - old).abs() / size).max().detach()) == pytest.approx(0.01, rel=0.2)


def test_a_few_steps_lower_the_loss_of_labels_it_did_not_know(
    recipe: RecogniserRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera, "photograph", camera.plain)
    learner = Learner(recipe, 0.0)
    learner.rate = 0.01
    prepared = training._prepared(batch_of("Napa", "Seclo", labels=("Ceevit", "Fexo")), learner)
    losses = [learner._step(prepared, believing=False) for _ in range(5)]
    first, last = losses[0], losses[-1]
    assert first is not None
    assert last is not None
    assert last[0] < 0.7 * first[0]
    assert learner.steps == 5
    assert learner.samples == 10
    pairs = zip(learner.network.parameters(), learner.start.parameters(), strict=True)
    assert not any(torch.equal(now, before) for now, before in pairs)


def test_a_loss_that_is_not_finite_is_skipped(recipe: RecogniserRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(recipe, 0.0)
    learner.rate = recipe.rate
    prepared = training._prepared(batch_of("Napa", "Seclo"), learner)
    with monkeypatch.context() as patched:
        patched.setattr(camera, "photograph", lambda pixels, widths: camera.plain(pixels, widths) * torch.nan)
        assert learner._step(prepared, believing=False) is None
    assert (learner.steps, learner.samples, learner.skipped) == (0, 0, 1)
    for name, value in learner.network.state_dict().items():
        assert torch.equal(value, learner.start.state_dict()[name])
    assert learner._step(prepared, believing=False) is not None


def test_a_broken_run_resumes_to_the_same_weights(recipe: RecogniserRecipe) -> None:
    def steps(learner: Learner, seed: int) -> None:
        torch.manual_seed(seed)
        learner.rate = recipe.rate
        learner._step(training._prepared(batch_of("Napa", "Fexo"), learner), believing=True)

    whole = Learner(recipe, 0.0)
    assert not whole.restore()
    steps(whole, 1)
    whole.slower = 0.5
    whole.save()
    steps(whole, 2)
    resumed = Learner(recipe, 0.0)
    assert resumed.restore()
    assert resumed.slower == 0.5
    steps(resumed, 2)
    assert resumed.steps == whole.steps == 2
    for one, other in ((whole.network, resumed.network), (whole.average, resumed.average)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_a_diverging_loss_goes_back_to_the_last_good_weights(recipe: RecogniserRecipe) -> None:
    learner, told = Learner(recipe, 0.0), []
    learner._check(0.5, told.append)
    with torch.no_grad():
        learner.network.head.weight.add_(1)
    learner._check(5.0, told.append)
    assert torch.equal(learner.network.head.weight, learner.start.head.weight)
    assert learner.slower == 0.5
    assert json.loads(told[0])["ctc"] == 5


def test_what_fails_in_the_feeding_thread_is_raised() -> None:
    class Broken(Batches):
        def __init__(self) -> None:
            pass

        def next(self) -> Batch:
            raise InputError("crop 7", "is broken", "mend it")

    feed = training._Feed(Broken(), None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="crop 7"):
        feed.next()
    feed.close()


def test_a_whole_run_writes_a_recogniser_and_its_card(
    recipe: RecogniserRecipe, font: Font, monkeypatch: pytest.MonkeyPatch
) -> None:
    materials = Materials((font, replace(font, family="other", held_out=True)), WORDS)
    monkeypatch.setattr(training, "fetch", lambda listing, folder: materials)
    monkeypatch.setattr(hands, "gather", lambda *given: None)
    monkeypatch.setattr(hands, "load", lambda folder: made_crops())
    told: list[str] = []
    figures = training.train(recipe.model_copy(update={"seconds": 1.5, "batch": 2}), told.append)
    made = json.loads((recipe.output / "recogniser.json").read_text(encoding="utf-8"))
    card = (recipe.output / "README.md").read_text(encoding="utf-8")
    sets = {"held-out words", "held-out lines", *training.JUDGED, training.PRINT}
    assert [set(found) for found in figures.values()] == [sets, sets]
    assert made["sha256"] == file_sha256(recipe.output / "recogniser.onnx")
    assert made["onnx_difference"] < 1e-4
    assert made["held_out"] == figures
    assert made["sha256"] in card
    assert "9 crops, 4 more held out by whole words" in card
    assert (recipe.work / training.STATE).is_file()


# --- one's own hand ---------------------------------------------------------------------------------------------


def test_corrected_lines_alone_teach_a_recogniser_that_the_engine_reads_with(tmp_path: Path) -> None:
    sentences = [f"{word} and {name}" for word in WORDS[0] for name in NAMES[:5]]
    rows = []
    for number, text in enumerate(sentences):
        cv2.imwrite(str(tmp_path / f"{number}.png"), written(text))
        rows.append({"image": f"{number}.png", "text": text, **({"stretch": 1.5} if number == 3 else {})})
    rows.append({"image": "0.png", "text": "每次2片"})  # it has no Chinese characters
    data, output = tmp_path / "corrections.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    figures = adapting.adapt(data, LATIN, output, seconds=3, threads=1, bf16=False, log=print)
    assert set(figures["start"]) == set(figures["end"]) == {"held-out corrections ×1.0"}
    kept = load_split(output / adapting.KEPT_OUT)
    share = [in_share(f"{row['image']} {row['text']}", HELD_OUT) for row in rows[:-1]]
    assert len(kept) == sum(share) > 0
    made = json.loads((output / "recogniser.json").read_text(encoding="utf-8"))
    assert {one["source"]: one["trained_on"] + one["held_out"] for one in made["sources"]} == {
        "corrections ×1.0": len(sentences) - 1,
        "corrections ×1.5": 1,
    }
    assert sum(one["held_out"] for one in made["sources"]) == len(kept)
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "license: other" in card
    assert "not to be passed on" in card.casefold()
    pixels = np.asarray(cv2.cvtColor(written(sentences[0]), cv2.COLOR_GRAY2RGB), np.uint8)
    with Engine(load_config(overrides=["vlm.engine=none", f"ocr.hand_model={output / 'recogniser.onnx'}"])) as engine:
        (page,) = engine.read(pixels, crop=True)
    (reading,) = (reading for reading in page.lines[0].readings if reading.source == "hand")
    assert file_sha256(output / "recogniser.onnx")[:12] in reading.recipe.model
