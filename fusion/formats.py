"""The formats in which pages leave: one list, from which command line and configuration take the names.

How each is written stands in `output.formats`.
"""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """A format by name.

    Attributes:
        ending: of its files.
        media: its media type.
        many: whether one file holds several pages.
        photo: whether it shows the photograph.
    """

    ending: str
    media: str
    many: bool
    photo: bool

    def __new__(cls, name: str, ending: str, media: str, many: bool = True, photo: bool = False) -> Format:
        """An entry of the list."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.ending, member.media, member.many, member.photo = ending, media, many, photo
        return member

    TEXT = "text", ".txt", "text/plain"
    JSON = "json", ".json", "application/json"
    MARKDOWN = "markdown", ".md", "text/markdown"
    CSV = "csv", ".csv", "text/csv"
    TEI = "tei", ".tei.xml", "application/tei+xml", False
    PAGE = "page", ".page.xml", "application/xml", False
    ALTO = "alto", ".alto.xml", "application/xml", False
    HOCR = "hocr", ".hocr", "text/vnd.hocr+html"
    PDF = "pdf", ".pdf", "application/pdf", True, True
    OVERLAY = "overlay", ".overlay.svg", "image/svg+xml", False, True
    LABELSTUDIO = "labelstudio", ".labelstudio.json", "application/json"
    PADDLEOCR = "paddleocr", ".paddleocr.txt", "text/plain"
    FHIR = "fhir", ".fhir.json", "application/fhir+json"

    @property
    def binary(self) -> bool:
        """Whether its files are no text."""
        return self is Format.PDF

    @staticmethod
    def of(name: str) -> Format | None:
        """The format that the name of a file asks for; None where it asks for none."""
        name = name.lower().replace(".jsonl", ".json")
        suffix = name[name.rfind(".") :] if "." in name else None
        exact = [one for one in Format if name.endswith(one.ending)]
        alike = (one for one in Format if suffix and one.ending.endswith(suffix))
        return max(exact, key=lambda one: len(one.ending)) if exact else next(alike, None)
