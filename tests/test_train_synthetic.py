"""Synthetic lines: texts stay in their alphabet and on their side, pictures repeat and show every character."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from fusion.errors import ConfigError, DependencyError
from fusion.train import render as rendering
from fusion.train.fonts import LICENCES, TIERS, Font, fetch
from fusion.train.render import HEIGHT, WIDEST, pool, render
from fusion.train.texts import ALPHABET, KINDS, LONGEST, Texts

LISTING = Path(__file__).parent.parent / "configs/train/fonts.yaml"
WORDS = (
    ("the", "house", "water", "quickly", "green", "walked", "reading", "teachers"),
    ("abate", "antenna", "bonfire", "barometer", "gracious", "drifted"),
    ("baggywrinkle", "ammonites", "anthracoid", "ataman"),
)
NAMES = ["Napa", "Seclo", "Azithromycin", "Ceevit", "Fexo", "Monas"]


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts(WORDS, NAMES, seed=3)


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> list[Font]:
    """The font that Pillow carries within itself, as a file: no machine needs to have fonts for these tests."""
    built_in = ImageFont.load_default(20)
    assert isinstance(built_in, ImageFont.FreeTypeFont)
    assert isinstance(built_in.path, io.BytesIO)
    path = tmp_path_factory.mktemp("fonts") / "built_in.ttf"
    path.write_bytes(built_in.path.getvalue())
    return [Font("built-in", path, "OFL-1.1")]


# --- texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stays_in_the_alphabet_and_short(texts: Texts, kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(300):
        text = texts.line(rng, kind)
        assert 1 <= len(text) <= LONGEST
        assert text == " ".join(text.split())
        assert set(text) <= set(ALPHABET)


def test_the_two_sides_share_no_text(texts: Texts) -> None:
    rng = random.Random(1)
    training = {texts.line(rng) for _ in range(1500)}
    evaluation = {texts.line(rng, held_out=True) for _ in range(100)}
    assert training.isdisjoint(evaluation)
    assert not any(map(texts.held_out, training))
    assert all(map(texts.held_out, evaluation))


def test_about_one_text_in_twenty_is_held_out_whatever_its_case(texts: Texts) -> None:
    share = np.mean([texts.held_out(f"text {n}") for n in range(4000)])
    assert 0.035 < share < 0.065
    assert all(texts.held_out(f"Napa {n}mg") == texts.held_out(f"NAPA{n} MG") for n in range(200))


def test_the_same_seed_gives_the_same_texts() -> None:
    drawn = [[Texts(WORDS, NAMES, seed=5).line(random.Random(n)) for n in range(40)] for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_no_names_are_no_trouble() -> None:
    rng = random.Random(2)
    assert all(Texts(WORDS, [], seed=1).line(rng, "name", held_out=side) for side in (False, True))


def test_sums_are_right_and_wrong(texts: Texts) -> None:
    rng = random.Random(8)
    right = []
    for _ in range(3000):
        text = texts.line(rng, "sum").replace(" ", "").replace("×", "*")
        made, _, answer = text.partition("=")
        if answer.lstrip("-").isdigit() and set(made) <= set("0123456789+-*()"):
            right.append(eval(made) == int(answer))
    assert len(right) > 300
    assert 0.3 < np.mean(right) < 0.8


# --- pictures -----------------------------------------------------------------------------------------------------


def test_a_picture_is_48_px_high_with_dark_ink_on_light_paper(texts: Texts, fonts: list[Font]) -> None:
    rng = random.Random(4)
    for _ in range(60):
        picture = render(texts.line(rng), fonts, rng)
        assert picture.dtype == np.uint8
        assert picture.shape[0] == HEIGHT
        assert 16 <= picture.shape[1] <= WIDEST
        assert float(np.median(picture)) - float(picture.min()) > 20


def test_every_character_can_be_drawn(fonts: list[Font]) -> None:
    for character in ALPHABET.strip():
        assert render(character, fonts, random.Random(character)).min() < 200


def test_a_missing_glyph_comes_from_another_font(fonts: list[Font], monkeypatch: pytest.MonkeyPatch) -> None:
    lacking, whole = fonts[0], Font("whole", fonts[0].path, "OFL-1.1")
    draws = rendering._Face.draws
    poor = rendering._face(lacking, 1.0)
    monkeypatch.setattr(rendering._Face, "draws", lambda face, c: draws(face, c) and (face is not poor or c != "b"))
    pieces = rendering._pieces("abc", poor, [lacking, whole], False, False, random.Random(1))
    assert pieces == [("a", poor), ("b", rendering._face(whole, 1.0)), ("c", poor)]


def test_a_missing_glyph_is_drawn_with_strokes_or_refused(fonts: list[Font]) -> None:
    face = rendering._face(fonts[0], 1.0)
    assert not face.draws("\u4e2d")
    assert rendering._face_for("π", face, fonts, random.Random(1)) in (None, face)
    with pytest.raises(ValueError, match="no font has the character"):
        render("\u4e2d", fonts, random.Random(1))


def test_small_letters_are_not_drawn_with_capitals(fonts: list[Font]) -> None:
    shouting = Font("shouting", fonts[0].path, "OFL-1.1", capitals=True)
    assert rendering._fit_fonts("Napa", [shouting, *fonts]) == fonts
    assert rendering._fit_fonts("NAPA 5", [shouting, *fonts]) == [shouting, *fonts]


def test_a_pool_is_the_same_whatever_the_number_of_workers(texts: Texts, fonts: list[Font]) -> None:
    alone, again, shared = (pool(texts, fonts, 12, 7, workers) for workers in (1, 1, 2))
    for other in (again, shared):
        assert [text for _, text in alone] == [text for _, text in other]
        assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(alone, other, strict=True))
    assert pool(texts, fonts, 3, 8, 1)[0][1] != alone[0][1]


# --- fetching -----------------------------------------------------------------------------------------------------


def write_listing(folder: Path, licence: str = "OFL-1.1") -> Path:
    listing = folder / "fonts.yaml"
    listing.write_text(
        f'fonts:\n  - {{package: "@a/b", version: "1.0.0", licence: {licence}, held_out: true}}\n'
        'words: {package: w, version: "2.0.0", licence: MIT}\n'
    )
    return listing


def test_a_filled_folder_asks_nothing_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "a-b-1.0.0.woff2").write_bytes(b"font")
    (tmp_path / "w-2.0.0.json").write_text(json.dumps(WORDS))
    materials = fetch(write_listing(tmp_path), tmp_path)
    assert materials.words == WORDS
    assert [font.family for font in materials.side(True)] == ["b"]
    assert materials.side(False) == ()


def test_missing_npm_and_forbidden_licences_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DependencyError, match=r"npm: not installed"):
        fetch(write_listing(tmp_path), tmp_path)
    with pytest.raises(ConfigError, match=r"licence CC-BY-NC-4\.0"):
        fetch(write_listing(tmp_path, "CC-BY-NC-4.0"), tmp_path)
    with pytest.raises(ConfigError, match="not a list of fonts"):
        fetch(tmp_path / "none.yaml", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a shell script")
def test_a_package_that_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error 404' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match=r"@a/b@1\.0\.0: npm did not deliver it \(npm error 404\)"):
        fetch(write_listing(tmp_path), tmp_path / "cache")


def test_the_listing_holds_only_allowed_licences_and_pinned_versions() -> None:
    from fusion.train.fonts import _read_listing

    fonts, words = _read_listing(LISTING)
    assert {font.licence for font in fonts} <= set(LICENCES)
    assert all(package.version.count(".") == 2 for package in (*fonts, words))
    assert len({font.name for font in fonts}) == len(fonts) >= 60
    assert 6 <= sum(font.held_out for font in fonts) <= 12
    assert len(TIERS) == 4
