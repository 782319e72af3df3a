"""Decisions on the project's own pages against scripted second readings, kept as JSON.

The readings in `golden/readings.tsv` are written by hand to tempt: corrected sums, tidied words, another dose, an invented
ending. A change of decisions shows here as a difference to be looked at; `FUSION_GOLDEN=write pytest tests/test_golden.py`
writes the files anew, on purpose. Confidences are left out: a refit moves them all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fusion.config import load_config
from fusion.engine import Engine

HERE = Path(__file__).parent / "golden"
ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "eval" / "samples"
NAMES = [row.split("\t")[0] for row in (HERE / "readings.tsv").read_text(encoding="utf-8").splitlines()[1:]]
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def engine() -> Any:
    sets = ["vlm.engine=replay", f"vlm.path={HERE / 'readings.tsv'}", "vlm.column=scripted"]
    with Engine(load_config(overrides=sets)) as opened:
        yield opened


def decisions(engine: Engine, name: str) -> list[dict[str, Any]]:
    (page,) = engine.read(SAMPLES / name)
    return [
        {
            "readings": [reading.text for reading in line.readings],
            "text": line.text,
            "spans": [[span.text, span.source, span.because] for span in line.spans],
            "troubles": [failure.kind for failure in line.troubles],
        }
        for line in page.lines
    ]


def understood(engine: Engine, name: str) -> dict[str, Any]:
    (page,) = engine.read(SAMPLES / name)
    return {
        "text": page.text,
        "marks": [[span.text, span.mark] for line in page.lines for span in line.spans if span.mark],
        "records": [[record.kind, [[field.name, field.text] for field in record.fields]] for record in page.records],
        "checks": [[check.kind, check.message] for check in page.checks],
    }


PROFILED = [
    ("prescription", "prescription.jpg"),
    ("prescription", "prescription_zh.jpg"),
    ("homework", "homework_zh.jpg"),
    ("homework", "homework_marks.jpg"),
]


@pytest.mark.parametrize(("profile", "name"), PROFILED)
def test_what_a_profile_understands_is_as_kept(profile: str, name: str) -> None:
    """With the configuration that ships, the small reader included."""
    path = HERE / "profiles" / f"{name}.json"
    with Engine(load_config(ROOT / "configs" / f"{profile}.yaml")) as engine:
        found = understood(engine, name)
    if os.environ.get("FUSION_GOLDEN") == "write":
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


def test_what_is_kept_of_the_profiles_is_what_stands_there() -> None:
    kept = {name: json.loads((HERE / "profiles" / f"{name}.json").read_text(encoding="utf-8")) for _, name in PROFILED}
    drugs = {
        name: [field for _, fields in one["records"] for key, field in fields if key == "drug"]
        for name, one in kept.items()
    }
    assert drugs["prescription.jpg"] == ["Amoxicillin", "Paracetamol", "Napa"]
    assert drugs["prescription_zh.jpg"] == ["阿莫西林", "布洛芬"]
    assert [kind for kind, _ in kept["homework_zh.jpg"]["checks"]] == ["teacher_writing", "sum_wrong"]
    assert {kind for kind, _ in kept["homework_marks.jpg"]["checks"]} == {"teacher_tick", "teacher_cross", "sum_wrong"}
    marks = kept["homework_marks.jpg"]["marks"]
    assert "".join(text for text, mark in marks if mark == "deleted").startswith("see")
    assert [text for text, mark in marks if mark == "added"] == ["red"]


@pytest.mark.parametrize("name", NAMES)
def test_decisions_are_as_kept(engine: Engine, name: str) -> None:
    path = HERE / f"{name}.json"
    found = decisions(engine, name)
    if os.environ.get("FUSION_GOLDEN") == "write":
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


def test_what_is_kept_gives_in_to_no_temptation() -> None:
    kept = {
        n: "\n".join(line["text"] for line in json.loads((HERE / f"{n}.json").read_text(encoding="utf-8")))
        for n in NAMES
    }
    assert "7+5=13" in kept["homework_zh.jpg"]  # the sum stays wrong
    assert "第二步" in kept["homework_zh.jpg"]
    assert "三点半" in kept["note_zh.jpg"]
    assert "面包" in kept["note_zh.jpg"]  # and where the ink allows it, the second reader helps
    assert "120 mg" in kept["prescription.jpg"]  # a dose is not changed
    assert "保暖" not in kept["forecast_gap.png"]
    assert kept["report_gap.png"].count("□") >= 2
