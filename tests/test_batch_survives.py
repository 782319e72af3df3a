"""Runs that are killed, interrupted, or lose their workers end as if nothing had happened; so do those on a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from fusion.batch import local, make_plan, worker
from fusion.batch.plan import Input
from fusion.batch.progress import Tally
from fusion.batch.record import PageRow, Record, Row
from fusion.config import Config, load_config
from fusion.errors import ConfigError, FusionError, ReaderError
from tests.batches import ROOT, WORD, configured, document, results, rows, run, words

# --- killed ---------------------------------------------------------------------------------------------------------


def started(config_file: Path) -> subprocess.Popen[bytes]:
    call = [sys.executable, "-m", "fusion.cli", "batch", str(config_file)]
    return subprocess.Popen(call, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for_rows(folder: Path, count: int) -> None:
    record = folder / "record.jsonl"
    while not record.exists() or record.read_bytes().count(b'"number"') < count:
        time.sleep(0.01)


def begun(config: Config, folder: Path, rows: int) -> subprocess.Popen[bytes]:
    """A run in a process of its own, when its record holds so many rows."""
    (folder / "c.yaml").write_text(config.to_yaml(), encoding="utf-8")
    process = started(folder / "c.yaml")
    wait_for_rows(config.batch.output, rows)
    return process


def killed(config: Config, folder: Path, rows: int) -> None:
    """Such a run, killed then."""
    process = begun(config, folder, rows)
    process.kill()
    process.communicate()


@pytest.mark.live
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    folder = words(tmp_path / "in", 10)
    run(configured(tmp_path / "whole", folder))
    config = configured(tmp_path / "out", folder, workers=2)
    for count in (2, 6):
        killed(config, tmp_path, count)
        with (tmp_path / "out" / "record.jsonl").open("ab") as file:
            file.write(b'{"number": 9, "inp')  # as a kill in the middle of a row leaves it
    run(config)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert not (tmp_path / "out" / worker.PARTIAL).exists()


@pytest.mark.live
def test_ctrl_c_finishes_what_is_in_hand_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder, out = words(tmp_path / "in", 12), tmp_path / "out"
    config = configured(out, folder)
    process = begun(config, tmp_path, 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"the same command goes on from here" in said
    assert b"Traceback" not in said
    before = rows(out)
    assert 2 <= len(before) < 12
    assert not json.loads((out / "manifest.json").read_text(encoding="utf-8"))["complete"]
    run(config)
    first, second = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["runs"]
    assert first["started"] <= first["finished"] <= second["started"] <= second["finished"]
    assert rows(out)[: len(before)] == before
    assert len(rows(out)) == 12


def test_a_second_run_on_one_output_is_refused(tmp_path: Path) -> None:
    plan = make_plan(configured(tmp_path / "out", tmp_path / "a.png"))
    first = Record(tmp_path / "out", plan)
    with pytest.raises(ConfigError, match="under way"):
        Record(tmp_path / "out", plan)
    first.close()
    Record(tmp_path / "out", plan).close()


# --- workers that die -----------------------------------------------------------------------------------------------


def poisoned(pipe: Connection, config: Config, at_once: int) -> None:
    """A worker that a certain input kills, and that another kills the first time."""
    real = worker.read

    def read(engine: Any, task: Input) -> worker.Done | worker.Counted:
        first = config.batch.output / "first"
        if "w001" in task.stem or ("w002" in task.stem and not first.exists()):
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(engine, task)

    worker.read = read
    worker.main(pipe, config, at_once)


def poisoned_page(pipe: Connection, config: Config, at_once: int) -> None:
    """A worker that a certain page kills."""
    real = worker.read

    def read(engine: Any, task: Input) -> worker.Done | worker.Counted:
        if task.pages is not None and 3 in task.pages:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(engine, task)

    worker.read = read
    worker.main(pipe, config, at_once)


@pytest.mark.live
def test_a_page_that_kills_its_worker_costs_no_other_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = document(tmp_path / "notes.pdf", 10), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(local, "main", poisoned_page)
        run(configured(out, source))
    (row,) = rows(out)
    assert (row["status"], row["stage"]) == ("partial", "worker")
    assert row["reason"].startswith("page 3: twice the process")
    assert [page["page"][-2:] for page in row["pages"]] == ["#1", "#2", "#4", "#5", "#6", "#7", "#8", "#9", "10"]
    read: list[Row] = []
    monkeypatch.setattr(Record, "add", lambda self, row, real=Record.add: (read.append(row), real(self, row)))
    run(configured(out, source), retry=True)
    assert [(row.first, row.count) for row in read] == [(3, 1)]
    run(configured(tmp_path / "whole", source))
    assert results(out) == results(tmp_path / "whole")


def poisoned_count(pipe: Connection, config: Config, at_once: int) -> None:
    """A worker that the first look at a document kills."""
    real = worker.read

    def read(engine: Any, task: Input) -> worker.Done | worker.Counted:
        first = config.batch.output / "first"
        if task.pages is None and not first.exists():
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(engine, task)

    worker.read = read
    worker.main(pipe, config, at_once)


@pytest.mark.live
def test_a_document_that_kills_the_worker_that_counts_its_pages_is_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = document(tmp_path / "notes.pdf", 10), tmp_path / "out"
    monkeypatch.setattr(local, "main", poisoned_count)
    run(configured(out, source))
    (row,) = rows(out)
    assert row["status"] == "ok"
    assert len(row["pages"]) == 10
    assert (out / "record.jsonl").read_bytes().count(b'"number"') == 2  # parts, as if nothing had happened


@pytest.mark.live
def test_a_long_document_goes_on_where_it_was(tmp_path: Path) -> None:
    source, out = document(tmp_path / "notes.pdf", 10), tmp_path / "out"
    config = configured(out, source)
    killed(config, tmp_path, 1)
    before = (out / "record.jsonl").read_bytes()
    run(config)
    first, second = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["runs"]
    assert (first["finished"], second["finished"] is not None) == (None, True)
    assert (out / "record.jsonl").read_bytes().startswith(before)
    assert (out / "record.jsonl").read_bytes().count(b'"number"') == 2
    run(configured(tmp_path / "whole", source))
    assert results(out) == results(tmp_path / "whole")


def stillborn(pipe: Connection, config: Config, at_once: int) -> None:
    os._exit(7)


@pytest.mark.live
def test_a_worker_that_dies_costs_its_input_a_row_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "main", poisoned)
    out = tmp_path / "out"
    run(configured(out, words(tmp_path / "in", 5)))
    found = rows(out)
    assert [row["status"] for row in found] == ["ok", "failed", "ok", "ok", "ok"]
    assert found[1]["stage"] == "worker"
    assert "SIGKILL" in found[1]["reason"]


def hanging(pipe: Connection, config: Config, at_once: int) -> None:
    """A worker in which the reading of a certain input never ends."""
    real = worker.read

    def read(engine: Any, task: Input) -> worker.Done | worker.Counted:
        if "w001" in task.stem:
            time.sleep(3600)
        return real(engine, task)

    worker.read = read
    worker.main(pipe, config, at_once)


@pytest.mark.live
def test_an_input_that_hangs_costs_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "main", hanging)
    out = tmp_path / "out"
    run(configured(out, words(tmp_path / "in", 3), timeout=20))
    found = rows(out)
    assert [row["status"] for row in found] == ["ok", "failed", "ok"]
    assert (found[1]["stage"], found[1]["reason"]) == ("worker", "took more than 20 s (batch.timeout)")


@pytest.mark.live
def test_workers_that_die_before_they_have_begun_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "main", stillborn)
    with pytest.raises(ReaderError, match="3 processes in a row: the last ended"):
        run(configured(tmp_path / "out", words(tmp_path / "in", 2)))


def test_what_can_not_be_opened_ends_the_run(tmp_path: Path) -> None:
    config = load_config(configured(tmp_path / "out", WORD), [f"fuse.weights={tmp_path}/none.json"])
    with pytest.raises(FusionError, match=r"none\.json"):
        run(config)
    assert active_children() == []


# --- on a cluster ---------------------------------------------------------------------------------------------------


@pytest.mark.live
def test_a_cluster_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two actors of a Ray on this machine. It has four processors by its own account, whatever the machine has."""
    ray = pytest.importorskip("ray")
    folder = words(tmp_path / "in", 5)
    (folder / "w003.png").write_bytes(b"")
    run(configured(tmp_path / "here", folder))
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    monkeypatch.chdir(tmp_path)
    config = load_config(configured(Path("there"), folder, workers=2), ["execution.engine=ray"])
    tallies: list[Tally] = []
    run(config, lambda tally, row: tallies.append(tally))
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert tallies[-1].deaths == 0


def test_a_row_of_one_page_leaves_the_files_of_others(tmp_path: Path) -> None:
    plan = make_plan(configured(tmp_path / "out", words(tmp_path / "in", 1)))
    (tmp_path / "out" / "pages").mkdir(parents=True)

    def row(status: str, first: int, count: int, *numbers: int) -> Row:
        pages = tuple(PageRow(f"a.pdf#{n}", 1, 0, 1, 1, True, (f"a.p{n}.json",)) for n in numbers)
        for page in pages:
            (tmp_path / "out" / "pages" / page.files[0]).touch()
        return Row(0, "a.pdf", status, (), pages, first, count, 4)

    record = Record(tmp_path / "out", plan)
    try:
        record.add(row("partial", 1, 4, 1, 2, 3))
        again = row("ok", 2, 1, 2)
        record.add(again)  # its worker has died on all four; they are tried one by one, here the second first
        assert sorted(path.name for path in (tmp_path / "out" / "pages").iterdir()) == [
            f"a.p{n}.json" for n in (1, 2, 3)
        ]
        record.add(row("failed", 1, 1))
        assert record.is_whole(again)
    finally:
        record.close()


@pytest.mark.parametrize(
    "row",
    [
        '{"number": 0, "input": "a"}',
        '{"number": 0, "input": "a", "status": "ok", "failures": [], "pages": [{"page": "a"}], "first": 1, "count": 1, "of": 1}',
        '{"number": 0, "input": "a", "status": "ok", "failures": [], "pages": [], "first": "x", "count": 1, "of": 1}',
    ],
)
def test_a_record_of_another_version_is_refused_and_restart_replaces_it(tmp_path: Path, row: str) -> None:
    folder, out = words(tmp_path / "in", 1), tmp_path / "out"
    (out / "pages").mkdir(parents=True)
    (out / "pages" / "old.json").touch()
    (out / "record.jsonl").write_text('{"started": "x"}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="another version"):
        run(configured(out, folder))
    run(configured(out, folder), restart=True)
    assert not (out / "pages" / "old.json").exists()
    assert [row["status"] for row in rows(out)] == ["ok"]


@pytest.mark.parametrize("content", [None, b""])
def test_results_without_their_plan_are_kept_until_restart(tmp_path: Path, content: bytes | None) -> None:
    folder, out = words(tmp_path / "in", 1), tmp_path / "out"
    run(configured(out, folder))
    before = (out / "record.jsonl").read_bytes()
    (out / "plan.jsonl").unlink()
    if content is not None:
        (out / "plan.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match="is missing or empty"):
        run(configured(out, folder))
    assert (out / "record.jsonl").read_bytes() == before
    run(configured(out, folder), restart=True)
    assert [row["status"] for row in rows(out)] == ["ok"]


@pytest.mark.live
@pytest.mark.parametrize("formats", [["text"], ["json", "text"]])
def test_a_document_that_lost_a_page_is_read_anew_and_keeps_its_files(tmp_path: Path, formats: list[str]) -> None:
    sources = [document(tmp_path / f"{name}.pdf", 10) for name in "ab"]
    config = configured(tmp_path / "out", *sources, workers=2, formats=formats)
    run(config)
    for source in sources:
        (tmp_path / "out" / "pages" / f"{source.name}.p10.txt").unlink()  # so that it is asked for again
        document(source, 9)
    run(config)
    for row in rows(tmp_path / "out"):
        assert row["status"] == "ok"
        assert len(row["pages"]) == 9
        files = [tmp_path / "out" / "pages" / name for page in row["pages"] for name in page["files"]]
        assert len(files) == 9 * len(formats)
        assert all(file.is_file() for file in files)
    assert len(list((tmp_path / "out" / "pages").iterdir())) == 2 * 9 * len(formats)


@pytest.mark.live
def test_a_document_that_vanished_keeps_the_pages_that_were_read(tmp_path: Path) -> None:
    source, out = document(tmp_path / "notes.pdf", 10), tmp_path / "out"
    config = configured(out, source)
    killed(config, tmp_path, 1)
    source.rename(tmp_path / "elsewhere.pdf")
    run(config)
    (row,) = rows(out)
    assert row["status"] == "partial"
    assert (row["stage"], "does not exist" in row["reason"]) == ("intake", True)
    assert 8 <= len(row["pages"]) < 10
    (tmp_path / "elsewhere.pdf").rename(source)
    run(config, retry=True)
    run(configured(tmp_path / "whole", source))
    assert results(out) == results(tmp_path / "whole")
