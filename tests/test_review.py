from __future__ import annotations

from fusion.page import Failure, Line, Span
from fusion.review import needs_review

POLYGON = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


def line(*spans: Span) -> Line:
    return Line("l000", POLYGON, 0, (), spans, () if spans else (Failure("ocr", "empty", "nothing"),))


def test_who_is_looked_at() -> None:
    sure = Span("120", "agreed", 0.99, "agreed")
    assert not needs_review(line(sure), 0.9)
    assert needs_review(line(sure), 0.995)
    assert needs_review(line(), 0.0)
    assert needs_review(line(sure, Span("x", "ocr", None, "decision_failed")), 0.0)
    assert needs_review(line(sure, Span("0", "ocr", 0.99, "digits_disagree")), 0.5)
    assert needs_review(line(sure, Span("0", "ocr", 0.99, "digits_kept_by_ink")), 0.5)
    assert needs_review(line(sure, Span("0", "vlm", 0.99, "digits_changed")), 0.5)
    assert needs_review(line(sure, Span("□", "gap", None, "unread_ink", extent=1)), 0.5)
    assert needs_review(line(sure, Span("5", "supplied", 0.99, "completed_from_context", extent=1)), 0.5)
