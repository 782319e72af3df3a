"""The engine on real models and the project's own pages; the second reader is a scripted server on this machine."""

from __future__ import annotations

import doctest
import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusion import engine as story
from fusion.config import Config, load_config
from fusion.engine import Engine, over_budget, photographs, transcribe
from fusion.errors import ConfigError, InputError
from fusion.fuse import Fuser
from fusion.page import Page
from tests.vlm_readers import completion, prompt_of, serving

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "eval" / "samples"
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def engine() -> Any:
    """The OCR alone."""
    with Engine(load_config(overrides=["vlm.engine=none"])) as opened:
        yield opened


@pytest.fixture(scope="module")
def asking() -> Any:
    """The OCR and the small reader, which looks at every line."""
    with Engine(load_config(overrides=["vlm.ask=all", "vlm.threads=1"])) as opened:
        yield opened


def served(url: str, *more: str) -> Config:
    sets = ["vlm.engine=served", f"vlm.endpoints=[{url}/v1]", "vlm.retries=0", "vlm.timeout=5"]
    return load_config(overrides=[*sets, *more])


def only(engine: Engine, name: str, **kwargs: Any) -> Page:
    (page,) = engine.read(SAMPLES / name, **kwargs)
    return page


def test_every_line_has_a_place_a_reading_and_decisions(engine: Engine) -> None:
    page = only(engine, "prescription.jpg")
    assert len(page.lines) == 7
    for line in page.lines:
        corners = np.array(line.polygon)
        assert (corners > -20).all()
        assert (corners[:, 0] < page.width + 20).all()
        assert (corners[:, 1] < page.height + 20).all()
        assert line.readings[0].source == "ocr"
        assert all(span.polygon is not None for span in line.spans)
        assert [f.kind for f in line.failures] == ["not_asked"]


def test_a_reader_of_the_result_finds_the_strength_and_where_it_stands(engine: Engine) -> None:
    page = only(engine, "prescription.jpg")
    (line,) = [line for line in page.lines if "120" in line.text]
    at, position = line.text.index("120"), 0
    for span in line.spans:
        if position <= at < position + len(span.text):
            xs = [x for x, _ in span.polygon]
            assert 0 <= min(xs) < max(xs) <= page.width
        position += len(span.text)


def test_places_of_a_turned_page_lie_on_the_photograph(engine: Engine) -> None:
    page = only(engine, "letter_en_skewed.jpg")
    assert abs(page.angle) == pytest.approx(3.5, abs=0.7)
    for line in page.lines:
        (x0, y0), (x1, y1) = line.polygon[0], line.polygon[1]
        slope = np.degrees(np.arctan2(y1 - y0, x1 - x0))
        assert abs(slope) == pytest.approx(3.5, abs=1.5)


def test_reading_order_of_two_columns(engine: Engine) -> None:
    assert [line.text.split("=")[0] for line in only(engine, "two_columns.png").lines][:4] == [
        "8+7",
        "14-6",
        "9×3",
        "36÷4",
    ]


def test_a_page_reads_the_same_alone_and_after_others(engine: Engine) -> None:
    first = only(engine, "note_zh.jpg")
    only(engine, "homework_zh.jpg")
    assert only(engine, "note_zh.jpg") == first


def test_wrong_sums_stay_wrong(engine: Engine) -> None:
    assert "7+5=13" in only(engine, "homework_zh.jpg").text


def test_what_nobody_reads_is_a_gap(engine: Engine) -> None:
    assert only(engine, "forecast_gap.png").text == "明天气温会降到□度"
    assert only(engine, "report_gap.png").text == "请于□月□日前提交报告"


def test_a_squashed_word_is_read_as_a_crop(engine: Engine) -> None:
    assert only(engine, "word_squashed.png", crop=True).text == "Amlodipine"


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.png"):
        transcribe(tmp_path / "nothing.png")


def test_photographs_are_as_displayed() -> None:
    (photo,) = photographs(SAMPLES / "letter_en_skewed.jpg", load_config())
    assert photo.shape == (860, 1200, 3)


# --- with a second reader ------------------------------------------------------------------------------------------


def test_the_informed_prompt_carries_reading_candidates_and_neighbours() -> None:
    with serving(lambda path, body: completion("记得买牛奶和面包")) as server:
        with Engine(served(server.url)) as engine:
            page = only(engine, "note_zh.jpg")
        prompts = [prompt_of(body) for _, _, body in server.requests]
    first, second = page.lines
    informed = [p for p in prompts if first.readings[0].text in p]
    assert informed
    # What else a doubtful character may be stands beside what is read.
    doubtful = [place.candidates for place in first.readings[0].positions if len(place.candidates) > 1]
    named = [[c.text for c in candidates[:2]] for candidates in doubtful if candidates[1].probability > 0.05]
    assert named
    assert any(all(c in p for pair in named for c in pair) and second.readings[0].text in p for p in informed)
    assert first.text == "记得买牛奶和面包"
    assert {r.source for r in first.readings} == {"ocr", "vlm"}
    assert page.lines[1].text == "开会时间改到三点半"  # the same answer there has no ink at all


def test_a_question_is_asked_about_the_page_as_it_was_read(tmp_path: Path) -> None:
    photo = Image.open(SAMPLES / "prescription.jpg").convert("RGB")
    photo.save(tmp_path / "upright.png")
    photo.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png")
    seen = []
    with serving(lambda path, body: completion("It says [l002].")) as server, Engine(served(server.url)) as engine:
        for name in ("upright.png", "turned.png"):
            engine.ask(tmp_path / name, "Which drugs?")
            seen.append(server.requests[-1][2])
    assert seen[0] == seen[1]


def _completing(path: str, body: dict[str, Any]) -> Any:
    prompt = prompt_of(body)
    if "看不清" in prompt and "可能的内容" in prompt:
        return completion("5\n8" if "度" in prompt.split("\n")[0] else ("3" if "第 1 处" in prompt else "15\n30"))
    return completion("明天气温会降到□度")


@pytest.mark.parametrize(
    ("name", "marked", "diplomatic"),
    [
        ("forecast_gap.png", "明天气温会降到[5]度", "明天气温会降到□度"),
        ("report_gap.png", "请于[3]月[15]日前提交报告", "请于□月□日前提交报告"),
    ],
)
def test_gaps_are_completed_when_the_profile_allows_it_and_marked(name: str, marked: str, diplomatic: str) -> None:
    with serving(_completing) as server, Engine(served(server.url, "complete.enabled=true")) as engine:
        page = only(engine, name)
    assert page.marked == marked
    assert page.diplomatic == diplomatic
    assert {s.source for line in page.lines for s in line.spans if s.extent} == {"supplied"}


def test_gaps_are_not_completed_where_it_is_forbidden_or_off() -> None:
    with serving(_completing) as server:
        with Engine(served(server.url, "complete.enabled=true", r"complete.never=['\d']")) as engine:
            page = only(engine, "forecast_gap.png")
        with Engine(served(server.url)) as engine:
            off = only(engine, "forecast_gap.png")
    gap = next(span for span in page.lines[0].spans if span.source == "gap")
    assert page.marked == "明天气温会降到□度"
    assert gap.because == "completion_forbidden"
    assert [c.text for c in gap.alternatives] == ["5", "8"]
    assert off.marked == "明天气温会降到□度"


def test_a_dead_endpoint_leaves_the_ocrs_text_and_says_so(engine: Engine) -> None:
    with Engine(served("http://127.0.0.1:9")) as broken:
        page = only(broken, "note_zh.jpg")
    assert page.text == only(engine, "note_zh.jpg").text
    assert {f.stage for line in page.lines for f in line.failures} == {"vlm"}
    assert "not_asked" not in {f.kind for line in page.lines for f in line.failures}


def test_a_crash_behind_the_stage_door_loses_one_stage_not_the_page(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise RuntimeError("made to fail")

    monkeypatch.setattr(engine._fuser, "fuse", crash)
    page = only(engine, "note_zh.jpg")
    assert len(page.lines) == 2
    for line in page.lines:
        assert line.text == line.readings[0].text
        assert line.spans[0].confidence is None
        assert ("fuse", "crash") in {(f.stage, f.kind) for f in line.failures}
        assert "made to fail" not in str(line.failures)


def test_a_crash_of_the_ocr_is_a_failure_of_the_page(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(engine._ocr, "read", crash)
    page = only(engine, "note_zh.jpg")
    assert page.lines == ()
    assert [(f.stage, f.kind) for f in page.failures] == [("ocr", "crash")]


def test_ask_gives_the_transcript_and_returns_the_answer() -> None:
    def script(path: str, body: dict[str, Any]) -> Any:
        prompt = prompt_of(body)
        return completion("Amoxicillin [l002]" if "Which drugs" in prompt else "x")

    with serving(script) as server, Engine(served(server.url)) as engine:
        answer, page = engine.ask(SAMPLES / "prescription.jpg", "Which drugs?")
        asked = prompt_of(server.requests[-1][2])
    assert answer == "Amoxicillin [l002]"
    assert all(f"[{line.id}] {line.marked}" in asked for line in page.lines)


def test_ask_without_a_model_says_what_to_configure(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"vlm\.engine"):
        engine.ask(SAMPLES / "note_zh.jpg", "?")


def test_the_small_reader_looks_at_every_latin_line_when_told_to(asking: Engine) -> None:
    for name in ("letter_en_skewed.jpg", "prescription.jpg"):
        page = only(asking, name)
        assert page.lines
        assert not page.failures
        for line in page.lines:
            ocr, *others = line.readings
            if not ocr.text.isascii():
                assert [failure.kind for failure in line.failures] == ["not_suited"]
                continue
            hand, seen = others
            assert (ocr.source, hand.source, seen.source) == ("ocr", "hand", "vlm")
            assert seen.recipe.model.startswith("small")
            assert not line.failures


def test_chinese_lines_are_the_ocrs_and_nobody_has_failed(engine: Engine, asking: Engine) -> None:
    page, alone = only(asking, "note_zh.jpg"), only(engine, "note_zh.jpg")
    assert [line.text for line in page.lines] == [line.text for line in alone.lines]
    assert [[failure.kind for failure in line.failures] for line in page.lines] == [["not_suited"]] * 2
    assert page.unasked
    assert not any(line.troubles for line in page.lines)


def _weights(folder: Path, sure: float) -> str:
    """An override that names the packaged weights with another limit of what the OCR is sure of."""
    content = json.loads((files("fusion.fuse") / "weights.json").read_text(encoding="utf-8"))
    content["ask_below"] = sure
    path = folder / f"ask_below_{sure:g}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"fuse.weights={path}"


def test_lines_of_which_the_ocr_is_sure_are_not_read_again(engine: Engine, tmp_path: Path) -> None:
    alone = only(engine, "letter_en_skewed.jpg")
    kinds: dict[float, list[str]] = {}
    with Engine(load_config(overrides=["vlm.threads=1"])) as opened:
        for sure in (0.0, 0.9, 2.0):  # all lines, some, none
            opened._fuser = Fuser(load_config(overrides=[_weights(tmp_path, sure)]).fuse)
            kinds[sure] = []
            for line, own in zip(only(opened, "letter_en_skewed.jpg").lines, alone.lines, strict=True):
                others = [reading for reading in line.readings if reading.source == "vlm"]
                found = [failure.kind for failure in line.failures]
                assert len(others) + len(found) == 1
                kinds[sure] += found
                if found:
                    assert line.text == own.text
                    assert not line.troubles
    assert kinds[0.0] == ["not_needed"] * len(alone.lines)
    assert set(kinds[0.9]) <= {"not_needed", "not_suited"}
    assert "not_needed" not in kinds[2.0]


def test_a_budget_asks_about_the_least_sure_lines_and_no_more(engine: Engine) -> None:
    alone = only(engine, "letter_en_skewed.jpg")
    with Engine(load_config(overrides=["vlm.ask=budget", "vlm.budget=0.4"])) as opened:
        page = only(opened, "letter_en_skewed.jpg")
    asked = {line.id for line in page.lines if any(reading.source == "vlm" for reading in line.readings)}
    assert len(asked) == 2  # of five
    sure = {line.id: line.confidence or 0.0 for line in alone.lines}
    assert max(sure[name] for name in asked) <= min(sure[name] for name in sure.keys() - asked)
    for line, own in zip(page.lines, alone.lines, strict=True):
        if line.id not in asked:
            assert line.text == own.text
            assert {failure.kind for failure in line.failures} <= {"not_asked", "not_needed"}
            assert not line.troubles


@given(
    st.dictionaries(st.integers(0, 40), st.floats(0, 1), max_size=20).map(lambda c: dict(sorted(c.items()))),
    st.floats(0, 20),
)
def test_a_budget_is_spent_on_the_least_sure(confidences: dict[int, float], budget: float) -> None:
    beyond = over_budget(confidences, budget)
    asked = confidences.keys() - set(beyond)
    assert math.floor(budget) <= len(asked) or not beyond
    assert len(asked) <= math.ceil(budget)
    assert all(confidences[n] <= confidences[m] for n in asked for m in beyond)
    assert set(beyond) <= set(over_budget(confidences, budget / 2))  # more money, more lines


def test_the_examples_are_right() -> None:
    assert doctest.testmod(story).failed == 0


def test_a_reader_that_nobody_asks_about_lines_is_still_there() -> None:
    script = serving(lambda path, body: completion("see line [l000]"))
    with script as server, Engine(served(server.url, "vlm.ask=none")) as opened:
        page = only(opened, "note_zh.jpg")
        assert server.requests == []
        assert opened.ask(SAMPLES / "note_zh.jpg", "What?", page=page)[0] == "see line [l000]"
    assert [[failure.kind for failure in line.failures] for line in page.lines] == [["not_asked"]] * 2
    assert page.unasked


def test_a_served_reader_reads_every_line_unless_told_otherwise(tmp_path: Path) -> None:
    with serving(lambda path, body: completion("记得买牛奶和面包")) as server:
        with Engine(served(server.url, _weights(tmp_path, 0.0), "vlm.ask=doubtful")) as opened:
            spared = only(opened, "note_zh.jpg")
        assert server.requests == []
        with Engine(served(server.url, _weights(tmp_path, 0.0))) as opened:
            read = only(opened, "note_zh.jpg")
    assert [[failure.kind for failure in line.failures] for line in spared.lines] == [["not_needed"]] * 2
    assert "not_needed" not in {failure.kind for line in read.lines for failure in line.failures}


@pytest.mark.parametrize("reader", [[], ["vlm.engine=none"]], ids=["small", "none"])
def test_without_a_reader_that_writes_completion_is_refused_and_a_configuration_named(reader: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"complete\.enabled") as caught:
        Engine(load_config(overrides=["complete.enabled=true", *reader]))
    assert (ROOT / named(caught.value)).is_file()


def test_the_small_reader_answers_no_questions_and_names_a_configuration(asking: Engine) -> None:
    with pytest.raises(ConfigError, match=r"vlm\.engine") as caught:
        asking.ask(SAMPLES / "note_zh.jpg", "?")
    assert (ROOT / named(caught.value)).is_file()


def named(error: ConfigError) -> str:
    """The configuration that an error advises."""
    found = re.search(r"configs/\w+\.yaml", error.way_out)
    assert found is not None
    return found.group()


def test_a_local_checkpoint_reads_and_scores_through_the_same_path(tmp_path: Path) -> None:
    from tests.tiny_glm import build

    sets = [
        "vlm.engine=local",
        f"vlm.model={build(tmp_path, 'glm_ocr')}",
        "vlm.threads=1",
        "vlm.max_tokens=8",
        "vlm.attempts=1",
        "vlm.ask=all",
    ]
    with Engine(load_config(overrides=sets)) as engine:
        page = only(engine, "word_squashed.png", crop=True)
    (line,) = page.lines
    assert line.text == "Amlodipine"  # random weights must not change what the ink says
    # The OCR's two looks, and blind and informed, each a reading or a failure.
    assert len(line.readings) + len(line.failures) == 4


def test_a_line_that_its_own_invariants_refuse_does_not_lose_the_page(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise ValueError("text of the page")

    monkeypatch.setattr("fusion.engine.place_spans", crash)
    page = only(engine, "note_zh.jpg")
    assert [line.text for line in page.lines] == [line.readings[0].text for line in page.lines]
    assert "text of the page" not in str(page.failures)


def test_a_crash_in_intake_is_an_input_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("fusion.intake.pages.look", crash)
    with pytest.raises(InputError, match=r"note_zh\.jpg.*RuntimeError"):
        only(engine, "note_zh.jpg")
