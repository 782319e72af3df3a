"""A batch of files as bad as they come: each gives its row with a clear reason, and the good ones among them are read."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusion.batch import make_plan, run_batch
from fusion.config import Config, load_config
from fusion.errors import InputError
from fusion.intake import files, list_inputs, open_pages

ROOT = Path(__file__).parent.parent.parent
WORD = ROOT / "eval" / "samples" / "word_squashed.png"
Picture = Image.Image


def word() -> Picture:
    with Image.open(WORD) as opened:
        return opened.convert("RGB").resize((384, 128))


def saved(picture: Picture, kind: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **how)
    return stream.getvalue()


def sixteen_bits() -> bytes:
    return saved(Image.fromarray(np.asarray(word().convert("L")).astype(np.uint16) * 257), "PNG")


def pdf(pages: int) -> bytes:
    kids = b" ".join(b"3 0 R" for _ in range(pages))
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count "
        + f"{pages}/Kids[".encode()
        + kids
        + b"]>>endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    )


def thousand_scans() -> bytes:
    """A progressive JPEG whose last scan, a few bytes long, comes again and again: each is as slow as the whole."""
    content = saved(Image.new("L", (400, 300), 255), "JPEG", progressive=True)
    last, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    return content[:end] + content[last:end] * 1000 + content[end:]


LOCKED = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
    b"3 0 obj<</Filter/Standard/V 1/R 2/P -4/O<" + b"41" * 32 + b">/U<" + b"42" * 32 + b">>>endobj\n"
    b"trailer<</Root 1 0 R/Encrypt 3 0 R/ID[<00><00>]>>\n%%EOF\n"
)
BAD: dict[bytes, tuple[Callable[[], bytes], str]] = {
    b"00_zero_bytes.jpg": (lambda: b"", "is empty"),
    b"01_truncated.jpg": (lambda: saved(word(), "JPEG")[:900], "truncated or damaged"),
    b"02_bomb.png": (lambda: saved(Image.new("1", (12_000, 12_000)), "PNG"), "144 megapixels"),
    b"03_text.png": (lambda: b"dear diary, " * 99, "is not an image"),
    b"04_locked.pdf": (lambda: LOCKED, "encrypted with a password"),
    b"05_thousand.pdf": (lambda: pdf(1000), "1000 pages, over the limit"),
    b"06_broken.pdf": (lambda: b"%PDF-1.7 and nothing else", "broken PDF"),
    b"07_thousand_scans.jpg": (thousand_scans, "JPEG of more than 100 scans"),
}
GOOD: dict[bytes, Callable[[], bytes]] = {
    b"10_wide.png": lambda: saved(Image.new("L", (30_000, 20), 255), "PNG"),
    b"11_one_pixel.png": lambda: saved(Image.new("RGB", (1, 1)), "PNG"),
    b"12_cmyk.jpg": lambda: saved(word().convert("CMYK"), "JPEG"),
    b"13_sixteen_bits.png": sixteen_bits,
    b"14_animated.webp": lambda: saved(word(), "WEBP", save_all=True, append_images=[Image.new("RGB", (384, 128))]),
    b"15_png.pdf": lambda: saved(word(), "PNG"),
    b"16_\xff\xfe\xe2\x82.png": lambda: saved(word(), "PNG"),
    b"17_" + b"x" * 240 + b".png": lambda: saved(word(), "PNG"),
    b"same/scan.png": lambda: saved(word(), "PNG"),
    b"the same/scan.png": lambda: saved(word(), "PNG"),
    b"18_escape\x1b[31m\n.png": lambda: saved(word(), "PNG"),
}


def put(folder: Path, name: bytes, content: bytes) -> None:
    path = os.path.join(os.fsencode(folder), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def configured(folder: Path, *inputs: object) -> Config:
    named = json.dumps([str(one) for one in inputs])
    sets = ["crop=true", "workers=1", f"inputs={named}", f"output={folder}"]
    return load_config(overrides=["vlm.engine=none", *(f"batch.{one}" for one in sets)])


@pytest.mark.live
def test_each_has_its_row_and_the_others_are_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name, (make, _) in BAD.items():
        put(folder, name, make())
    for name, make in GOOD.items():
        put(folder, name, make())
    (folder / "loop").symlink_to(folder)
    (folder / "itself.png").symlink_to(folder / "itself.png")
    os.mkfifo(folder / "pipe.png")
    put(tmp_path, b"gone/a.png", saved(word(), "PNG"))
    (tmp_path / "list.txt").write_text("in/pipe.png\nin/itself.png\nnowhere.png\n", encoding="utf-8")
    config = configured(tmp_path / "out", folder, tmp_path / "list.txt", tmp_path / "gone")
    plan = make_plan(config)
    (tmp_path / "gone" / "a.png").unlink()
    (tmp_path / "gone").rmdir()
    run_batch(config, plan, lambda *_: None)
    rows = [json.loads(row) for row in (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["input"] for row in rows] == [str(one.path) for one in plan.inputs]
    found = {os.path.relpath(os.fsencode(row["input"]), os.fsencode(folder)): row for row in rows}
    assert len(found) == len(BAD) + len(GOOD) + 4
    reasons = {name: reason for name, (_, reason) in BAD.items()} | {
        b"pipe.png": "not a regular file",
        b"itself.png": "does not exist",
        b"../nowhere.png": "does not exist",
        b"../gone/a.png": "does not exist",
    }
    for name, reason in reasons.items():
        assert (found[name]["status"], found[name]["stage"]) == ("failed", "intake")
        assert reason in found[name]["reason"]
    for name in GOOD:
        blank = name[:2] in (b"10", b"11")
        assert found[name]["status"] == ("partial" if blank else "ok"), found[name]
        assert [page["text"] for page in found[name]["pages"]] == ["[---]" if blank else "Amlodipine"]
    written = [name for row in rows for page in row["pages"] for name in page["files"]]
    assert len(written) == len(set(written)) == 3 * len(GOOD)


@pytest.mark.live
def test_a_disk_that_takes_no_more_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    put(tmp_path, b"in/a.png", saved(word(), "PNG"))
    config = configured(tmp_path / "out", tmp_path / "in")
    (tmp_path / "c.yaml").write_text(config.to_yaml(), encoding="utf-8")
    call = [sys.executable, "-m", "fusion.cli", "batch", str(tmp_path / "c.yaml")]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, timeout=120)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out" / "pages").iterdir()) == []
    assert run_batch(config, make_plan(config), lambda *_: None).counts["ok"] == 1


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be allowed everything: the system's answers are given for it."""
    put(tmp_path, b"open/a.png", b"x")
    put(tmp_path, b"closed/b.png", b"x")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(files.os, "access", lambda path, mode: not str(path).endswith("closed"))
    assert list_inputs([tmp_path]) == [tmp_path / "closed", tmp_path / "open" / "a.png"]
    with pytest.raises(InputError, match="closed: is a folder that can't be looked into"):
        list(open_pages(tmp_path / "closed", Config().intake))
