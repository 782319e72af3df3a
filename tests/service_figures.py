"""The figures of docs/service.md: `python -m tests.service_figures load | kill | search | paint | keys | fuzz`.

Each command starts a service of its own on a new archive, measures, and prints what it has found.
"""

from __future__ import annotations

import base64
import csv
import json
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import typer
from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright

from fusion import transcribe
from fusion.page import Candidate, Page, Span
from fusion.service.archive import Archive
from fusion.service.shapes import aligned
from fusion.service.terms import phrases
from tests.made_pages import page as made_page
from tests.service_load import load as loaded
from tests.services import SAMPLES, Served, running

app = typer.Typer(add_completion=False, help=__doc__)
ALONE = "vlm.engine=none"
PICTURE = (SAMPLES / "note_zh.jpg").read_bytes()
NAMES = ("阿莫西林", "头孢克肟", "布洛芬缓释胶囊", "氯雷他定", "Amoxicillin", "Paracetamol", "Napa", "蒙脱石散")
QUERIES = ("阿", "林", "头孢", "克肟", "氯雷他", "布洛芬", "阿莫西林", "蒙脱石散", "缓释胶囊", "布洛芬缓释胶")
QUERIES += ("a", "na", "amox", "para", "500mg", "amoxicillin 头孢", "奥美拉唑", "拉唑", "omeprazole")
DOUBTFUL = "奥美拉唑"
"""Stands in no text, and among the candidates of every hundredth page."""


@contextmanager
def service(*settings: str, route: str = "ready") -> Iterator[Served]:
    """A service on an archive that goes with it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "archive.sqlite", *settings, route=route) as made,
    ):
        yield made


def post(url: str, body: Any, media: str = "application/json") -> Any:
    """What a POST is answered with."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, content, {"Content-Type": media}), timeout=300) as reply:
        return json.load(reply)


def upload(served: Served, name: str, profile: str) -> str:
    """Id of a sample that is read now."""
    image = base64.b64encode((SAMPLES / name).read_bytes()).decode()
    made: str = post(f"{served.url}/v1/transcriptions", {"image": image, "name": name, "profile": profile})["id"]
    return made


# --- load -------------------------------------------------------------------------------------------------------------


@app.command()
def load(clients: int = 50, seconds: float = 60) -> None:
    """So many clients at once, two engines with the small reader: answers by status, times, memory."""
    with service("serve.workers=2") as served:
        loaded(served.url, clients, seconds / 3)  # until everything is warm
        before = _memory(served.process.pid)
        typer.echo(loaded(served.url, clients, seconds))
        typer.echo(f"memory {before} MB, then {_memory(served.process.pid)} MB")


def _memory(pid: int) -> str:
    """Resident memory of the service and its engines, MB."""
    command = ["ps", "-o", "rss=", "-p", str(pid), "--ppid", str(pid)]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return " + ".join(str(int(row) // 1000) for row in rows)


# --- kill -9 ----------------------------------------------------------------------------------------------------------


@app.command()
def kill(times: int = 20) -> None:
    """Corrections over HTTP while the service is killed again and again: is every acknowledged one there?"""
    said, lost = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive.sqlite"
        (one,) = Archive(path).add([("made.png", b"made")], "general", "made")
        Archive(path).finish(one.id, [(made_page("0"), PICTURE)])
        for _ in range(times):
            with running(path, ALONE, route="health") as served:
                before = int(served.archive.page(one.id, 1).text)
                timer = threading.Timer(random.uniform(0.1, 1.0), served.process.kill)
                timer.start()
                acknowledged = _correct(f"{served.url}/v1/transcriptions/{one.id}/pages/1/corrections", before)
                timer.join()
            standing = int(Archive(path).page(one.id, 1).text)
            lost += standing not in (acknowledged, acknowledged + 1)  # one may be on the disk and not said yet
            said += acknowledged - before
    typer.echo(f"killed {times} times, {said} corrections acknowledged, lost after {lost} of the kills")


def _correct(url: str, number: int) -> int:
    """Count on until the service is gone; the last number that was acknowledged."""
    while True:
        edit = {"line": "l000", "start": 0, "end": len(str(number)), "old": str(number), "text": str(number + 1)}
        try:
            post(url, {"by": "Ada", "corrections": [edit]})
        except (OSError, HTTPException, ValueError):
            return number
        number += 1


# --- search -----------------------------------------------------------------------------------------------------------


@app.command()
def search(pages: int = 10_000, rounds: int = 5) -> None:
    """So many archived pages, queries of one to six characters: times, and plain FTS5 queries in the same run."""
    read = [transcribe(SAMPLES / name)[0] for name in ("note_zh.jpg", "prescription_zh.jpg", "prescription.jpg")]
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "archive.sqlite")
        for start in range(0, pages, 100):
            (one,) = archive.add([("made.pdf", str(start).encode())], "general", "made")
            archive.finish(one.id, [(_varied(read[n % 3], n), PICTURE[:2000]) for n in range(start, start + 100)])
        typer.echo(f"{pages:,} pages, {archive.path.stat().st_size / 1e6:.0f} MB")
        times = [_timed_both(archive, query, rounds) for query in QUERIES]
        for query, (own, plain, found) in zip(QUERIES, times, strict=True):
            typer.echo(f"{query}: {found} pages, {own:.2f} ms, plain {plain:.2f} ms, ratio {own / plain:.1f}")
        own, plain, _ = (sorted(column) for column in zip(*times, strict=True))
        median = statistics.median(own), statistics.median(plain)
        typer.echo(
            f"{own[0]:.2f} to {own[-1]:.2f} ms, median {median[0]:.2f} ms; plain {plain[0]:.2f} to {plain[-1]:.2f} ms,"
        )
        typer.echo(f"median {median[1]:.2f} ms; ratio of the medians {median[0] / median[1]:.0f}")
        start_ = time.perf_counter()
        archive.delete(archive.recent(1)[0].id)
        typer.echo(f"deleting an upload of 100 pages: {time.perf_counter() - start_:.2f} s")


def _varied(page: Page, number: int) -> Page:
    """A page under whose readings stands one more line, of a made name, sometimes only among the candidates."""
    chance = random.Random(number)
    name, other = chance.sample(NAMES, 2)
    other = DOUBTFUL if number % 100 == 0 else other
    line = replace(
        page.lines[0], spans=(Span(f"{name} {number}", "ocr", 0.6, "ocr_preferred", (Candidate(other, 0.3),)),)
    )
    return replace(page, lines=(line, *page.lines[1:]))


def _timed_both(archive: Archive, query: str, rounds: int) -> tuple[float, float, int]:
    """Milliseconds of a search and of the plain FTS5 query for its rows, the best of some rounds; pages found."""
    match = " AND ".join(phrase.exact() for phrase in phrases(query))
    plain = "SELECT rowid FROM found WHERE found MATCH ? ORDER BY rowid DESC LIMIT 20"
    own = _best(lambda: archive.search(query), rounds)
    return own, _best(lambda: archive._db.execute(plain, (match,)).fetchall(), rounds), len(archive.search(query))


def _best(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


# --- the review page --------------------------------------------------------------------------------------------------


@contextmanager
def tab(served: Served) -> Iterator[Tab]:
    """A tab of a new browser, of somebody who has said their name."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1400, "height": 900}, base_url=served.url)
        context.add_init_script("localStorage.who = 'Ada'")
        yield context.new_page()
        browser.close()


@app.command()
def paint(loads: int = 22) -> None:
    """First paint of the review page of a prescription that has been read, and when its transcript stands."""
    first, whole = [], []
    with service() as served:
        id_ = upload(served, "prescription.jpg", "prescription")
        for _ in range(loads):
            with tab(served) as made:  # a new browser: nothing of it is in a cache
                made.goto(f"/review/{id_}")
                made.wait_for_selector("#lines li")
                whole.append(made.evaluate("performance.now()"))
                first.append(made.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    for name, times in (("first contentful paint", first), ("the transcript", whole)):
        typer.echo(f"{name}: {min(times):.0f} to {max(times):.0f} ms, median {statistics.median(times):.0f} ms")


@app.command()
def keys() -> None:
    """Keys that put samples right: Enter or a digit where the text is among the choices, else F2, the text and Enter."""
    with (SAMPLES / "samples.tsv").open(encoding="utf-8", newline="") as file:
        truth = {row["image"]: row["text"].split("\\n") for row in csv.DictReader(file, delimiter="\t")}
    with service() as served, tab(served) as made:
        for name in ("prescription.jpg", "prescription_zh.jpg"):
            id_ = upload(served, name, "prescription")
            made.goto(f"/review/{id_}")
            made.wait_for_selector("#lines li")
            doubtful: int = made.evaluate("page.queue.length")
            presses = _review(made, dict(zip(made.evaluate("page.lines.map(l => l.id)"), truth[name], strict=True)))
            text = "\n".join(line.text for line in served.archive.page(id_, 1).lines)
            right = _bare(text) == _bare("".join(truth[name]))
            typer.echo(
                f"{name}: {doubtful} doubtful stretches, {presses} keys, {presses / doubtful:.2f} a stretch, ", nl=False
            )
            typer.echo("then all is right" if right else "then something is still wrong")


def _bare(text: str) -> str:
    """A text without white space, which nobody is asked about."""
    return "".join(text.split())


def _review(made: Tab, truth: dict[str, str]) -> int:
    """Decide what the page shows until nothing is left; how many keys that took."""
    presses = 0
    while item := made.evaluate("page.queue[here]"):
        line = made.evaluate(f"page.lines.find(l => l.id === '{item['line']}').spans.map(s => s.text).join('')")
        start, end = aligned(truth[item["line"]], line, item["start"], item["end"])
        wanted = _bare(truth[item["line"]][start:end])
        choices = [_bare(choice["text"]) for choice in item["choices"]]
        if wanted in choices:
            pressed = ["Enter" if choices.index(wanted) == 0 else str(choices.index(wanted) + 1)]
        else:
            pressed = ["F2", *wanted, "Enter"]
        for key in pressed[:-1]:
            made.keyboard.press(key) if len(key) > 1 else made.keyboard.insert_text(key)
        with made.expect_response(lambda reply: reply.request.method == "POST"):
            made.keyboard.press(pressed[-1])
        made.evaluate("() => work")
        presses += len(pressed)
    return presses


# --- Schemathesis -----------------------------------------------------------------------------------------------------


@app.command()
def fuzz(examples: int = 20) -> None:
    """Schemathesis (which must be installed) against the OpenAPI of a service: no answer is a 500."""
    with service(ALONE, "serve.queue=100") as served:
        upload(served, "note_zh.jpg", "general")
        checks = [
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ]
        command = ["schemathesis", "run", f"{served.url}/openapi.json", "--max-examples", str(examples), *checks]
        raise typer.Exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    app()
