"""The PaddlePaddle runtime, end to end, on two tiny networks made here: what a user with PP-OCRv6-medium runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.paddle_models import detection_yml, recognition_yml, write_yml
from fusion.config import OcrConfig
from fusion.errors import DependencyError, ReaderError
from fusion.ink import PageImage
from fusion.ocr import OcrReader, paddle
from fusion.ocr.onnx import COLUMN

pytest.importorskip("paddleocr")
pytest.importorskip("paddle")

CHARACTERS = ["a", "b", "c", "ß", "二"]
CLASSES = ("blank", *CHARACTERS, " ")


def save_models(root: Path) -> tuple[Path, Path]:
    """Detection: dark ink is text. Recognition: each column of 8 px decides by itself, with random weights."""
    import paddle as framework
    from paddle import nn
    from paddle.static import InputSpec

    class Detection(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            even = nn.initializer.Constant(-8 / 3)
            self.darkness = nn.Conv2D(3, 1, 1, weight_attr=even, bias_attr=nn.initializer.Constant(0.0))

        def forward(self, x: Any) -> Any:
            return nn.functional.sigmoid(self.darkness(x))

    class Recognition(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.column = nn.Conv2D(3, 16, (48, 8), stride=(48, 8))
            self.classes = nn.Linear(16, len(CLASSES))

        def forward(self, x: Any) -> Any:
            columns = nn.functional.relu(self.column(x)).squeeze(2).transpose([0, 2, 1])
            return nn.functional.softmax(self.classes(columns) * 3, axis=-1)

    framework.seed(0)
    models: list[tuple[str, Any, list[int | None], dict[str, Any]]] = [
        ("det", Detection(), [None, 3, None, None], detection_yml()),
        ("rec", Recognition(), [None, 3, 48, None], recognition_yml(CHARACTERS)),
    ]
    for name, network, shape, description in models:
        network.eval()
        framework.jit.save(network, str(root / name / "inference"), input_spec=[InputSpec(shape, "float32", "x")])
        write_yml(root / name, description)
        assert {"inference.json", "inference.pdiparams"} <= {path.name for path in (root / name).iterdir()}
    return root / "det", root / "rec"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> OcrConfig:
    detection, recognition = save_models(tmp_path_factory.mktemp("models"))
    return OcrConfig(engine="paddle", detection_dir=detection, recognition_dir=recognition, threads=1)


@pytest.fixture(scope="module")
def reader(config: OcrConfig) -> Iterator[OcrReader]:
    reader = OcrReader(config)
    yield reader
    reader.close()


def page_of(pixels: NDArray[np.uint8]) -> PageImage:
    return PageImage("made here", "0" * 64, pixels, pixels, np.eye(3))


def two_bars() -> NDArray[np.uint8]:
    pixels = np.full((240, 480, 3), 255, np.uint8)
    pixels[40:70, 60:400] = 20
    pixels[140:170, 60:300] = 20
    return pixels


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- posteriors ---------------------------------------------------------------------------------------------------


def test_characters_are_the_blank_the_list_and_the_space(reader: OcrReader) -> None:
    assert reader._engine.characters == CLASSES


@pytest.mark.parametrize(("height", "width"), [(48, 48), (48, 320), (48, 401), (96, 1280), (30, 999), (48, 9000)])
def test_a_posterior_has_one_row_of_probabilities_per_column(reader: OcrReader, height: int, width: int) -> None:
    (full,) = reader._engine.posteriors([noise(height, width)])
    scaled = min(3200, max(320, width * 48 / height))
    assert full.dtype == np.float32
    assert full.shape[1] == len(CLASSES)
    assert abs(full.shape[0] - scaled / 8) <= 1
    assert full.sum(axis=1) == pytest.approx(np.ones(len(full)), abs=1e-5)
    assert (full >= 0).all()


def test_a_column_is_where_its_ink_is(reader: OcrReader) -> None:
    pixels = np.full((48, 640, 3), 255, np.uint8)
    (blank,) = reader._engine.posteriors([pixels])
    pixels[:, 240:248] = 0
    (marked,) = reader._engine.posteriors([pixels])
    assert np.flatnonzero(np.abs(marked - blank).max(axis=1) > 1e-3).tolist() == [240 // COLUMN]


def test_colours_reach_the_networks_as_blue_green_red(reader: OcrReader) -> None:
    pixels = noise(48, 320)
    (full,) = reader._engine.posteriors([pixels])
    (swapped,) = reader._engine.posteriors([np.ascontiguousarray(pixels[:, :, ::-1])])
    assert np.abs(full - swapped).max() > 1e-3
    assert np.array_equal(reader._engine.posteriors([pixels])[0], full)


def test_threads_take_turns(reader: OcrReader, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = [noise(48, 100 + 60 * seed, seed) for seed in range(8)]
    alone = [reader._engine.posteriors([crop])[0] for crop in crops]
    assert isinstance(reader._engine, paddle.PaddleModels)
    predict = reader._engine._recognizer.predict

    def slow(*args: Any, **settings: Any) -> Any:
        result = predict(*args, **settings)
        time.sleep(0.005)  # time for another thread to come between
        return result

    monkeypatch.setattr(reader._engine._recognizer, "predict", slow)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda crop: reader._engine.posteriors([crop])[0], crops))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


# --- pages --------------------------------------------------------------------------------------------------------


def test_a_page_is_read_with_both_networks(reader: OcrReader) -> None:
    upper, lower = reader.read(page_of(two_bars()))
    for line, (left, top, right, bottom) in ((upper, (60, 40, 400, 70)), (lower, (60, 140, 300, 170))):
        corners = np.array(line.polygon)
        assert (corners.min(axis=0) <= (left, top)).all()
        assert (corners.max(axis=0) >= (right - 1, bottom - 1)).all()
        assert line.reading is not None
        assert line.reading.recipe.engine == "pp-ocr/paddle"
        assert set(line.reading.text) <= set(CLASSES[1:])


def test_a_crop_is_read_without_detection(reader: OcrReader) -> None:
    (line,) = reader.read(page_of(noise(48, 400)), crop=True)
    assert line.reading is not None
    assert line.reading.nbest
    assert line.ink is not None
    scores = line.ink.score([h.text for h in line.reading.nbest])
    assert all(score <= 0 for score in scores)


# --- what a user can get wrong ------------------------------------------------------------------------------------


def test_the_runtime_packages_no_weights(config: OcrConfig) -> None:
    with pytest.raises(DependencyError, match="packages no weights") as caught:
        OcrReader(config.model_copy(update={"recognition_dir": None}))
    assert "ocr.recognition_dir" in caught.value.way_out


@pytest.mark.parametrize("missing", ["PaddleOCR", "PaddlePaddle"])
def test_a_missing_runtime_says_how_to_install_it(
    config: OcrConfig, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    real = paddle.version

    def version(package: str) -> str:
        if package.startswith(missing.lower()):
            raise PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(paddle, "version", version)
    with pytest.raises(DependencyError, match=f"{missing} is not installed") as caught:
        OcrReader(config)
    assert "fusion[paddle]" in caught.value.way_out


@pytest.mark.parametrize("file", ["inference.yml", "inference.json", "inference.pdiparams"])
def test_a_folder_that_lacks_a_file_is_refused(config: OcrConfig, tmp_path: Path, file: str) -> None:
    assert config.recognition_dir is not None
    for path in config.recognition_dir.iterdir():
        if path.name != file:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ReaderError, match="can't load the models"):
        OcrReader(config.model_copy(update={"recognition_dir": tmp_path}))


def test_a_folder_that_is_not_there_is_named(config: OcrConfig, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="is not a folder") as caught:
        OcrReader(config.model_copy(update={"detection_dir": tmp_path / "none"}))
    assert caught.value.subject == str(tmp_path / "none")


def test_the_name_of_another_model_is_refused(config: OcrConfig) -> None:
    with pytest.raises(ReaderError, match="can't load the models"):
        OcrReader(config.model_copy(update={"recognition_model": "PP-OCRv6_medium_rec"}))


def test_a_gpu_that_is_not_there_is_refused(config: OcrConfig) -> None:
    import paddle as framework

    if framework.device.is_compiled_with_cuda():
        pytest.skip("this PaddlePaddle has a GPU")
    with pytest.raises((DependencyError, ReaderError), match="gpu"):  # and not: quietly the CPU
        OcrReader(config.model_copy(update={"device": "gpu:0"}))
