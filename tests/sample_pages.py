"""Two pages as a real run would leave them, made by hand for two of the sample photographs.

Every kind of decision is here once: agreement, each reader winning, the lexicon, a gap, supplied text, and a line that
nobody read.
"""

from __future__ import annotations

from fusion.page import GAP, Candidate, Failure, Finding, Line, Page, Polygon, Reading, Recipe, Source, Span

SHA = "0" * 64
PRESCRIPTION_TEXT = "Dr. P. Inkwell, MBBS\nRx\n1. Amoxicillin 500 mg\n1 cap tid x 7 days\n2. Paracetamol 500 mg\n1 tab qid prn\n3. Napa 120 mg/5 ml"
HOMEWORK_TEXT = "红球4个白球3个黑球5个\n第一步 4+3=7\n第二步 7+5=13\n答 一共有13个球\n我写完在检查一遍\n解题思路正确但计算过程有误请检查第二步"


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return (left, top), (right, top), (right, bottom), (left, bottom)


def ocr(text: str) -> Reading:
    return Reading("ocr", text, Recipe("paddleocr-onnx", "3.7.0", "PP-OCRv6_small_rec", SHA), score=-1.2)


def vlm(text: str, prompt: str = "informed-en@1a2b3c4d") -> Reading:
    return Reading("vlm", text, Recipe("served", "1", "GLM-4.6V-Flash", SHA, prompt, 0.0), finish="stop", raw=text)


def span(
    text: str,
    source: Source = "agreed",
    confidence: float | None = 0.99,
    because: str = "agreed",
    alternatives: dict[str, float] | None = None,
    at: Polygon | None = None,
    extent: int = 0,
) -> Span:
    others = tuple(Candidate(other, p) for other, p in (alternatives or {}).items())
    return Span(text, source, confidence, because, others, at, extent)


def prescription() -> Page:
    return Page(
        id="prescription.jpg",
        image_sha256=SHA,
        width=1200,
        height=900,
        findings=(Finding("blur", 41.0, 60.0, "strokes are soft; hold the camera still or move closer"),),
        lines=(
            Line(
                "l000",
                box(632, 62, 1094, 124),
                0,
                (ocr("Dr. P. Inkwell, MBBS"), vlm("Dr. P. Inkwell, MBBS")),
                (span("Dr. P. Inkwell, MBBS", at=box(632, 62, 1094, 124)),),
            ),
            Line("l001", box(86, 146, 184, 234), 1, (ocr("Rx"), vlm("Rx")), (span("Rx", at=box(86, 146, 184, 234)),)),
            Line(
                "l002",
                box(172, 276, 690, 372),
                2,
                (ocr("1. Amoxicillm 500 mg"), vlm("1. Amoxicillin 500mg"), vlm("1. Amoxicillin 500 mg", "blind-en@99")),
                (
                    span("1. ", at=box(172, 276, 226, 372)),
                    span(
                        "Amoxicillin",
                        "vlm",
                        0.93,
                        "vlm_supported_by_ink",
                        {"Amoxicillm": 0.05, "Amoxycillin": 0.012},
                        box(232, 276, 484, 372),
                    ),
                    span(" ", "ocr", 0.71, "unsupported_omission_rejected", {"": 0.27}),
                    span("500 mg", at=box(494, 276, 690, 372)),
                ),
            ),
            Line(
                "l003",
                box(256, 392, 710, 488),
                3,
                (ocr("1 cap tid x 7 days"), vlm("1 cap tid x 1 days")),
                (
                    span("1 cap tid x ", at=box(256, 392, 520, 488)),
                    span("7", "ocr", 0.88, "digits_kept_by_ink", {"1": 0.11}, box(524, 392, 566, 488)),
                    span(" days", at=box(572, 392, 710, 488)),
                ),
            ),
            Line(
                "l004",
                box(180, 506, 724, 600),
                4,
                (ocr("2. Paracetanol 500 mg"), vlm("2. Panacetamol 500 mg")),
                (
                    span("2. ", at=box(180, 506, 236, 600)),
                    span(
                        "Paracetamol",
                        "lexicon",
                        0.97,
                        "lexicon_snapped",
                        {"Paracetanol": 0.02},
                        box(246, 506, 504, 600),
                    ),
                    span(" 500 mg", confidence=None, at=box(520, 506, 724, 600)),
                ),
            ),
            Line(
                "l005",
                box(256, 626, 574, 722),
                5,
                (ocr("1 tab qid pr"), vlm("1 tab □id prn")),
                (
                    span("1 tab ", at=box(256, 626, 376, 722)),
                    span(GAP, "gap", None, "nobody_read_it", {"q": 0.46, "g": 0.2}, box(384, 640, 416, 722), 1),
                    span("id pr", at=box(418, 626, 548, 722)),
                    span("n", "human", 1.0, "corrected_in_review", at=box(549, 626, 574, 722)),
                ),
            ),
            Line(
                "l006",
                box(154, 738, 720, 834),
                6,
                failures=(
                    Failure("ocr", "empty", "the recognition model returned no character"),
                    Failure("vlm", "timeout", "no answer within 60 s"),
                ),
            ),
        ),
    )


def homework() -> Page:
    return Page(
        id="homework_zh.jpg",
        image_sha256=SHA,
        width=1150,
        height=840,
        angle=0.3,
        lines=(
            Line(
                "l000",
                box(116, 84, 796, 146),
                0,
                (ocr("红球4个白球3个黑球5个"), vlm("红球4个，白球3个，黑球5个", "informed-zh@7")),
                (
                    span("红球4个", at=box(116, 84, 334, 146)),
                    span(
                        "白球3个",
                        "ocr",
                        0.9,
                        "unsupported_insertion_rejected",
                        {"，白球3个": 0.08},
                        box(350, 84, 568, 146),
                    ),
                    span("黑球5个", at=box(572, 84, 796, 146)),
                ),
            ),
            Line(
                "l001",
                box(124, 198, 490, 268),
                1,
                (ocr("第一步4+3=7"), vlm("第一步 4+3=7", "informed-zh@7")),
                (
                    span("第一步", at=box(124, 198, 322, 268)),
                    span(" ", "vlm", 0.8, "vlm_supported_by_ink", {"": 0.2}),
                    span("4+3=7", at=box(350, 198, 490, 268)),
                ),
            ),
            Line(
                "l002",
                box(110, 312, 490, 388),
                2,
                (ocr("笫二步 7+5=13"), vlm("第2步 7+5=12", "informed-zh@7")),
                (
                    span("第", "vlm", 0.95, "vlm_supported_by_ink", {"笫": 0.04}, box(110, 312, 172, 388)),
                    span("二", "ocr", 0.98, "paraphrase_rejected", {"2": 0.01}, box(180, 312, 240, 388)),
                    span("步 7+5=1", at=box(248, 312, 452, 388)),
                    span("3", "ocr", 0.91, "digits_kept_by_ink", {"2": 0.06}, box(454, 312, 490, 388)),
                ),
            ),
            Line(
                "l003",
                box(116, 438, 594, 500),
                3,
                (ocr("答 一共有□个球"), vlm("答 一共有□□个球", "informed-zh@7")),
                (
                    span("答 一共有", at=box(116, 438, 414, 500)),
                    span(
                        "13",
                        "supplied",
                        0.62,
                        "completed_from_context",
                        {"12": 0.3, "18": 0.04},
                        box(416, 438, 458, 500),
                        2,
                    ),
                    span("个球", at=box(460, 438, 594, 500)),
                ),
            ),
            Line(
                "l004",
                box(104, 556, 648, 626),
                4,
                (ocr("我写完在检查一遍"),),
                (
                    span(
                        "我写完在检查一遍",
                        "ocr",
                        0.86,
                        "only_reader",
                        {"我写完再检查一遍": 0.09},
                        box(104, 556, 648, 626),
                    ),
                ),
                (Failure("vlm", "repeats", "the answer repeated itself twice and was rejected"),),
            ),
            Line(
                "l005",
                ((72, 722), (976, 702), (978, 746), (73, 768)),
                5,
                (
                    ocr("解题思路正确但计算过程有误请检查第二步"),
                    vlm("解题思路正确但计算过程有误请检查第二步", "informed-zh@7"),
                ),
                (span("解题思路正确但计算过程有误请检查第二步", at=((72, 722), (976, 702), (978, 746), (73, 768))),),
            ),
        ),
    )
