"""Batch runs: one row per input whatever happens, and a run killed at any moment ends as if it had not been."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import pytest

from fusion.batch import local, make_plan, run_batch, worker
from fusion.batch.plan import Input
from fusion.batch.progress import Tally
from fusion.batch.record import Record, Row
from fusion.batch.run import Ended
from fusion.config import Config, load_config
from fusion.errors import ConfigError, FusionError, ReaderError
from tests.vlm_readers import completion, serving

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "eval" / "samples"
WORD = SAMPLES / "word_squashed.png"


def configured(folder: Path, *inputs: object, **settings: object) -> Config:
    """Crops, the OCR alone, one process."""
    batch = {"inputs": [str(one) for one in inputs], "output": str(folder), "crop": True, "workers": 1, **settings}
    sets = [f"batch.{name}={json.dumps(value)}" for name, value in batch.items()]
    return load_config(overrides=["vlm.engine=none", *sets])


def run(config: Config, show: Any = lambda *_: None, **how: bool) -> Ended:
    return run_batch(config, make_plan(config), show, **how)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def results(folder: Path) -> dict[str, bytes]:
    """All that a run leaves behind as results."""
    names = [folder / "results.jsonl", folder / "records.csv", *(folder / "pages").iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


def words(folder: Path, count: int) -> Path:
    """Crops that differ in a pixel: none is found in the store for another."""
    folder.mkdir(parents=True)
    picture = cv2.resize(cv2.imread(str(WORD)), None, fx=3, fy=1)  # in its own proportions it is read once
    for number in range(count):
        picture[0, 0] = number
        cv2.imwrite(str(folder / f"w{number:03d}.png"), picture)
    return folder


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


def test_results_are_no_inputs_of_the_next_run(tmp_path: Path) -> None:
    for name in ("a.png", "out/pages/a.overlay.png"):
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
    assert (ended.early, ended.counts["failed"], ended.counts["pages"]) == (None, 2, 2)
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
    assert tallies[-1].recalled == 4  # for each page what the OCR found, and the look of the small reader
    assert sorted(path.name for path in (out / "pages").iterdir()) == ["w000.png.json", "w001.png.json"]
    assert not (out / "records.csv").exists()


# --- killed ---------------------------------------------------------------------------------------------------------


def started(config_file: Path) -> subprocess.Popen[bytes]:
    call = [sys.executable, "-m", "fusion.cli", "batch", str(config_file)]
    return subprocess.Popen(call, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for_rows(folder: Path, count: int) -> None:
    record = folder / "record.jsonl"
    while not record.exists() or record.read_bytes().count(b'"number"') < count:
        time.sleep(0.01)


@pytest.mark.live
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    folder = words(tmp_path / "in", 10)
    run(configured(tmp_path / "whole", folder))
    config = configured(tmp_path / "out", folder, workers=2)
    (tmp_path / "c.yaml").write_text(config.to_yaml(), encoding="utf-8")
    for count in (2, 6):
        process = started(tmp_path / "c.yaml")
        wait_for_rows(tmp_path / "out", count)
        process.kill()
        process.communicate()
        with (tmp_path / "out" / "record.jsonl").open("ab") as file:
            file.write(b'{"number": 9, "inp')  # as a kill in the middle of a row leaves it
    run(config)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert not (tmp_path / "out" / worker.PARTIAL).exists()


@pytest.mark.live
def test_ctrl_c_finishes_what_is_in_hand_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder, out = words(tmp_path / "in", 12), tmp_path / "out"
    config = configured(out, folder)
    (tmp_path / "c.yaml").write_text(config.to_yaml(), encoding="utf-8")
    process = started(tmp_path / "c.yaml")
    wait_for_rows(out, 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"the same command goes on from here" in said
    assert b"Traceback" not in said
    before = rows(out)
    assert 2 <= len(before) < 12
    assert not json.loads((out / "manifest.json").read_text(encoding="utf-8"))["complete"]
    run(config)
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

    def read(engine: Any, task: Input) -> worker.Done:
        first = config.batch.output / "first"
        if "w001" in task.stem or ("w002" in task.stem and not first.exists()):
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(engine, task)

    worker.read = read
    worker.main(pipe, config, at_once)


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


def test_workers_that_die_before_they_have_begun_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "main", stillborn)
    with pytest.raises(ReaderError, match="3 processes in a row: the last ended"):
        run(configured(tmp_path / "out", words(tmp_path / "in", 2)))


def test_what_can_not_be_opened_ends_the_run(tmp_path: Path) -> None:
    config = load_config(configured(tmp_path / "out", WORD), [f"fuse.weights={tmp_path}/none.json"])
    with pytest.raises(FusionError, match=r"none\.json"):
        run(config)
    assert active_children() == []


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


def served(config: Config, url: str, *overrides: str) -> Config:
    return load_config(config, ["vlm.engine=served", f"vlm.endpoints=[{url}/v1]", "vlm.retries=0", *overrides])


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


# --- on a cluster ---------------------------------------------------------------------------------------------------


@pytest.mark.live
def test_a_cluster_gives_the_same_rows(tmp_path: Path) -> None:
    """Two actors of a Ray on this machine. It has four processors by its own account, whatever the machine has."""
    ray = pytest.importorskip("ray")
    folder = words(tmp_path / "in", 5)
    (folder / "w003.png").write_bytes(b"")
    run(configured(tmp_path / "here", folder))
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    config = load_config(configured(tmp_path / "there", folder, workers=2), ["execution.engine=ray"])
    tallies: list[Tally] = []
    run(config, lambda tally, row: tallies.append(tally))
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert tallies[-1].deaths == 0
