"""The service as people meet it: `fusion serve` in a process of its own, a real browser, and the article's client script."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from fusion.page import Candidate, Span
from fusion.service.api import CONNECTIONS
from tests.made_pages import page as made_page
from tests.service_load import load
from tests.services import ROOT, SAMPLES, Served, running
from tests.test_service_api import BLANK, TOKEN
from tests.test_service_archive import either

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
SPITEFUL = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202e gm 005"


def keep(served: Served, name: str, *texts: Any) -> str:
    """A page that is put into the archive as if it had been read."""
    (one,) = served.archive.add([(name, name.encode())], "general", "made")
    served.archive.finish(one.id, [(made_page(*texts), BLANK)])
    return one.id


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    archive = tmp_path_factory.mktemp("service") / "archive.sqlite"
    with running(archive, "vlm.engine=none", "serve.queue=4", "domain.profile=prescription") as made:
        yield made
    assert made.process.returncode in (0, -15)  # uvicorn ends itself with the signal that it got


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def tab(browser: Any, served: Served) -> Iterator[Any]:
    """A tab that fails the test on an error of the page, a dialog of a foreign script, or a request to elsewhere."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, base_url=served.url)
    context.add_init_script("localStorage.who ??= 'Ada'")
    made, wrong = context.new_page(), []
    made.set_default_timeout(60_000)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    made.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    made.on("request", lambda sent: None if sent.url.startswith((served.url, "data:")) else wrong.append(sent.url))
    yield made
    context.close()
    assert wrong == []


def left(tab: Any) -> int:
    """How many stretches the page says are to be looked at."""
    found = re.match(r"(\d+) to look at", tab.inner_text("#status"))
    return int(found[1]) if found else 0


def press(tab: Any, key: str) -> None:
    """Press a key and wait until what it changes has been saved and drawn."""
    with tab.expect_response(lambda reply: reply.request.method == "POST"):
        tab.keyboard.press(key)
    tab.evaluate("() => work")


@needs_browser
def test_a_prescription_is_uploaded_reviewed_with_the_keyboard_found_and_exported(tab: Any, served: Served) -> None:
    tab.goto("/")
    tab.select_option("#profile", "prescription")
    tab.set_input_files("#files", SAMPLES / "prescription.jpg")
    tab.wait_for_selector("#lines li")
    assert (tab.locator("#lines li").count(), tab.locator("#overlay polygon[data-line]").count()) == (7, 7)
    assert "Amoxicillin" in tab.inner_text("#fields")
    first = tab.inner_text("#lines .here .here")
    tab.keyboard.press("n")
    assert tab.inner_text("#lines .here .here") != first
    tab.keyboard.press("Shift+Tab")
    assert tab.inner_text("#lines .here .here") == first

    tab.keyboard.press("F2")
    tab.fill("#typed", "Zyrtecillin")
    press(tab, "Enter")
    doubtful, presses = left(tab), 0
    while left(tab):
        press(tab, "Enter")
        presses += 1
    assert presses <= 1.5 * doubtful
    assert "Everything has been looked at" in tab.inner_text("#status")
    assert tab.locator("#lines .by-human").first.get_attribute("title").endswith("+00:00")

    tab.fill("#find input", "zyrtec")
    tab.press("#find input", "Enter")
    tab.wait_for_selector(".hit img")
    assert "Zyrtecillin" in tab.inner_text(".hit")
    tab.click(".rows a")
    tab.wait_for_selector("#lines li")
    with tab.expect_download() as export:
        tab.select_option("select[aria-label=Export]", "json")
    assert export.value.suggested_filename == "prescription.jpg.json"
    record = json.loads(Path(export.value.path()).read_text(encoding="utf-8"))
    human = [span for line in record["lines"] for span in line["spans"] if span["source"] == "human"]
    assert "Zyrtecillin" in [span["text"] for span in human]
    assert {span["by"].partition(",")[0] for span in human} == {"Ada"}


@needs_browser
def test_keys_choose_undo_flip_mark_as_illegible_and_settle_what_is_alike(tab: Any, served: Served) -> None:
    mq = (Span("mq", "ocr", 0.6, "x", (Candidate("mg", 0.3),)), Span(" x ", "agreed", 0.99, "agreed"))
    id_ = keep(served, "alike.png", (*mq, *mq), mq, (either("cap", "cup", 0.2),))
    tab.goto(f"/review/{id_}")
    tab.wait_for_selector("#card button")
    text = lambda: tab.inner_text("#lines").split("\n")  # noqa: E731
    before = text()
    assert [one.strip() for one in before] == ["mq x mq x", "mq x", "cap"]
    press(tab, "2")
    assert text()[0].startswith("mg x mq")
    press(tab, "u")
    assert text() == before
    tab.keyboard.press("f")
    assert "cap" not in "".join(text())
    tab.keyboard.press("f")
    tab.click("#overlay polygon[data-line=l000]")
    tab.keyboard.press("a")
    assert "all 3 disputes" in tab.inner_text("#question")
    press(tab, "2")
    assert [one.strip() for one in text()] == ["mg x mg x", "mg x", "cap"]
    press(tab, "u")
    assert text() == before
    press(tab, "x")
    assert "□" in "".join(text())
    tab.keyboard.press("?")
    assert tab.locator("#keys").is_visible()


def three(served: Served, tab: Any) -> str:
    id_ = keep(served, "three.png", *((either(text, f"{text}{text}"),) for text in ("ab", "cd", "ef")))
    tab.goto(f"/review/{id_}")
    tab.wait_for_selector("#card button")
    return id_


def decided(tab: Any, served: Served, id_: str) -> list[str]:
    """Texts of the lines that a person decided, when all that was pressed has been done."""
    tab.evaluate("() => work")
    tab.wait_for_load_state("networkidle")
    lines = served.archive.page(id_, 1).lines
    return [line.text for line in lines if any(span.source == "human" for span in line.spans)]


@needs_browser
@pytest.mark.parametrize("delay", [0, 150])
def test_a_double_click_is_one_choice(tab: Any, served: Served, delay: int) -> None:
    id_ = three(served, tab)
    tab.dblclick("#card button[data-choice='1']", delay=delay)
    (text,) = decided(tab, served, id_)
    assert text in ("abab", "cdcd", "efef")


@needs_browser
def test_a_held_enter_types_into_one_stretch(tab: Any, served: Served) -> None:
    id_ = three(served, tab)
    tab.keyboard.press("F2")
    tab.fill("#typed", "held")
    for _ in range(5):  # all but the first are repetitions
        tab.keyboard.down("Enter")
    tab.keyboard.up("Enter")
    assert decided(tab, served, id_) == ["held"]


@needs_browser
def test_keys_faster_than_a_save_decide_what_was_shown(tab: Any, served: Served) -> None:
    id_ = three(served, tab)
    press = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }))"
    tab.evaluate(f"() => {{ for (const key of '222') {press} }}")
    assert len(decided(tab, served, id_)) == 1


@needs_browser
def test_a_decision_that_waits_is_kept_though_the_person_has_moved_on(tab: Any, served: Served) -> None:
    id_ = three(served, tab)
    tab.evaluate("() => { act(() => new Promise(done => { window.go_on = done; })) }")
    for key in "2n":
        tab.keyboard.press(key)
    assert tab.inner_text("#lines .here .here") == "cd"
    tab.evaluate("() => go_on()")
    assert decided(tab, served, id_) == ["abab"]


@needs_browser
@pytest.mark.parametrize("composing", ["{ isComposing: true }", "{ keyCode: 229 }"])
def test_the_enter_of_an_input_method_accepts_nothing(tab: Any, served: Served, composing: str) -> None:
    id_ = three(served, tab)
    tab.fill("#typed", "zhong")
    enter = "new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, ...%s })"
    tab.evaluate(f"$('typed').dispatchEvent({enter % composing})")
    assert decided(tab, served, id_) == []
    tab.evaluate(f"$('typed').dispatchEvent({enter % '{}'})")
    assert decided(tab, served, id_) == ["zhong"]


@needs_browser
def test_what_was_decided_after_a_save_that_failed_is_dropped_and_the_failure_stays_said(
    tab: Any, served: Served
) -> None:
    id_ = three(served, tab)
    press(tab, "2")
    before = decided(tab, served, id_)
    tab.evaluate("""() => {
        const real = fetch;
        fetch = async () => { fetch = real; return new Response('{"detail": "No room."}', { status: 503 }); };
        decide(page.queue[here], "lost");
        decide(page.queue[here], "dropped");
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "u", bubbles: true }));
    }""")
    assert decided(tab, served, id_) == before
    assert tab.inner_text("#status") == "No room."
    tab.evaluate("() => { decide(page.queue[here], 'again') }")
    assert sorted(decided(tab, served, id_)) == sorted([*before, "again"])


@needs_browser
def test_pages_that_could_not_be_read_are_named_beside_those_that_were(tab: Any, served: Served) -> None:
    (one,) = served.archive.add([("scan.pdf", b"scan")], "general", "made")
    served.archive.finish(one.id, [(made_page("first"), BLANK)], "scan.pdf#2: is a page that can't be drawn")
    tab.goto(f"/review/{one.id}")
    tab.wait_for_selector("#fields li")
    assert "scan.pdf#2" in tab.inner_text("#fields")


@needs_browser
def test_a_question_is_answered_row_by_row(tab: Any, served: Served) -> None:
    tab.goto(f"/review/{keep(served, 'asked.png', 'milk', 'bread and milk')}")
    tab.fill("input[aria-label='Ask about this page']", "where is milk?")
    tab.press("input[aria-label='Ask about this page']", "Enter")
    tab.wait_for_selector("#answer:not([hidden])")
    assert tab.inner_text("#answer").split("\n")[:2] == ["milk [l000]", "bread and milk [l001]"]


@needs_browser
def test_a_script_in_a_transcript_is_text(tab: Any, served: Served) -> None:
    id_ = keep(served, SPITEFUL, (either(SPITEFUL, f"{SPITEFUL} {SPITEFUL}"),))
    for path in (f"/review/{id_}", "/search?q=onerror", "/"):
        tab.goto(path)
        tab.wait_for_selector("#lines li, .rows li")
        tab.wait_for_timeout(200)
        shown = tab.inner_text("body")
        assert "<script>alert(2)</script>⟨U+202E⟩ gm 005" in shown
        assert tab.locator("main script, main img[src=x]").count() == 0


@needs_browser
def test_nothing_is_decided_without_a_name_and_the_name_is_asked_for_once(tab: Any, served: Served) -> None:
    id_ = three(served, tab)
    tab.fill("#who", "")
    tab.press("#who", "Enter")
    tab.keyboard.press("1")
    tab.keyboard.press("Escape")
    assert decided(tab, served, id_) == []
    assert "without a name" in tab.inner_text("#status")
    tab.keyboard.press("1")
    tab.fill("#named input", "Grace")
    tab.keyboard.press("Enter")
    assert len(decided(tab, served, id_)) == 1
    tab.keyboard.press("1")
    assert len(decided(tab, served, id_)) == 2
    spans = [span for line in served.archive.page(id_, 1).lines for span in line.spans if span.source == "human"]
    assert {span.by.partition(",")[0] for span in spans} == {"Grace"}


@needs_browser
def test_a_narrow_window_needs_no_scrolling_sideways(tab: Any, served: Served) -> None:
    tab.set_viewport_size({"width": 400, "height": 800})
    for path in (f"/review/{keep(served, 'narrow.png', *['5 mg of a long line that goes on and on'] * 3)}", "/"):
        tab.goto(path)
        tab.wait_for_selector("#lines li, .rows li")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
        assert tab.evaluate("scrollY") == 0


@needs_browser
def test_deleting_asks_and_then_deletes(tab: Any, served: Served) -> None:
    id_ = keep(served, "gone.png", "away with it")
    tab.goto(f"/review/{id_}")
    tab.click("text=Delete")
    assert "can't be brought back" in tab.inner_text("#question")
    tab.click("#question .choices button")
    tab.wait_for_selector(".drop")
    assert id_ not in [one.id for one in served.archive.recent()]


@needs_browser
def test_the_page_asks_for_the_token_and_its_pictures_come_with_the_cookie(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSION_TEST_TOKEN", TOKEN)
    settings = ["vlm.engine=none", "serve.token_env=FUSION_TEST_TOKEN"]
    with running(tmp_path / "archive.sqlite", *settings, route="health") as served:
        tab = browser.new_context(base_url=served.url).new_page()
        tab.goto(f"/review/{keep(served, 'secret.png', 'milk')}")
        for token in (TOKEN[::-1], TOKEN):
            tab.wait_for_selector("#login input")
            tab.fill("#login input", token)
            assert tab.locator("#lines li").count() == 0
            tab.press("#login input", "Enter")
            if token != TOKEN:
                tab.wait_for_selector("#login p:has-text('not the token')")
        tab.wait_for_selector("#lines li")
        assert tab.evaluate("photo.decode().then(() => photo.naturalWidth)") == 300
        tab.context.close()


ARTICLE = """
import requests
import base64
from PIL import Image

# 加载手写图像
image_path = "handwritten_note.jpg"
with open(image_path, "rb") as img_file:
    encoded_image = base64.b64encode(img_file.read()).decode("utf-8")

# 构造请求
payload = {
    "image": encoded_image,
    "question": "请逐行转录这张纸上写的内容。"
}

response = requests.post("http://localhost:8080/v1/inference", json=payload)
print("Model Response:", response.json()["answer"])
"""


def test_the_articles_script_works_unchanged_but_for_the_port(served: Served, tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "note_zh.jpg", tmp_path / "handwritten_note.jpg")
    script = ARTICLE.replace("8080", served.url.rpartition(":")[2])
    settings = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=settings, capture_output=True, timeout=120)
    assert done.stdout.decode().startswith("Model Response: 记得买牛奶和面")
    assert "开会时间改到三点半" in done.stdout.decode()
    assert "note" not in [one.name for one in served.archive.recent()]


def test_the_command_line_searches_the_archive(served: Served) -> None:
    keep(served, "found.png", "阿莫西林", (either("头抱", "头孢"),))
    search = [sys.executable, "-m", "fusion.cli", "search", "--set", f"serve.archive={served.archive.path}"]
    for query, shown in (("莫西", "l000 found.png: 阿莫西林"), ("头孢", "l001 found.png: ~头孢 头抱")):
        done = subprocess.run([*search, query], cwd=ROOT, capture_output=True, timeout=120)
        assert shown in done.stdout.decode("utf-8")


def test_what_the_guide_says_backs_up_a_running_service_and_restores_it(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    backup, restore = guide.split("```bash\n/opt/")[1].split("\n```")[0].split("\n")
    live, copy = tmp_path / "live", tmp_path / "copy"
    copy.mkdir()

    def run(row: str) -> None:
        row = row.replace("/var/lib/fusion", str(live)).replace("/backup", str(copy))
        subprocess.run(row.replace("systemctl", "true"), shell=True, check=True)

    with running(live / "archive.sqlite", "vlm.engine=none", route="health") as served:
        id_ = keep(served, "first.png", "阿莫西休")
        edit = {"line": "l000", "start": 3, "end": 4, "old": "休", "text": "林"}
        corrections = json.dumps({"by": "Ada", "corrections": [edit]}).encode()
        request = urllib.request.Request(f"{served.url}/v1/transcriptions/{id_}/pages/1/corrections", corrections)
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request).close()
        run(backup.replace("fusion/bin/python", sys.executable, 1))
        keep(served, "second.png", "after the copy")
        served.archive._db.close()  # of this process
        served.process.kill()  # what was not written back stays in the log beside the archive
    assert (live / "archive.sqlite-wal").stat().st_size > 0
    run(restore)
    with running(live / "archive.sqlite", "vlm.engine=none", route="health") as served:
        assert [one.name for one in served.archive.recent()] == ["first.png"]
        found = json.load(urllib.request.urlopen(f"{served.url}/v1/search?q=%E8%A5%BF%E6%9E%97"))
        assert [(one["transcription"], one["exact"]) for one in found] == [(id_, True)]
        shown = json.load(urllib.request.urlopen(f"{served.url}/v1/transcriptions/{id_}/pages/1"))
        assert shown["lines"][0]["spans"][-1]["by"].startswith("Ada, ")
        assert urllib.request.urlopen(f"{served.url}/v1/transcriptions/{id_}/pages/1/picture").read() == BLANK


def test_more_connections_than_can_be_served_are_refused_and_do_no_harm(served: Served) -> None:
    address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
    with ExitStack() as idle:
        for _ in range(CONNECTIONS):
            idle.enter_context(socket.create_connection(address))
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{served.url}/health")
    for _ in range(100):  # until the server has seen that they are gone
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{served.url}/health"):
            break
        time.sleep(0.1)
    assert urllib.request.urlopen(f"{served.url}/health").status == 200


def test_every_answer_under_load_is_right_or_an_honest_429(served: Served) -> None:
    found = load(served.url, clients=25, seconds=1, patient=False)
    assert set(found.statuses) == {"201", "429"}, found
