"""The LoRA recipe over tiny random checkpoints of every GLM-V class: what is learnt, what changes, what is refused.

The proof that crops and texts reach the model as they should is the reader's own score: another route through the model
(prompt first, texts continued from its cache), written before this one.
"""

import json
import math
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file

from fusion.config import LocalVlm
from fusion.errors import ConfigError, DependencyError, InputError
from fusion.ink import InkLine
from fusion.page import Reading, Recipe
from fusion.train.corrections import read_rows
from fusion.train.lora import IGNORED, Line, Tutor, load_lines, lora
from fusion.vlm import open_reader
from fusion.vlm.cache import AnswerCache
from fusion.vlm.local import Checkpoint, LocalReader, load
from fusion.vlm.protocol import Query
from tests import tiny_glm, tiny_reader

TEXTS = (
    *("Napa 500 mg", "1 tab", "x", "2 cap qid", "第2步", "今天气温会降到5度", "Rx", "Seclo 20", "prn, daily"),
    *("to the light", "5 ml", "明天气温会降到度"),
)


pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers


def draw(folder: Path, number: int, text: str) -> dict[str, str]:
    """A crop on coloured paper, as large as its text; Pillow's own font has no Han, whose boxes are ink as well."""
    font = ImageFont.load_default(18 + number)
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    paper = (255 - 9 * number, 240, 200 + 4 * number)
    image = Image.new("RGB", (right - left + 12, bottom - top + 10), paper)
    ImageDraw.Draw(image).text((6 - left, 5 - top), text, fill=(20, 10 * number, 120), font=font)
    image.save(folder / f"{number}.png")
    return {"image": f"{number}.png", "text": text}


def write(path: Path, rows: Sequence[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return write(folder / "corrections.jsonl", [draw(folder, n, text) for n, text in enumerate(TEXTS)])


@pytest.fixture(scope="module")
def lines(data: Path) -> list[Line]:
    return load_lines(data)


@pytest.fixture(scope="module", params=tiny_glm.KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_glm.build(tmp_path_factory.mktemp("glm"), request.param)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load(LocalVlm(model=str(folder), threads=1))


def reader_scores(checkpoint: Checkpoint, lines: Sequence[Line], prompt: str = "glm_ocr") -> list[float]:
    """What the reader says of the right texts, as it does in use: the OCR's reading settles the prompt's language."""
    reader = LocalReader(LocalVlm(prompts=(prompt,), threads=1), AnswerCache(None), checkpoint)
    found = []
    for line in lines:
        reading = Reading("ocr", line.text, Recipe("made", "1", "made", ""))
        found += reader.score(Query("photo.png", InkLine("l000", (), line.pixels, reading, None)), [line.text])
    return found


def teach(data: Path, folder: Path, output: Path, **changes: Any) -> tuple[dict[str, float], list[str]]:
    pytest.importorskip("peft")
    settings = {"epochs": 12, "batch": 11, "rate": 0.02, "rank": 4, "device": "cpu", "threads": 1, "prompt": "glm_ocr"}
    said: list[str] = []
    return lora(data, str(folder), output, **{**settings, **changes}, log=said.append), said


# --- from lines to tensors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["glm_ocr", "blind"])
def test_the_loss_is_what_the_reader_itself_gives(checkpoint: Checkpoint, lines: list[Line], prompt: Any) -> None:
    """Twelve crops of different size and texts of different length and script in one batch; two tokens end an answer."""
    tutor = Tutor(checkpoint, prompt)
    batch = tutor.batch(lines)
    assert (batch.inputs["attention_mask"] == 0).any()
    assert len(set(map(tuple, batch.inputs["image_grid_thw"].tolist()))) > 6
    expected = reader_scores(checkpoint, lines, prompt)
    assert len({round(score, 2) for score in expected}) == len(TEXTS)
    with torch.inference_mode():
        assert (-tutor.nats(batch)).tolist() == pytest.approx(expected, abs=1e-3)
    mean = -sum(expected) / sum(map(len, TEXTS))
    assert tutor.nats_per_character(lines, 5) == pytest.approx(mean, abs=1e-4)


def test_only_the_answer_and_its_stop_are_learnt(checkpoint: Checkpoint, lines: list[Line]) -> None:
    batch = Tutor(checkpoint, "glm_ocr").batch(lines)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    for row, text in enumerate(TEXTS):
        learnt = batch.labels[row] != IGNORED
        *answer, stop = batch.labels[row][learnt].tolist()
        assert checkpoint.tokenizer.decode(answer) == text
        assert stop == checkpoint.stops[0]
        assert torch.equal(batch.labels[row][learnt], ids[row][learnt])
        length = int(mask[row].sum())
        assert mask[row].tolist() == [1] * length + [0] * (ids.shape[1] - length)
        assert learnt.nonzero()[:, 0].tolist() == list(range(length - len(text) - 1, length))
    assert batch.characters == sum(map(len, TEXTS))


def test_positions_count_an_image_as_its_longer_side(checkpoint: Checkpoint, lines: list[Line]) -> None:
    """What the decoder gets, not what a helper would say: before the image, across it, and after it."""
    tutor = Tutor(checkpoint, "glm_ocr")
    batch = tutor.batch(lines)
    got: list[torch.Tensor] = []
    hook = checkpoint.model.model.language_model.register_forward_pre_hook(
        lambda _module, _args, given: got.append(given["position_ids"]), with_kwargs=True
    )
    with torch.inference_mode():
        tutor.nats(batch)
    hook.remove()
    image_id = checkpoint.model.config.image_token_id
    for row, (_, down, across) in enumerate((batch.inputs["image_grid_thw"] // tiny_glm.MERGE).tolist()):
        length = int(batch.inputs["attention_mask"][row].sum())
        start = batch.inputs["input_ids"][row].tolist().index(image_id)
        places = [(n, n, n) for n in range(start)]
        places += [(start, start + y, start + x) for y in range(down) for x in range(across)]
        after = start + max(down, across)
        places += [(after + n,) * 3 for n in range(length - len(places))]
        assert got[0][-3:, row, :length].T.tolist() == [list(place) for place in places]


# --- a run --------------------------------------------------------------------------------------------------------


def test_a_run_lowers_the_loss_and_its_result_loads_again(
    data: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_args, **_kwargs: asked.append(host))
    figures, said = teach(data, folder, tmp_path)
    assert asked == []
    steps = [json.loads(line) for line in said[1:]]
    assert said[0].startswith("11 corrections to learn from, 1 kept out, 0 left out")
    assert [step["step"] for step in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert all(math.isfinite(value) for value in figures.values())

    old, new = (load_file(where / "model.safetensors") for where in (folder, tmp_path / "merged"))
    assert set(new) == set(old)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    parts = [*attention, "mlp.gate_up_proj", "mlp.down_proj"]
    assert changed == {f"model.language_model.layers.{n}.{part}.weight" for n in (0, 1) for part in parts}

    # Nothing but weights was written anew: the rest is the checkpoint's own, its generation settings too.
    for file in folder.iterdir():
        if file.name not in ("model.safetensors", "config.json"):
            assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes()
    assert "on 1 kept out" in (tmp_path / "merged" / "README.md").read_text()
    assert "[More Information Needed]" not in (tmp_path / "adapter" / "README.md").read_text()


def test_merged_and_adapted_models_score_the_same(data: Path, folder: Path, lines: list[Line], tmp_path: Path) -> None:
    figures, _ = teach(data, folder, tmp_path, epochs=2)
    merged = reader_scores(load(LocalVlm(model=str(tmp_path / "merged"), threads=1)), lines)
    plain = load(LocalVlm(model=str(folder), threads=1))
    untaught = reader_scores(plain, lines)
    sys.modules["peft"].PeftModel.from_pretrained(plain.model, tmp_path / "adapter")  # goes into the model itself
    adapted = reader_scores(plain, lines)
    assert merged == pytest.approx(adapted, abs=1e-2)
    assert all(abs(new - old) > 0.1 for new, old in zip(merged, untaught, strict=True))
    # The two figures are those of one line, the one kept out.
    before, after = (
        np.array([-s / len(t) for s, t in zip(scores, TEXTS, strict=True)]) for scores in (untaught, merged)
    )
    off = np.abs(before - figures["before"]) + np.abs(after - figures["after"])
    assert np.sort(off)[0] < 1e-3 < np.sort(off)[1]


def test_a_run_is_repeatable(data: Path, folder: Path, tmp_path: Path) -> None:
    first, again = (teach(data, folder, tmp_path / name, epochs=1, batch=4, prompt="blind") for name in "ab")
    assert first[0] == again[0]


def test_what_becomes_of_the_small_reader_is_a_checkpoint_that_opens(tmp_path: Path) -> None:
    """Settings without the graphs that they speak of would be half a small reader and no GLM."""
    folder = tiny_reader.build(tmp_path / "small")
    words = ["abc", "bad", "dead beef", "0123", "1+2=3", "egg", "face", "cab", "hag", "each", "3+0=3", "fed"]
    data = write(tmp_path / "rows.jsonl", [draw(tmp_path, n, text) for n, text in enumerate(words)])
    teach(data, folder, tmp_path / "out", epochs=1)
    opened = open_reader(LocalVlm(model=str(tmp_path / "out" / "merged"), threads=1))
    assert opened is not None
    opened.close()


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"rows\.jsonl:2: is no correction \(JSONDecodeError"),
        ("[1]", r"rows\.jsonl:2: is no correction"),
        ({"image": "0.png"}, r"rows\.jsonl:2: is no correction \(KeyError: 'text'\)"),
        ({"image": "0.png", "text": None}, r"rows\.jsonl:2: is no correction"),
        ({"image": "0.png", "text": "x", "stretch": 0}, r"rows\.jsonl:2: is no correction .*stretch"),
        ({"image": "0.png", "text": "x", "stretch": 1e6}, r"rows\.jsonl:2: is no correction .*between 0\.1 and 10"),
        ({"image": "0.png", "text": "x", "stretch": math.inf}, r"rows\.jsonl:2: is no correction .*stretch"),
        ({"image": "none.png", "text": "x"}, r"none\.png: is no image that can be read"),
        ({"image": "rows.jsonl", "text": "x"}, r"rows\.jsonl: is no image that can be read"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", [draw(tmp_path, 0, "ok"), row])
    with pytest.raises(InputError, match=message):
        load_lines(path)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("naïve".encode("latin-1"))
    for name in ("none", "latin"):
        with pytest.raises(InputError, match=rf"{name}: can't be read"):
            read_rows(tmp_path / name)


def test_rows_hold_any_script_as_it_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '\ufeff{"image": "a.png", "text": " 今天 \u2028 e\u0301 "}\r\n\n{"image": "b/c.png", "text": "", "stretch": 2}\n',
        encoding="utf-8",
    )
    assert read_rows(path) == [(tmp_path / "a.png", "今天 \u2028 é", 1.0), (tmp_path / "b/c.png", "", 2.0)]


def test_crops_keep_their_colour_and_may_be_stretched(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (200, 10, 60)).save(tmp_path / "a.png")
    Image.new("L", (30, 20), 77).save(tmp_path / "b.png")
    path = write(tmp_path / "rows", [{"image": "a.png", "text": "x", "stretch": 1.5}, {"image": "b.png", "text": "y"}])
    first, second = load_lines(path)
    assert first.pixels.shape == (20, 45, 3)
    assert first.pixels[0, 0].tolist() == [200, 10, 60]
    assert second.pixels.dtype == np.uint8
    assert second.pixels[0, 0].tolist() == [77] * 3


def test_what_cannot_be_learnt_is_left_out_and_counted(data: Path, folder: Path, tmp_path: Path) -> None:
    """No text, a control token, a character that this tokenizer lacks."""
    kept = [json.loads(row) for row in data.read_text(encoding="utf-8").splitlines()]
    rows = [{**row, "image": str(data.parent / row["image"])} for row in kept]
    strange = [{**rows[0], "text": text} for text in ("  ", "a <|user|>", "<|image|>", "5 µg")]
    _, said = teach(write(tmp_path / "rows", [*rows, *strange]), folder, tmp_path / "out", epochs=1)
    assert said[0].startswith("11 corrections to learn from, 1 kept out, 4 left out")
    with pytest.raises(InputError, match=r"rows: holds 9 usable corrections\. Give at least 10"):
        teach(write(tmp_path / "rows", [*rows[:9], *strange]), folder, tmp_path / "out")


def test_missing_peft_is_said_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    nothing: dict[str, Any] = {"epochs": 1, "batch": 1, "rate": 0.1, "rank": 1, "device": "cpu", "threads": 1}
    with pytest.raises(DependencyError, match=r"peft: not installed\. .*fusion\[train\]"):
        lora(tmp_path / "none", "none", tmp_path, **nothing, prompt="blind", log=print)


def test_a_result_never_overwrites_its_checkpoint(data: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "merged").symlink_to(folder)
    with pytest.raises(ConfigError, match="would overwrite the checkpoint"):
        teach(data, folder, tmp_path)


def test_a_run_that_bursts_writes_nothing(data: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rate: 1e\+30: the loss is no longer a number"):
        teach(data, folder, tmp_path / "out", rate=1e30)
    assert not (tmp_path / "out").exists()
