"""Where weights lie: PP-OCR's in the wheel that carries them or in a folder, the small reader's in the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import unicodedata
from importlib.metadata import PackageNotFoundError
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

import fusion.vlm
from eval.paddle_models import characters_of, recognition_yml, write_yml
from fusion.config import LocalVlm
from fusion.errors import DependencyError, ReaderError
from fusion.ocr import weights
from fusion.vlm import Look, open_reader
from fusion.vlm.local import LocalReader
from fusion.vlm.small import GRAPHS, HEAD, MODEL, READER, SmallModel, SmallReader
from tests.vlm_readers import query

# --- PP-OCR -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [weights.DETECTION, weights.RECOGNITION])
def test_the_packaged_model_is_an_onnx_file_of_the_wheel(model: str) -> None:
    path = weights.packaged_onnx(model)
    assert path.suffix == ".onnx"
    assert path.stat().st_size > 1e6
    assert weights.onnx_file(model, None) == path


def test_the_recogniser_names_its_characters_each_once() -> None:
    characters = characters_of(weights.packaged_onnx(weights.RECOGNITION))
    assert len(characters) == len(set(characters)) == 18_708
    assert all(len(one) == 1 for one in characters)
    assert weights.listed_characters(weights.packaged_onnx(weights.RECOGNITION)) == []  # they are in the model


def test_a_model_of_ones_own_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "inference.onnx").write_bytes(b"")
    assert weights.onnx_file("any name", tmp_path) == tmp_path / "inference.onnx"


def test_listed_characters_are_texts_whatever_yaml_would_take_them_for(tmp_path: Path) -> None:
    characters = ["1", "y", "n", "~", "=", "-", "'", '"', "#", "二", "\u3000"]
    write_yml(tmp_path, recognition_yml(characters))
    assert weights.listed_characters(tmp_path / "inference.onnx") == characters
    (tmp_path / "inference.yml").write_text("PostProcess: {character_dict: [1, a, 二]}", encoding="utf-8")
    assert weights.listed_characters(tmp_path / "inference.onnx") == ["1", "a", "二"]


@pytest.mark.parametrize("content", [b"", b"- a", b"PostProcess: {}", b"PostProcess: 5", b"a: [", b"\xff\xfe\x00"])
def test_a_list_that_can_not_be_understood_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "inference.yml").write_bytes(content)
    with pytest.raises(ReaderError, match="lists no characters") as caught:
        weights.listed_characters(tmp_path / "inference.onnx")
    assert caught.value.subject == str(tmp_path / "inference.yml")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(weights, "files", missing)
    with pytest.raises(DependencyError, match="weights are not installed") as caught:
        weights.packaged_onnx(weights.DETECTION)
    assert "pip install" in caught.value.way_out
    assert "rapidocr" in caught.value.way_out


@pytest.mark.parametrize("listed", [None, []])
def test_a_package_without_the_file_says_so_too(monkeypatch: pytest.MonkeyPatch, listed: list[str] | None) -> None:
    monkeypatch.setattr(weights, "files", lambda package: listed)
    with pytest.raises(DependencyError, match="weights are not installed"):
        weights.packaged_onnx(weights.RECOGNITION)


def test_another_model_must_be_given_as_a_folder() -> None:
    with pytest.raises(DependencyError, match="is not packaged") as caught:
        weights.packaged_onnx("PP-OCRv6_medium_rec")
    assert weights.RECOGNITION in caught.value.way_out
    assert "ocr.*_dir" in caught.value.way_out


def test_weights_are_found_without_importing_the_package_that_carries_them() -> None:
    code = (
        "import sys; from fusion.ocr.weights import packaged_onnx, RECOGNITION as r; packaged_onnx(r); "
        "sys.exit('rapidocr' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


# --- the second reader's own ----------------------------------------------------------------------------------------

SMALL = Path(fusion.vlm.__file__).parent / "small"


def test_the_small_reader_is_whole_and_every_file_of_it_is_packaged() -> None:
    names = {path.name for path in SMALL.iterdir() if path.is_file()}
    assert {MODEL, HEAD, READER, *GRAPHS.values(), "config.json", "tokenizer.json"} <= names
    settings = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["fusion"]
    for name in names:
        path = PurePosixPath("vlm", "small", name)
        assert any(path.match(pattern) for pattern in patterns), name


def test_every_file_of_the_package_is_in_the_wheel() -> None:
    root = Path(fusion.__file__).parent
    settings = tomllib.loads((root.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["fusion"]
    listed = subprocess.run(["git", "ls-files", "fusion"], cwd=root.parent, capture_output=True, text=True, check=True)
    others = [
        PurePosixPath(name).relative_to("fusion") for name in listed.stdout.splitlines() if not name.endswith(".py")
    ]
    assert len(others) > 20
    assert [
        str(path) for path in others if not any(path.match(pattern.removeprefix("**/")) for pattern in patterns)
    ] == []


def test_the_small_readers_alphabet_is_single_nfc_characters_each_once() -> None:
    settings = json.loads((SMALL / READER).read_text(encoding="utf-8"))
    alphabet = settings["alphabet"]
    assert len(alphabet) == len(set(alphabet))
    assert unicodedata.is_normalized("NFC", alphabet)
    assert set(map(chr, range(32, 127))) <= set(alphabet)
    assert 0 <= settings["softness"] < 1


def test_the_small_reader_says_of_letters_it_knows_whatever_stands_on_the_crop() -> None:
    small = SmallModel(SMALL, threads=1)
    assert small.knows("Napa 0.5 mg ×2")
    assert small.knows("")
    assert not small.knows("第2步")
    for height, width, characters in ((1, 1, 0), (5, 1500, 3), (300, 9, 12), (64, 64, 10), (48, 300, 0)):
        for shade in (0, 255):
            pixels = np.full((height, width, 3), shade, np.uint8)
            look, _ = small.look(pixels, characters)
            assert 0 <= look.quality <= 1
            assert np.isfinite(look.score(["Napa", ""])).all()
            assert set(look.best.greedy) <= set(small.alphabet)
            assert all(0 <= left <= right for left, right in look.place("ab"))
            assert all(-1e4 < score < 0 for score in small.score(pixels, ["Napa", ""]))


def test_the_graphs_of_the_small_reader_are_enough_to_read_with_it(tmp_path: Path) -> None:
    for name in (MODEL, HEAD, READER, *GRAPHS.values()):
        shutil.copy(SMALL / name, tmp_path / name)
    reader = SmallReader(LocalVlm(model=str(tmp_path), threads=1))
    packaged = SmallReader(LocalVlm(threads=1))
    asked = query("Napa 500 mg")
    one, other = reader.look(asked), packaged.look(asked)
    assert isinstance(one, Look)
    assert isinstance(other, Look)
    assert one.score(["Napa", "Nepa"]) == other.score(["Napa", "Nepa"])
    assert one.reading is not None
    assert other.reading is not None
    assert one.reading.text == other.reading.text


def test_the_small_reader_without_its_settings_is_a_glm_like_any_other(tmp_path: Path) -> None:
    without = tmp_path / "without"
    shutil.copytree(SMALL, without, ignore=shutil.ignore_patterns(READER, *GRAPHS.values(), HEAD))
    opened = open_reader(LocalVlm(model=str(without), threads=1))
    assert isinstance(opened, LocalReader)
    opened.close()
