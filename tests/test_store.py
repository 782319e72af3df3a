"""Stages as records: what was seen comes back as it was, and is decided on again without OCR or reader."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.config import Config, load_config
from fusion.engine import Engine
from fusion.errors import InputError
from fusion.ink import Evidence, InkLine, Seen, Weighed
from fusion.intake import open_pages
from fusion.page import Failure, Page
from fusion.store import (
    Store,
    dump_evidence,
    dump_lines,
    dump_weighed,
    key_of,
    load_evidence,
    load_lines,
    load_weighed,
)
from tests.inks import ink, ocr_reading, vlm_reading

SAMPLES = Path(__file__).parent.parent / "eval" / "samples"
PAGES = ("prescription.jpg", "note_zh.jpg", "homework_marks.jpg")
LETTERS = st.text(st.sampled_from("abcB12 ½第，"), min_size=1, max_size=8).filter(lambda t: t.strip() == t)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as opened:
        yield opened


def look(engine: Engine, name: str) -> Evidence:
    (image,) = open_pages(SAMPLES / name, engine.config.intake)
    return engine.look(image, name=name)


def seen(text: str, other: str) -> Seen:
    views = ink(text)
    crop = np.random.default_rng(len(text)).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    line = InkLine("l000", ((0.0, 0.5), (9.0, 0.25), (9.0, 7.0), (0.0, 7.0)), crop, ocr_reading(views), views)
    answers = (vlm_reading(other), Failure("vlm", "timeout", "no answer"))
    return Seen(line, True, answers, replace(ink(other), agree=True), {text: -0.1234567890123, other: -3.5})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LETTERS, LETTERS)
def test_a_line_comes_back_as_it_was(text: str, other: str) -> None:
    one = seen(text, other)
    (back,) = load_lines(dump_lines([one]))
    assert np.array_equal(back.line.crop, one.line.crop)
    assert (back.line.reading, back.line.polygon, back.answers) == (one.line.reading, one.line.polygon, one.answers)
    assert back.scores == one.scores
    texts = [text, other, "zz"]
    assert back.line.ink is not None
    assert back.look is not None
    assert back.line.ink.score(texts) == one.line.ink.score(texts)
    assert back.look.score_cased(texts) == one.look.score_cased(texts)
    assert back.line.ink.quality == one.line.ink.quality
    assert back.line.ink.place(text) == one.line.ink.place(text)


@settings(max_examples=20, deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=4, unique=True), st.integers(0, 99))
def test_a_weighed_line_comes_back_as_it_was(texts: list[str], seed: int) -> None:
    table = np.random.default_rng(seed).normal(size=(len(texts), 9))
    weighed = Weighed(tuple(texts), table, tuple(n % 2 == 0 for n in range(len(texts))), (0.1 + 0.2, 0.0, 1.0))
    content = dump_weighed(weighed)
    back = load_weighed(content)
    assert np.array_equal(back.table, table)
    assert replace(back, table=table) == weighed
    for broken in (content[:-1], b"", content[:9] + bytes([content[9] ^ 1]) + content[10:]):
        with pytest.raises(InputError, match="is no record"):
            load_weighed(broken)


@pytest.mark.live
def test_what_experts_make_of_a_line_is_kept_until_one_of_them_changes(tmp_path: Path) -> None:
    def read(*settings: str) -> tuple[list[Page], int]:
        with Engine(load_config(overrides=["vlm.engine=none", f"store.folder={tmp_path}", *settings])) as opened:
            return list(opened.read(SAMPLES / "word_squashed.png", crop=True)), opened.recalled

    first, none = read()
    again, all_of_it = read()
    assert (again, none) == (first, 0)
    assert read("fuse.alternatives=1")[1] == all_of_it
    assert read("fuse.languages=[]")[1] == all_of_it - 1
    assert read("domain.profile=prescription")[1] == all_of_it - 1


def evidence_of(*lines: Seen) -> Evidence:
    return Evidence("a.png", "0" * 64, 90, 70, 0.0, np.eye(3), lines=lines)


def changed(content: bytes, head: dict[str, Any], arrays: dict[str, Any]) -> bytes:
    """A record with some of its values replaced; `lines.` names a value of its first line."""
    with np.load(io.BytesIO(content)) as stored:
        kept = {key: stored[key] for key in stored.files}
    record = json.loads(kept["head"].tobytes())
    for key, value in head.items():
        place, _, name = key.rpartition(".")
        (record["lines"][0] if place else record)[name] = value
    kept["head"] = np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, **kept | arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("head", "arrays", "named"),
    [
        ({"width": 0}, {}, "is no record"),
        ({"angle": float("nan")}, {}, "a number is NaN"),
        ({"angle": float("inf")}, {}, "is no record"),
        ({"id": ""}, {}, "is no record"),
        ({"lines.scores": {"a": float("nan")}}, {}, "a number is NaN"),
        ({"lines.polygon": [[0, float("inf")]]}, {}, "is no record"),
        ({}, {"transform": np.arange(9.0)}, "homography"),
        ({}, {"transform": np.eye(4)}, "homography"),
        ({}, {"transform": np.full((3, 3), np.nan)}, "homography"),
        ({}, {"values": np.nan}, "probability"),
        ({}, {"values": -0.1}, "probability"),
        ({}, {"values": 1.5}, "probability"),
        ({}, {"columns": -1}, "column number"),
        ({}, {"rows": -1}, "is no record"),
    ],
)
def test_impossible_values_of_a_well_formed_record_are_refused(
    head: dict[str, Any], arrays: dict[str, Any], named: str
) -> None:
    content = dump_evidence(evidence_of(seen("ab", "b1")))
    assert load_evidence(changed(content, {}, {})).lines[0].readings
    with np.load(io.BytesIO(content)) as stored:
        like = {key: np.full(stored[key].shape, value) for key, value in arrays.items() if np.isscalar(value)}
    with pytest.raises(InputError, match=named):
        load_evidence(changed(content, head, arrays | like))


def test_two_lines_of_one_id_are_refused() -> None:
    with pytest.raises(InputError, match="two lines"):
        load_evidence(dump_evidence(evidence_of(seen("ab", "b1"), seen("c", "c"))))


@pytest.mark.live
@pytest.mark.parametrize("name", PAGES)
def test_stored_evidence_gives_the_same_page(engine: Engine, name: str) -> None:
    evidence = look(engine, name)
    content = dump_evidence(evidence)
    assert engine.decide(load_evidence(content)) == engine.decide(evidence)
    assert dump_evidence(load_evidence(content)) == content
    assert len(content) < 1_000_000  # crops and posteriors of a page


@pytest.mark.live
def test_stored_evidence_is_decided_on_again_by_other_weights_without_ocr_or_reader(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = dump_evidence(look(engine, "prescription.jpg"))
    weights = json.loads((files("fusion.fuse") / "weights.json").read_text(encoding="utf-8"))
    weights["experts"] |= {"reader": 0.0, "decoder": 0.0}
    (tmp_path / "weights.json").write_text(json.dumps(weights), encoding="utf-8")
    with Engine(load_config(overrides=[f"fuse.weights={tmp_path / 'weights.json'}", "vlm.engine=none"])) as other:
        monkeypatch.setattr(other._ocr, "read", None)
        alone = other.decide(load_evidence(content))
    both = engine.decide(load_evidence(content))
    assert [line.readings for line in alone.lines] == [line.readings for line in both.lines]
    assert [line.text for line in alone.lines] != [line.text for line in both.lines]
    assert alone.identities["weights"] != both.identities["weights"]
    assert alone.identities["reader"] == both.identities["reader"]  # who read it stays on record


@pytest.mark.live
def test_a_page_says_what_made_it(engine: Engine) -> None:
    page = engine.decide(look(engine, "note_zh.jpg"))
    names = {"ocr", "reader", "looked_for", "fusion", "config", "weights", "lists", "languages", "profile"}
    assert set(page.identities) == names
    assert all(page.identities.values())
    assert page.identities["ocr"].count("@") == 4  # all models by name and hash
    assert page.identities["config"] == engine.config.hash[:12]


@pytest.mark.live
def test_an_engine_may_be_used_from_several_threads(engine: Engine) -> None:
    alone = {name: list(engine.read(SAMPLES / name)) for name in PAGES}
    found: dict[tuple[int, str], list[Page]] = {}

    def work(number: int) -> None:
        for name in PAGES[number % len(PAGES) :] + PAGES[: number % len(PAGES)]:
            found[number, name] = list(engine.read(SAMPLES / name))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 * len(PAGES)
    assert all(pages == alone[name] for (_, name), pages in found.items())


# --- the folder -----------------------------------------------------------------------------------------------------


def stored(folder: Path, *overrides: str) -> Config:
    return load_config(overrides=[f"store.folder={folder}", *overrides])


@pytest.mark.live
def test_a_store_spares_ocr_and_reader_and_changes_nothing(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = list(engine.read(SAMPLES / "prescription.jpg"))
    with Engine(stored(tmp_path)) as first:
        assert list(first.read(SAMPLES / "prescription.jpg")) == plain
    records = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert records
    with Engine(stored(tmp_path, "ocr.threads=2", "review.max_error=0.2")) as second:
        monkeypatch.setattr(second._ocr, "read", None)
        monkeypatch.setattr(second._reader, "look", None)
        (page,) = second.read(SAMPLES / "prescription.jpg")
    assert [line.spans for line in page.lines] == [line.spans for line in plain[0].lines]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == records


@pytest.mark.live
def test_another_setting_of_a_stage_is_another_record(tmp_path: Path) -> None:
    counts = []
    for overrides in ([], ["ocr.detection_side=640"], ["domain.profile=prescription"]):
        with Engine(stored(tmp_path, *overrides)) as engine:
            list(engine.read(SAMPLES / "prescription.jpg"))
        counts.append(len([path for path in tmp_path.rglob("*") if path.is_file()]))
    assert counts[0] < counts[1] < counts[2]  # a list changes what the decoder is asked, not what the OCR sees


@pytest.mark.live
@pytest.mark.parametrize("damage", [b"", b"no record", b"PK\x03\x04" + bytes(50), None])
def test_a_damaged_record_is_made_again(engine: Engine, tmp_path: Path, damage: bytes | None) -> None:
    plain = list(engine.read(SAMPLES / "note_zh.jpg"))
    with Engine(stored(tmp_path)) as first:
        list(first.read(SAMPLES / "note_zh.jpg"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF  # a byte that flipped, in the middle of compressed data
            path.write_bytes(bytes(content) if damage is None else damage)
    with Engine(stored(tmp_path)) as second:
        assert list(second.read(SAMPLES / "note_zh.jpg")) == plain


def test_a_store_that_can_not_be_written_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = Store(tmp_path / "file")
    assert store.recall("ab" * 32, bytes, lambda: b"made", bytes) == b"made"
    assert Store(None).recall("ab" * 32, bytes, lambda: b"made", bytes) == b"made"


def test_writers_that_meet_leave_one_whole_record(tmp_path: Path) -> None:
    key, content = key_of(stage="x"), bytes(range(256)) * 4000
    threads = [
        threading.Thread(target=lambda: Store(tmp_path).recall(key, bytes, lambda: content, bytes)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [key]
    assert (tmp_path / key[:2] / key).read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_record_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"x\.npz: is no record"):
        load_evidence(content, name="x.npz")
    with pytest.raises(InputError):
        load_lines(content)


def test_a_record_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, head=np.array([{"format": "fusion.evidence/1"}], dtype=object))
    with pytest.raises(InputError, match="is no record"):
        load_evidence(path.read_bytes())


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_record_is_refused_and_made_again(tmp_path: Path, seed: int) -> None:
    """Whatever bytes a disk returns: an InputError from the loader, and the store makes the record anew."""
    rng = np.random.default_rng(seed)
    content = dump_lines(())
    for _ in range(40):
        damaged = bytearray(content[: int(rng.integers(1, len(content) + 1))])
        damaged[int(rng.integers(len(damaged)))] ^= int(rng.integers(1, 256))
        with contextlib.suppress(InputError):
            load_lines(bytes(damaged))
    store = Store(tmp_path)
    key = key_of(seed=seed)
    store.recall(key, load_lines, lambda: (), dump_lines)
    path = tmp_path / key[:2] / key
    path.write_bytes(content[: len(content) // 2])
    assert store.recall(key, load_lines, lambda: (), dump_lines) == ()
    assert path.read_bytes() == content
    npy = io.BytesIO()
    np.save(npy, np.zeros(3))
    with pytest.raises(InputError):
        load_lines(npy.getvalue())
