"""Which answers are transcriptions, and that cleaning leaves plain text alone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusion.vlm import Answer, Query
from fusion.vlm.acceptance import MESSAGES, Broken, examine, examine_free
from fusion.vlm.cleaning import clean
from fusion.vlm.prompts import render
from tests.vlm_readers import query


def judged(answer: str, ocr: str | None, finish: str | None = "stop", prompt: str = "", **context: str) -> object:
    return examine(Answer(answer, finish), query(ocr, **context), prompt)


@pytest.mark.parametrize(
    ("answer", "ocr", "text"),
    [
        ("请检查第2步", "请检查第2步", "请检查第2步"),
        ("请检查第二步", "请检查第2步", "请检查第二步"),  # a paraphrase is for the ink to refuse, not for a cleaner
        ("三点半", "三点半", "三点半"),
        ("Take 2 tablets", "Take 2 tablets", "Take 2 tablets"),
        ("telmaed<|im_end|>", "telmaed", "telmaed"),
        ("telmaed <|im_end|>\n<|endoftext|>", "telmaed", "telmaed"),
        ("<|begin_of_box|>明天开会<|end_of_box|>", "明天开会", "明天开会"),
        ("The answer is <|begin_of_box|>Napa<|end_of_box|>.", "Napa", "Napa"),
        ("<think>It could be Napa.</think>\nNapa 500", "Napa 500", "Napa 500"),
        ("It could be Napa.</think>Napa 500", "Napa 500", "Napa 500"),
        ("```\nNapa 500\n```", "Napa 500", "Napa 500"),
        ("```text\nNapa 500\n```", "Napa 500", "Napa 500"),
        ("纸上写着“记得买牛奶和面包”。", "记得买牛奶和面包", "记得买牛奶和面包"),
        ("图片中的文字是：“明天开会”", "明天开会", "明天开会"),
        ("手写内容为：明天开会", "明天开会", "明天开会"),
        ("识别结果：明天开会", "明天开会", "明天开会"),
        ("这张图片上写着「明天开会」", "明天开会", "明天开会"),
        ('The image shows the text "Napa 500 mg".', "Napa 500 mg", "Napa 500 mg"),
        ("The text reads: Napa 500 mg", "Napa 500 mg", "Napa 500 mg"),
        ("The handwriting says “Napa 500 mg”", "Napa 500 mg", "Napa 500 mg"),
        ("Here is the transcription:\nNapa 500 mg", "Napa 500 mg", "Napa 500 mg"),
        ("纸上写着“明天开会”", "纸上写着“明天开会”", "纸上写着“明天开会”"),  # the writer wrote it
        ("纸上写着“明天开会”", "纸上与着明天开会", "纸上写着“明天开会”"),  # even when the OCR misreads a character
        ("The text reads: Napa", "The text reads: Napa", "The text reads: Napa"),
        ("I cannot read this book", "I cannot read this book", "I cannot read this book"),
        ("很抱歉，我无法参加", "很抱歉 我无法参加", "很抱歉，我无法参加"),
        ("对不起，我错了", None, "对不起，我错了"),  # homework, and the OCR read nothing
        ("In the picture I see a dog", None, "In the picture I see a dog"),
        ("图中有3个三角形", None, "图中有3个三角形"),
        ("这是一段难忘的时光", None, "这是一段难忘的时光"),
        ("I'm sorry I can't come", None, "I'm sorry I can't come"),
        ("没有内容的作文", None, "没有内容的作文"),
        ("mark my words", "mark my words", "mark my words"),
        ('"quoted" by the writer', "quoted by the writer", '"quoted" by the writer'),
        ("明天[?][?]会", "明天开会会", "明天□□会"),
        ("明天【无法辨认】会", "明天开会", "明天□会"),
        ("take [illegible] daily", "take two daily", "take □ daily"),
        ("take [3 illegible] daily", "take two daily", "take □□□ daily"),
        ("气温降到___度", "气温降到5度", "气温降到□度"),
        ("气温降到___度", "气温降到___度", "气温降到___度"),  # a blank to be filled in, and the OCR saw it too
        ("a\ufffdb", "acb", "a□b"),
        ("□□", "xx", "□□"),
        ("明天\n开会", "明天开会", "明天开会"),
        ("take two\ntablets", "take two tablets", "take two tablets"),
        ("cafe\u0301", "cafe", "caf\u00e9"),
        ('{"text": "Napa 500 mg"}', "Napa 500 mg", "Napa 500 mg"),
        ('```json\n{"id": 1, "transcription": "Napa 500 mg"}\n```', "Napa 500 mg", "Napa 500 mg"),
        ('[{"text": "明天"}, {"text": "开会"}]', "明天开会", "明天开会"),
        ('{"x": 1}', '{"x": 1}', '{"x": 1}'),  # the writer wrote it
        ('{"a": 1, "b": 2}', None, '{"a": 1, "b": 2}'),  # there is no text in it
        ("[1, 2]", "1, 2", "[1, 2]"),
        ("<p>Napa 500&nbsp;mg &lt; 1 g</p>", "Napa 500 mg < 1 g", "Napa 500\xa0mg < 1 g"),
        ("<div><b>Napa</b> 500<br/>mg</div>", "Napa 500 mg", "Napa 500 mg"),
        ("<table><tr><td>Napa</td><td>500</td></tr></table>", "Napa 500", "Napa 500"),
        ("a<b and c>d", None, "a<b and c>d"),
        ("if x<p> then", "if x<p> then", "if x<p> then"),
        ("哈哈哈哈哈哈哈哈哈哈哈哈哈哈", "哈哈哈哈哈哈哈哈哈哈哈哈", "哈哈哈哈哈哈哈哈哈哈哈哈哈哈"),
        ("目录..........................3", "目录.........................3", "目录..........................3"),
        ("anything at all", None, "anything at all"),
    ],
)
def test_accepted(answer: str, ocr: str | None, text: str) -> None:
    assert judged(answer, ocr) == text


@pytest.mark.parametrize(
    ("answer", "ocr", "symptom"),
    [
        ("", "Napa", "empty"),
        ("  \n<|endoftext|>", "Napa", "empty"),
        ("<think>hmm", "Napa", "empty"),
        ("Napa " + "500 mg " * 30, "Napa 500 mg", "repeats"),
        ("明天开会" * 20, "明天开会", "repeats"),
        ("嗯" * 200, "明天开会", "repeats"),
        ("I'm sorry, but I can't help with that.", "Napa 500", "refuses"),
        ("I cannot read the handwriting.", "Napa 500", "refuses"),
        ("Sorry, but I can’t transcribe this.", "Napa 500", "refuses"),
        ("I am unable to make out the words.", "Napa 500", "refuses"),
        ("很抱歉，由于图片模糊，无法识别", "明天开会", "refuses"),
        ("抱歉，我无法识别图片中的文字。", "明天开会", "refuses"),
        ("无法辨认该手写内容", "明天开会", "refuses"),
        ("This image contains handwriting in blue ink.", "Napa 500 mg daily", "describes"),
        ("这张图片显示了一行手写文字", "明天气温会降到5度", "describes"),
        ("Napa 500 mg is a very common drug used for pain and fever in adults and children", "Napa 5", "wrong_length"),
        ("N", "Napa 500 mg twice daily", "wrong_length"),
        ("one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\neleven\ntwelve", "one", "several_lines"),
        ("tomorrow meeting", "明天气温下降很快", "wrong_script"),
        ("明天开会吧", "tomorrow we", "wrong_script"),
        ("x" * 5000, "Napa", "repeats"),
        ("".join(chr(0x4E00 + i) for i in range(5000)), "明天", "wrong_length"),
    ],
)
def test_symptoms_that_deserve_another_try(answer: str, ocr: str, symptom: str) -> None:
    assert judged(answer, ocr) == Broken(symptom)
    assert symptom in MESSAGES


def test_a_cut_off_answer_is_asked_again() -> None:
    assert judged("Napa 500", "Napa 500 mg", finish="length") == Broken("cut_off")


@pytest.mark.parametrize(
    "answer",
    ["图中没有文字", "图片中没有可识别的手写文字。", "There is no visible text in the image.", "The image is blank."],
)
def test_insisting_on_a_blank_crop_would_make_the_model_invent(answer: str) -> None:
    assert judged(answer, "~~ ~~ ~~") == Broken("no_text", again=False)


def test_a_filtered_answer_is_not_insisted_on() -> None:
    assert judged("", "Napa", finish="content_filter") == Broken("refuses", again=False)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<think>Let me see.</think>It says Napa [l001].<|endoftext|>", "It says Napa [l001]."),
        ("<|begin_of_box|>Napa<|end_of_box|>", "Napa"),
        ("```\nNapa\n```", "Napa"),
        ('{"answer": "Napa"}', "Napa"),
        ('["one", "two"]', "one\ntwo"),
        ("<p>Napa</p><p>500 mg</p>", "Napa\n500 mg"),
        (
            "The image shows the text “Napa”.\nI cannot read more.",
            "The image shows the text “Napa”.\nI cannot read more.",
        ),
    ],
)
def test_a_free_answer_is_unpacked_and_otherwise_left_as_it_is(answer: str, text: str) -> None:
    assert examine_free(Answer(answer, "stop"), "What does it say?") == text


def test_who_asks_for_json_gets_json() -> None:
    assert examine_free(Answer('```json\n{"drug": "Napa"}\n```'), "List the drugs as JSON") == '{"drug": "Napa"}'


@pytest.mark.parametrize(
    ("answer", "finish", "verdict"),
    [
        ("<think>It may be", "length", Broken("cut_off")),
        ("<think>It may be", "stop", Broken("empty")),
        ("It says Na", "length", Broken("cut_off")),
        ("It says " + "Napa " * 20, "stop", Broken("repeats")),
        ("It says", "content_filter", Broken("refuses", again=False)),
    ],
)
def test_a_broken_free_answer_is_found(answer: str, finish: str, verdict: Broken) -> None:
    assert examine_free(Answer(answer, finish), "What does it say?") == verdict


@pytest.mark.parametrize("kind", ["blind", "informed"])
@pytest.mark.parametrize("ocr", ["明天气温会降到五度左右", "Take one tablet twice a day"])
def test_an_echo_of_the_question_is_found_and_an_honest_answer_is_not(kind: str, ocr: str) -> None:
    asked = query(ocr, before="上一行的内容在这里" if "天" in ocr else "the line before this", after="a third line")
    prompt = render(kind, "auto", asked)  # type: ignore[arg-type]
    assert examine(Answer(ocr), asked, prompt.text) == ocr
    rows = [row for row in prompt.text.splitlines() if ocr not in row][:1]
    assert isinstance(examine(Answer(rows[0]), asked, prompt.text), Broken)
    seen = examine(Answer(asked.before), asked, prompt.text)
    assert seen == (Broken("echoes") if kind == "informed" else asked.before)


def test_a_rare_short_answer_that_is_in_the_prompt_by_chance_is_no_echo() -> None:
    asked = query("2 stey")
    assert examine(Answer("2 stays"), asked, render("blind", "en", asked).text) == "2 stays"


def plain_text() -> st.SearchStrategy[str]:
    """Text without the vocabulary of wrappers and marks: letters of several scripts, digits, common punctuation."""
    alphabet = "abcdefgxyzABC 0123456789.,;!()-+=/%'\"“”éüß明天开会请带作业数学题，。：？！①½"
    return st.text(st.sampled_from(alphabet), min_size=1, max_size=30)


@given(plain_text())
@example("mark my words")
@example("```")
@example("第2步")
@example("(?)".replace("?", "!"))
def test_a_cleaner_leaves_plain_text_alone(text: str) -> None:
    assert clean(text, "") == text.strip()
    once = clean(text, text)
    assert clean(once, text) == once


@given(plain_text())
def test_plain_text_that_agrees_with_the_ink_is_accepted_unchanged(text: str) -> None:
    expected = unicodedata.normalize("NFC", text).strip()
    if expected:
        assert examine(Answer(text, "stop"), query(text), "") == expected


@given(st.text(max_size=60), st.text(max_size=20))
def test_whatever_comes_is_judged(answer: str, ocr: str) -> None:
    asked: Query = query(unicodedata.normalize("NFC", ocr))
    verdict = examine(Answer(answer), asked, "prompt")
    if isinstance(verdict, str):
        assert verdict == verdict.strip() != ""
        assert unicodedata.is_normalized("NFC", verdict)
        assert len(verdict.splitlines()) == 1
    else:
        assert verdict.symptom in MESSAGES
