"""Facts about decisions on the project's own pages that stay true when reading improves.

The readings in `golden/readings.tsv` are written by hand to tempt: corrected sums, tidied words, another dose, an invented
ending. What is asserted is what stands on the paper, what must never be given in to, and what fusion must not make worse;
no misreading of today and no confidence is kept here.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from eval.datasets import load_split
from fusion.config import load_config
from fusion.engine import Engine
from fusion.output.compare import page_cer
from fusion.page import GAP, Page
from fusion.review import review

HERE = Path(__file__).parent / "golden"
ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "eval" / "samples"
SAID = {
    name: said.replace("\\n", "\n").split("\n")
    for name, said in (row.split("\t") for row in (HERE / "readings.tsv").read_text(encoding="utf-8").splitlines()[1:])
}
WRITTEN = {item.image: item.reference for item in load_split(SAMPLES / "samples.tsv")}
PROFILED = {
    "prescription.jpg": "prescription",
    "prescription_zh.jpg": "prescription",
    "homework_zh.jpg": "homework",
    "homework_marks.jpg": "homework",
}
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def tempted() -> dict[str, Page]:
    """Each page with a second reader that says what is written in `readings.tsv`."""
    sets = ["vlm.engine=replay", f"vlm.path={HERE / 'readings.tsv'}", "vlm.column=scripted"]
    with Engine(load_config(overrides=sets)) as engine:
        return {name: next(iter(engine.read(SAMPLES / name))) for name in SAID}


@pytest.fixture(scope="module")
def understood() -> dict[str, Page]:
    """Each page with the profile and the small reader that ship."""
    found: dict[str, Page] = {}
    for profile, names in itertools.groupby(sorted(PROFILED, key=PROFILED.__getitem__), PROFILED.__getitem__):
        with Engine(load_config(ROOT / "configs" / f"{profile}.yaml")) as engine:
            found |= {name: next(iter(engine.read(SAMPLES / name))) for name in names}
    return found


@pytest.mark.parametrize(
    "names", ["Amoxicillin\nParacetamol\nNapa\nLosartan\n", "Vitamin C\n500\n", "D-cap\nCRP\nDrip\n"]
)
def test_a_formulary_leaves_words_alone_that_it_does_not_hold(tmp_path: Path, names: str) -> None:
    (tmp_path / "names.txt").write_text(names, encoding="utf-8")
    sets = ["vlm.engine=none", "domain.profile=prescription", f"domain.formulary={tmp_path / 'names.txt'}"]
    with Engine(load_config(overrides=sets)) as engine:
        page = next(iter(engine.read(SAMPLES / "prescription.jpg")))
    assert page.lines[0].text.startswith("Dr. P. Inkwell") or page.lines[0].text.startswith("Dr.P. Inkwell")
    assert any("500 mg" in line.text for line in page.lines)


@pytest.mark.parametrize("name", SAID)
def test_readings_stay_verbatim_and_fusion_makes_no_page_worse(tempted: dict[str, Page], name: str) -> None:
    page = tempted[name]
    said = [reading.text for line in page.lines for reading in line.readings if reading.source == "vlm"]
    assert set(said) <= set(SAID[name])
    if GAP not in WRITTEN[name]:
        errors = page_cer(page, WRITTEN[name])
        assert errors.fused <= errors.ocr


def test_nothing_gives_in_to_temptation(tempted: dict[str, Page]) -> None:
    text = {name: page.text for name, page in tempted.items()}
    assert "7+5=13" in text["homework_zh.jpg"]  # the sum stays wrong
    assert "12" not in text["homework_zh.jpg"]
    assert "第二步" in text["homework_zh.jpg"]
    assert "三点半" in text["note_zh.jpg"]
    assert "120 mg" in text["prescription.jpg"]  # a dose is not changed
    assert "125" not in text["prescription.jpg"]
    assert "保暖" not in text["forecast_gap.png"]
    assert text["report_gap.png"].count(GAP) >= 2


def test_where_the_ink_allows_it_the_second_reader_helps(tempted: dict[str, Page]) -> None:
    assert "面包" in tempted["note_zh.jpg"].text
    assert "Paracetamol" in tempted["prescription.jpg"].text


def test_a_disputed_dose_is_the_first_thing_to_look_at_and_a_changed_one_is_marked(tempted: dict[str, Page]) -> None:
    page = tempted["prescription.jpg"]
    found = review(page, 0.05)
    assert any("120" in item.text and "disagree" in " ".join(item.reasons) for item in found.items)
    for line in page.lines:
        own = next(reading.text for reading in line.readings if reading.source == "ocr")
        if line.text.startswith("1 ") and not own.startswith("1 "):
            assert line.spans[0].because == "quantity_changed"
    assert found.flagged < found.total


def fields(page: Page, name: str) -> list[str]:
    return [field.text for record in page.records for field in record.fields if field.name == name]


def test_what_a_profile_understands_is_what_stands_there(understood: dict[str, Page]) -> None:
    assert fields(understood["prescription.jpg"], "drug") == ["Amoxicillin", "Paracetamol", "Napa"]
    assert "7" in " ".join(fields(understood["prescription.jpg"], "duration"))
    assert fields(understood["prescription_zh.jpg"], "drug") == ["阿莫西林", "布洛芬"]
    assert [check.kind for check in understood["homework_zh.jpg"].checks] == ["teacher_writing", "sum_wrong"]
    marked = understood["homework_marks.jpg"]
    assert {check.kind for check in marked.checks} == {"teacher_tick", "teacher_cross", "sum_wrong"}
    marks: list[tuple[str, Any]] = [(span.text, span.mark) for line in marked.lines for span in line.spans if span.mark]
    assert "".join(text for text, mark in marks if mark == "deleted").startswith("see")
    assert [text for text, mark in marks if mark == "added"] == ["red"]
    assert {"12+30=42", "7×8=54"} <= set(fields(marked, "sum"))
