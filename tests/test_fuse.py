"""What fusing promises: tested on made ink, so that each case says what the strokes say and what each reader claims."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fusion.config import FuseConfig
from fusion.ctc import Views
from fusion.domain.english import English
from fusion.domain.lexicon import Lexicon
from fusion.domain.sums import SumModel
from fusion.errors import ConfigError
from fusion.fuse import SCORED, Decision, Fuser, LineEvidence, confidence_inputs, model
from fusion.fuse import spans as decide
from fusion.fuse.align import align, clusters
from fusion.ink import Ink
from fusion.page import Span
from fusion.quantities import quantities
from fusion.review import UNPROVEN
from tests.inks import Judged, ink, inks, look, ocr_reading, vlm_reading

FUSER = Fuser(FuseConfig())


def made_weights(experts: dict[str, float] | None = None, **more: object) -> dict[str, object]:
    """The content of a weights file that says what a test needs."""
    maps = {name: dict.fromkeys(model.CONFIDENCE, 0.0) | {"model": 1.0} for name in model.SCRIPTS}
    return {
        "version": model.VERSION,
        "experts": dict.fromkeys(model.EXPERTS, 0.0) | (experts or {"ocr": 1.0}),
        "signs": 1.0,
        "ask_below": 0.9,
        "change": 1.0,
        "quantity": 1.0,
        "tolerance": 3.0,
        "confidence": maps,
        "limits": {"0.05": 0.1},
    } | more


TEXTS = st.text(st.sampled_from("abcdeABC123 第二步气温会降到度，。½é"), min_size=1, max_size=12).filter(
    lambda t: unicodedata.is_normalized("NFC", t) and t.strip() == t and "  " not in t
)


def fuse(views, *vlm: str, prior=None, score=None) -> tuple[str, tuple[Span, ...]]:
    others = [vlm_reading(text) for text in vlm]
    line = LineEvidence(ocr_reading(views), views, others, prior)
    asked = FUSER.shortlist(line) if score is not None else []
    scores = dict(zip(asked, score(asked), strict=True)) if asked else {}
    spans, _ = FUSER.fuse(replace(line, scores=scores))
    return "".join(span.text for span in spans), spans


def gathered(views: Views, written: list[str], prior, limit: int) -> list[str]:
    reading = ocr_reading(views)
    return LineEvidence(reading, views, [vlm_reading(text) for text in written], prior=prior).texts(limit)


def because(spans: tuple[Span, ...], source: str) -> set[str]:
    return {span.because for span in spans if span.source == source}


# --- promises --------------------------------------------------------------------------------------------------------


@given(TEXTS)
def test_a_reading_fused_with_itself_is_agreed_throughout(text: str) -> None:
    views = ink(text)
    fused, spans = fuse(views, views.best.greedy)
    assert fused == views.best.greedy
    assert {span.source for span in spans} <= {"agreed"}


@given(TEXTS)
def test_without_a_second_reader_the_text_is_the_ocrs_and_says_so(text: str) -> None:
    views = ink(text)
    reading = ocr_reading(views)
    spans, failures = FUSER.fuse(LineEvidence(reading, views))
    assert "".join(span.text for span in spans) == reading.text
    assert {span.source for span in spans} <= {"ocr"}
    assert [(failure.stage, failure.kind) for failure in failures] == [("vlm", "not_asked")]


@given(TEXTS, TEXTS)
def test_spans_tile_the_decision_whatever_the_second_reader_says(text: str, other: str) -> None:
    views = ink(text)
    fused, spans = fuse(views, other)
    assert unicodedata.is_normalized("NFC", fused)
    assert all(span.text for span in spans)
    assert all(span.confidence is not None and 0 <= span.confidence <= 1 for span in spans)


@given(st.lists(st.sampled_from("ab1二"), max_size=8), st.lists(st.sampled_from("ab1二"), max_size=8))
def test_an_alignment_covers_both_texts_without_gap(a: list[str], b: list[str]) -> None:
    segments = align(a, b)
    assert [n for s in segments for n in range(*s.ocr_range)] == list(range(len(a)))
    assert [n for s in segments for n in range(*s.vlm_range)] == list(range(len(b)))
    assert all(a[slice(*s.ocr_range)] == b[slice(*s.vlm_range)] for s in segments if s.kind == "equal")


# --- the contract of served text -----------------------------------------------------------------------------------


def test_an_agreed_letter_that_the_ink_doubts_becomes_surer() -> None:
    views = ink("R", {"o": 0.6, "a": 0.4}, "su")
    alone = min(span.confidence for span in FUSER.fuse(LineEvidence(ocr_reading(views), views))[0])
    together = min(span.confidence for span in fuse(views, "Rosu")[1])
    assert together > alone


def test_the_ocr_speaks_where_there_is_nothing_to_choose_from() -> None:
    single = Decision(("Napa",), np.zeros((1, len(model.EXPERTS))))
    inputs, *_ = confidence_inputs(single, (0.99, 0.99, 0.5), None, FUSER._weights)
    assert inputs[:, model.CONFIDENCE.index("ocr")].tolist() == [model.LIMIT] * 4
    assert inputs[:, model.CONFIDENCE.index("second")].tolist() == [0.0] * 4  # nobody else looked


def test_the_second_reader_decides_where_the_ink_allows_both() -> None:
    views = ink("Nap", {"o": 0.5, "a": 0.495})
    text, spans = fuse(views, "Napa")
    assert text == "Napa"
    assert because(spans, "vlm") == {"vlm_supported_by_ink"}
    assert any(c.text == "o" for span in spans if span.source == "vlm" for c in span.alternatives)


def test_the_ink_decides_against_a_confident_invention() -> None:
    text, _ = fuse(ink("Napa"), "Napkin")
    assert text == "Napa"


@pytest.mark.parametrize(
    ("written", "said"), [("第2步", "第二步"), ("第二步", "第2步"), ("½片", "1/2片"), ("三点半", "3点半")]
)
def test_a_paraphrase_is_rejected_and_named(written: str, said: str) -> None:
    text, spans = fuse(ink(written), said)
    assert text == written
    assert "paraphrase_rejected" in because(spans, "ocr")


def test_a_longer_way_to_say_the_same_is_rejected() -> None:
    assert fuse(ink("开会时间改到三点半"), "会议时间改为下午三点三十分钟")[0] == "开会时间改到三点半"


def test_an_invented_continuation_is_rejected_and_named() -> None:
    text, spans = fuse(ink("明天气温会降到5度"), "明天气温会降到5度左右请注意保暖")
    assert text == "明天气温会降到5度"
    assert "unsupported_insertion_rejected" in because(spans, "ocr")


def test_a_character_that_the_second_reader_drops_stays() -> None:
    text, spans = fuse(ink("一日三次口服"), "一日三次服")
    assert text == "一日三次口服"
    assert "unsupported_omission_rejected" in because(spans, "ocr")


@pytest.mark.parametrize(
    ("written", "said"), [("500mg", "50mg"), ("0.5mg", "5mg"), ("15mg", "75mg"), ("7+5=13", "7+5=12"), ("1O0", "100")]
)
def test_a_dose_the_ink_shows_is_never_changed(written: str, said: str) -> None:
    assert fuse(ink(written), said)[0] == written


def test_other_digits_need_ink_even_when_everything_else_is_right() -> None:
    views = ink("Nap", {"o": 0.5, "a": 0.495}, " 500mg")
    text, spans = fuse(views, "Napa 600mg")
    assert text == "Napa 500mg"
    disputed = [span for span in spans if "5" in span.text]
    assert all(span.source == "ocr" for span in disputed)


def test_a_digit_the_ink_leaves_open_may_be_decided_but_is_not_sure() -> None:
    text, spans = fuse(ink({"1": 0.5, "7": 0.49}, "5mg"), "75mg")
    digit = next(span for span in spans if span.text[0] in "17")
    assert text[0] in "17"
    assert {c.text for c in digit.alternatives} & {"1", "7"}


def test_case_is_settled_by_the_ink() -> None:
    assert fuse(ink("Rosu"), "rosu")[0] == "Rosu"
    assert {s.source for s in fuse(ink("Rosu"), "rosu")[1]} == {"agreed"}


def test_an_illegible_mark_is_no_hypothesis() -> None:
    assert "□" not in fuse(ink("一日三次"), "一日□次")[0]


# --- prior, scores, weights ----------------------------------------------------------------------------------------


def test_a_listed_name_wins_where_the_ink_hesitates_and_says_where_it_is_from() -> None:
    views = ink("Nap", {"o": 0.6, "e": 0.3, "a": 0.1})
    text, spans = fuse(views, prior=Lexicon(["Napa", "Ace", "Seclo"]))
    assert text == "Napa"
    assert because(spans, "lexicon") == {"lexicon_snapped"}


def test_a_listed_name_far_from_the_ink_is_not_taken() -> None:
    assert fuse(ink("Montelon"), prior=Lexicon(["Napa", "Monas"]))[0] == "Montelon"


def test_scores_of_the_second_reader_count() -> None:
    views = ink("R", {"o": 0.5, "a": 0.5}, "su")
    for favourite in ("Rosu", "Rasu"):
        text, _ = fuse(views, "Rusu", score=lambda texts, f=favourite: [0.0 if t == f else -30.0 for t in texts])
        assert text == favourite


def test_the_readers_own_text_is_always_the_first_hypothesis() -> None:
    views = ink("abc")
    assert gathered(views, ["abd"], None, 50)[0] == "abc"


def test_the_limit_of_hypotheses_holds() -> None:
    views = ink(*[{"a": 0.5, "b": 0.5}] * 8)
    assert len(gathered(views, ["cccccccc"], None, 25)) == 25


def test_counterpart_gives_every_character_of_the_other_text_a_place() -> None:
    for text, other in [("第二步", "第2步"), ("abc", "abxxc"), ("abc", "ac"), ("a", "xyz"), ("abc", "")]:
        found = decide.counterpart(text, other)
        assert len(found) == len(clusters(text))
        assert "".join(found) == other


def test_a_list_of_names_changes_no_number_and_no_other_word() -> None:
    views = ink({"1": 0.5, "I": 0.49}, " ", {"D": 0.5, "A": 0.5}, "r ", "Nap", {"o": 0.6, "a": 0.4}, " 5mg")
    text, spans = fuse(views, prior=Lexicon(["Napa", "Alatrol", "Amlodipine", "Ace"]))
    assert text == f"{views.best.greedy[:4]} Napa 5mg"
    assert because(spans, "lexicon") == {"lexicon_snapped"}


def test_a_digit_inside_a_misread_name_may_become_a_letter() -> None:
    views = ink({"2": 0.6, "Z": 0.4}, "ymet")
    assert fuse(views, prior=Lexicon(["Zymet"]))[0] == "Zymet"


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=3, max_size=8))
def test_any_reading_fused_with_itself_stays_as_it_is(columns: list[list[float]]) -> None:
    views = ink(*[{c: v / sum(column) for c, v in zip(["a", "b", "c", ""], column, strict=True)} for column in columns])
    reading = ocr_reading(views)
    fused, spans = fuse(views, reading.text)
    assert fused == reading.text
    assert {span.source for span in spans} <= ({"agreed"} if reading.text.strip() else {"agreed", "ocr"})


def test_a_list_of_names_moves_no_decimal_point() -> None:
    assert fuse(ink("napa 2", {"": 0.6, ".": 0.4}, "5 mg"), prior=Lexicon(["napa"]))[0] == "napa 25 mg"
    assert fuse(ink({"1": 0.6, "7": 0.4}, "0tablet"), prior=Lexicon(["70tablet"]))[0] == "10tablet"


def test_an_unrelated_list_leaves_a_line_alone() -> None:
    views = ink({"D": 0.6, "A": 0.4}, "r. P", {"": 0.6, "e": 0.4}, "l Ink")
    text, _ = fuse(views, prior=Lexicon(["Zymet", "Sergel", "Monas"]))
    assert text == views.best.greedy


def test_a_mark_for_illegible_ink_does_not_spoil_the_agreement_around_it() -> None:
    _, spans = fuse(ink("明天气温会降到度"), "明天气温会降到□度")
    assert {span.source for span in spans} == {"agreed"}


def test_a_name_elsewhere_in_the_line_claims_nothing() -> None:
    views = ink("napa c", {"": 0.5, "x": 0.5}, "t")
    _, spans = fuse(views, "napa cxt", prior=Lexicon(["napa"]))
    assert not because(spans, "lexicon")


def test_where_the_ocr_reads_nothing_no_hypothesis_makes_up_letters() -> None:
    views = ink(*[{"a": 0.01}] * 4)
    assert fuse(views, "Napa")[0] == ""


def test_only_a_few_hypotheses_are_scored_by_the_second_reader() -> None:
    asked = []
    views = ink(*[{"a": 0.5, "b": 0.5}] * 8)
    fuse(views, "cccccccc", score=lambda texts: asked.append(len(texts)) or [0.0] * len(texts))
    assert asked
    assert max(asked) <= SCORED


# --- a second reader with a posterior: weighed, never copied -------------------------------------------------------

Seeing = Callable[..., tuple[str, tuple[Span, ...]]]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    """Fuse a line with the posterior of a second reader, under made weights: the packaged ones are fitted anew with every checkpoint."""
    content = made_weights(experts={"ocr": 1.0, "reader": 0.8, "decoder": 0.5})
    path = tmp_path_factory.mktemp("weights") / "weights.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    fuser = Fuser(FuseConfig(weights=path))

    def fuse(views, seen, quality: float | None = None, score=None, **more) -> tuple[str, tuple[Span, ...]]:
        posterior: Ink = seen if quality is None else Judged(seen, quality)
        line = LineEvidence(ocr_reading(views), views, [look(seen)], posterior=posterior, **more)
        asked = fuser.shortlist(line) if score is not None else []
        scores = dict(zip(asked, score(asked), strict=True)) if asked else {}
        spans, failures = fuser.fuse(replace(line, scores=scores))
        assert not failures
        return "".join(span.text for span in spans), spans

    return fuse


LETTERS = "ab17 "
QUALITIES = st.floats(0, 1)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(inks(LETTERS), QUALITIES, inks("ab17"))
def test_a_second_reader_that_agrees_changes_nothing(seeing: Seeing, views, quality: float, odd) -> None:
    assume(views.best.greedy == views.best.greedy.strip())
    fused, spans = seeing(views, views, quality)
    assert fused == views.best.greedy
    assert {span.source for span in spans} <= {"agreed"}
    assume(odd.best.greedy == views.best.greedy)  # it need not be as sure, nor of the same else
    assert seeing(views, odd, quality)[0] == views.best.greedy


@given(st.text("abC1 ", min_size=1, max_size=8).filter(lambda t: t == " ".join(t.split())), QUALITIES, st.data())
def test_a_second_reader_that_reads_the_same_of_other_ink_changes_nothing(
    seeing: Seeing, text: str, quality: float, data: st.DataObject
) -> None:
    clear = ink(text)
    unsure = ink(*({c: data.draw(st.floats(0.5, 0.9)), "q": 0.05, "7": 0.05} for c in text))
    assert clear.best.greedy == unsure.best.greedy == text
    assert seeing(clear, unsure, quality)[0] == seeing(unsure, clear, quality)[0] == text


@given(
    st.text("0123456789", min_size=1, max_size=4),
    st.text("0123456789", min_size=1, max_size=4),
    st.sampled_from(["mg", " ml", "%", ""]),
)
def test_a_dose_that_the_ocrs_ink_is_sure_of_outlives_the_surest_second_reader(
    seeing: Seeing, written: str, said: str, unit: str
) -> None:
    sure = ink(*({c: 0.999, "": 0.001} for c in written + unit))
    fused, _ = seeing(sure, ink(said + unit), 1.0)
    assert quantities(fused) == quantities(written + unit)


def test_a_unit_that_the_ocrs_ink_is_sure_of_outlives_the_surest_second_reader(seeing: Seeing) -> None:
    assert seeing(ink("500mg"), ink("50mg"), 1.0)[0] == "500mg"


def test_both_looks_settle_the_case(seeing: Seeing) -> None:
    views = ink({"r": 0.6, "R": 0.4}, "osu")
    assert seeing(views, ink("Rosu"))[0] == "Rosu"
    assert seeing(views, ink("Rosu"), 0.0)[0] == "rosu"
    assert seeing(ink("rosu"), ink({"r": 0.4, "R": 0.6}, "osu"))[0] == "rosu"


def test_a_number_that_the_ocrs_ink_leaves_open_is_the_second_readers_to_decide(seeing: Seeing) -> None:
    views = ink({"1": 0.55, "7": 0.45}, "5mg")
    text, spans = seeing(views, ink("75mg"))
    assert text == "75mg"
    assert (spans[0].text, spans[0].source, spans[0].because) == ("7", "vlm", "quantity_changed")
    text, _ = seeing(views, ink({"1": 0.55, "7": 0.45}, "5mg"))
    assert text == "15mg"
    # What neither likes best both may leave open: then they read it together, and it is marked.
    text, spans = seeing(ink({"1": 0.55, "4": 0.45}, "5"), ink({"7": 0.5, "4": 0.49}, "5"))
    assert (text, spans[0].because) == ("45", "quantity_changed")


@given(inks("abc", blank=False), inks("abc", blank=False), st.floats(0, 1e-6))
def test_a_second_reader_that_sees_next_to_nothing_leaves_the_ocrs_text(
    seeing: Seeing, views, seen, quality: float
) -> None:
    best = views.score([views.best.greedy])[0]
    others = [h.score for h in views.nbest(5) if h.text != views.best.greedy]
    assume(all(best - score > 1e-3 for score in others))  # a tie may go either way
    assert seeing(views, seen, quality)[0] == views.best.greedy


def test_what_a_second_reader_sees_is_not_copied(seeing: Seeing) -> None:
    # Both hesitate, elsewhere: the text has the letter of whoever is sure of it, and is neither's reading.
    views = ink("N", {"o": 0.55, "a": 0.45}, "p", {"a": 0.9, "o": 0.1})
    seen = ink("N", {"a": 0.9, "o": 0.1}, "p", {"o": 0.55, "a": 0.45})
    text, spans = seeing(views, seen, 1.0)
    assert (views.best.greedy, seen.best.greedy, text) == ("Nopa", "Napo", "Napa")
    assert {span.source for span in spans} == {"agreed", "vlm", "ocr"}
    assert seeing(ink("Napa"), ink("Napkin"), 0.5)[0] == "Napa"


def test_the_decoder_behind_a_posterior_is_asked_about_a_few_and_counts(seeing: Seeing) -> None:
    asked: list[list[str]] = []

    def favouring(favourite: str) -> Callable[[list[str]], list[float]]:
        return lambda texts: asked.append(list(texts)) or [-0.5 if text == favourite else -30.0 for text in texts]

    views, seen = ink("R", {"o": 0.5, "a": 0.5}, "su"), ink("R", {"o": 0.4, "a": 0.3, "u": 0.3}, "su")
    for favourite in ("Rosu", "Rasu"):
        assert seeing(views, ink("R", {"u": 0.4, "o": 0.3, "a": 0.3}, "su"), score=favouring(favourite))[0] == favourite
    assert seeing(views, seen)[0] in {"Rosu", "Rasu"}  # it need not say
    wide = ink(*[{"a": 0.5, "b": 0.5}] * 8)
    seeing(wide, ink("c" * 8), score=favouring("aaaaaaaa"))
    assert asked
    assert max(map(len, asked)) <= SCORED


def test_a_second_reader_that_sees_nothing_at_all_leaves_the_ocrs_text(seeing: Seeing) -> None:
    nothing = ink(*[{"a": 0.01}] * 4)
    assert nothing.best.greedy == ""
    text, spans = seeing(ink("Nap", {"o": 0.5, "a": 0.49}), nothing)
    assert text == "Napo"
    assert {span.source for span in spans} == {"ocr"}


def test_the_second_reader_is_wanted_where_the_ocr_is_not_sure() -> None:
    sure = model.load_weights().ask_below
    assert 0 <= sure <= 1
    assert FUSER.doubtful(Judged(ink("ab"), sure - 1e-6))
    assert not FUSER.doubtful(Judged(ink("ab"), sure))
    assert not FUSER.doubtful(Judged(ink("ab"), 1.0))


# --- kinds that were wrong once ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("500 mg", "500 g"),
        ("500 mg", "500 mcg"),
        ("1.5 mg", "15 mg"),
        ("1+0+1", "101"),
        ("¾ tab od", "½ tab od"),
        ("2019.2.2", "2019.2-2"),
        ("57.", "S7."),
        ("I cap tid x 7 days", "take daily"),
        ("46+7=53", "46+7=3"),
    ],
)
def test_a_written_answer_changes_no_quantity_that_the_ink_is_sure_of_and_is_listed(written: str, said: str) -> None:
    text, spans = fuse(ink(written), said)
    assert text == written
    if written[0] != "I":  # there the answer holds no number at all
        assert because(spans, "ocr") & {"quantity_disputed", "unsupported_omission_rejected"}


def test_a_digit_is_lost_only_where_the_ocr_itself_leaves_that_open() -> None:
    """Readers overlook an answer's first digit where it touches the sign; the OCR prefers both digits by 2.2 or 0.2 nats."""
    for digit, kept in ((0.9, True), (0.55, False)):
        views = ink("46+7=", {"5": digit, "": 1 - digit}, "3")
        text, _ = fuse(views, "46+7=3", score=lambda texts: [0.0 if t == "46+7=3" else -9.0 for t in texts])
        assert text == ("46+7=53" if kept else "46+7=3")


def test_a_digit_is_not_lost_to_a_sign() -> None:
    """The OCR runs the answer into the sign, 46+753, and nearly as well reads both; the others take both for the sign."""
    views = ink("46+7", {"": 0.52, "=": 0.48}, {"5": 0.97, "=": 0.03}, "3")
    hand = ink("46+7=3")
    reading = replace(ocr_reading(hand), source="hand")
    spans, _ = FUSER.fuse(
        LineEvidence(ocr_reading(views), views, [look(hand)], posterior=hand, hand=reading, hand_ink=hand)
    )
    assert "5" in "".join(span.text for span in spans)


@pytest.mark.parametrize("said", ["take 5 tablets daily", "take 50 tablets daily"])
@pytest.mark.parametrize("chance", [0.5, 0.6, 0.7])
def test_no_language_decides_how_many_tablets(said: str, chance: float) -> None:
    views = ink("take 5", {"0": chance, "": 1 - chance}, " tablets daily")
    readers = (ocr_reading(views), views, [vlm_reading(said)])
    texts = [
        "".join(span.text for span in fuser.fuse(LineEvidence(*readers))[0])
        for fuser in (FUSER, Fuser(FuseConfig(), [English()]))
    ]
    assert texts[0] == texts[1]


def test_a_word_that_a_language_mends_costs_no_dose() -> None:
    texts = [
        "ing insulin & u at night",
        "inj insulin & u at night",
        "ing insulin 8 u at night",
        "inj insulin 8 u at night",
    ]
    column = model.evidence(texts, ink(texts[0]), language=English())[:, model.EXPERTS.index("language")]
    assert column[3] >= column[1] - 0.5
    assert column[0] < column[1]
    assert column[2] < column[3]


def test_another_unit_needs_ink_and_is_marked() -> None:
    views = ink("500 ", {"n": 0.5, "m": 0.49}, "g")
    text, spans = fuse(views, "500 mg", score=lambda texts: [0.0 if t == "500 mg" else -9.0 for t in texts])
    assert text == "500 mg"
    assert "quantity_changed" in because(spans, "vlm")


def test_a_list_changes_no_strength() -> None:
    for written, other in (("2", "4"), ("4", "2")):
        views = ink("Seclo", {written: 0.9, other: 0.09}, "0")
        assert fuse(views, prior=Lexicon([f"Seclo{other}0"]))[0] == f"Seclo{written}0"


def test_what_both_readers_have_is_never_lost() -> None:
    views = ink("1)12+30=42")
    for seen in ("1)12+30=42", "1) 12 + 30 = 42"):
        spans, _ = FUSER.fuse(
            LineEvidence(ocr_reading(views), views, [look(ink(seen))], SumModel.load(), posterior=ink(seen))
        )
        assert "".join("".join(span.text for span in spans).split()) == "1)12+30=42"


def test_a_list_works_word_by_word_inside_a_line() -> None:
    doubt = ({"o": 0.6, "a": 0.3, "e": 0.1},)
    names = Lexicon(["Napa", "Ace", "Seclo", "Monas"])
    for before, after in (("", ""), ("2. ", " 20 mg od"), ("Tab ", " 500mg x 7 days")):
        assert fuse(ink(before, "Nap", *doubt, after), prior=names)[0] == f"{before}Napa{after}"
    both = ink("Nap", *doubt, " and Ac", {"c": 0.6, "e": 0.35})
    assert fuse(both, prior=names)[0] == "Napa and Ace"


def test_a_prior_breaks_no_word_that_both_readers_have() -> None:
    for written in ("MBBS", "Warfarin"):
        views = ink(*({c: 0.8, "x": 0.1} for c in written))
        spans, _ = FUSER.fuse(
            LineEvidence(
                ocr_reading(views),
                views,
                [look(ink(written))],
                Lexicon(["Marfan", "RBS", "Xarelto"]),
                posterior=ink(written),
            )
        )
        assert "".join(span.text for span in spans) == written


@pytest.mark.parametrize("sign", ["¼", "¾", "‰", "㎡"])
def test_a_reader_abstains_on_a_sign_that_it_can_not_spell(sign: str) -> None:
    views = ink({sign: 0.9, "½": 0.05}, " tab od")
    best = ink("½ tab od").best
    blind = Views((replace(best, spells=frozenset("½ tabod")),))
    spans, _ = FUSER.fuse(LineEvidence(ocr_reading(views), views, [look(blind)], posterior=blind))
    assert "".join(span.text for span in spans) == f"{sign} tab od"


@pytest.mark.parametrize("read", ["14", "½", " ", ""])
def test_a_fraction_that_the_ocr_can_not_read_is_read_by_the_recogniser_of_hands(read: str) -> None:
    views = ink(*([{c: 0.9, "": 0.1} for c in read]), " tab od")
    mute = Views((replace(views.best, mute=frozenset("¼½¾")),))
    hand = ink({"¼": 0.97, "¾": 0.02}, " tab od")
    reading = replace(ocr_reading(hand), source="hand")
    spans, _ = FUSER.fuse(LineEvidence(ocr_reading(mute), mute, hand=reading, hand_ink=hand))
    assert "".join(span.text for span in spans) == "¼ tab od"


def test_the_decoder_abstains_on_signs_that_it_can_not_write() -> None:
    texts = ["¼ tab", "2 tab", "¼ tub", "7 tab"]
    table = np.zeros((len(texts), len(model.EXPERTS)))
    model.add_decoder(table, texts, {"2 tab": -1.0, "7 tab": -3.0, "¼ tab": -9.0}, spells=frozenset("27 tabu"))
    assert table[:, model.EXPERTS.index("decoder")].tolist() == [0.0, 0.0, -2.0, -2.0]


def test_what_a_reader_reads_more_at_the_start_of_a_line_is_not_agreed() -> None:
    assert model._agreed("tab", ["¾tab"])[1] == [False] * 3
    assert model._agreed("", ["abc"]) == ([], [])


# --- confidence ----------------------------------------------------------------------------------------------------


def test_the_ocr_alone_is_as_sure_as_its_ink() -> None:
    def sureness(views) -> float:
        return min(span.confidence for span in FUSER.fuse(LineEvidence(ocr_reading(views), views))[0])

    for text in ("Rx", "服", "7"):
        levels = [sureness(ink({text[0]: p, "q": 1 - p}, text[1:])) for p in (0.55, 0.8, 0.95, 0.999)]
        assert levels == sorted(levels)
        assert levels[-1] - levels[0] > 0.1


def test_more_evidence_never_makes_less_sure() -> None:
    weights = model.load_weights()
    for name in model.SCRIPTS:
        assert min(weights.confidence[name][1:]) >= 0


def test_a_share_of_mistakes_that_nobody_has_shown_to_hold_leaves_nothing_alone() -> None:
    weights = model.parse_weights(made_weights(limits={"0.05": 0.12, "0.1": 0.3}))
    assert [weights.limit(share) for share in (0.05, 0.09, 0.1, 0.9)] == [0.12, 0.12, 0.3, 0.3]
    assert weights.limit(0.049) == UNPROVEN


# --- the weights file ----------------------------------------------------------------------------------------------


def test_packaged_weights_are_few_and_name_their_command_and_data() -> None:
    content = json.loads((files("fusion.fuse") / "weights.json").read_text(encoding="utf-8"))
    assert content["command"].startswith("python -m eval fit")
    assert not any("shared/data" in key and "/dev" in key for key in content["fitted_on"]["cases"])
    single = [name for name, value in content.items() if isinstance(value, float | int) and name != "version"]
    assert len(content["experts"]) + len(single) <= 14  # and the two of `lexicon.COVERAGE`


def test_a_bad_weights_file_is_a_clear_error(tmp_path) -> None:
    path = tmp_path / "weights.json"
    good, nan = made_weights(), float("nan")
    path.write_text(json.dumps(good))
    assert model.load_weights(path).experts["ocr"] == 1.0
    maps = good["confidence"]
    for bad in (
        {},
        *({name: value for name, value in good.items() if name != missing} for missing in good),
        good | {"version": 999},
        good | {"experts": {"ocr": 1.0}},
        good | {"experts": dict.fromkeys(model.EXPERTS, 0.0)},
        good | {"experts": dict.fromkeys(model.EXPERTS, -5.0)},
        good | {"experts": dict.fromkeys(model.EXPERTS, nan)},
        good | {"confidence": {name: pair for name, pair in maps.items() if name != "Han"}},
        good | {"confidence": maps | {"Han": {"model": 1}}},
        good | {"confidence": maps | {"Han": [1]}},
        good | {"confidence": maps | {"Han": maps["Han"] | {"model": nan}}},
        good | {"limits": {"0.05": nan}},
        good | {"limits": {"0.05": 0.0}},
        good | {"limits": {"5": 0.1}},
        good | {"signs": nan},
        good | {"change": 0.5},
        good | {"ask_below": "very"},
        [],
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(ConfigError, match=r"weights.json.*eval fit"):
            Fuser(FuseConfig(weights=path))


def test_a_list_makes_surer_of_the_words_that_it_holds_and_of_no_other() -> None:
    views = ink("Nap", {"a": 0.8, "o": 0.2}, " Ac", {"e": 0.8, "c": 0.2})
    weights = model.load_weights()

    def listed(prior: Lexicon | None) -> list[float]:
        texts = gathered(views, [], prior, 50)
        decision = Decision(tuple(texts), model.evidence(texts, views, prior=prior))
        return confidence_inputs(decision, [views.quality] * 3, prior, weights)[0][:, -1].tolist()

    assert listed(None) == [0.0] * 8
    assert listed(Lexicon(["Napa"])) == [0.98] * 5 + [0.0] * 3
    assert listed(Lexicon(["Napa"], "names")) == [0.5] * 5 + [0.0] * 3


@pytest.mark.parametrize("probability", [0.9, 0.7, 0.55])
def test_a_list_takes_no_digit_away(probability: float) -> None:
    views = ink("Napa", {"5": probability, "": 1 - probability})
    assert fuse(views, prior=Lexicon(["Napa", "Losectil"]))[0] == "Napa5"
    assert fuse(views, "Napa5", prior=Lexicon(["Napa", "Losectil"]))[0] == "Napa5"


@pytest.mark.parametrize(
    ("own", "other", "marked"),
    [
        ("500 g", "500 mg", "500 g"),
        ("1+0+1", "101", "101"),
        ("5-7", "57", "57"),
        ("1 tab", "1 1 tab", "1"),
        ("1 tab", "½ 1 tab", "1"),
        ("p00img", "p00 mg", "i"),
        ("十片", "三十片", "十"),
        ("I cap", "1 cap", "I"),
        ("Napa 5 mg", "Napo 5 mg", ""),
    ],
)
def test_every_quantity_that_became_another_is_marked_in_ink(own: str, other: str, marked: str) -> None:
    found = "".join(c for c, hit in zip(clusters(own), decide.quantities_differ(own, other), strict=True) if hit)
    assert set(marked.replace(" ", "")) <= set(found)
    assert bool(found.strip()) == bool(marked)


def test_a_long_answer_is_weighed_quickly() -> None:
    assert fuse(ink("Napa50 mg"), "x" * 5000)[0] == "Napa50 mg"


def test_which_texts_a_decoder_is_asked_about_no_fitted_weight_says(tmp_path) -> None:
    views = ink(*[{"a": 0.5, "b": 0.4, "c": 0.1}] * 4)
    lists = []
    for experts in ({"ocr": 1.0}, {"ocr": 0.1, "answer": 9.0, "list": 5.0}):
        path = tmp_path / "weights.json"
        path.write_text(json.dumps(made_weights(experts)))
        fuser = Fuser(FuseConfig(weights=path))
        lists.append(fuser.shortlist(LineEvidence(ocr_reading(views), views, [vlm_reading("cccc")])))
    assert lists[0] == lists[1]
