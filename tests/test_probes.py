"""Each probe of `eval.probes` as a test: the real engine, a few lines, readers that are wrong, paper without writing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from eval import probes
from eval.probes import FAULTS, PAPERS, SETTINGS, Finding, wilson, wrong_hint
from eval.systems import engine_for
from fusion.engine import Engine
from fusion.ink import Evidence

pytestmark = pytest.mark.live
PAGE = "prescription.jpg"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engine_for(None, (*SETTINGS, "ocr.threads=1", "vlm.threads=1")) as opened:
        yield opened


@pytest.fixture(scope="module")
def seen(engine: Engine) -> list[Evidence]:
    (page,) = probes.evidences(engine, [PAGE])
    return [replace(page, lines=page.lines[2:5])]


def counts(found: Iterator[Finding]) -> dict[str, int]:
    listed = list(found)
    assert all(one.n > 0 for one in listed)
    return {one.question: one.count for one in listed}


@pytest.mark.parametrize("kind", PAPERS)
def test_where_nothing_is_written_nothing_is_read(engine: Engine, seen: list[Evidence], kind: str) -> None:
    found = counts(probes.no_writing(engine, seen, 2, [kind]))
    assert set(found.values()) == {0}


@pytest.mark.parametrize("number", [1, 2])
def test_what_reads_better_in_the_mirror_shows_through(engine: Engine, seen: list[Evidence], number: int) -> None:
    crop = seen[0].lines[number].line.crop
    (page,) = engine.read(probes.paper("see-through", number, crop), crop=True)
    (line,) = page.lines
    assert line.text == ""
    assert [failure.kind for failure in line.failures if failure.stage == "ocr"] == ["unread"]
    (page,) = engine.read(crop, crop=True)
    assert page.diplomatic


def test_a_wrong_hint_is_not_followed(engine: Engine, seen: list[Evidence]) -> None:
    assert set(counts(probes.wrong_hints(engine, seen, 2)).values()) == {0}


def test_an_echo_changes_no_text(engine: Engine, seen: list[Evidence]) -> None:
    assert counts(probes.echo(engine, seen))["the text changes"] == 0


def test_what_was_read_elsewhere_is_not_written_here(engine: Engine, seen: list[Evidence]) -> None:
    found = counts(probes.elsewhere(engine, seen))
    assert {count for question, count in found.items() if "another line" in question} == {0}


def test_a_broken_answer_changes_nothing(engine: Engine, seen: list[Evidence]) -> None:
    found = counts(probes.faults(engine, seen))
    assert len(found) == len(FAULTS)
    assert set(found.values()) == {0}


def test_a_page_on_its_side_or_its_head_reads_the_same(engine: Engine) -> None:
    found = counts(probes.turned(engine, ["note_zh.jpg"]))
    assert next(count for question, count in found.items() if "order aside" in question) == 0


@pytest.mark.parametrize("weight", [0, 1])
def test_mistakes_stand_as_they_are_written(weight: int) -> None:
    with engine_for(None, (f"fuse.language_weight={weight}", "vlm.engine=none", "ocr.threads=1")) as engine:
        (page,) = engine.read(probes.SAMPLES / "homework_zh.jpg")
    assert "7+5=13" in page.text
    assert "在检查一遍" in page.text


def test_a_wrong_hint_is_another_text_of_the_same_kind() -> None:
    for text in ("Paracetamol 500 mg", "记得买牛奶和面包", "Rx"):
        hints = {wrong_hint(text, random.Random(n)) for n in range(20)}
        assert text not in hints
    assert wrong_hint("□ …", random.Random(1)) == "□ …"


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (0, 0)])
def test_the_interval_of_a_share_holds_it(count: int, n: int) -> None:
    low, high = wilson(count, n)
    assert 0 <= low <= count / max(1, n) <= high <= 1
    assert wilson(10 * count, 10 * n)[1] - wilson(10 * count, 10 * n)[0] < high - low or n == 0


def test_the_table_has_a_row_for_each_finding() -> None:
    assert probes.table([Finding("echo", "the text changes", 0, 3)]).count("\n") == 2
