"""The archive: what is kept, found, corrected and deleted, also when the process is killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.errors import ConfigError, InputError
from fusion.page import GAP, Candidate, Hypothesis, Page, Position, Reading, Recipe, Span
from fusion.service.archive import Archive, Conflict, Edit, Unwritable
from fusion.service.terms import grams_of, phrases, terms, variants
from tests.made_pages import line, page
from tests.strategies import pages

PICTURE = b"\xff\xd8 a picture"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive.sqlite")


def kept(archive: Archive, *made: Page, upload: bytes = b"an upload", made_by: str = "") -> str:
    (known,) = archive.add([("note.jpg", upload)], "general", made_by)
    archive.finish(known.id, [(one, PICTURE) for one in made])
    return known.id


def either(text: str, other: str, chance: float = 0.3) -> Span:
    return Span(text, "ocr", 0.6, "ocr_preferred", (Candidate(other, chance),))


def exact(archive: Archive, query: str) -> list[bool]:
    return [found.exact for found in archive.search(query)]


# --- search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["阿", "莫西", "头孢", "阿莫西林胶囊", "AMOX", "500mg", "amoxicillin 头孢", "０.５Ｇ", "cafe"]
)
def test_every_length_of_query_finds_the_page(archive: Archive, query: str) -> None:
    kept(archive, page("1. 阿莫西林胶囊 0.5g", "2. Amoxicillin 500 mg", "头孢 Café"))
    kept(archive, page("红球4个"), upload=b"another")
    assert exact(archive, query) == [True]


@pytest.mark.parametrize(
    "query", ["西莫", "50", "moxi", "阿莫西林 头", "0mg", "", "   ", '"', "*", "_", "text:阿", "NEAR(", "□"]
)
def test_what_is_not_there_is_not_found_and_no_query_is_an_error(archive: Archive, query: str) -> None:
    kept(archive, page("1. 阿莫西林胶囊 0.5g", "2. Amoxicillin 500 mg"))
    assert exact(archive, query) == []


def test_a_phrase_goes_on_in_the_next_line_and_the_hit_names_both(archive: Archive) -> None:
    kept(archive, page("我写完再检", "查一遍"))
    (found,) = archive.search("再检查")
    assert (found.exact, found.hits[0].lines) == (True, ("l000", "l001"))


def test_candidates_are_found_below_exact_hits_and_shown_as_such(archive: Archive) -> None:
    right = kept(archive, page("阿莫西林胶囊"))
    wrong = kept(archive, page("处方", (Span("阿莫西", "ocr", 0.9, "agreed"), either("休", "林"))), upload=b"newer")
    found = archive.search("阿莫西林")
    assert [(one.transcription, one.exact) for one in found] == [(right, True), (wrong, False)]
    (hit,) = found[1].hits
    assert (hit.lines, hit.text, hit.phrase, hit.exact) == (("l001",), "阿莫西休", "阿莫西林", False)


def test_two_doubtful_neighbours_are_found_together_and_the_improbable_is_not(archive: Archive) -> None:
    kept(archive, page((either("何", "阿"), either("草", "莫"), either("酉林", "西林"), either("1", "7", 0.001))))
    assert exact(archive, "阿莫西林") == [False]
    assert exact(archive, "阿莫") == [False]
    assert exact(archive, "7") == []


def test_every_reader_and_every_position_can_be_searched(archive: Archive) -> None:
    recipe = Recipe("e", "1", "m", "0")
    spots = tuple(
        Position(9 * n, 9 * n + 9, tuple(Candidate(c, p) for c, p in zip(text, (0.6, 0.3), strict=False)))
        for n, text in enumerate(["头", "抱孢", "克"])
    )
    readings = (
        Reading("ocr", "头抱克", recipe, spots, (Hypothesis("实抱克", -2.0),)),
        Reading("vlm", "头泡克肟", recipe),
    )
    made = replace(page("头抱克"), lines=(replace(line("头抱克"), readings=readings),))
    kept(archive, made)
    for query, found in {
        "头抱": True,
        "头孢": False,
        "孢克": False,
        "实抱": False,
        "克肟": False,
        "孢肟": None,
    }.items():
        assert exact(archive, query) == ([] if found is None else [found]), query


def test_what_was_supplied_is_no_exact_hit(archive: Archive) -> None:
    kept(archive, page((Span("明天", "agreed", 0.9, "agreed"), Span("晴", "supplied", 0.5, "context", extent=1))))
    assert exact(archive, "明天") == [True]
    assert exact(archive, "明天晴") == [False]


def test_pairs_that_stand_on_different_lines_make_no_hit(archive: Archive) -> None:
    kept(archive, page((either("阿草", "阿莫"),), (either("草西", "莫西"),)))
    assert exact(archive, "阿莫西") == []


@settings(max_examples=25)
@given(made=st.lists(pages(), min_size=1, max_size=2), data=st.data())
def test_every_stretch_of_a_text_is_found_and_so_is_every_variant(
    made: list[Page], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive = Archive(tmp_path_factory.mktemp("archive") / "archive.sqlite")
    id_ = kept(archive, *made)
    for number, one in enumerate(made, 1):
        for each in one.lines:
            for text in {each.diplomatic, *variants(each)}:
                found = [term for term in terms(text) if term.isascii() or "一" <= term <= "鿿"]
                if len(found) < len(terms(text)) or not found:
                    continue  # letters that SQLite's Unicode 6.1 may not know
                start = data.draw(st.integers(0, len(found) - 1))
                query = " ".join(found[start:]) if data.draw(st.booleans()) else "-".join(found[start:])
                assert (id_, number) in [(hit.transcription, hit.page) for hit in archive.search(query)], query


def test_a_phrase_that_fits_a_line_is_made_of_its_grams() -> None:
    (phrase,) = phrases("阿莫西林")
    assert phrase.may_stand_in([], sorted(grams_of(terms("阿莫西林"))))
    assert not phrase.may_stand_in(terms("阿莫"), sorted(grams_of(terms("西林"))))


# --- corrections --------------------------------------------------------------------------------------------------


def test_a_correction_is_a_span_of_a_person_and_the_reading_stays(archive: Archive) -> None:
    id_ = kept(archive, page("take daily", "5 mg"))
    made = archive.correct(id_, 1, [Edit("l000", 0, 4, "take", "Take")], "Ada")
    assert archive.page(id_, 1) == made
    assert (made.lines[0].text, made.lines[0].spans[0].source) == ("Take daily", "human")
    assert made.lines[0].spans[0].by.startswith("Ada, 20")
    assert archive.page(id_, 1, as_read=True) == page("take daily", "5 mg")


def test_the_index_follows_a_correction_and_keeps_what_stood_there_as_another_reading(archive: Archive) -> None:
    id_ = kept(archive, page("阿莫西休"))
    assert exact(archive, "西林") == []
    archive.correct(id_, 1, [Edit("l000", 3, 4, "休", "林")], "Ada")
    assert (exact(archive, "西林"), exact(archive, "西休")) == ([True], [False])
    archive.undo(id_, 1, 1, "Ada")
    assert (exact(archive, "西林"), exact(archive, "西休")) == ([], [True])
    assert archive.page(id_, 1) == page("阿莫西休")
    with pytest.raises(InputError, match="no correction"):
        archive.undo(id_, 1, 0, "Ada")


def test_several_edits_of_one_line_fit_together_or_none_is_made(archive: Archive) -> None:
    id_ = kept(archive, page("5 mg 5 mg"))
    archive.correct(id_, 1, [Edit("l000", 0, 1, "5", "50"), Edit("l000", 5, 6, "5", "50")], "Ada")
    assert archive.page(id_, 1).text == "50 mg 50 mg"
    for edits in (
        [Edit("l000", 0, 2, "50", "1"), Edit("l000", 1, 3, "0 ", "2")],  # they overlap
        [Edit("l000", 0, 2, "50", "1"), Edit("l000", 6, 8, "5 ", "2")],  # nobody saw that
        [Edit("l009", 0, 2, "50", "1")],
    ):
        with pytest.raises(Conflict):
            archive.correct(id_, 1, edits, "Bob")
    with pytest.raises(InputError, match="line break"):
        archive.correct(id_, 1, [Edit("l000", 0, 2, "50", "a\nb")], "Bob")
    assert archive.page(id_, 1).text == "50 mg 50 mg"


def test_what_was_decided_at_once_is_undone_at_once_if_it_is_what_the_person_saw(archive: Archive) -> None:
    id_ = kept(archive, page("5 mg 5 mg", "prn"))
    assert archive.standing(id_, 1)[1] == 0
    archive.correct(id_, 1, [Edit("l001", 0, 3, "prn", "PRN")], "Ada")
    archive.correct(id_, 1, [Edit("l000", 0, 1, "5", "50"), Edit("l000", 5, 6, "5", "50")], "Bob")
    for seen in (0, 1, 3):
        with pytest.raises(Conflict, match="someone else"):
            archive.undo(id_, 1, seen, "Ada")
    archive.undo(id_, 1, 2, "Bob")
    assert (archive.page(id_, 1).text, archive.standing(id_, 1)[1]) == ("5 mg 5 mg\nPRN", 1)
    archive.correct(id_, 1, [Edit("l000", 0, 1, "5", "6")], "Bob")
    with pytest.raises(Conflict):  # a number is not used twice
        archive.undo(id_, 1, 2, "Bob")
    assert archive.page(id_, 1).text == "6 mg 5 mg\nPRN"


def test_a_gap_is_filled_and_a_line_that_nobody_read_gets_its_text(archive: Archive) -> None:
    gap = Span(GAP, "gap", None, "nobody", extent=1)
    id_ = kept(archive, page((gap, Span(" mg", "agreed", 0.9, "agreed")), (Span(" ", "ocr", None, "blank"),)))
    archive.correct(id_, 1, [Edit("l000", 0, 1, GAP, "5"), Edit("l001", 0, 1, " ", "prn")], "Ada")
    assert archive.page(id_, 1).text == "5 mg\nprn"
    assert exact(archive, "5 prn") == [True]


CORRECTING = """
import sys
from fusion.service.archive import Archive, Edit
archive, id_ = Archive(__import__("pathlib").Path(sys.argv[1])), sys.argv[2]
text = archive.page(id_, 1).text
for number in range(int(text), 10**9):
    archive.correct(id_, 1, [Edit("l000", 0, len(text), text, str(number + 1))], "Ada")
    text = str(number + 1)
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()
"""


def test_no_acknowledged_correction_is_lost_when_the_process_is_killed(archive: Archive, tmp_path: Path) -> None:
    id_ = kept(archive, page("0"))
    command = [sys.executable, "-c", CORRECTING, str(tmp_path / "archive.sqlite"), id_]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(3)]
            process.kill()
            said += process.stdout.readlines()
        acknowledged = max(int(row) for row in said if row.endswith("\n"))
        archive = Archive(tmp_path / "archive.sqlite")
        standing = int(archive.page(id_, 1).text)
        assert standing - acknowledged in (0, 1)  # one may be on the disk and not said yet
        assert exact(archive, str(standing)) == [True]


# --- deletion, retention, copies --------------------------------------------------------------------------------------


def everything(tmp_path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(tmp_path.glob("archive.sqlite*")))


def test_deleted_is_deleted_and_nothing_of_it_is_left_in_the_files(archive: Archive, tmp_path: Path) -> None:
    others = [kept(archive, page(f"bystander{n}"), upload=b"%d" % n) for n in range(20)]
    secret = page((either("Lisinopryl", "Lisinopril"),), "王小明")
    id_ = kept(archive, secret, upload=b"the photograph of it" * 500)
    archive.correct(id_, 1, [Edit("l001", 0, 1, "王", "汪")], "Ada")
    secrets = [text.encode() for text in ("lisinopr", "Lisinopryl", "王小明", "汪", "the photograph")]
    assert all(text in everything(tmp_path) for text in secrets)
    archive.delete(id_)
    assert [text for text in secrets if text in everything(tmp_path)] == []
    assert exact(archive, "lisinopryl") == exact(archive, "lisinopril") == []
    assert {one.id for one in archive.recent()} == set(others)
    for gone in (lambda: archive.get(id_), lambda: archive.page(id_, 1), lambda: archive.delete(id_)):
        with pytest.raises(InputError, match="not in the archive"):
            gone()


def test_what_is_too_old_goes(archive: Archive) -> None:
    kept(archive, page("old"))
    time.sleep(0.01)
    assert archive.expire(1) == 0
    assert archive.expire(0) == 1
    assert archive.recent() == []


def test_a_page_read_after_its_deletion_does_not_come_back(archive: Archive) -> None:
    (known,) = archive.add([("a.jpg", b"upload")], "general", "")
    archive.delete(known.id)
    archive.finish(known.id, [(page("late"), PICTURE)])
    assert exact(archive, "late") == []


def test_the_same_upload_is_not_read_twice_and_corrections_do_not_come_along(archive: Archive) -> None:
    id_ = kept(archive, page("take"), made_by="v1")
    archive.correct(id_, 1, [Edit("l000", 0, 4, "take", "Take")], "Ada")
    (again,) = archive.add([("again.jpg", b"an upload")], "general", "v1")
    assert (again.status, again.page_count, archive.page(again.id, 1).text) == ("done", 1, "take")
    for profile, made_by in (("general", "v2"), ("homework", "v1")):
        assert archive.unread([b"an upload", b"an upload", b"other"], profile, made_by) == 2
        twice = archive.add([("a.jpg", b"an upload"), ("b.jpg", b"an upload")], profile, made_by)
        assert [(one.name, one.status) for one in twice] == [("a.jpg", "waiting")] * 2
        assert archive.add([("c.jpg", b"an upload")], profile, made_by) == twice[:1]
    assert archive.unread([b"an upload"], "general", "v1") == 0
    archive.delete(id_)
    assert archive.page(again.id, 1).text == "take"


def test_an_upload_that_was_read_in_part_is_so_again(archive: Archive) -> None:
    (first,) = archive.add([("a.pdf", b"two pages")], "general", "v1")
    archive.finish(first.id, [(page("take"), PICTURE)], "page 2 can't be read")
    (again,) = archive.add([("b.pdf", b"two pages")], "general", "v1")
    assert (again.status, again.page_count, again.problem) == ("done", 1, "page 2 can't be read")


def test_uploads_are_kept_all_or_none(archive: Archive) -> None:
    broken: list[tuple[str, bytes]] = [("a.jpg", b"a"), ("b.jpg", "no bytes")]  # type: ignore[list-item]
    with pytest.raises(TypeError):
        archive.add(broken, "general", "v1")
    assert archive.recent() == []


def test_what_ends_the_service_three_times_is_given_up(archive: Archive) -> None:
    one, other = archive.add([("a.jpg", b"poison"), ("b.jpg", b"good")], "general", "v1")
    for tried in range(3):
        archive.give_up()
        assert archive.waiting() == [one.id, other.id], tried
        assert archive.begin(one.id) == b"poison"
    archive.give_up()
    assert (archive.waiting(), archive.get(one.id).status) == ([other.id], "failed")
    assert "3 times" in archive.get(one.id).problem


def test_a_deletion_while_another_reads_is_completed_afterwards(archive: Archive, tmp_path: Path) -> None:
    kept(archive, page("bystander"))
    with closing(sqlite3.connect(tmp_path / "archive.sqlite", isolation_level=None)) as reader:
        id_ = kept(archive, page("Lisinopryl"), upload=b"another")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM pages").fetchone()
        archive.delete(id_)
        assert not archive.wipe()
        assert b"Lisinopryl" in everything(tmp_path)
        reader.execute("COMMIT")
    assert archive.wipe()
    assert b"Lisinopryl" not in everything(tmp_path)


def test_a_lock_is_not_told_as_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.service.archive.BUSY", 0.01)
    archive = Archive(tmp_path / "archive.sqlite")
    with closing(sqlite3.connect(tmp_path / "archive.sqlite", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unwritable, match="Try again"):
            kept(archive, page("late"))
    with sqlite3.connect(tmp_path / "archive.sqlite") as other:
        (pages,) = other.execute("PRAGMA page_count").fetchone()
    archive._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unwritable, match="Make room"):
        kept(archive, page("too much"), upload=b"a disk full" * 100_000)


def test_a_copy_made_while_it_is_written_is_whole_and_can_be_restored(archive: Archive, tmp_path: Path) -> None:
    id_ = kept(archive, page("first"))
    with sqlite3.connect(tmp_path / "archive.sqlite") as source, sqlite3.connect(tmp_path / "copy.sqlite") as copy:
        source.backup(copy)
    kept(archive, page("second"), upload=b"2")
    restored = Archive(tmp_path / "copy.sqlite")
    assert (exact(restored, "first"), exact(restored, "second")) == ([True], [])
    assert restored.page(id_, 1) == page("first")
    assert restored.picture(id_, 1) == PICTURE
    assert kept(restored, page("third"), upload=b"3")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("dear diary, " * 1000)
    with pytest.raises(ConfigError, match="can't be opened"):
        Archive(tmp_path / "notes.txt")
    with sqlite3.connect(tmp_path / "later.sqlite") as later:
        later.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="version 99"):
        Archive(tmp_path / "later.sqlite")
