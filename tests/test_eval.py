"""The evaluation: figures against known values, splits, and a run and a prediction end to end on the samples."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import datasets, metrics
from eval.fit import Case, minimum_risk, platt
from eval.report import RunConfig, Variant, load_run, run
from eval.simulate import SimulatedReader
from fusion.errors import ConfigError, InputError
from fusion.fuse import evidence
from tests.inks import ink

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "eval" / "samples"


def test_cer_is_pooled_not_averaged() -> None:
    counts = metrics.Counts.of(["abcdefghij", "a"], ["abcdefghij", "b"])
    assert counts.cer == pytest.approx(1 / 11)  # the mean of rates would be 0.5
    assert counts.exact_match == 0.5


@given(st.text(max_size=12), st.text(max_size=12))
def test_edits_are_a_metric(a: str, b: str) -> None:
    assert metrics.edits(a, b)[0] == metrics.edits(b, a)[0]
    assert metrics.edits(a, a)[0] == 0


def test_a_grapheme_cluster_is_one_character() -> None:
    assert metrics.edits("e\u0301x", "ex") == (1, 2)


def test_a_paired_difference_of_equal_systems_is_zero() -> None:
    counts = metrics.Counts.of(["abc", "de"], ["abd", "de"])
    assert metrics.cer_difference(counts, counts, 200, 1) == metrics.Interval(0.0, 0.0, 0.0)


def test_an_interval_holds_its_value_and_narrows_with_n() -> None:
    rng = random.Random(3)
    widths = []
    for n in (20, 500):
        counts = metrics.Counts.of(["abcd"] * n, [rng.choice(["abcd", "abce"]) for _ in range(n)])
        interval = metrics.cer_interval(counts, 500, 1)
        assert interval.low <= interval.value <= interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 3


def test_calibration_error_of_known_cases() -> None:
    assert metrics.calibration_error([0.5] * 100, [True, False] * 50) == pytest.approx(0, abs=0.06)
    assert metrics.calibration_error([1.0] * 100, [False] * 100) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "text", "normal"),
    [
        ("letters", "Napa-Extra 500", "napaextra500"),
        ("han", "仍有“铁马”，　Ａ=1", "仍有铁马A=1"),
        ("arithmetic", "3 x 4 − 2", "3×4-2"),
        ("plain", " a  b\nc ", "a b c"),
    ],
)
def test_normalisations(name: str, text: str, normal: str) -> None:
    assert datasets.NORMALISATIONS[name](text) == normal


def test_a_split_reads_line_breaks_and_refuses_other_files(tmp_path: Path) -> None:
    items = datasets.load_split(SAMPLES / "samples.tsv")
    assert any("\n" in item.reference for item in items)
    assert all(item.path.is_file() for item in items)
    (tmp_path / "x.tsv").write_text("a\tb\n")
    with pytest.raises(InputError, match="image, text"):
        datasets.load_split(tmp_path / "x.tsv")


def test_minimum_risk_learns_which_feature_tells_the_truth() -> None:
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(60):
        table = np.zeros((3, len(evidence.FEATURES)))
        truth = int(rng.integers(3))
        table[truth, evidence.FEATURES.index("vlm_match")] = 1.0
        table[:, evidence.FEATURES.index("length")] = rng.normal(size=3)
        cases.append(
            Case(("a", "b", "c"), ("a",), table, np.where(np.arange(3) == truth, 0.0, 4.0), 4, "a", "a.png", None)
        )
    weights = dict(zip(evidence.FEATURES, minimum_risk(cases, 1e-3), strict=True))
    assert weights["vlm_match"] > 2
    assert abs(weights["length"]) < 0.5


def test_platt_recovers_the_map() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.02, 0.98, 4000)
    odds = np.log(p / (1 - p))
    right = (rng.uniform(size=4000) < 1 / (1 + np.exp(-(0.5 * odds + 1)))).astype(float)
    slope, offset = platt(p, right)
    assert (slope, offset) == (pytest.approx(0.5, abs=0.1), pytest.approx(1.0, abs=0.15))


def test_a_simulated_reader_errs_where_the_ink_is_hard() -> None:
    hard, easy = ink(*[{"a": 0.5, "o": 0.5}] * 6), ink("aoaoao")
    reader = SimulatedReader(mend=0.3, invent=0.0)
    rng = random.Random(0)
    wrong = [sum(reader.read(views, "aoaoao", ["x"], rng) != "aoaoao" for _ in range(200)) for views in (easy, hard)]
    assert wrong[1] > wrong[0] + 40
    assert SimulatedReader(invent=1.0).read(easy, "Napa", ["Napa", "Nexum", "Ace"], rng) in {"napa", "nexum"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "eval").glob("*.yaml")), ids=lambda p: p.stem)
def test_evaluations_in_the_repository_load(path: Path) -> None:
    if path.stem == "fit":
        from eval.fit import load_fit

        fit = load_fit(path)
        assert all("train" in source.data.name for source in fit.weights_from + fit.calibrate_on)
    else:
        load_run(path)


def test_a_wrong_evaluation_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("title: x\ndata: y.tsv\nnormalise: none\nvariants: [{name: a}]\n")
    with pytest.raises(ConfigError, match="normalise"):
        load_run(path)


@pytest.mark.live
def test_run_prints_systems_and_oracles_on_the_same_lines(tmp_path: Path) -> None:
    split = tmp_path / "words.tsv"
    (tmp_path / "word.png").write_bytes((SAMPLES / "word_squashed.png").read_bytes())
    split.write_text("image\ttext\twriter\tnote\nword.png\tAmlodipine\t\t\n", encoding="utf-8")
    (tmp_path / "readings.tsv").write_text("image\tqwen\nword.png\tamlodipin\n", encoding="utf-8")
    sets = ("vlm.engine=replay", f"vlm.path={tmp_path}/readings.tsv", "vlm.column=qwen")
    config = RunConfig(
        title="t", data=split, normalise="letters", variants=(Variant(name="fused", set=sets, formulary_from=split),)
    )
    table = run(config, lambda text: None)
    rows = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("| ")}
    assert {"OCR only", "VLM only", "fused", "oracle: OCR n-best"} <= rows.keys()
    assert "1.000" in rows["OCR only"]
    assert "0.100" in rows["VLM only"]
    assert "n = 1" in table


@pytest.mark.live
def test_predict_writes_one_row_per_image(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from eval.__main__ import app

    split = tmp_path / "words.tsv"
    (tmp_path / "word.png").write_bytes((SAMPLES / "word_squashed.png").read_bytes())
    split.write_text("image\ttext\twriter\tnote\nword.png\tAmlodipine\t\t\nlost.png\tX\t\t\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    result = CliRunner().invoke(
        app, ["predict", "configs/base.yaml", "--data", str(split), "--out", str(out), "--set", "ocr.threads=1"]
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(row) for row in out.read_text(encoding="utf-8").splitlines()]
    assert [set(row) for row in rows] == [{"image", "text", "confidence", "review"}] * 2
    assert rows[0]["text"] == "Amlodipine"
    assert rows[1] == {"image": "lost.png", "text": "", "confidence": None, "review": True}
