"""What fusing promises: tested on made ink, so that each case says what the strokes say and what each reader claims."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.config import FuseConfig
from fusion.domain.lexicon import Lexicon
from fusion.errors import ConfigError
from fusion.fuse import Fuser, decide, evidence
from fusion.fuse.align import align, clusters, keys
from fusion.fuse.hypotheses import gather, mixes
from fusion.page import Span
from tests.inks import ink, ocr_reading, vlm_reading

FUSER = Fuser(FuseConfig())
TEXTS = st.text(st.sampled_from("abcdeABC123 第二步气温会降到度，。½é"), min_size=1, max_size=12).filter(
    lambda t: unicodedata.is_normalized("NFC", t) and t.strip() == t and "  " not in t
)


def fuse(views, *vlm: str, prior=None, score=None) -> tuple[str, tuple[Span, ...]]:
    spans, _ = FUSER.fuse(ocr_reading(views), views, [vlm_reading(text) for text in vlm], prior, score)
    return "".join(span.text for span in spans), spans


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
    spans, failures = FUSER.fuse(reading, views)
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


@given(TEXTS, TEXTS)
def test_mixes_hold_the_other_reading_itself(text: str, other: str) -> None:
    mixed = {tuple(keys(m)) for m in mixes(text, other, ink(text))} | {tuple(keys(text))}
    assert tuple(keys(other)) in mixed


# --- the contract of served text -----------------------------------------------------------------------------------


def test_an_agreed_letter_that_the_ink_doubts_becomes_surer() -> None:
    views = ink("R", {"o": 0.6, "a": 0.4}, "su")
    alone = min(span.confidence for span in FUSER.fuse(ocr_reading(views), views)[0])
    together = min(span.confidence for span in fuse(views, "Rosu")[1])
    assert together > alone


def test_the_second_reader_decides_where_the_ink_allows_both() -> None:
    views = ink("Nap", {"o": 0.55, "a": 0.45})
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
    views = ink("Nap", {"o": 0.55, "a": 0.45}, " 500mg")
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
    assert gather(ocr_reading(views), [vlm_reading("abd")], views, None, 50)[0] == "abc"


def test_the_limit_of_hypotheses_holds() -> None:
    views = ink(*[{"a": 0.5, "b": 0.5}] * 8)
    assert len(gather(ocr_reading(views), [vlm_reading("cccccccc")], views, None, 25)) == 25


def test_features_of_what_is_unknown_weigh_nothing() -> None:
    views = ink("abc")
    table = evidence.features(["abc", "abd"], views, [], None)
    unknown = [evidence.FEATURES.index(name) for name in ("vlm_distance", "vlm_match", "vlm_score", "prior", "listed")]
    assert not table[:, unknown].any()


def test_packaged_weights_name_their_command() -> None:
    from importlib.resources import files

    content = json.loads((files("fusion.fuse") / "weights.json").read_text(encoding="utf-8"))
    assert content["command"].startswith("python -m eval fit")
    assert content["fitted_on"]
    assert all("dev" not in source for source in content["fitted_on"]["cases"])


def test_a_bad_weights_file_is_a_clear_error(tmp_path) -> None:
    path = tmp_path / "weights.json"
    good = {"features": {"ink": 1}, "alone": [1, 0], "supported": [1, 0]}
    for bad in ({}, good | {"alone": [1]}, good | {"features": {"inc": 1}}, good | {"supported": [float("nan"), 0]}):
        path.write_text(json.dumps({"weights": bad}))
        evidence.load_weights.cache_clear()
        with pytest.raises(ConfigError, match=r"weights.json.*eval fit"):
            Fuser(FuseConfig(weights=path))


def test_counterpart_gives_every_character_of_the_other_text_a_place() -> None:
    for text, other in [("第二步", "第2步"), ("abc", "abxxc"), ("abc", "ac"), ("a", "xyz"), ("abc", "")]:
        found = decide.counterpart(text, other)
        assert len(found) == len(clusters(text))
        assert "".join(found) == other


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("500 mg", "500"),
        ("第2步", "2"),
        ("0.5mg", "0.5"),
        ("2.5mg", "2.5"),
        ("1/2", "1/2"),
        ("10tablets", "10"),
        ("一日三次", "一三"),
        ("1O0", "10"),
        ("2ymet", ""),
        ("1.Napa", "1"),
        ("７＋５", "75"),
        ("", ""),
    ],
)
def test_numbers_are_digits_with_at_most_a_unit(text: str, found: str) -> None:
    assert "".join(decide.numbers(text)) == found


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
    assert max(asked) <= 32
