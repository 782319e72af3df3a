"""PP-OCR on ONNX Runtime: the same boxes and posteriors as PaddleOCR's own classes, from any thread, and errors by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from eval.paddle_models import recognition_yml, write_yml
from fusion.config import IntakeConfig, OcrConfig
from fusion.errors import ConfigError, DependencyError, ReaderError
from fusion.intake import open_pages
from fusion.ocr import OcrReader, layout, weights
from fusion.ocr.onnx import COLUMN, HEIGHT, OnnxModels, column_px
from fusion.onnx import file_sha256
from tests.paddle_models import PaddleOnOnnx

Pixels = NDArray[np.uint8]
SAMPLES = Path(__file__).parent.parent / "eval" / "samples"
PAGES = ("two_columns.png", "letter_en_skewed.jpg", "prescription_zh.jpg")
CHARACTERS = ["a", "b", "1", "y", "~", "=", "null", "二"]
"""Characters, and words that YAML would take for something else."""


def page(name: str) -> Pixels:
    (image,) = open_pages(SAMPLES / name, IntakeConfig())
    return image.pixels


def boxes_of(models: OnnxModels, pixels: Pixels) -> list[NDArray[np.float64]]:
    return [region.corners for region in models.regions(pixels)]


def crops_of(models: OnnxModels, pixels: Pixels) -> list[Pixels]:
    return [layout.cut_out(pixels, layout.upright_corners(quad)) for quad in boxes_of(models, pixels)]


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def models() -> Iterator[OnnxModels]:
    opened = OnnxModels(OcrConfig())
    yield opened
    opened.close()


# --- beside PaddleOCR ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaddleOnOnnx]:
    pytest.importorskip("paddleocr")
    opened = PaddleOnOnnx(tmp_path_factory.mktemp("models"), OcrConfig())
    yield opened
    opened.close()


def same_boxes(ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]) -> bool:
    return len(ours) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_characters_are_those_of_paddleocr(models: OnnxModels, theirs: PaddleOnOnnx) -> None:
    assert models.characters == theirs.characters
    assert len(models.characters) == 18_710


@pytest.mark.live
@pytest.mark.parametrize("name", PAGES)
def test_boxes_of_a_page_are_those_of_paddleocr(models: OnnxModels, theirs: PaddleOnOnnx, name: str) -> None:
    pixels = page(name)
    found = boxes_of(models, pixels)
    assert len(found) > 4
    assert same_boxes(found, theirs.regions(pixels))


@pytest.mark.live
@pytest.mark.parametrize("size", [(30, 30), (12, 40), (40, 12), (31, 700), (900, 40), (33, 33), (64, 64), (1500, 800)])
def test_boxes_of_an_image_of_any_shape_are_those_of_paddleocr(
    models: OnnxModels, theirs: PaddleOnOnnx, size: tuple[int, int]
) -> None:
    pixels = cv2.resize(page("two_columns.png"), size[::-1], interpolation=cv2.INTER_AREA)
    assert same_boxes(boxes_of(models, pixels), theirs.regions(pixels))


@pytest.mark.live
@pytest.mark.parametrize("name", PAGES)
def test_posteriors_of_crops_are_those_of_paddleocr(models: OnnxModels, theirs: PaddleOnOnnx, name: str) -> None:
    crops = crops_of(models, page(name))[:5]
    for crop, ours in zip(crops, models.posteriors(crops), strict=True):
        expected = theirs.posterior(crop)
        assert ours.dtype == np.float32
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.live
@pytest.mark.parametrize("size", [(1, 1), (48, 320), (48, 321), (20, 15), (97, 1001), (30, 2400), (200, 9)])
def test_posteriors_of_a_crop_of_any_shape_are_those_of_paddleocr(
    models: OnnxModels, theirs: PaddleOnOnnx, size: tuple[int, int]
) -> None:
    (image,) = open_pages(SAMPLES / "word_squashed.png", IntakeConfig(), crop=True)
    crop = cv2.resize(image.pixels, size[::-1])
    (ours,) = models.posteriors([crop])
    np.testing.assert_allclose(ours, theirs.posterior(crop), atol=1e-4)


# --- by itself ----------------------------------------------------------------------------------------------------


def test_a_model_is_named_with_the_digest_of_its_file(models: OnnxModels) -> None:
    for name, file in ((weights.DETECTION, models.detection_model), (weights.RECOGNITION, models.model)):
        assert file == f"{name}@{file_sha256(weights.packaged_onnx(name))[:12]}"


@pytest.mark.live
def test_threads_see_what_one_alone_sees(models: OnnxModels) -> None:
    pixels = page("two_columns.png")
    crops = crops_of(models, pixels)[:4]

    def see(number: int) -> list[NDArray[Any]]:
        return models.posteriors([crops[number]]) if number < len(crops) else boxes_of(models, pixels)

    jobs = range(len(crops) + 1)
    alone = [see(number) for number in jobs]
    with ThreadPoolExecutor(4) as pool:
        for number, together in zip([*jobs] * 2, pool.map(see, [*jobs] * 2), strict=True):
            assert same_boxes(together, alone[number])


@pytest.mark.parametrize(("height", "width"), [(48, 48), (48, 401), (96, 1280), (30, 999), (48, 9000)])
def test_columns_have_the_width_that_they_are_said_to_have(height: int, width: int) -> None:
    scaled = min(3200, -(-width * HEIGHT // height))
    assert column_px(width, height) * scaled / COLUMN == pytest.approx(width)


# --- models of one's own ------------------------------------------------------------------------------------------


def save_models(root: Path, characters: Sequence[str] | None = None, classes: int = len(CHARACTERS) + 2) -> OcrConfig:
    """Detection: dark ink is text. Recognition: each column of 8 px decides by itself, with random weights."""
    generator = np.random.default_rng(0)

    def constant(name: str, values: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(values, dtype=np.float32), name)

    def save(name: str, nodes: list[onnx.NodeProto], values: list[onnx.TensorProto], shape: list[Any]) -> Path:
        floats = onnx.TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("x", floats, shape)]
        outputs = [helper.make_tensor_value_info("y", floats, None)]
        graph = helper.make_graph(nodes, name, inputs, outputs, values)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        if name == "rec" and characters is not None:
            model.metadata_props.append(onnx.StringStringEntryProto(key="character", value="\n".join(characters)))
        (root / name).mkdir(parents=True)
        onnx.save(model, str(root / name / "inference.onnx"))
        return root / name

    darkness = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Sigmoid", ["c"], ["y"])]
    column = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[48, 8]),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Softmax", ["t"], ["y"], axis=-1),
    ]
    shape = numpy_helper.from_array(np.array([1, classes, -1], dtype=np.int64), "shape")
    kernel = constant("w", generator.normal(0, 0.2, (classes, 3, 48, 8)))
    return OcrConfig(
        detection_dir=save("det", darkness, [constant("w", np.full((1, 3, 1, 1), -8 / 3))], [1, 3, None, None]),
        recognition_dir=save("rec", column, [kernel, shape], [1, 3, 48, None]),
        detection_model="own_det",
        recognition_model="own_rec",
    )


def two_bars() -> Pixels:
    pixels = np.full((240, 480, 3), 255, np.uint8)
    pixels[40:70, 60:400] = 20
    pixels[140:170, 60:300] = 20
    return pixels


def test_models_in_folders_are_used(tmp_path: Path) -> None:
    config = save_models(tmp_path, CHARACTERS)
    models = OnnxModels(config)
    assert models.characters == ("blank", *CHARACTERS, " ")
    boxes = sorted((quad.min(axis=0).tolist(), quad.max(axis=0).tolist()) for quad in boxes_of(models, two_bars()))
    for (near, far), (left, top, right, bottom) in zip(
        sorted(boxes, key=lambda box: box[0][1]), ((60, 40, 400, 70), (60, 140, 300, 170)), strict=True
    ):
        assert near[0] <= left <= right - 1 <= far[0]
        assert near[1] <= top <= bottom - 1 <= far[1]
    (full,) = models.posteriors([noise(48, 400)])
    assert full.shape == (400 // COLUMN, len(CHARACTERS) + 2)
    np.testing.assert_allclose(full.sum(axis=1), 1, atol=1e-5)
    reader = OcrReader(config)
    assert "own_rec@" in reader.identity
    assert "own_det@" in reader.identity
    reader.close()


def test_a_column_is_where_its_ink_is(tmp_path: Path) -> None:
    models = OnnxModels(save_models(tmp_path, CHARACTERS))
    pixels = np.full((48, 640, 3), 255, np.uint8)
    (blank,) = models.posteriors([pixels])
    pixels[:, 240:248] = 0
    (marked,) = models.posteriors([pixels])
    assert np.flatnonzero(np.abs(marked - blank).max(axis=1) > 1e-3).tolist() == [240 // COLUMN]


def test_the_threshold_of_the_configuration_is_used(tmp_path: Path) -> None:
    config = save_models(tmp_path, CHARACTERS)
    pale = np.full((240, 480, 3), 255, np.uint8)
    pale[40:70, 60:400] = 120
    for threshold, count in ((0.3, 1), (0.9, 0)):
        found = OnnxModels(config.model_copy(update={"box_threshold": threshold})).regions(pale)
        assert len(found) == count


@pytest.mark.parametrize("side", [960, 96])
@pytest.mark.parametrize("height", [960, 9600])
def test_writing_too_small_for_the_first_map_is_found_on_a_larger_one(tmp_path: Path, side: int, height: int) -> None:
    """At a tenth of its size the writing is gone; a page ten times as long as wide is no reason to make it smaller."""
    models = OnnxModels(save_models(tmp_path, CHARACTERS).model_copy(update={"detection_side": side}))
    striped = np.full((height, 960, 3), 255, np.uint8)
    for top in range(20, height, 40):
        striped[top : top + 10, 100:900] = 0
    found = sorted(boxes_of(models, striped), key=lambda box: float(box[0, 1]))
    assert len(found) == height // 40
    for number, box in enumerate(found):
        assert box[:, 1].mean() == pytest.approx(25 + 40 * number, abs=3)


def test_characters_may_stand_beside_the_model(tmp_path: Path) -> None:
    config = save_models(tmp_path)
    assert config.recognition_dir is not None
    write_yml(config.recognition_dir, recognition_yml(CHARACTERS))
    assert OnnxModels(config).characters == ("blank", *CHARACTERS, " ")


def test_a_model_without_characters_is_refused(tmp_path: Path) -> None:
    config = save_models(tmp_path)
    with pytest.raises(ReaderError, match="names no characters") as caught:
        OnnxModels(config)
    assert "inference.yml" in caught.value.way_out


@pytest.mark.parametrize("content", ["- a\n", "PostProcess: {}\n", "a: [", "PostProcess: 5\n"])
def test_a_character_list_that_can_not_be_understood_is_named(tmp_path: Path, content: str) -> None:
    config = save_models(tmp_path)
    assert config.recognition_dir is not None
    (config.recognition_dir / "inference.yml").write_text(content, encoding="utf-8")
    with pytest.raises(ReaderError, match="lists no characters") as caught:
        OnnxModels(config)
    assert caught.value.subject == str(config.recognition_dir / "inference.yml")


def test_a_character_list_of_another_model_is_refused(tmp_path: Path) -> None:
    config = save_models(tmp_path, CHARACTERS, classes=7)
    with pytest.raises(ReaderError, match=f"has 7 classes for {len(CHARACTERS) + 2} characters"):
        OnnxModels(config).posteriors([noise(48, 320)])


@pytest.mark.parametrize("which", ["detection_dir", "recognition_dir"])
def test_a_folder_that_is_not_there_or_holds_no_model_is_named(tmp_path: Path, which: str) -> None:
    with pytest.raises(DependencyError, match="is not a folder") as caught:
        OnnxModels(OcrConfig(**{which: tmp_path / "none"}))
    assert caught.value.subject == str(tmp_path / "none")
    assert f"ocr.{which}" in caught.value.way_out
    with pytest.raises(DependencyError, match="there is no such file") as caught:
        OnnxModels(OcrConfig(**{which: tmp_path}))
    assert caught.value.subject == str(tmp_path / "inference.onnx")


@pytest.mark.parametrize("which", ["detection_dir", "recognition_dir"])
def test_a_damaged_model_is_named(tmp_path: Path, which: str) -> None:
    config = save_models(tmp_path, CHARACTERS)
    broken = shutil.copytree(getattr(config, which), tmp_path / "broken") / "inference.onnx"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ReaderError, match="is no ONNX model") as caught:
        OnnxModels(config.model_copy(update={which: broken.parent}))
    assert caught.value.subject == str(broken)


def test_another_model_must_be_given_as_a_folder() -> None:
    with pytest.raises(DependencyError, match="is not packaged"):
        OnnxModels(OcrConfig(recognition_model="PP-OCRv6_medium_rec"))


def test_a_device_that_this_runtime_does_not_use_is_refused() -> None:
    """And not: quietly the CPU."""
    with pytest.raises((ConfigError, DependencyError), match="gpu:0"):
        OnnxModels(OcrConfig(device="gpu:0"))
