"""The evaluation: figures against known values, splits, and a run and a prediction end to end on the samples."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eval import datasets, metrics
from eval.blind import BlindReader, Sight
from eval.calibrate import Decided, calibration, confidences, margin_for, sure_from, thresholds
from eval.cases import WITNESS, Case
from eval.fit import PARTS, Fitted, load_fit, minimum_risk
from eval.overcorrection import HANDS, NORMAL, Mistake, mistakes, outcomes
from eval.overcorrection import table as overcorrection_table
from eval.report import RunConfig, Variant, load_run, run
from eval.simulate import SimulatedReader
from fusion.domain import arithmetic
from fusion.errors import ConfigError, InputError
from fusion.fuse import evidence
from fusion.ink import Ink
from fusion.page import Failure, Reading
from fusion.vlm import Answer, Query
from tests.inks import ink
from tests.vlm_readers import query

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


def test_a_threshold_keeps_its_share_of_wrong_words() -> None:
    rng = random.Random(5)
    words = [(p, rng.random() < p) for p in (rng.random() for _ in range(4000))]
    found = thresholds(words, (0.01, 0.05, 0.2))
    assert [share for share, _ in found] == [0.05, 0.2] or found[0][0] == 0.01
    for share, bound in found:
        kept = [right for p, right in words if p >= bound]
        assert sum(not right for right in kept) <= share * (len(kept) + 1)
    assert [bound for _, bound in found] == sorted((bound for _, bound in found), reverse=True)
    assert thresholds([(0.9, False)] * 30, (0.1,)) == []


def test_mistakes_on_purpose_are_mistakes() -> None:
    made = mistakes()
    assert len({mistake.text for mistake in made}) == len(made)
    assert {mistake.kind for mistake in made} == set(HANDS) == set(NORMAL)
    for mistake in made:
        assert mistake.wrong in mistake.text
        assert mistake.wrong != mistake.right
        if mistake.kind == "wrong sum":
            wrong, right = arithmetic.check(mistake.wrong), arithmetic.check(mistake.right)
            assert wrong is not None
            assert right is not None
            assert (wrong.holds, right.holds) == (False, True)


def test_what_is_as_written_and_what_was_mended() -> None:
    made = [Mistake("wrong sum", "7+5=13", "7+5=13", "7+5=12")] * 3 + [Mistake("misspelling", "a peir", "peir", "pair")]
    kept, mended = outcomes(["7 + 5 = 13", "7+5=12", "1+5=13", "A Pair"], made)
    assert (kept.tolist(), mended.tolist()) == ([True, False, False, False], [False, True, False, True])


def test_the_table_of_mistakes_counts_what_each_system_made_of_them() -> None:
    made = [next(m for m in mistakes() if m.kind == kind) for kind in HANDS]
    texts = {"OCR only": [m.text for m in made], "fused": [m.text.replace(m.wrong, m.right) for m in made]}
    shown = overcorrection_table(texts, made).splitlines()
    assert f"| all | {len(made)} | OCR only | 1.000 | 0.000 |  |" in shown
    assert f"| all | {len(made)} | fused | 0.000 | 1.000 | +1.000 [+1.000, +1.000] |" in shown


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


def case(
    texts: tuple[str, ...],
    table: np.ndarray,
    errors: np.ndarray,
    support: evidence.Support = "witnessed",
    quality: tuple[float, float, float] = (0.5, 0.5, 0.5),
    length: int = 1,
    others: tuple[str, ...] = ("a",),
    reference: str = "a",
) -> Case:
    """A training line whose truth and second reading are "a"."""
    return Case(texts, others, support, quality, table, errors, length, reference, "a.png", None)


def test_minimum_risk_learns_which_feature_tells_the_truth() -> None:
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(60):
        table = np.zeros((3, len(evidence.FEATURES)))
        truth = int(rng.integers(3))
        table[truth, evidence.FEATURES.index("vlm_match")] = 1.0
        table[:, evidence.FEATURES.index("length")] = rng.normal(size=3)
        cases.append(
            case(("a", "b", "c"), table, np.where(np.arange(3) == truth, 0.0, 4.0), support="supported", length=4)
        )
    weights = dict(zip(evidence.FEATURES, minimum_risk(cases, 1e-3), strict=True))
    assert weights["vlm_match"] > 2
    assert abs(weights["length"]) < 0.5


def decided(probability: float, *, second: bool, right: bool) -> Decided:
    """A word of one letter, decided with a probability and read so by the second reader or not."""
    table = np.zeros((2, len(evidence.FEATURES)))
    table[1, 0] = np.log((1 - probability) / probability)
    texts, errors = ("a", "b"), np.array([0.0, 1.0] if right else [1.0, 0.0])
    own = case(texts, table, errors, others=("a" if second else "c",), reference="a" if right else "b")
    return Decided.of(own, np.array([float(name == "ink") for name in evidence.FEATURES]), 0.0)


def test_calibration_recovers_the_map() -> None:
    rng = np.random.default_rng(1)
    words = []
    for p in rng.uniform(0.55, 0.98, 3000):
        second = bool(rng.random() < 0.5)
        odds = 0.5 * np.log(p / (1 - p)) + 0.2 + 1.5 * second
        words.append(decided(float(p), second=second, right=bool(rng.random() < 1 / (1 + np.exp(-odds)))))
    found = calibration(words, l2=1e-5)
    assert found["slope"] == pytest.approx(0.5, abs=0.15)
    assert found["second"] == pytest.approx(1.5, abs=0.25)
    assert found["offset"] + found["ocr"] == pytest.approx(0.2, abs=0.3)
    sure = confidences(words, {words[0].case.support: found})
    assert np.mean([value for value, _ in sure]) == pytest.approx(np.mean([ok for _, ok in sure]), abs=0.01)
    # The second reader's word counts for nothing where it is as often wrong as right, and never against.
    harmful = [decided(0.9, second=second, right=not second) for second in (True, False)] * 40
    assert calibration(harmful)["second"] == pytest.approx(0.0, abs=1e-3)


def test_the_words_of_a_line_are_judged_one_by_one() -> None:
    table = np.zeros((2, len(evidence.FEATURES)))
    table[1, 0] = -3.0
    line = case(
        ("bad egg 12", "bad egg 17"), table, np.array([1.0, 1.0]), others=("bad egg 12",), reference="bad eggs 12"
    )
    one = Decided.of(line, np.array([float(name == "ink") for name in evidence.FEATURES]), 0.0)
    words = one.words()
    assert [right for _, right in words] == [True, False, True]
    assert [len(rows) for rows, _ in words] == [3, 3, 2]
    assert words[2][0][1, 0] < words[0][0][0, 0]  # the digit that another hypothesis has otherwise


def test_a_line_is_judged_by_weights_that_had_not_seen_it() -> None:
    table = np.zeros((2, len(evidence.FEATURES)))
    table[1, 0] = 1.0
    # In part 0 the feature speaks for the wrong text, everywhere else for the right one.
    lines = [
        replace(case(("a", "b"), table, np.array([0.0, 1.0] if n % PARTS == 0 else [1.0, 0.0])), image=f"{n}.png")
        for n in range(10 * PARTS)
    ]
    part = {line.image: n % PARTS for n, line in enumerate(lines)}
    fitted = Fitted.on(lines, part, 1e-3)
    assert fitted.unseen(lines[0])[0] > fitted.vectors["witnessed"][0] > fitted.unseen(lines[1])[0] > 0
    assert fitted.unseen(replace(lines[0], image="other.png")) is fitted.vectors["witnessed"]
    assert fitted.vectors["alone"] is fitted.vectors["witnessed"]


def test_a_simulated_reader_errs_where_the_ink_is_hard() -> None:
    hard, easy = ink(*[{"a": 0.5, "o": 0.5}] * 6), ink("aoaoao")
    reader = SimulatedReader(mend=0.3, invent=0.0)
    rng = random.Random(0)
    wrong = [sum(reader.read(views, "aoaoao", ["x"], rng) != "aoaoao" for _ in range(200)) for views in (easy, hard)]
    assert wrong[1] > wrong[0] + 40
    assert SimulatedReader(invent=1.0).read(easy, "Napa", ["Napa", "Nexum", "Ace"], rng) in {"napa", "nexum"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "eval").glob("*.yaml")), ids=lambda p: p.stem)
def test_evaluations_in_the_repository_load(path: Path) -> None:
    if path.stem.startswith("fit"):
        fit = load_fit(path)
        assert not any("dev" in source.data.name for source in fit.weights_from + fit.calibrate_on)
    else:
        load_run(path)


def test_a_wrong_evaluation_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("title: x\ndata: y.tsv\nnormalise: none\nvariants: [{name: a}]\n")
    with pytest.raises(ConfigError, match="normalise"):
        load_run(path)


def test_a_gate_weakens_the_witness_by_its_quality_and_nothing_else() -> None:
    own = case(("b", "a"), np.full((2, len(evidence.FEATURES)), -2.0), np.array([1.0, 0.0]), quality=(0.9, 0.25, 0.04))
    assert (own.gated(0.0).table == own.table).all()
    changed, decoder = own.gated(0.5).table, evidence.FEATURES.index("decoder")
    assert changed[:, WITNESS] == pytest.approx([-1.0, -1.0])
    assert changed[:, decoder] == pytest.approx([-0.4, -0.4])
    gated = [WITNESS, decoder]
    assert (np.delete(changed, gated, axis=1) == np.delete(own.table, gated, axis=1)).all()
    assert (own.table == -2.0).all()


def witnessed(quality: float, gain: float, lead: float = 5.0) -> Case:
    """A line that the witness mends (gain 1), leaves (0) or breaks (-1): it says the second text, by so many nats."""
    table = np.zeros((2, len(evidence.FEATURES)))
    table[0, WITNESS] = -lead
    return case(("b", "a"), table, np.array([max(gain, 0.0), max(-gain, 0.0)]), quality=(quality, 0.9, 0.9))


VECTOR = np.array([float(name == "witness") for name in evidence.FEATURES])


@pytest.mark.parametrize(
    ("gains", "idle", "limit"),
    [
        ([0, 0, 0, 1, 1], 0.01, 0.7),  # nothing to mend above .7
        ([0, 1, 0, 0, 0], 0.01, 0.9),
        ([1, 0, 0, 0, 0], 0.01, 1.0),  # the surest line has something to mend: all are asked about
        ([1, 1, 1, 1, 1], 0.4, 0.8),  # two of five may be lost
        ([-1, 0, 0, 1, 1], 0.01, 0.6),  # a harm at the top pays for a loss below it
        ([0, 0, 0, 0, 0], 0.01, 0.5),  # no use at all
        ([1, 1, 1, 1, 1], 1.0, 0.5),
        ([], 0.01, 1.0),
    ],
)
def test_the_limit_of_what_the_ocr_is_sure_of_spares_only_idle_questions(
    gains: list[float], idle: float, limit: float
) -> None:
    cases = [witnessed(0.9 - 0.1 * number, gain) for number, gain in enumerate(gains)]
    random.Random(1).shuffle(cases)
    assert sure_from(cases, lambda _: VECTOR, idle) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("leads", "margin"),
    [
        ([(0.3, -1), (1.1, 1), (2.1, 1), (3.1, 1)], 0.5),  # three mended, none broken, and one more reckoned with
        ([(0.3, 1), (1.1, 1), (2.1, 1)], 0.0),
        ([(1.6, 1), (6.5, 1), (6.5, -1), (1.1, -1)], 1.25),  # no margin will do: the least harm
        ([(6.5, -1), (1.1, -1)], 6.0),  # it only ever breaks
        ([(1.1, 0)], 6.0),  # nothing is known
    ],
)
def test_the_margin_is_the_least_that_keeps_harm_in_bounds(leads: list[tuple[float, int]], margin: float) -> None:
    cases = [witnessed(0.5, gain, lead) for lead, gain in leads]
    assert margin_for(cases, lambda _: VECTOR, harm=0.4) == pytest.approx(margin)


# --- sight --------------------------------------------------------------------------------------------------------


class Eyes:
    """A reader that remembers what it was shown, and has looked only at the crops of its last reading."""

    name = "eyes"
    writes = False

    def __init__(self) -> None:
        self.read_last: list[Query] = []
        self.asked: list[Query] = []

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        self.read_last = list(queries)
        found = [str(query.line.crop.min()) for query in queries]
        return [(Failure("vlm", "not_suited", darkest),) for darkest in found]

    def score(self, query: Query, texts: Sequence[str]) -> list[float] | None:
        self.asked.append(query)
        return [-1.0] * len(texts)

    def witness(self, query: Query) -> Ink | None:
        self.asked.append(query)
        seen = any(np.array_equal(query.line.crop, shown.line.crop) for shown in self.read_last)
        return ink("ab") if seen else None

    def ask(self, pixels: np.ndarray, question: str) -> Answer | Failure:
        return Failure("vlm", "cannot_answer", "it only looks")

    def close(self) -> None:
        self.asked.clear()


@pytest.mark.parametrize("sight", ["blank", "text"])
def test_what_a_blind_reader_says_of_texts_it_says_of_paper_only(sight: Sight) -> None:
    eyes, asked = Eyes(), query("Napa", before="above")
    blind = BlindReader(eyes, sight)
    assert blind.writes is False
    ((proposed,),) = blind.read([asked])
    look = blind.witness(asked)
    assert isinstance(proposed, Failure)
    assert proposed.message == str(asked.line.crop.min())  # hypotheses are those of the real crop
    assert look is not None
    assert blind.score(asked, ["Napa"]) == [-1.0]
    assert len(eyes.asked) == 2
    for shown in (*eyes.read_last, *eyes.asked):
        assert shown.line.crop.shape == asked.line.crop.shape
        assert (shown.line.crop == 255).all()
        assert replace(shown, line=replace(shown.line, crop=asked.line.crop)) == asked
    assert not (asked.line.crop == 255).all()
    flat = len(set(look.score(["ab", "ba", "", "abc"]))) == 1
    assert flat == (sight == "text")  # a text prior has no witness
    assert look.place("ab") == ink("ab").place("ab")


def test_a_variant_says_what_its_reader_sees() -> None:
    assert Variant(name="a").sight == "crop"
    assert [Variant(name="a", sight=sight).sight for sight in get_args(Sight)] == list(get_args(Sight))
    with pytest.raises(ValidationError, match="sight"):
        Variant(name="a", sight="dim")  # type: ignore[arg-type]


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
    sets = ["--set", "ocr.threads=1", "--set", "vlm.engine=none"]
    result = CliRunner().invoke(app, ["predict", "configs/base.yaml", "--data", str(split), "--out", str(out), *sets])
    assert result.exit_code == 0, result.output
    rows = [json.loads(row) for row in out.read_text(encoding="utf-8").splitlines()]
    assert [set(row) for row in rows] == [{"image", "text", "confidence", "review"}] * 2
    assert rows[0]["text"] == "Amlodipine"
    assert rows[1] == {"image": "lost.png", "text": "", "confidence": None, "review": True}
