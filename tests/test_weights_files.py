"""Model folders made from the packaged weights: made once, safe to make twice at a time, never half there; and the
small reader's files as they are packaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import tomllib
import unicodedata
from importlib.metadata import PackageNotFoundError
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import yaml

import fusion.vlm
from fusion.config import LocalVlm, OcrConfig
from fusion.errors import DependencyError, ReaderError
from fusion.ocr import weights
from fusion.ocr.paddle import PaddleEngine
from fusion.vlm.checkpoint import load


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("model", [weights.DETECTION, weights.RECOGNITION])
def test_a_folder_holds_the_weights_and_their_description(cache: Path, model: str) -> None:
    folder = weights.model_folder(model)
    assert folder.parent == cache / "models"
    assert {path.name for path in folder.iterdir()} == {"inference.onnx", "inference.yml"}
    assert (folder / "inference.onnx").read_bytes() == weights.packaged_onnx(model).read_bytes()
    content = yaml.safe_load((folder / "inference.yml").read_text(encoding="utf-8"))
    assert content["Global"]["model_name"] == model
    if model == weights.RECOGNITION:
        characters = content["PostProcess"]["character_dict"]
        assert len(characters) == len(set(characters)) == 18_708
        assert all(isinstance(one, str) and len(one) == 1 for one in characters)  # "1" and "y" are no numbers or yes


def test_the_second_call_makes_nothing(cache: Path) -> None:
    first = weights.model_folder(weights.DETECTION)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert weights.model_folder(weights.DETECTION) == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_the_two_models_have_two_folders(cache: Path) -> None:
    assert weights.model_folder(weights.DETECTION) != weights.model_folder(weights.RECOGNITION)
    assert len(list((cache / "models").iterdir())) == 2


def test_an_upgraded_package_makes_a_new_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = weights.model_folder(weights.DETECTION)
    monkeypatch.setattr(weights, "version", lambda package: "99.0")
    assert weights.model_folder(weights.DETECTION) != old
    assert old.is_dir()


def test_processes_may_make_it_at_once(cache: Path) -> None:
    code = f"from fusion.ocr.weights import model_folder; print(model_folder({weights.DETECTION!r}))"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], answers
    (folder,) = {Path(out.strip()) for out, _ in answers}
    assert {path.name for path in folder.iterdir()} == {"inference.onnx", "inference.yml"}
    assert list((cache / "models").iterdir()) == [folder]  # nothing left over


def test_threads_may_make_it_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = weights.shutil.copy
    quicker: list[Path] = []

    def copy_while_another_thread_makes_it(source: Path, target: Path) -> None:
        copy(source, target)
        monkeypatch.setattr(weights.shutil, "copy", copy)
        thread = threading.Thread(target=lambda: quicker.append(weights.model_folder(weights.DETECTION)))
        thread.start()
        thread.join(60)

    monkeypatch.setattr(weights.shutil, "copy", copy_while_another_thread_makes_it)
    slower = weights.model_folder(weights.DETECTION)
    assert quicker == [slower]
    assert {path.name for path in slower.iterdir()} == {"inference.onnx", "inference.yml"}
    assert list((cache / "models").iterdir()) == [slower]


def test_an_interrupted_making_leaves_no_folder_that_looks_ready(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(weights.yaml, "safe_dump", breaks)
        with pytest.raises(KeyboardInterrupt):
            weights.model_folder(weights.DETECTION)
    folder = weights.model_folder(weights.DETECTION)
    assert (folder / "inference.yml").stat().st_size > 100


def test_a_missing_package_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(weights, "files", missing)
    with pytest.raises(DependencyError, match="weights are not installed") as caught:
        weights.model_folder(weights.DETECTION)
    assert "pip install" in caught.value.way_out
    assert "rapidocr" in caught.value.way_out
    assert not cache.exists()


@pytest.mark.parametrize("listed", [None, []])
def test_a_package_without_the_file_says_so_too(monkeypatch: pytest.MonkeyPatch, listed: list[str] | None) -> None:
    monkeypatch.setattr(weights, "files", lambda package: listed)
    with pytest.raises(DependencyError, match="weights are not installed"):
        weights.packaged_onnx(weights.RECOGNITION)


def test_another_model_must_be_given_as_a_folder() -> None:
    with pytest.raises(DependencyError, match="is not packaged") as caught:
        weights.model_folder("PP-OCRv6_medium_rec")
    assert weights.RECOGNITION in caught.value.way_out
    assert "ocr.*_dir" in caught.value.way_out


def test_weights_are_found_without_importing_the_package_that_carries_them() -> None:
    code = (
        "import sys; from fusion.ocr.weights import packaged_onnx, RECOGNITION as r; packaged_onnx(r); "
        "sys.exit('rapidocr' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_cache_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights.cache_home() == tmp_path / "own"
    monkeypatch.delenv("FUSION_CACHE")
    assert weights.cache_home() == tmp_path / "xdg" / "fusion"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_home() == tmp_path / ".cache" / "fusion"


def test_a_cache_that_can_not_be_written_is_an_error_with_a_way_out(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(ReaderError, match="ocr: "):
        PaddleEngine(OcrConfig())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="is not a folder") as caught:
        PaddleEngine(OcrConfig(detection_dir=tmp_path / "none"))
    assert caught.value.subject == str(tmp_path / "none")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match="can't load the models"):
        PaddleEngine(OcrConfig(detection_dir=tmp_path))


# --- the second reader's own ----------------------------------------------------------------------------------------

SMALL = Path(fusion.vlm.__file__).parent / "small"


def test_the_small_reader_is_whole_and_every_file_of_it_is_packaged() -> None:
    names = {path.name for path in SMALL.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "witness.json", "witness.safetensors"} <= names
    settings = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["fusion"]
    for name in names:
        path = PurePosixPath("vlm", "small", name)
        assert any(path.match(pattern) for pattern in patterns), name


def test_the_small_readers_alphabet_is_single_nfc_characters_each_once() -> None:
    settings = json.loads((SMALL / "witness.json").read_text(encoding="utf-8"))
    alphabet = settings["alphabet"]
    assert len(alphabet) == len(set(alphabet))
    assert unicodedata.is_normalized("NFC", alphabet)
    assert set(map(chr, range(32, 127))) <= set(alphabet)
    assert 0 <= settings["softness"] < 1


def test_the_small_reader_says_of_letters_it_knows_whatever_stands_on_the_crop() -> None:
    checkpoint = load(LocalVlm(threads=1))
    witness = checkpoint.witness
    assert witness is not None
    assert witness.knows("Napa 0.5 mg ×2")
    assert witness.knows("")
    assert not witness.knows("第2步")
    for height, width, characters in ((1, 1, 0), (5, 1500, 3), (300, 9, 12), (64, 64, 10), (48, 300, 0)):
        for shade in (0, 255):
            look, _ = witness.look(np.full((height, width, 3), shade, np.uint8), characters)
            assert 0 <= look.quality <= 1
            assert np.isfinite(look.score(["Napa", ""])).all()
            assert set(look.best.greedy) <= set(witness.alphabet)
            assert all(0 <= left <= right for left, right in look.place("ab"))


def test_a_checkpoint_without_the_witnesss_settings_has_no_witness(tmp_path: Path) -> None:
    without = tmp_path / "without"
    shutil.copytree(SMALL, without)
    (without / "witness.json").unlink()
    assert load(LocalVlm(model=str(without), threads=1)).witness is None
