"""Recorded readings: how they are found, and that useful ones are not thrown away."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion.config import ReplayVlm
from fusion.errors import ConfigError
from fusion.page import Failure, Reading
from tests.vlm_readers import opened, query


def write(folder: Path, *rows: str) -> Path:
    path = folder / "recorded.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def read(path: Path, *images: str, column: str = "glm", ocr: str | None = None) -> list[Reading | Failure]:
    with opened(ReplayVlm(engine="replay", path=path, column=column)) as reader:
        return [item for (item,) in reader.read([query(ocr, image) for image in images])]


def test_a_recording_is_found_by_path_by_longer_path_and_by_unique_name(tmp_path: Path) -> None:
    path = write(tmp_path, "image\tglm", "set/a.png\tone", "set/b.png\ttwo", "other/b.png\tthree", "c.png\tfour")
    images = ["set/a.png", "/data/set/a.png", "elsewhere/a.png", "x\\set\\b.png", "/deep/c.png", "b.png", "nowhere.png"]
    outcomes = read(path, *images)
    assert [o.text if isinstance(o, Reading) else o.kind for o in outcomes] == [
        *("one", "one", "one", "two", "four"),
        *("not_recorded", "not_recorded"),
    ]


def test_an_empty_or_missing_cell_is_not_recorded(tmp_path: Path) -> None:
    path = write(tmp_path, "image\tx\tglm", "a.png\tz\t ", "b.png\tz", "", "c.png\tz\tyes")
    a, b, c = read(path, "a.png", "b.png", "c.png")
    assert isinstance(a, Failure)
    assert isinstance(b, Failure)
    assert (a.stage, a.kind, b.kind) == ("vlm", "not_recorded", "not_recorded")
    assert isinstance(c, Reading)
    assert (c.text, c.recipe.engine, c.recipe.model) == ("yes", "replay", "glm")


def test_quotes_stay_and_control_tokens_go(tmp_path: Path) -> None:
    path = write(tmp_path, "image\tglm", 'a.png\t"tad', "b.png\trosu<|im_end|>", "c.png\tI cannot read the image.")
    a, b, c = read(path, "a.png", "b.png", "c.png")
    assert isinstance(a, Reading)
    assert a.text == '"tad'
    assert isinstance(b, Reading)
    assert (b.text, b.raw) == ("rosu", "rosu<|im_end|>")
    assert isinstance(c, Failure)
    assert c.kind == "refuses"


def test_a_recording_of_several_rows_is_dealt_out_only_when_it_fits(tmp_path: Path) -> None:
    path = write(tmp_path, "image\tglm", "a.png\tfirst row\\nsecond row", "b.png\tonly row")
    outcomes = read(path, "a.png", "b.png", "a.png", "b.png")
    assert [o.text if isinstance(o, Reading) else o.kind for o in outcomes] == [
        *("first row", "not_recorded", "second row", "not_recorded"),
    ]
    (whole,) = read(path, "a.png")
    assert isinstance(whole, Reading)
    assert whole.text == "first row second row"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["image\tqwen\ttrocr", "a\tb\tc"], "qwen, trocr"),
        (["picture\tglm"], "first column is `image`"),
        (["image\tglm", "a.png\tx", "a.png\ty"], "twice"),
    ],
)
def test_a_file_that_can_not_be_used_says_what_it_has(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(write(tmp_path, *rows))


def test_a_missing_file_and_a_file_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vlm\.path"):
        read(tmp_path / "none.tsv")
    (tmp_path / "gbk.tsv").write_bytes("image\tglm\na.png\t明天".encode("gbk"))
    with pytest.raises(ConfigError, match="UTF-8"):
        read(tmp_path / "gbk.tsv")


@pytest.mark.parametrize(
    ("recorded", "ocr"),
    [
        ("acetaminophen", "ac"),
        ("to", "paracetamol"),
        ("co", "dextrose"),
        ("20-mg60", "20m"),
        ("{to kit", "ito kine"),
        ("(his) ot", "aspirin"),
        ("m-lucas 10", "miucas1o"),
        ("pi", None),
    ],
)
def test_a_reading_of_a_word_survives_whatever_the_ocr_read(tmp_path: Path, recorded: str, ocr: str | None) -> None:
    (reading,) = read(write(tmp_path, "image\tglm", f"a.png\t{recorded}"), "a.png", ocr=ocr)
    assert isinstance(reading, Reading)
    assert reading.text == recorded
