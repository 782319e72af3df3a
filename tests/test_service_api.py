"""The HTTP API over real engines: what it answers, what it refuses, and that nothing brings it down."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import multiprocessing
import re
import sqlite3
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.config import Config, load_config
from fusion.errors import ConfigError
from fusion.page import Span
from fusion.service.api import application
from fusion.service.archive import Archive, Unwritable
from fusion.service.door import Connection, Door
from fusion.service.exports import Format
from fusion.service.service import Service, _keep, opened
from fusion.service.workers import Full
from tests.made_pages import page
from tests.test_service_archive import either
from tests.vlm_readers import serving

SAMPLES = Path(__file__).parent.parent / "eval" / "samples"
NOTE = (SAMPLES / "note_zh.jpg").read_bytes()
TOKEN = "0123456789abcdef0123456789abcdef"
NOWHERE = "0" * 32
BLANK = cv2.imencode(".jpg", np.full((400, 300, 3), 255, np.uint8))[1].tobytes()


def configured(folder: Path, *more: str) -> Config:
    return load_config(None, ["vlm.engine=none", f"serve.archive={folder / 'archive.sqlite'}", "serve.queue=3", *more])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with ours(configured(tmp_path_factory.mktemp("service"))) as made:
        yield made


@contextmanager
def ours(config: Config) -> Iterator[TestClient]:
    with opened(config) as service:
        app = application(service, Door(config))
        with TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False) as client:
            yield client


def service_of(client: TestClient) -> Service:
    service = client.app.state.service  # type: ignore[attr-defined]
    assert isinstance(service, Service)
    return service


@pytest.fixture(scope="module")
def note(client: TestClient) -> dict[str, Any]:
    reply = client.post("/v1/transcriptions", files={"file": ("记.jpg", NOTE)})
    assert reply.status_code == 201
    read: dict[str, Any] = reply.json()
    assert reply.headers["Location"] == f"/v1/transcriptions/{read['id']}"
    return read


def kept(client: TestClient, *texts: Any) -> str:
    """A page that is put into the archive as if it had been read."""
    archive = service_of(client).archive
    (one,) = archive.add([("made.png", json.dumps(len(archive.recent(1000))).encode())], "general", "made")
    archive.finish(one.id, [(page(*texts), BLANK)])
    return one.id


# --- transcriptions -----------------------------------------------------------------------------------------------


def test_a_page_is_read_kept_and_given_back_in_every_format(client: TestClient, note: dict[str, Any]) -> None:
    assert (note["name"], note["status"], len(note["pages"])) == ("记.jpg", "done", 1)
    assert "开会时间改到三点半" in note["text"]
    again = client.get(f"/v1/transcriptions/{note['id']}").json()
    assert again == note
    for name in Format:
        reply = client.get(f"/v1/transcriptions/{note['id']}", params={"format": name})
        assert (reply.status_code, bool(reply.content)) == (200, True), name
        assert "filename*=UTF-8''%E8%AE%B0.jpg." in reply.headers["Content-Disposition"]
    assert client.get(f"/v1/transcriptions/{note['id']}?format=text").text.strip() == note["text"]
    picture = client.get(f"/v1/transcriptions/{note['id']}/pages/1/picture")
    assert picture.content[:2] == b"\xff\xd8"
    crop = client.get(f"/v1/transcriptions/{note['id']}/pages/1/lines/l000")
    assert (crop.headers["Content-Type"], crop.content[:2]) == ("image/jpeg", b"\xff\xd8")


def test_an_upload_may_be_answered_with_a_file_that_has_its_name(client: TestClient, note: dict[str, Any]) -> None:
    files = {"file": ('../a "b"\r\n.jpg', NOTE)}
    reply = client.post("/v1/transcriptions?format=text", files=files)
    assert (reply.status_code, reply.text.strip()) == (201, note["text"])
    assert "Location" in reply.headers
    assert re.match(r'attachment; filename="a__[\w.]+\.jpg\.txt"; ', reply.headers["Content-Disposition"])
    assert client.post("/v1/transcriptions?format=poetry", files=files).status_code == 422


def test_several_pages_in_a_format_of_one_are_an_archive_of_files(client: TestClient) -> None:
    archive = service_of(client).archive
    (one,) = archive.add([("scan.pdf", b"two pages")], "general", "made")
    archive.finish(one.id, [(page("first"), BLANK), (page("second"), BLANK)])
    reply = client.get(f"/v1/transcriptions/{one.id}?format=alto")
    assert 'filename="scan.pdf.alto.zip"' in reply.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(reply.content)) as packed:
        assert packed.namelist() == ["scan.pdf.p1.alto.xml", "scan.pdf.p2.alto.xml"]


def test_base64_and_the_same_upload_again(client: TestClient, note: dict[str, Any]) -> None:
    image = "data:image/jpeg;base64," + base64.b64encode(NOTE).decode()
    reply = client.post("/v1/transcriptions", json={"image": image, "name": "../../etc/passwd"})
    assert (reply.status_code, reply.json()["text"], reply.json()["name"]) == (201, note["text"], "passwd")
    assert reply.json()["id"] != note["id"]


def test_a_media_type_may_have_any_case(client: TestClient, note: dict[str, Any]) -> None:
    body = b'--y\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + NOTE + b"\r\n--y--\r\n"
    headers = {"Content-Type": "Multipart/Form-Data; boundary=y"}
    reply = client.post("/v1/transcriptions", content=body, headers=headers)
    assert (reply.status_code, reply.json()["text"]) == (201, note["text"])


def test_several_files_are_a_202_and_each_has_its_end(client: TestClient) -> None:
    files = [("file", ("a.jpg", NOTE + b"\0")), ("file", ("b.jpg", b"no image"))]
    reply = client.post("/v1/transcriptions", files=files)
    assert reply.status_code == 202
    ids = [one["id"] for one in reply.json()["transcriptions"]]
    done = threading.Event()
    service_of(client).workers.submit(lambda call: done.set())  # after the two
    assert done.wait(60)
    good, bad = (client.get(f"/v1/transcriptions/{id_}").json() for id_ in ids)
    assert (good["status"], len(good["pages"])) == ("done", 1)
    assert (bad["status"], bad["pages"]) == ("failed", [])
    assert "b.jpg" in bad["problem"]
    assert client.get(f"/v1/transcriptions/{bad['id']}?format=text").status_code == 409


def test_an_upload_that_is_no_image_is_refused_and_not_kept(client: TestClient) -> None:
    before = len(client.get("/v1/transcriptions").json())
    reply = client.post("/v1/transcriptions", files={"file": ("a.jpg", b"not an image at all")})
    assert reply.status_code == 422
    assert "a.jpg" in reply.json()["detail"]
    assert len(client.get("/v1/transcriptions").json()) == before


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"json": {"image": "%%%"}}, 422),
        ({"json": {"image": ""}}, 422),
        ({"json": {"image": "AAAA", "path": "/etc/passwd"}}, 422),
        ({"json": {"image": "AAAA", "profile": "poetry"}}, 422),
        ({"json": {"image": "AAAA", "profile": "[general]"}}, 422),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422),
        ({"content": b'{"image": NaN}', "headers": {"Content-Type": "application/json"}}, 422),
        ({"files": {"file": ("empty.jpg", b"")}}, 422),
        ({"data": {"profile": "general"}, "files": {"other": (None, "text")}}, 422),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=y"}}, 400),
        ({"files": {"file": ("big.jpg", b"\0" * 21_000_000)}}, 413),
        ({"content": iter([b"\0" * 1_000_000] * 21)}, 413),
    ],
)
def test_bad_uploads_are_refused(client: TestClient, settings: dict[str, Any], status: int) -> None:
    reply = client.post("/v1/transcriptions", **settings)
    assert reply.status_code == status
    assert list(reply.json()) == ["detail"]
    assert isinstance(reply.json()["detail"], str)


def test_a_page_of_too_many_pixels_is_refused(client: TestClient) -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    reply = client.post("/v1/transcriptions", files={"file": ("bomb.png", stream.getvalue())})
    assert reply.status_code == 422
    assert "megapixels" in reply.json()["detail"]


def test_a_full_queue_is_a_429_and_what_was_accepted_is_done(client: TestClient) -> None:
    go, done = threading.Event(), []
    workers = service_of(client).workers
    futures = [workers.submit(lambda call: done.append(go.wait(60))) for _ in range(4)]  # one at work, three wait
    reply = client.post("/v1/transcriptions", files={"file": ("a.jpg", NOTE + b"full")})
    many = client.post("/v1/inference", json={"image": base64.b64encode(NOTE).decode(), "question": "?"})
    go.set()
    for refused in (reply, many):
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
    for future in futures:
        future.result(60)
    assert done == [True] * 4
    assert client.post("/v1/transcriptions", files={"file": ("a.jpg", NOTE + b"full")}).status_code == 201


def test_an_engine_that_is_killed_takes_one_file_along_and_nothing_else(client: TestClient) -> None:
    def die(call: Any) -> None:
        for process in multiprocessing.active_children():
            process.kill()
            process.join()

    service_of(client).workers.submit(die).result(60)
    lost = client.post("/v1/transcriptions", files={"file": ("a.jpg", NOTE + b"lost")})
    assert lost.status_code == 422
    assert "ended the engine" in lost.json()["detail"]
    assert client.post("/v1/transcriptions", files={"file": ("a.jpg", NOTE + b"lost")}).status_code == 201


def test_work_that_breaks_leaves_its_engine_to_the_next(client: TestClient) -> None:
    def broken(call: Any) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        service_of(client).workers.submit(broken).result(60)
    assert client.post("/v1/transcriptions", files={"file": ("a.jpg", NOTE + b"after")}).status_code == 201


def test_an_engine_that_can_not_be_opened_is_said_and_not_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ours(configured(tmp_path, "ocr.recognition_dir=missing")) as client:
        reply = client.post("/v1/transcriptions", files={"file": ("a.jpg", NOTE)})
        assert reply.status_code == 422
        assert "missing" in reply.json()["detail"]
        assert client.get("/ready").status_code == 503
    assert "can't be opened" in caplog.text


def test_what_was_accepted_and_not_read_is_read_by_the_next_process(tmp_path: Path) -> None:
    config = configured(tmp_path)
    (one,) = Archive(config.serve.archive).add([("note.jpg", NOTE)], "general", "")
    with ours(config) as client:
        done = threading.Event()
        service_of(client).workers.submit(lambda call: done.set())
        assert done.wait(60)
        assert client.get(f"/v1/transcriptions/{one.id}").json()["status"] == "done"


def test_an_upload_that_ended_three_services_is_not_read_a_fourth_time(tmp_path: Path) -> None:
    config = configured(tmp_path)
    archive = Archive(config.serve.archive)
    (one,) = archive.add([("note.jpg", NOTE)], "general", "")
    for _ in range(3):
        archive.begin(one.id)
    with ours(config) as client:
        told = client.get(f"/v1/transcriptions/{one.id}").json()
        assert (told["status"], "3 times" in told["problem"]) == ("failed", True)


def test_what_an_engine_answers_unexpectedly_fails_its_row_and_is_logged_without_text(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def answers(engine: Any, job: Any) -> Any:
        raise KeyError("三点半")

    monkeypatch.setattr("fusion.service.workers._EngineProcess.call", answers)
    files = [("file", ("a.jpg", NOTE + b"unexpected"))]
    reply = client.post("/v1/transcriptions", files=files)
    assert (reply.status_code, "fault of the service" in reply.json()["detail"]) == (422, True)
    assert "unexpected KeyError" in caplog.text
    assert "三点半" not in caplog.text


def test_a_reading_outlasts_a_lock_and_one_that_can_not_be_kept_is_said(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, locks = service_of(client).archive, [2, 4]
    finish = Archive.finish

    def locked(self: Archive, id_: str, pages: Any, problem: str = "") -> None:
        if pages and locks[0]:
            locks[0] -= 1
            raise Unwritable("the archive", "can't be written (database is locked)", "Try again.")
        finish(self, id_, pages, problem)

    monkeypatch.setattr(Archive, "finish", locked)
    monkeypatch.setattr("fusion.service.service.PAUSES", (0.0, 0.0))
    assert client.post("/v1/transcriptions", files={"file": ("a.jpg", NOTE + b"l1")}).status_code == 201
    locks.pop(0)
    reply = client.post("/v1/transcriptions", files={"file": ("a.jpg", NOTE + b"l2")})
    assert (reply.status_code, "could not be kept" in reply.json()["detail"]) == (422, True)
    assert archive.waiting() == []


def test_one_upload_that_is_sent_twice_at_once_is_read_once_and_needs_no_room_when_it_is_read(
    client: TestClient, note: dict[str, Any]
) -> None:
    service, go = service_of(client), threading.Event()
    first = service.workers.submit(lambda call: go.wait(60))
    one, again = (service.take([("a.jpg", b"no image at all")], None, False)[0] for _ in range(2))
    assert (one.id, service.workers.waiting <= 2) == (again.id, True)
    others = [service.workers.submit(lambda call: None) for _ in range(3)]  # now it is more than full
    with pytest.raises(Full):
        service.take([("b.jpg", b"another")], None, False)
    assert service.take([("记.jpg", NOTE)], None, False)[0].status == "done"
    files = {"file": ("a.jpg", b"no image at all")}
    with ThreadPoolExecutor(2) as pool:
        replies = [pool.submit(client.post, "/v1/transcriptions", files=files) for _ in range(2)]
        time.sleep(0.5)  # as a rule both wait; the answers are the same if they don't
        go.set()
        assert [reply.result(60).status_code for reply in replies] == [422, 422]
    for future in (first, *others):
        future.result(60)


def test_what_must_be_deleted_is_deleted_though_it_failed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archive, wiped, ended = (
        Archive(tmp_path / "archive.sqlite"),
        iter([sqlite3.OperationalError("三点半"), 0, 1]),
        threading.Event(),
    )

    def wipe(self: Archive) -> bool:
        said = next(wiped)
        if isinstance(said, Exception):
            raise said
        if said:
            ended.set()
        return bool(said)

    monkeypatch.setattr(Archive, "wipe", wipe)
    monkeypatch.setattr("fusion.service.service.EVERY", 0.01)
    _keep(archive, None, ended)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "三点半" not in caplog.text


def test_delete(client: TestClient) -> None:
    id_ = kept(client, "to be forgotten")
    assert client.delete(f"/v1/transcriptions/{id_}").status_code == 204
    for path in ("", "/pages/1", "/pages/1/picture", "/pages/1/lines/l000"):
        assert client.get(f"/v1/transcriptions/{id_}{path}").status_code == 404
    assert client.get("/v1/search?q=forgotten").json() == []


# --- corrections, search, questions -------------------------------------------------------------------------------


def test_a_correction_is_kept_found_exported_and_taken_back(client: TestClient) -> None:
    id_ = kept(client, "阿莫西休", (either("5", "50"),))
    base = f"/v1/transcriptions/{id_}"
    edit = {"line": "l000", "start": 3, "end": 4, "old": "休", "text": "林"}
    reply = client.post(f"{base}/pages/1/corrections", json={"by": "Ada", "corrections": [edit]})
    assert reply.status_code == 200
    (line, _) = reply.json()["lines"]
    assert [(span["text"], span["source"]) for span in line["spans"]] == [("阿莫西", "agreed"), ("林", "human")]
    assert line["spans"][1]["by"].startswith("Ada, 20")
    assert [one["exact"] for one in client.get("/v1/search?q=莫西林").json()] == [True]
    assert client.post(f"{base}/pages/1/corrections", json={"by": "Bob", "corrections": [edit]}).status_code == 409
    client.post(
        f"{base}/pages/1/corrections",
        json={"by": "Ada", "corrections": [{**edit, "start": 0, "end": 3, "old": "阿莫西", "text": "阿莫西"}]},
    )
    with zipfile.ZipFile(io.BytesIO(client.get(f"{base}?format=training").content)) as packed:
        (row,) = map(json.loads, packed.read("training.jsonl").decode().splitlines())
        assert (row["text"], row["image"] in packed.namelist()) == ("阿莫西林", True)
    undo = f"{base}/pages/1/undo"
    assert client.post(undo, json={"by": "Ada", "decision": 1}).status_code == 409  # the second one was not seen
    for seen in (2, 1):
        assert client.get(f"{base}/pages/1").json()["decision"] == seen
        assert client.post(undo, json={"by": "Ada", "decision": seen}).status_code == 200
    assert client.post(undo, json={"by": "Ada", "decision": 0}).status_code == 422
    assert client.get(base).json()["text"].startswith("阿莫西休")


def test_who_corrects_must_be_said(client: TestClient) -> None:
    id_ = kept(client, "5 mg")
    edit = {"line": "l000", "start": 0, "end": 1, "old": "5", "text": "50"}
    for who in ({}, {"by": ""}, {"by": "  "}, {"by": "a\nb"}):
        reply = client.post(f"/v1/transcriptions/{id_}/pages/1/corrections", json={**who, "corrections": [edit]})
        assert (reply.status_code, reply.json()["detail"].startswith("body.by: ")) == (422, True)


def test_a_hit_says_what_stands_where_the_phrase_may_be(client: TestClient) -> None:
    other = Span("2. 氯雷他", "ocr", 0.9, "agreed")
    kept(client, "处方", "1. Cetirizin 休息", (other, either("走", "定"), replace(other, text="片 10mg")))
    ((hit,),) = (one["hits"] for one in client.get("/v1/search?q=氯雷他定").json())
    assert (hit["exact"], hit["stands"], hit["text"]) == (False, "氯雷他走", "2. 氯雷他走片 10mg")
    ((hit,),) = (one["hits"] for one in client.get("/v1/search?q=cetiri").json())
    assert (hit["exact"], hit["stands"]) == (True, "Cetirizin")


@pytest.mark.parametrize("mark", ["\u202a", "\u202e", "\u2066", "\u2069"])
def test_a_correction_that_reorders_text_is_refused(client: TestClient, mark: str) -> None:
    id_ = kept(client, "5 mg")
    edit = {"line": "l000", "start": 0, "end": 1, "old": "5", "text": f"5{mark}0"}
    reply = client.post(f"/v1/transcriptions/{id_}/pages/1/corrections", json={"by": "Ada", "corrections": [edit]})
    assert reply.status_code == 422
    assert f"U+{ord(mark):04X}" in reply.json()["detail"]
    assert client.get(f"/v1/transcriptions/{id_}").json()["text"] == "5 mg"


def test_the_queue_says_why_and_offers_what_the_readers_have(client: TestClient) -> None:
    id_ = kept(client, "sure", (either("5", "50"), either(" mg", " mq")))
    shown = client.get(f"/v1/transcriptions/{id_}/pages/1").json()
    costs = [item["expected_cost"] for item in shown["queue"]]
    assert costs == sorted(costs, reverse=True)
    five = next(item for item in shown["queue"] if item["text"] == "5")
    assert [choice["text"] for choice in five["choices"]] == ["5", "50"]
    assert five["reasons"]
    assert shown["formats"] == list(Format)


def test_azures_shape(client: TestClient, note: dict[str, Any]) -> None:
    found = client.get(f"/v1/transcriptions/{note['id']}?format=azure").json()["analyzeResult"]
    (only,) = found["pages"]
    for word in only["words"]:
        start, length = word["span"]["offset"], word["span"]["length"]
        assert found["content"][start : start + length] == word["content"]
        assert len(word["polygon"]) == 8
        assert word["confidence"] is None or 0 <= word["confidence"] <= 1
    for line in only["lines"]:
        (extent,) = line["spans"]
        assert found["content"][extent["offset"] :].startswith(line["content"])


def test_without_a_model_a_question_is_answered_from_the_fields_and_says_so(client: TestClient) -> None:
    image = (SAMPLES / "prescription_zh.jpg").read_bytes()
    reply = client.post("/v1/transcriptions", files={"file": ("rx.jpg", image)}, data={"profile": "prescription"})
    id_ = reply.json()["id"]

    def ask(question: str) -> dict[str, Any]:
        answer: dict[str, Any] = client.post("/v1/ask", json={"id": id_, "question": question}).json()
        return answer

    drugs = ask("这张处方开了哪些药")
    assert [word in drugs["text"] for word in ("阿莫西林", "布洛芬", "0.5g")] == [True] * 3
    assert {"l002", "l004"} <= set(drugs["lines"])
    assert all(f"{line}" in drugs["text"] for line in drugs["lines"])
    assert (drugs["by"], "字段" in drugs["note"], "l002" in drugs["note"]) == ("fields", True, True)
    assert "布洛芬" not in ask("阿莫西林怎么吃？")["text"]
    assert (ask("病人的血型?")["lines"], ask("病人的血型?")["text"]) == ([], "这一页没有写，或没有读出来。")
    assert client.post("/v1/ask", json={"id": NOWHERE, "question": "?"}).status_code == 404


def test_a_transcript_that_is_asked_for_is_the_answer_and_nothing_else(
    client: TestClient, note: dict[str, Any]
) -> None:
    question = {"image": base64.b64encode(NOTE).decode(), "question": "请逐行转录这张纸上写的内容。"}
    assert client.post("/v1/inference", json=question).json() == {"answer": note["text"]}
    other = client.post("/v1/inference", json={**question, "question": "买什么牛奶?"}).json()["answer"]
    assert other.startswith("记得买牛奶")
    assert "[l000]" in other
    assert "根据本页的文字回答，没有模型回答（needs a vision-language model" in other


def test_a_model_that_answers_is_asked_and_one_that_does_not_is_said(tmp_path: Path) -> None:
    def script(path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return (200, {"answer": "三点半 [l001]"}, {}) if "几点" in body["question"] else (500, {}, {})

    with serving(script) as server:
        served = [
            "vlm.engine=served",
            "vlm.dialect=inference",
            f"vlm.endpoints=[{server.url}]",
            "vlm.ask=doubtful",
            "vlm.retries=0",
        ]
        with ours(configured(tmp_path, *served)) as client:
            id_ = client.post("/v1/transcriptions", files={"file": ("note.jpg", NOTE)}).json()["id"]
            said = client.post("/v1/ask", json={"id": id_, "question": "几点开会"}).json()
            assert said == {"text": "三点半 [l001]", "lines": ["l001"], "by": "model", "note": ""}
            other = client.post("/v1/ask", json={"id": id_, "question": "牛奶"}).json()
            assert (other["by"], other["lines"]) == ("lines", ["l000"])
            assert other["note"].startswith("根据本页的文字回答")


# --- who may ------------------------------------------------------------------------------------------------------


def test_with_a_token_nothing_is_told_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_TEST_TOKEN", TOKEN)
    with ours(configured(tmp_path, "serve.token_env=FUSION_TEST_TOKEN")) as client:
        paths = [
            path
            for path in client.get("/openapi.json").json()["paths"]
            if path.startswith("/v1/") and "session" not in path
        ]
        for path in [*paths, "/metrics"]:
            for method in ("GET", "POST", "DELETE"):
                told = client.request(
                    method, path.format(id=NOWHERE, number=1, line="l0"), headers={"Authorization": f"Bearer {TOKEN}x"}
                )
                assert told.status_code in (401, 405), (method, path)
        assert client.get("/v1/search?q=a", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get("/v1/search?q=a", headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401
        assert client.get("/v1/search?q=a", headers={"Authorization": "Bearer é".encode()}).status_code == 401
        assert (client.get("/health").status_code, client.get("/").status_code) == (200, 200)
        assert client.post("/v1/session", json={"token": "é" * 20}).status_code == 401
        assert client.post("/v1/session", json={"token": TOKEN}, headers={"Host": "["}).status_code == 403
        reply = client.post("/v1/session", json={"token": TOKEN})
        assert reply.status_code == 204
        assert {"httponly", "samesite=strict"} <= set(reply.headers["Set-Cookie"].lower().split("; "))
        assert TOKEN not in reply.headers["Set-Cookie"]
        assert client.get("/v1/search?q=a").status_code == 200  # with the cookie


def test_a_page_of_another_site_gets_nothing(client: TestClient) -> None:
    upload = {"files": {"file": ("a.jpg", NOTE)}, "headers": {"Origin": "https://evil.example"}}
    assert client.post("/v1/transcriptions", **upload).status_code == 403  # type: ignore[arg-type]
    assert client.get("/v1/transcriptions", headers={"Host": "evil.example:8080"}).status_code == 403  # DNS rebinding
    refused = ("fusion_requests_total", {"route": "none", "status": "403"})
    figures = service_of(client).registry
    for broken in ({"Host": "["}, {"Host": "127.0.0.1]"}, {"Origin": "http://["}, {"Origin": ""}):
        before = figures.get_sample_value(*refused) or 0
        reply = client.get("/v1/transcriptions", headers=broken)
        assert (reply.status_code, reply.headers["X-Content-Type-Options"]) == (403, "nosniff"), broken
        assert figures.get_sample_value(*refused) == before + 1
    same = client.get("/v1/transcriptions", headers={"Origin": "http://127.0.0.1:8080"})
    assert (same.status_code, "access-control-allow-origin" in same.headers) == (200, False)


@pytest.mark.parametrize(
    ("overrides", "token", "problem"),
    [
        (["serve.host=0.0.0.0"], None, "no token is asked for"),
        (["serve.host=fusion.example"], None, "no token is asked for"),
        (["serve.token_env=FUSION_TEST_TOKEN"], "short", "long enough"),
        (["serve.token_env=FUSION_TEST_TOKEN"], None, "long enough"),
        (["store.folder=cache"], None, "told to delete"),
    ],
)
def test_what_can_not_be_served_safely_is_not_served(
    overrides: list[str], token: str | None, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if token is not None:
        monkeypatch.setenv("FUSION_TEST_TOKEN", token)
    config = configured(tmp_path, *overrides)
    with pytest.raises(ConfigError, match=problem), ours(config):
        pass


# --- hostile requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id_", ["%2e%2e", "../../etc/passwd", "%2e%2e%2f", "a" * 31, "A" * 32, "'; DROP TABLE pages;--", "0" * 32 + "%0a"]
)
def test_an_id_is_an_id(client: TestClient, id_: str) -> None:
    for path in (f"/v1/transcriptions/{id_}", f"/v1/transcriptions/{id_}/pages/1/picture"):
        assert client.get(path).status_code in (404, 422)


@pytest.mark.parametrize("media", [b"multipart/form-data; boundary=y", b"application/json"])
@pytest.mark.parametrize("path", ["/v1/transcriptions", "/v1/ask"])
@pytest.mark.parametrize(("parts", "patience"), [(1, "PATIENCE"), (10**4, "LONGEST")], ids=["stops", "drips"])
def test_a_request_that_stops_coming_or_drips_ends(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, media: bytes, parts: int, patience: str
) -> None:
    head = b'--y\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    sent, left = [], iter([head, *[b"x"] * (parts - 1)])

    async def receive() -> Any:
        if (body := next(left, None)) is None:
            await asyncio.sleep(3600)
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": body, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr(f"fusion.service.door.{patience}", 0.05)
    headers = [(b"host", b"127.0.0.1"), (b"content-type", media)]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    assert (sent[0]["status"], (b"connection", b"close") in sent[0]["headers"]) == (408, True)
    assert any(name == b"content-security-policy" for name, _ in sent[0]["headers"])


def test_a_head_that_never_ends_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, one after a request that was answered; and a body that goes on when its request was answered."""
    monkeypatch.setattr("fusion.service.door.PATIENCE", 0.2)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)  # longer than a head may take
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def told(port: int, *parts: bytes, pause: float = 0.01) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)
        said = await asyncio.wait_for(reader.read(), 30)  # until the service ends the connection
        writer.close()
        return said

    async def tell() -> list[bytes]:
        settings = uvicorn.Config(answer, port=0, http=Connection, lifespan="off", timeout_keep_alive=60)
        server = uvicorn.Server(settings)
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        whole, begun = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", (b"GET / HTTP/1.1\r\n", b"X: a\r\n")
        said = [await told(port), await told(port, *begun), await told(port, whole, *begun)]
        drips = (whole[:-2] + b"Content-Length: 9\r\n\r\n", b"a", b"b")
        said.append(await told(port, *drips, pause=0.7))
        server.should_exit = True
        await running
        return said

    silent, begun, second, body = asyncio.run(tell())
    assert (silent, begun) == (b"", b"")
    assert (second[:12], body[:12]) == (b"HTTP/1.1 204", b"HTTP/1.1 204")


def test_the_pages_carry_no_text_and_allow_no_script_but_their_own(client: TestClient) -> None:
    for path in (
        "/",
        "/search?q=<script>alert(1)</script>",
        f"/review/{NOWHERE}",
        "/page.js",
        "/page.css",
        "/v1/transcriptions",
    ):
        reply = client.get(path)
        policy = reply.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "<script>alert" not in reply.text
    script = client.get("/page.js").text
    assert "innerHTML" not in script
    assert "http://" not in script.replace("http://www.w3.org/2000/svg", "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "image", "question", "corrections", "by", "line", "start", "end", "old", "text", "token", "page"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_is_a_500(client: TestClient, note: dict[str, Any], data: st.DataObject) -> None:
    """The cheap sister of Schemathesis; see docs/service.md for the dear one."""
    paths = client.get("/openapi.json").json()["paths"]
    path = data.draw(st.sampled_from(sorted(paths)))
    method = data.draw(st.sampled_from(sorted(paths[path])))
    if method == "delete":
        return
    text = st.text(max_size=6).map(lambda made: made.encode("utf-8", "replace").decode()) | st.just("1")
    filled = path.format(
        id=data.draw(st.sampled_from([note["id"], NOWHERE, "x"])),
        number=data.draw(st.integers(-1, 10**20)),
        line="l000",
    )
    query = {name: data.draw(text) for name in ("q", "limit", "format", "wait") if data.draw(st.booleans())}
    body = json.dumps(data.draw(JSON)) if method == "post" else None
    reply = client.request(method, filled, params=query, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code < 500 or (path, reply.status_code) == ("/ready", 503)


def test_a_fault_is_told_as_every_error_without_its_text(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("三点半")

    monkeypatch.setattr(Archive, "recent", broken)
    reply = client.get("/v1/transcriptions")
    assert (reply.status_code, list(reply.json()), "KeyError" in reply.text) == (500, ["detail"], True)
    assert "三点半" not in reply.text


def test_logs_and_figures_hold_no_text(
    client: TestClient, note: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "fusion"):
        client.get("/v1/search", params={"q": "会议机密"})
        client.get("/v1/机密")
        client.get(f"/v1/transcriptions/{note['id']}")
        client.post("/v1/ask", json={"id": note["id"], "question": "机密?"})
    figures = client.get("/metrics").text
    assert note["id"] in caplog.text
    assert "fusion_pages_total" in figures
    for text in ("机密", "三点半", "记.jpg"):
        assert text not in caplog.text + figures
