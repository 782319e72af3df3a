"""Readers and profiles of other packages, found by their entry points."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion import config, domain, vlm
from fusion.config import DomainConfig, load_config
from fusion.engine import Engine
from fusion.errors import ConfigError, DependencyError, ReaderError
from fusion.page import Check, Failure, Page, Reading, Recipe
from fusion.vlm import Answer, Answers, Look, Looks, Query, Writes, open_reader

SAMPLES = Path(__file__).parent.parent / "eval" / "samples"


class Sure:
    """A reader that looks with the OCR's own ink, writes one text, and answers."""

    name = "sure"
    identity = "sure@1"

    def __init__(self, options: dict[str, Any]) -> None:
        self.says = options["says"]
        self.closed = False

    def look(self, query: Query) -> Look | Failure:
        return Look(None, query.line.ink, lambda texts: [0.0 if text == self.says else -50.0 for text in texts])

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        recipe = Recipe("sure", "1", "sure", "0" * 64)
        return [(Reading("vlm", self.says, recipe, raw=self.says),) for _ in queries]

    def ask(self, pixels: np.ndarray, question: str) -> Answer | Failure:
        return Answer(f"{self.says}?")

    def close(self) -> None:
        self.closed = True


class Remarks(domain.Profile):
    """A profile that remarks on every page."""

    def __init__(self, config: DomainConfig) -> None:
        super().__init__(config)

    def understand(self, page: Page) -> Page:
        return replace(page, checks=(Check("seen", "a plug-in was here", review=False),))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("sure", f"{__name__}:Sure", "fusion.readers"),
        EntryPoint("remarks", f"{__name__}:Remarks", "fusion.profiles"),
    ]
    objects = {"sure": Sure, "remarks": Remarks}

    def entry_points(group: str, name: str | None = None) -> list[Any]:
        found = [point for point in points if point.group == group and name in (None, point.name)]
        return [type("Point", (), {"name": p.name, "load": lambda self, p=p: objects[p.name]})() for p in found]

    for module in (config, vlm, domain):
        monkeypatch.setattr(module, "entry_points", entry_points)


@pytest.mark.live
@pytest.mark.usefixtures("installed")
def test_a_reader_of_another_package_is_asked_and_closed() -> None:
    settings = load_config(overrides=["vlm={engine: sure, options: {says: Amlodipine}}", "vlm.options.says=Amlodipin"])
    with Engine(settings) as engine:
        reader = engine._reader
        assert isinstance(reader, Looks)
        assert isinstance(reader, Writes)
        assert isinstance(reader, Answers)
        (page,) = engine.read(SAMPLES / "word_squashed.png", crop=True)
        answer, _ = engine.ask(SAMPLES / "word_squashed.png", "what")
    (line,) = page.lines
    assert [reading.text for reading in line.readings if reading.source == "vlm"] == ["Amlodipin"]
    assert page.identities["reader"] == "sure@1"
    assert answer == "Amlodipin?"
    assert reader.closed  # type: ignore[attr-defined]


@pytest.mark.live
@pytest.mark.usefixtures("installed")
def test_a_profile_of_another_package_understands_pages() -> None:
    with Engine(load_config(overrides=["domain.profile=remarks", "vlm.engine=none"])) as engine:
        (page,) = engine.read(SAMPLES / "word_squashed.png", crop=True)
    assert [check.kind for check in page.checks] == ["seen"]


def test_what_is_not_installed_is_named_with_what_is() -> None:
    with pytest.raises(ConfigError, match=r"no reader 'sure': there are none, served, local, replay"):
        load_config(overrides=["vlm.engine=sure"])
    with pytest.raises(ConfigError, match=r"no profile 'remarks': there are general, prescription, homework"):
        load_config(overrides=["domain.profile=remarks"])


@pytest.mark.parametrize(
    ("typed", "meant"), [("servd", "served"), ("locl", "local"), ("repaly", "replay"), ("my_raeder", "my_reader")]
)
def test_a_mistyped_reader_is_recognised(typed: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = EntryPoints([EntryPoint("my_reader", "nowhere:open_reader", "fusion.readers")])
    monkeypatch.setattr(config, "entry_points", lambda **wanted: known.select(**wanted))
    with pytest.raises(ConfigError, match=f"no reader '{typed}': .*; did you mean {meant}\\?"):
        load_config(overrides=[f"vlm.engine={typed}"])


def broken_plugin(monkeypatch: pytest.MonkeyPatch, value: str) -> config.VlmConfig:
    known = EntryPoints([EntryPoint("mine", value, "fusion.readers")])
    for module in (config, vlm):
        monkeypatch.setattr(module, "entry_points", lambda **wanted: known.select(**wanted))
    return load_config(overrides=["vlm.engine=mine"]).vlm


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "ModuleNotFoundError"),
        ("import a_package_that_is_not_installed", "a_package_that_is_not_installed"),
        ("def other(): ...", "AttributeError"),
        ("def open_reader(:", "SyntaxError"),
        ("1 / int('x')", "ValueError"),
        ("raise RuntimeError('no GPU')", "no GPU"),
    ],
)
def test_a_plugin_that_does_not_load_is_named_with_the_way_out(
    source: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_reader", raising=False)
    if source is not None:
        (tmp_path / "broken_reader.py").write_text(source, encoding="utf-8")
    settings = broken_plugin(monkeypatch, "broken_reader:open_reader")
    with pytest.raises(
        DependencyError, match=r"vlm\.engine: mine: the reader plug-in broken_reader:open_reader"
    ) as caught:
        open_reader(settings)
    assert said in str(caught.value)
    assert "choose another vlm.engine" in caught.value.way_out


def refuses(options: dict[str, Any]) -> Any:
    raise ReaderError("mine", "is out of paper", "Buy some.")


def test_a_plugin_that_does_not_open_is_named_and_its_own_errors_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = broken_plugin(monkeypatch, "x:y")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Sure)
    with pytest.raises(ConfigError, match=r"vlm\.engine: mine: .*KeyError: 'says'") as caught:
        open_reader(settings)
    assert "vlm.options" in caught.value.way_out
    monkeypatch.setattr(EntryPoint, "load", lambda self: refuses)
    with pytest.raises(ReaderError, match="out of paper"):
        open_reader(settings)
