"""Batch runs: what may be named, and one row per input whatever happens."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from fusion.batch import estimate, make_plan
from fusion.batch.progress import Tally
from fusion.batch.record import Row
from fusion.batch.remote import fetched
from fusion.config import Config, IntakeConfig, load_config
from fusion.errors import ConfigError, InputError, ReaderError
from tests.batches import ROOT, SAMPLES, WORD, configured, document, results, rows, run, served, words
from tests.vlm_readers import completion, serving

# --- the plan -------------------------------------------------------------------------------------------------------


def paths(config: Config) -> list[str]:
    return [str(one.path) for one in make_plan(config).inputs]


def test_inputs_are_folders_patterns_lists_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/2.png", "a/1.png", "a/.hidden.png", "a/notes.doc", "b/c/3.jpg", "b/4.tif"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("list.txt").write_bytes(b"b/4.tif\n\nbad\xff.png\n")
    Path("b/table.csv").write_text("\ufeffimage,other\nc/3.jpg,1\n,2\n4.tif,3\n", encoding="utf-8")
    assert paths(configured(Path("out"), "a")) == ["a/1.png", "a/2.png"]
    assert paths(configured(Path("out"), "**/*.jpg", "a/2.png", "a")) == ["b/c/3.jpg", "a/2.png", "a/1.png"]
    assert paths(configured(Path("out"), "list.txt")) == ["b/4.tif", "bad\udcff.png"]
    assert paths(configured(Path("out"), "b/table.csv")) == ["b/c/3.jpg", "b/4.tif"]
    from pyarrow import parquet, table

    parquet.write_table(table({"scan": ["a/1.png", None, "b/4.tif"]}), "t.parquet")
    assert paths(configured(Path("out"), "t.parquet", column="scan")) == ["a/1.png", "b/4.tif"]
    plan = make_plan(configured(Path("out"), "t.parquet", "nowhere", "no*thing", "b/table.csv", column="x"))
    assert [one.problem is not None and one.problem.split(": ")[0] for one in plan.inputs] == [
        "t.parquet", "nowhere", "no*thing", "b/table.csv",
    ]  # fmt: skip
    assert "Set batch.column to one of: scan" in str(plan.inputs[0].problem)


def test_addresses_are_listed_and_fetched(tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for name in ("/scans/b/2.png", "/scans/1.png", "/scans/notes.doc"):
        store.pipe(name, WORD.read_bytes())
    (tmp_path / "list.txt").write_text("memory://scans/1.png\n", encoding="utf-8")
    out = tmp_path / "out"
    assert paths(configured(out, "memory://scans")) == ["memory:///scans/1.png", "memory:///scans/b/2.png"]
    assert paths(configured(out, "memory://scans/**/*.png"))[-1] == "memory:///scans/b/2.png"
    assert paths(configured(out, tmp_path / "list.txt")) == ["memory:///scans/1.png"]
    (lost, unknown) = make_plan(configured(out, "memory://nowhere", "nostore://x/y")).inputs
    assert "does not exist" in str(lost.problem)
    assert "can't be fetched" in str(unknown.problem)
    intake = load_config().intake
    with fetched("memory:///scans/1.png", intake, tmp_path) as file:
        assert file.read_bytes() == WORD.read_bytes()
    assert not file.exists()
    with pytest.raises(InputError, match="over the limit"), fetched("memory:///scans/1.png", _small(intake), tmp_path):
        pass


def _small(intake: IntakeConfig) -> IntakeConfig:
    return intake.model_copy(update={"max_file_mb": 0.001})


@pytest.mark.live
def test_what_lies_elsewhere_is_read_like_what_lies_here(tmp_path: Path) -> None:
    words(tmp_path / "in", 2)
    run(configured(tmp_path / "here", tmp_path / "in"))
    run(configured(tmp_path / "there", f"file://{tmp_path}/in", f"file://{tmp_path}/none.png"))
    here, there = rows(tmp_path / "here"), rows(tmp_path / "there")
    assert [row["status"] for row in there] == ["ok", "ok", "failed"]
    assert [row["input"] for row in there[:2]] == [f"file://{row['input']}" for row in here]
    assert [[page["text"] for page in row["pages"]] for row in there[:2]] == [["Amlodipine"]] * 2


def test_results_are_no_inputs_of_the_next_run(tmp_path: Path) -> None:
    for name in ("a.png", "out/pages/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert paths(configured(tmp_path / "out", tmp_path)) == [str(tmp_path / "a.png")]


def test_a_thousand_inputs_of_one_name_get_a_thousand_names(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("".join(f"{n}/Scan.jpg\n" for n in range(3000)), encoding="utf-8")
    stems = {one.stem.casefold() for one in make_plan(configured(tmp_path / "out", tmp_path / "l.txt")).inputs}
    assert len(stems) == 3000


def test_a_plan_says_how_it_differs_from_another(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / f"{name}.png").touch()
    config = configured(tmp_path / "out", tmp_path)
    plan = make_plan(config)
    assert plan.difference(plan.dump()) == ""
    other = load_config(config, ["batch.workers=7", f"batch.output={tmp_path}/elsewhere", "batch.keep=false"])
    assert make_plan(other).difference(plan.dump()) == ""
    other = load_config(config, ["fuse.alternatives=2", "batch.formats=[tei]", f"batch.inputs=[{tmp_path}/a.png]"])
    difference = make_plan(other).difference(plan.dump())
    assert "fuse.alternatives: 4 there, 2 here" in difference
    assert 'formats: ["csv", "json", "text"] there, ["tei"] here' in difference
    assert f"5 fewer inputs here: {tmp_path}/b.png" in difference


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.live
def test_one_row_per_input_whatever_happens(tmp_path: Path) -> None:
    for name in ("in/a/note.png", "in/b/note.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(WORD, tmp_path / name)
    (tmp_path / "in" / "empty.png").touch()
    out = tmp_path / "out"
    config = configured(
        out, tmp_path / "nowhere.png", tmp_path / "in", parquet=True, formats=["csv", "text", "overlay"]
    )
    shown: list[Row] = []
    ended = run(config, lambda tally, row: shown.append(row) if row is not None else None)
    found = rows(out)
    assert [row["status"] for row in found] == ["failed", "ok", "ok", "failed"]
    assert [row["stage"] for row in found] == ["intake", None, None, "intake"]
    assert sorted(row.input for row in shown) == sorted(row["input"] for row in found)
    assert (
        len({name for row in found for page in row["pages"] for name in page["files"]}) == 6
    )  # equal names did not meet
    assert [page["text"] for row in found for page in row["pages"]] == ["Amlodipine"] * 2
    assert (ended.interrupted, ended.counts["failed"], ended.counts["pages"]) == (False, 2, 2)
    table = list(csv.DictReader((out / "records.csv").open(encoding="utf-8", newline="")))
    assert [row["page"] for row in table] == [str(tmp_path / "in" / name / "note.png") for name in "ab"]
    from pyarrow import parquet

    flat = parquet.read_table(out / "results.parquet").to_pylist()
    assert [row["input"] for row in flat] == [row["input"] for row in found]
    assert [row["text"] for row in flat] == [None, "Amlodipine", "Amlodipine", None]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["complete"]
    assert manifest["counts"] == ended.counts
    assert "PP-OCRv6" in manifest["made_by"]["ocr"]
    assert load_config(out / "config.yaml").hash == manifest["config_hash"] == config.hash
    assert 'fusion_batch_inputs_done{status="failed"} 2' in (out / "metrics.prom").read_text(encoding="utf-8")
    for name in ("record.jsonl", "manifest.json", "metrics.prom", "plan.jsonl"):
        assert "Amlodipine" not in (out / name).read_text(encoding="utf-8")


@pytest.mark.live
def test_a_paper_of_another_kind_than_the_profile_is_said(tmp_path: Path) -> None:
    paper, note = SAMPLES / "prescription.jpg", SAMPLES / "note_zh.jpg"
    config = load_config(configured(tmp_path / "out", paper, note, crop=False), ["domain.profile=prescription"])
    (tmp_path / "c.yaml").write_text(config.to_yaml(), encoding="utf-8")
    call = [sys.executable, "-m", "fusion.cli", "batch", str(tmp_path / "c.yaml")]
    said = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert [page["understood"] for row in rows(tmp_path / "out") for page in row["pages"]] == [True, False]
    assert "on 1 of 2 pages is nothing that the profile prescription knows" in said.stderr


@pytest.mark.live
@pytest.mark.parametrize("where", ["{}", "file://{}"])
def test_two_workers_share_a_long_document(tmp_path: Path, where: str) -> None:
    source = where.format(document(tmp_path / "fax.tif", 10))
    tallies: list[Tally] = []
    run(configured(tmp_path / "two", source, workers=2), lambda tally, row: tallies.append(copy(tally)))
    assert max(tally.workers for tally in tallies) == 2
    assert tallies[-1].counts["inputs"] == 1
    run(configured(tmp_path / "one", source))
    (row,) = rows(tmp_path / "two")
    assert row["status"] == "ok"
    assert [page["page"] for page in row["pages"]] == [f"{source}#{number}" for number in range(1, 11)]
    assert results(tmp_path / "two") == results(tmp_path / "one")


@pytest.mark.live
def test_one_output_that_can_not_be_written_loses_no_other(tmp_path: Path) -> None:
    (tmp_path / "out" / "pages" / "w000.png.txt").mkdir(parents=True)  # no file can be written there
    ended = run(configured(tmp_path / "out", words(tmp_path / "in", 2)))
    first, second = rows(tmp_path / "out")
    assert (first["status"], first["stage"]) == ("partial", "output")
    assert "text can't be written" in first["reason"]
    assert [page["files"] for page in first["pages"]] == [["w000.png.json", "w000.png.csv"]]
    assert second["status"] == "ok"
    assert ended.counts["partial"] == 1


@pytest.mark.live
def test_what_failed_is_read_again_only_when_asked_and_what_is_lost_always(tmp_path: Path) -> None:
    folder, out = words(tmp_path / "in", 2), tmp_path / "out"
    good = (folder / "w001.png").read_bytes()
    (folder / "w001.png").write_bytes(b"")
    config = configured(out, folder)
    assert run(config).counts["failed"] == 1
    (folder / "w001.png").write_bytes(good)
    read: list[Row] = []

    def show(tally: Tally, row: Row | None) -> None:
        read.extend([row] if row is not None else [])

    assert run(config, show).counts["failed"] == 1
    assert read == []
    assert run(config, show, retry=True).counts["failed"] == 0
    assert [row.number for row in read] == [1]
    (out / "pages" / "w000.png.txt").unlink()
    run(config, show)
    assert [row.number for row in read] == [1, 0]
    assert [row["status"] for row in rows(out)] == ["ok", "ok"]


@pytest.mark.live
def test_another_weight_runs_no_reader_again(tmp_path: Path) -> None:
    folder, out = words(tmp_path / "in", 2), tmp_path / "out"
    config = load_config(configured(out, folder), ["vlm.engine=local", "vlm.ask=all"])
    assert run(config).counts["asked"] == 2
    changed = load_config(config, ["fuse.alternatives=1", "batch.formats=[json]"])
    with pytest.raises(ConfigError, match="--restart"):
        run(changed)
    tallies: list[Tally] = []
    run(changed, lambda tally, row: tallies.append(tally), restart=True)
    # For each page what the OCR found, the look of the small reader, and what the experts make of both.
    assert tallies[-1].recalled == 6
    assert sorted(path.name for path in (out / "pages").iterdir()) == ["w000.png.json", "w001.png.json"]
    assert not (out / "records.csv").exists()


# --- endpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Any]:
    answers: list[Any] = []

    def script(path: str, body: dict[str, Any]) -> Any:
        time.sleep(0.05)
        return answers.pop(0) if answers else completion("Amlodipine")

    with serving(script) as opened:
        opened.answers = answers
        yield opened


@pytest.mark.live
def test_pages_stand_while_an_endpoint_is_away_and_the_run_stops_if_asked(tmp_path: Path, server: Any) -> None:
    server.answers += [(500, "", {})] * 100
    out, folder = tmp_path / "out", words(tmp_path / "in", 12)
    (folder / "w000.png").write_bytes(b"")
    config = served(configured(out, folder, stop_after_failures=4), server.url)
    with pytest.raises(ReaderError, match="--retry-failed"):
        run(config)
    found = rows(out)
    assert 5 <= len(found) < 12
    assert {row["status"] for row in found[1:]} == {"partial"}
    assert all(row["stage"] == "vlm" and row["pages"][0]["text"] for row in found[1:])
    server.answers.clear()
    ended = run(config, retry=True)
    assert (ended.counts["ok"], ended.counts["failed"]) == (11, 1)
    asked = len(server.requests)
    run(load_config(config, ["fuse.alternatives=1"]), restart=True)
    assert len(server.requests) == asked  # answers are kept too


@pytest.mark.live
def test_an_estimate_says_what_will_be_refused_and_counts_pages(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    config = configured(out, document(tmp_path / "fax.tif", 3), tmp_path / "broken.png")
    assert "1 of which a page was read for it" in estimate(config, make_plan(config))
    assert "3 pages an input" in estimate(config, make_plan(config))
    run(config)
    assert "refused" not in estimate(config, make_plan(config))
    changed = configured(out, tmp_path / "fax.tif")
    assert "refused   the folder holds the results of another plan (1 fewer" in estimate(changed, make_plan(changed))
    nothing = configured(tmp_path / "none", tmp_path / "broken.png")
    assert "time" not in estimate(nothing, make_plan(nothing))
