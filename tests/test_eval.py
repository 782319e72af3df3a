"""The evaluation: figures against known values, splits, and a run and a prediction end to end on the samples."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eval import datasets, metrics
from eval.ask import table as asking_table
from eval.bench import OWN, Round, compared, shares
from eval.blind import BlindReader, Sight
from eval.calibrate import SHARES, Stretch, calibration, crossed, judged, limits, right_stretches, sure_from
from eval.calibrate import table as calibration_table
from eval.cases import Case
from eval.fit import load_fit, minimum_risk
from eval.overcorrection import HANDS, NORMAL, Mistake, mistakes, outcomes
from eval.overcorrection import table as overcorrection_table
from eval.rivals import Outcome, require
from eval.runs import RunConfig, Variant, load_run, run
from eval.simulate import SimulatedReader
from fusion.domain import arithmetic
from fusion.errors import ConfigError, InputError
from fusion.fuse.model import CONFIDENCE, EXPERTS, SCRIPTS, Weights
from fusion.ink import Weighed
from fusion.page import Failure
from fusion.vlm import Look, Query
from tests.inks import ink, vlm_reading
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
    assert metrics.cer_difference(counts, counts, ["a", "b"], 200, 1) == metrics.Interval(0.0, 0.0, 0.0)


def test_an_interval_holds_its_value_and_narrows_with_n() -> None:
    rng = random.Random(3)
    widths = []
    for n in (20, 500):
        counts = metrics.Counts.of(["abcd"] * n, [rng.choice(["abcd", "abce"]) for _ in range(n)])
        interval = metrics.cer_interval(counts, [str(item) for item in range(n)], 500, 1)
        assert interval.low <= interval.value <= interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 3


def test_copies_of_one_word_are_not_many_words() -> None:
    counts = metrics.Counts.of(["abcd"] * 100, ["abcd"] * 50 + ["abce"] * 50)
    items, words = [str(n) for n in range(100)], [str(n // 50) for n in range(100)]
    by_item, by_word = (metrics.exact_interval(counts, clusters, 500, 1) for clusters in (items, words))
    assert by_item.value == by_word.value == 0.5
    assert by_word.high - by_word.low > 3 * (by_item.high - by_item.low)


def test_what_errs_alike_is_the_writer_or_the_word() -> None:
    rows = [datasets.Item(f"{n}.png", Path(), "ab"[n % 2], "", "w" if n else "") for n in range(5)]
    assert datasets.clusters_of(rows) == ["0.png", "w", "w", "w", "w"]
    nobody = [replace(row, writer="") for row in rows]
    assert datasets.clusters_of(nobody) == ["a", "b", "a", "b", "a"]
    assert datasets.clusters_of(nobody[:2]) == ["0.png", "1.png"]


def test_order_does_not_count_for_what_is_found_on_a_page() -> None:
    assert metrics.bags("Napa 20mg\nÀ jeun ①", "a jeun 1\nnapa 20 mg od", chinese=False) == (6, 6, 7)
    assert metrics.bags("一日三次，口服\n空", "空\n一日三次口服", chinese=True) == (6, 6, 6)


def test_auroc_of_known_cases() -> None:
    assert metrics.auroc([0.1, 0.9], [False, True]) == 1.0
    assert metrics.auroc([0.9, 0.1, 0.9], [False, True, True]) == 0.25
    assert np.isnan(metrics.auroc([0.5], [True]))


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


def weights(**experts: float) -> Weights:
    maps = dict.fromkeys(SCRIPTS, (0.0, 1.0, *[0.0] * (len(CONFIDENCE) - 2)))
    return Weights(dict.fromkeys(EXPERTS, 0.0) | (experts or {"ocr": 1.0}), 1.0, 1.0, 1.0, 1.0, 3.0, maps, {0.05: 0.1})


def case(
    texts: tuple[str, ...],
    reference: str,
    quality: tuple[float, float, float] = (0.5, 0.5, 0.5),
    others: tuple[str, ...] = ("?",),
    **evidence: tuple[float, ...],
) -> Case:
    """A training line with what the named experts say of each text."""
    table = np.zeros((len(texts), len(EXPERTS)))
    for name, column in evidence.items():
        table[:, EXPERTS.index(name)] = column
    errors = np.array([metrics.edits(reference, text)[0] for text in texts], dtype=float)
    return Case(
        "made",
        ("small", "none"),
        "w",
        reference,
        "plain",
        Weighed(texts, table, (), quality),
        others,
        None,
        errors,
        len(reference),
        (quality[0], quality[0], quality[1]),
    )


def test_minimum_risk_learns_which_expert_tells_the_truth() -> None:
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(60):
        truth = int(rng.integers(3))
        says = tuple(0.0 if n == truth else -1.0 for n in range(3))
        cases.append(
            case(
                ("abcd", "efgh", "ijkl"),
                ("abcd", "efgh", "ijkl")[truth],
                answer=says,
                decoder=tuple(rng.normal(size=3)),
            )
        )
    found = dict(zip(EXPERTS, minimum_risk(cases, 1.0, 1e-3), strict=True))
    assert found["answer"] > 2
    assert found["decoder"] < 0.5
    assert min(found.values()) >= 0


def test_a_reader_is_trusted_as_far_as_it_is_sure_and_less_about_signs() -> None:
    own = case(("ba", "aa"), "aa", quality=(0.9, 0.5, 0.2), reader=(-2.0, -2.0), decoder=(-2.0, -2.0), ocr=(-2.0, -2.0))
    changed = own.judged(weights()).table
    assert changed[:, EXPERTS.index("reader")] == pytest.approx([-1.0, -1.0])
    assert changed[:, EXPERTS.index("decoder")] == pytest.approx([-0.4, -0.4])
    assert (changed[:, EXPERTS.index("ocr")] == -2.0).all()
    assert (own.weighed.table[:, EXPERTS.index("reader")] == -2.0).all()
    signs = replace(own, weighed=replace(own.weighed, texts=("1+1", "1+7"))).judged(replace(weights(), signs=0.1)).table
    assert signs[:, EXPERTS.index("reader")] == pytest.approx([-0.1, -0.1])


@pytest.mark.parametrize(
    ("text", "reference", "normalise", "right"),
    [
        ("bad egg 12", "bad eggs 12", "plain", [True, False, True]),
        ("Bad Egg", "bad egg", "plain", [True, True]),
        ("Napa-x", "napax", "letters", [True]),
        ("每次二片，", "每次2片", "han", [True, True, False, True, None]),
        ("3 x 4 = 12", "3×4=17", "arithmetic", [True, True, True, True, False]),
        ("", "a", "plain", []),
    ],
)
def test_which_stretches_are_right(text: str, reference: str, normalise: str, right: list[bool | None]) -> None:
    assert right_stretches(text, reference, normalise) == right


def test_a_line_of_a_page_is_compared_with_the_part_that_it_is() -> None:
    page = "天气很好\n每次2片 一日三次\n饭后服用"
    assert all(right_stretches("每次2片", page, "han", within=True))
    assert right_stretches("饭后服月", page, "han", within=True) == [True, True, True, False]


def test_a_line_that_lost_a_letter_is_compared_with_all_of_its_part() -> None:
    page = "Farmstreet 12\nMs/Mr Patient 29\n③ Aklief (Galderma)\n-9 DEC 2025"
    assert right_stretches("Ms/Mr Pahent 29", page, "letters", within=True) == [True, False, True]
    assert right_stretches("3. Abief Caldenal", page, "letters", within=True)[0]


def test_hard_lines_are_judged_like_any_other() -> None:
    hopeless = case(("zzzz", "yyyy"), "abcd efgh", ocr=(0.0, -1.0))
    assert [stretch.right for stretch in judged(hopeless, weights())] == [False]


def test_calibration_recovers_the_map() -> None:
    rng = np.random.default_rng(1)
    found = []
    for p in rng.uniform(0.55, 0.98, 4000):
        second = float(rng.choice([-2.0, 0.0, 2.0]))
        odds = np.log(p / (1 - p))
        right = bool(rng.random() < 1 / (1 + np.exp(-(0.5 * odds + 0.2 + 0.8 * second))))
        found.append(
            Stretch("Latin", np.array([[1.0, odds, 0.0, second, 0.0, 0.0, 0.0, 0.0]]), right, "w", "made", ("a", "b"))
        )
    numbers = calibration(found, l2=1e-5)
    assert numbers["model"] == pytest.approx(0.5, abs=0.15)
    assert numbers["second"] == pytest.approx(0.8, abs=0.15)
    assert numbers["constant"] == pytest.approx(0.2, abs=0.3)
    fitted = replace(weights(), confidence={"Latin": tuple(numbers[name] for name in CONFIDENCE)})
    assert np.mean([one.confidence(fitted) for one in found]) == pytest.approx(
        np.mean([o.right for o in found]), abs=0.01
    )
    harmful = [replace(one, right=one.inputs[0, 3] < 0) for one in found]
    assert calibration(harmful)["second"] == pytest.approx(0.0, abs=1e-2)  # more evidence never makes less sure


def writers(rng: np.random.Generator, count: int, each: int = 8) -> list[Stretch]:
    """Stretches of writers who are harder to read, or easier, than their confidences say."""
    found = []
    for number in range(count):
        harder = rng.normal(0, 1)
        for odds in rng.normal(2.5, 2, each):
            right = bool(rng.random() < 1 / (1 + np.exp(harder - odds)))
            inputs = np.array([[1.0, odds, *[0.0] * 6]])
            found.append(Stretch("Latin", inputs, right, f"writer {number}", "made", ("small", "none")))
    return found


def test_the_share_of_mistakes_holds_for_other_writers() -> None:
    rng = np.random.default_rng(7)
    others = writers(rng, 4000)
    chance = np.array([1 - one.confidence(weights()) for one in others])
    wrong = np.array([not one.right for one in others])
    for share in (0.05, 0.1, 0.2):
        made = [limits(writers(rng, 150), weights()).get(share, 0.0) for _ in range(20)]
        shares = [wrong[chance <= limit].mean() for limit in made if limit]
        assert len(shares) > 10
        assert share / 4 < np.mean(shares) < share


def test_few_writers_show_no_small_share() -> None:
    found = [replace(one, right=True) for one in writers(np.random.default_rng(1), 30)]
    assert set(limits(found, weights())) == {share for share in SHARES if 30 * share >= 1 - share}
    assert limits([replace(one, right=False) for one in found], weights()) == {}


def test_writers_are_judged_by_others() -> None:
    found = writers(np.random.default_rng(3), 60)
    judged_ = crossed(found, weights())
    assert sorted(id(one.stretch) for one in judged_) == sorted(map(id, found))
    assert len({one.weights.confidence["Latin"] for one in judged_}) == 5
    shown = calibration_table(judged_, weights())
    assert "| 5.0% | 0.1000 | all |" in shown
    assert "made: calibration error" in shown


@pytest.mark.parametrize(
    ("gains", "idle", "limit"),
    [
        ([0, 0, 0, 1, 1], 0.01, 0.7),  # nothing to mend above .7
        ([0, 1, 0, 0, 0], 0.01, 0.9),
        ([1, 0, 0, 0, 0], 0.01, 1.0),  # the surest line has something to mend: all are asked about
        ([1, 1, 1, 1, 1], 0.4, 0.8),  # two of five may be lost
        ([-1, 0, 0, 1, 1], 0.01, 0.6),  # a harm at the top pays for a loss below it
        ([0, 0, 0, 0, 0], 0.01, 0.5),  # no use at all
        ([], 0.01, 1.0),
    ],
)
def test_the_limit_of_what_the_ocr_is_sure_of_spares_only_idle_questions(
    gains: list[int], idle: float, limit: float
) -> None:
    texts = {1: ("b", "a"), 0: ("a", "a"), -1: ("a", "b")}
    cases = [
        case(texts[gain], "a", quality=(0.9 - 0.1 * number, 1.0, 1.0), reader=(-5.0, 0.0))
        for number, gain in enumerate(gains)
    ]
    random.Random(1).shuffle(cases)
    assert sure_from(cases, weights(ocr=1.0, reader=1.0), idle) == pytest.approx(limit)


def test_a_simulated_reader_errs_where_the_ink_is_hard() -> None:
    hard, easy = ink(*[{"a": 0.5, "o": 0.5}] * 6), ink("aoaoao")
    reader = SimulatedReader(mend=0.3, invent=0.0)
    rng = random.Random(0)
    wrong = [sum(reader.read(views, "aoaoao", ["x"], rng) != "aoaoao" for _ in range(200)) for views in (easy, hard)]
    assert wrong[1] > wrong[0] + 40
    assert SimulatedReader(invent=1.0).read(easy, "Napa", ["Napa", "Nexum", "Ace"], rng) in {"napa", "nexum"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "eval").glob("*.yaml")), ids=lambda p: p.stem)
def test_evaluations_in_the_repository_load(path: Path) -> None:
    if path.stem.startswith(("fit", "calibrate")):
        fit = load_fit(path)
        assert not any("dev" in source.data.name for source in fit.sources if "rendered" not in str(source.data))
    elif path.stem != "all":  # see test_eval_report
        load_run(path)


def test_a_wrong_evaluation_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("title: x\ndata: y.tsv\nnormalise: none\nvariants: [{name: a}]\n")
    with pytest.raises(ConfigError, match="normalise"):
        load_run(path)


# --- sight --------------------------------------------------------------------------------------------------------


class Eyes:
    """A reader that remembers what it was shown."""

    name = "eyes"

    def __init__(self) -> None:
        self.shown: list[Query] = []

    def look(self, query: Query) -> Look | Failure:
        self.shown.append(query)
        reading = vlm_reading(str(query.line.crop.min()))
        return Look(reading, ink("ab"), lambda texts: [-float(query.line.crop.min())] * len(texts))

    def close(self) -> None:
        self.shown.clear()


@pytest.mark.parametrize("sight", ["blank", "text"])
def test_what_a_blind_reader_says_of_texts_it_says_of_paper_only(sight: Sight) -> None:
    eyes, asked = Eyes(), query("Napa", before="above")
    look = BlindReader(eyes, sight).look(asked)
    assert isinstance(look, Look)
    assert look.reading is not None
    assert look.ink is not None
    assert look.reading.text == str(asked.line.crop.min())  # hypotheses are those of the real crop
    assert look.score(["Napa"]) == [-255.0]
    real, paper = eyes.shown
    assert real == asked
    assert (paper.line.crop == 255).all()
    assert paper.line.crop.shape == asked.line.crop.shape
    flat = len(set(look.ink.score(["ab", "ba", "", "abc"]))) == 1
    assert flat == (sight == "text")  # a text prior has no look at the ink
    assert look.ink.place("ab") == ink("ab").place("ab")


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


def test_a_curve_of_asking_keeps_what_the_least_sure_lines_gain() -> None:
    items = [datasets.Item(str(n), Path(str(n)), "ab", "", str(n)) for n in range(10)]
    config = RunConfig(title="t", data=Path("d.tsv"), normalise="plain", variants=(Variant(name="v"),), bootstrap=100)
    rows = [("ax", "ab", 0.1)] * 2 + [("ax", "ab", 0.6)] * 2 + [("ab", "xb", 0.9)] * 1 + [("ab", "ab", 0.7)] * 5
    told = asking_table(config, items, rows).splitlines()
    assert "gain of asking about all 3 edits" in told[0]
    cells = [[cell.strip().split(" ")[0] for cell in row.split("|")[1:-1]] for row in told[4:]]
    assert [(share, cer, kept) for share, cer, _, kept in cells] == [
        ("0.0", "0.200", "0.000"),
        ("0.1", "0.150", "0.333"),
        ("0.2", "0.100", "0.667"),
        ("0.4", "0.000", "1.333"),
        ("0.6", "0.000", "1.333"),
        ("0.8", "0.000", "1.333"),
        ("1.0", "0.050", "1.000"),
    ]


def test_speeds_are_compared_round_by_round() -> None:
    items = [datasets.Item("1", Path("1"), "one two", "")]
    config = RunConfig(title="t", data=Path("d.tsv"), normalise="plain", variants=(Variant(name="v"),))
    ours = [Round(seconds, (Outcome("one two", 1.0, {"ocr": 0.5, "fuse": 0.1}, 0.4),)) for seconds in (1.0, 2.0, 4.0)]
    theirs = [Round(seconds, (Outcome("one"),)) for seconds in (3.0, 3.0, 4.0)]
    told = "\n".join(compared(config, items, dict.fromkeys(OWN, ours) | {"rapidocr": theirs}, ["rapidocr"]))
    assert "| fusion, OCR alone | 0.500 | 1.50× [1.00, 3.00] | 0.000 | 1.000 / 1.000 |" in told
    assert "| rapidocr | 0.333 | | 0.571 | 0.500 / 1.000 |" in told
    shares_told = "\n".join(shares(dict.fromkeys(OWN, ours)))
    assert "| fusion, OCR alone | 0.100 | 0.500 | 50.0% | 60.0% |" in shares_told


def test_another_program_that_is_not_there_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="PaddleOCR, RapidOCR"):
        require("nobody")
