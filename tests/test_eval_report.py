"""The report: curves against known values, reads that are kept, systems of others, and a small report end to end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import outside, plots, trust
from eval import rules as deciding
from eval.calibrate import right_stretches, wrong_in
from eval.datasets import load_split
from eval.metrics import Interval, word_counts
from eval.outside import Task, readings
from eval.report import ReportConfig, SetConfig, load_report, read_set, report
from eval.rules import OFF, Rules, kept_splits
from eval.runs import RunConfig, Variant, load_run
from eval.systems import engine_for
from eval.trust import Stretches
from fusion.errors import ConfigError
from fusion.fuse import model

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "eval" / "samples"
SECRET = "Amlodipine"


def stretches(confidences: list[float], wrong: list[int], clusters: list[str] | None = None) -> Stretches:
    names = clusters or [str(n) for n in range(len(wrong))]
    rows = [(c, 1 - c, c < 0.5, False, w, name) for c, w, name in zip(confidences, wrong, names, strict=True)]
    return Stretches.of(rows)


def risk(found: Stretches) -> trust.Risk:
    return trust.risk(found, found.clusters, rounds=100)


some = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=40)

# --- curves -------------------------------------------------------------------------------------------------------


@given(some)
def test_all_accepted_is_the_error_rate_and_no_order_is_better_than_the_best(rows: list[tuple[float, int]]) -> None:
    found = stretches([c for c, _ in rows], [w for _, w in rows])
    curve = risk(found)
    assert curve.values[0, -1] == pytest.approx(found.mistaken.mean())
    assert curve.best - 1e-9 <= curve.area.value <= 1
    perfect = risk(stretches([float(not w) for _, w in rows], [w for _, w in rows]))
    assert perfect.area.value == pytest.approx(perfect.best)


@given(some)
def test_who_looks_at_everything_finds_everything(rows: list[tuple[float, int]]) -> None:
    caught = trust.capture(stretches([c for c, _ in rows], [w for _, w in rows]))
    assert (np.diff(caught.caught) >= 0).all()
    assert caught.caught[-1] == (1.0 if any(w for _, w in rows) else 0.0)
    assert caught.caught_at(0.0) == 0.0


def test_what_is_flagged_is_looked_at_first() -> None:
    found = stretches([0.4, 0.9, 0.3, 0.8], [2, 0, 1, 1])
    caught = trust.capture(found)
    assert found.dearest.tolist() == [2, 0, 3, 1]
    assert caught.review == (0.5, 0.75)
    assert caught.looked_for(0.7) == 0.5


def test_an_interval_widens_when_errors_come_together() -> None:
    confidences, wrong = [0.5] * 40, [1, 0] * 20
    apart = risk(stretches(confidences, wrong)).at[-1]
    together = risk(stretches(confidences, sorted(wrong), ["a"] * 20 + ["b"] * 20)).at[-1]
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_two_systems_are_resampled_alike() -> None:
    found = stretches([0.9, 0.8, 0.3, 0.2], [0, 1, 0, 1])
    assert trust.area_difference(risk(found), risk(found)) == Interval(0, 0, 0)


def test_a_confidence_that_holds_lies_on_the_diagonal() -> None:
    sure = [0.2] * 100 + [0.8] * 100
    (said, right), error = trust.reliability(stretches(sure, [1, 1, 1, 1, 0] * 20 + [0, 0, 0, 0, 1] * 20))
    assert error == pytest.approx(0)
    assert said == pytest.approx(right)


@given(st.text(alphabet="ab c", max_size=12), st.text(alphabet="ab c", max_size=12))
def test_a_stretch_is_right_when_no_character_of_it_is_wrong(text: str, reference: str) -> None:
    counts = wrong_in(text, reference, "plain")
    assert right_stretches(text, reference, "plain") == [None if n is None else n == 0 for n in counts]


def test_words_are_counted_without_what_is_no_word() -> None:
    counts = word_counts(
        ["Napa - 500 mg", "a b"], ["napa 50 mg", "a b c"], lambda text: re.sub(r"[^a-z0-9]", "", text.lower())
    )
    assert counts.edits.tolist() == [1, 1]
    assert counts.lengths.tolist() == [3, 2]


# --- reads that are kept, and rules that are left out -------------------------------------------------------------


@pytest.mark.live
def test_what_was_read_is_not_read_again_and_other_rules_decide_on_the_same_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item for item in load_split(SAMPLES / "samples.tsv") if item.image == "word_squashed.png"]
    same = {"change": 2.0}  # as packaged
    rules = [
        Rules(),
        Rules(same),
        Rules({"experts": {"hand": 0, "reader": 0, "decoder": 0}}),
        Rules(off=["agreed_stays"]),
    ]
    with engine_for(None, []) as engine:
        first, again, without, _ = kept_splits(engine, rules, items, tmp_path, "crop", crop=True)
    assert first[0].pages[0].lines[0].spans == again[0].pages[0].lines[0].spans
    assert first[0].fresh
    assert not again[0].fresh
    assert without[0].confidence != first[0].confidence
    monkeypatch.setattr(deciding, "read_split", lambda *_, **__: pytest.fail("it was read again"))
    with engine_for(None, []) as engine:
        assert kept_splits(engine, rules, items, tmp_path, "crop", crop=True)[2] == without


def test_a_rule_is_off_only_meanwhile() -> None:
    before = model.LOST, model._keeps
    with Rules(off=list(OFF)).applied():
        assert model.LOST > 1e6
        assert model._keeps("a", ["b"], [True], None)
    assert before == (model.LOST, model._keeps)


# --- systems of others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RapidOCR", "Tesseract"])
def test_a_system_of_others_reads_a_word_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if outside.SYSTEMS[name].version() is None:
        pytest.skip(f"{name} is not installed")
    word, kept = SAMPLES / "word_squashed.png", tmp_path / "outside.jsonl"
    said = readings(name, [word, word], Task(crop=True, chinese=False), kept)
    assert not isinstance(said, str)
    assert said[0] == said[1]
    (_, score), *_ = said[0].lines
    assert score is not None
    assert 0 <= score <= 1
    assert len(kept.read_text(encoding="utf-8").splitlines()) == 1
    monkeypatch.setattr(outside, "_asked", lambda *_: pytest.fail("it was asked again"))
    assert readings(name, [word], Task(crop=True, chinese=False), kept) == said[:1]


def test_a_system_that_is_not_installed_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    why = readings("Tesseract", [SAMPLES / "word_squashed.png"], Task(crop=True, chinese=False), None)
    assert why == "not installed: apt-get install tesseract-ocr tesseract-ocr-chi-sim"


@pytest.mark.live
def test_a_system_that_fails_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    why = readings("RapidOCR", [tmp_path / "x.png"], Task(crop=True, chinese=False), None)
    assert isinstance(why, str)
    assert why.startswith("failed after 0 of 1 images")


# --- the report ---------------------------------------------------------------------------------------------------


def small(folder: Path, *, private: bool) -> ReportConfig:
    """A report on one word."""
    (folder / "word.png").write_bytes((SAMPLES / "word_squashed.png").read_bytes())
    (folder / "words.tsv").write_text(f"image\ttext\twriter\tnote\nword.png\t{SECRET}x\t\t\n", encoding="utf-8")
    run = {"title": "words", "data": str(folder / "words.tsv"), "normalise": "letters", "variants": [{"name": "fused"}]}
    (folder / "run.yaml").write_text(json.dumps(run), encoding="utf-8")
    one = SetConfig(name="words", run=folder / "run.yaml", base="fused", private=private)
    without = Variant(name="recogniser", weights={"experts": {"hand": 0}})
    return ReportConfig(sets=(one,), outside=("RapidOCR", "Tesseract"), ablations=(without,))


@pytest.mark.live
@pytest.mark.parametrize("private", [False, True])
def test_a_report_is_one_file_whose_drawings_hold_no_text_of_the_data(tmp_path: Path, private: bool) -> None:
    text = report(small(tmp_path, private=private), tmp_path / "out", lambda text: None)
    assert "| words (1) | 0.091" in text
    assert "| words | fused | 0.000 [0.000, 0.000] | 0.091" in text
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page) == []
    assert re.findall(r"url\((?!#)[^)]*\)|@import", page) == []
    assert page.count("<svg") == 6
    for drawing in (tmp_path / "out" / "pictures").iterdir():
        assert SECRET not in drawing.read_text(encoding="utf-8")
    assert ("data:image/jpeg" in page) == (SECRET in page) == (not private)
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {"report.html", "report.md", "pictures"} | (
        set() if private else {"reads", "store", "outside.jsonl"}
    )


def test_an_ablation_that_changes_nothing_is_drawn_as_nothing() -> None:
    assert plots.ablations({"set": {"a": None, "b": Interval(0.1, 0.05, 0.2)}}).startswith("<svg")


def test_equal_figures_give_equal_drawings() -> None:
    rows = [("fused", "fused", Interval(0.1, 0.05, 0.2))]
    assert plots.forest(rows) == plots.forest(rows)


def test_the_report_in_the_repository_leaves_something_out_of_variants_that_there_are() -> None:
    config = load_report(ROOT / "configs" / "eval" / "all.yaml")
    assert set(config.outside) == set(outside.SYSTEMS)
    for one in config.sets:
        assert one.base in {variant.name for variant in load_run(ROOT / one.run).variants}
    assert [one.private for one in config.sets if "rx_pages" in str(one.run)] == [True]
    experts = {name for variant in config.ablations for name in variant.weights.get("experts", {})}
    assert experts | {"ocr"} == set(model.EXPERTS)


def test_a_wrong_report_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("sets: []\n")
    with pytest.raises(ConfigError, match="sets"):
        load_report(tmp_path / "x.yaml")
    config = small(tmp_path, private=False)
    wrong = config.sets[0].model_copy(update={"base": "fusd"})
    with pytest.raises(ConfigError, match="Set `base` to one of: fused"):
        read_set(wrong, config, tmp_path, lambda text: None)


def test_a_limit_draws_the_same_rows_again() -> None:
    from eval.runs import items_of

    config = RunConfig(
        title="t", data=SAMPLES / "samples.tsv", normalise="plain", limit=3, variants=(Variant(name="fused"),)
    )
    assert items_of(config) == items_of(config)
    assert len(items_of(config)) == 3
