"""The command line as a person uses it: what is printed, where it goes, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fusion import cli
from fusion.errors import ConfigError, DependencyError, FusionError, InputError
from fusion.records import load_page
from fusion.review import review
from tests.vlm_readers import completion, prompt_of, serving

SAMPLES = Path(__file__).parent.parent / "eval" / "samples"
RUNNER = CliRunner()
ALONE = ("--set", "vlm.engine=none")
"""The OCR without a second reader."""


@pytest.fixture(autouse=True)
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The OCR alone is loaded once for all tests; any other configuration loads its own."""
    from fusion import engine

    real = engine.Engine

    def shared(config: Any) -> Any:
        if config.vlm.engine != "none" or config.domain.formulary is not None:
            return real(config)
        if not hasattr(engine, "_for_cli_tests"):
            engine._for_cli_tests = real(config)
            engine._for_cli_tests.close = lambda: None
        engine._for_cli_tests.config = config
        return engine._for_cli_tests

    monkeypatch.setattr(engine, "Engine", shared)
    monkeypatch.setattr("fusion.batch.run.Engine", shared)


def run(*arguments: object) -> Any:
    return RUNNER.invoke(cli.app, [str(a) for a in arguments])


def test_text_goes_to_stdout_and_remarks_to_stderr() -> None:
    result = run("transcribe", SAMPLES / "forecast_gap.png", *ALONE)
    assert result.exit_code == 0
    assert result.stdout == "明天气温会降到□度\n"
    assert "no second reader was asked about any line" in result.stderr


def test_json_is_a_page_that_loads_again() -> None:
    result = run("transcribe", SAMPLES / "note_zh.jpg", "--format", "json", *ALONE)
    page = load_page(result.stdout)
    assert [line.order for line in page.lines] == [0, 1]
    assert page.schema == "fusion.page/1"


def test_crop_reads_without_detection() -> None:
    assert run("transcribe", "--crop", SAMPLES / "word_squashed.png", *ALONE).stdout == "Amlodipine\n"


def test_overlay_is_written(tmp_path: Path) -> None:
    result = run("transcribe", SAMPLES / "letter_en_skewed.jpg", "--format", "overlay", "--out", tmp_path, *ALONE)
    assert result.exit_code == 0
    (written,) = tmp_path.glob("*.overlay.svg")
    assert "Dear Anna" in written.read_text(encoding="utf-8")


def test_a_bad_input_is_reported_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    shutil.copy(SAMPLES / "word_squashed.png", tmp_path / "word.png")
    result = run("transcribe", "--crop", tmp_path, *ALONE)
    assert "Amlodipine" in result.stdout
    assert "broken.jpg" in result.stderr
    assert result.exit_code == InputError.exit_code


def test_equal_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for name in ("a/n.png", "b/n.png"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(SAMPLES / "word_squashed.png", tmp_path / name)
    run("transcribe", "--crop", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out", *ALONE)
    assert len(list((tmp_path / "out").glob("*.txt"))) == 2


def test_a_diplomatic_file_holds_nothing_supplied(tmp_path: Path) -> None:
    def script(path: str, body: dict[str, Any]) -> Any:
        return completion("5" if "可能的内容" in prompt_of(body) else "明天气温会降到□度")

    with serving(script) as server:
        sets = [
            "--set",
            "vlm.engine=served",
            "--set",
            f"vlm.endpoints=[{server.url}/v1]",
            "--set",
            "complete.enabled=true",
        ]
        for flags, text in (([], "明天气温会降到[5]度\n"), (["--diplomatic"], "明天气温会降到□度\n")):
            run("transcribe", SAMPLES / "forecast_gap.png", *flags, "--out", tmp_path, *sets)
            assert (tmp_path / "forecast_gap.png.txt").read_text(encoding="utf-8") == text


def test_compare_writes_its_file_even_when_one_input_fails(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").touch()
    html = tmp_path / "o.html"
    result = run("compare", tmp_path / "broken.jpg", SAMPLES / "note_zh.jpg", "--html", html, *ALONE)
    assert result.exit_code == InputError.exit_code
    assert "note_zh.jpg" in html.read_text(encoding="utf-8")


def test_a_place_that_can_not_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "No such file or directory", "nodir/o.html")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    assert "nodir/o.html: No such file" in capsys.readouterr().err


def test_a_missing_path_is_reported_and_the_others_are_read() -> None:
    result = run("transcribe", "nowhere.png", SAMPLES / "forecast_gap.png", *ALONE)
    assert result.exit_code == InputError.exit_code
    assert "nowhere.png: does not exist" in result.stderr
    assert "明天气温会降到□度" in result.stdout


def test_standard_input_is_an_input() -> None:
    content = (SAMPLES / "forecast_gap.png").read_bytes()
    result = RUNNER.invoke(cli.app, ["--quiet", "transcribe", "-", *ALONE], input=content)
    assert (result.stdout, result.stderr, result.exit_code) == ("明天气温会降到□度\n", "", 0)


def test_many_inputs_make_one_table(tmp_path: Path) -> None:
    for name in ("a/scan.png", "b/scan.png"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(SAMPLES / "word_squashed.png", tmp_path / name)
    for out in ([], ["--out", tmp_path / "all.csv"]):
        result = run("transcribe", "--crop", tmp_path, "--format", "csv", *out, *ALONE)
        text = (tmp_path / "all.csv").read_text(encoding="utf-8") if out else result.stdout
        rows = text.split()
        assert [row.split(",")[0] for row in rows] == ["page", *(f"{tmp_path}/{n}/scan.png" for n in "ab")]
    many = run("transcribe", "--crop", tmp_path, "--format", "json", *ALONE).stdout.splitlines()
    assert [load_page(row).id for row in many] == [f"{tmp_path}/{n}/scan.png" for n in "ab"]
    plain = run("transcribe", "--crop", tmp_path, *ALONE).stdout
    assert plain == "".join(f"== {tmp_path}/{n}/scan.png\nAmlodipine\n\n" for n in "ab").rstrip() + "\n"


def test_the_name_of_a_file_says_the_format(tmp_path: Path) -> None:
    sample = SAMPLES / "word_squashed.png"
    for name in ("o.csv", "o.txt", "o.jsonl", "o.xml"):
        assert run("transcribe", "--crop", sample, "--out", tmp_path / name, *ALONE).exit_code == 0
        assert "Amlodipine" in (tmp_path / name).read_text(encoding="utf-8")
    wrong = run("transcribe", "--crop", sample, "--out", tmp_path / "o.csv", "--format", "json", *ALONE)
    assert isinstance(wrong.exception, ConfigError)


def test_a_file_name_may_be_any_bytes_and_of_any_length(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    names = [b"bad\xff\xfe.png", b"x" * 250 + b".png", "面".encode() * 80 + b".png"]
    for name in names:
        shutil.copyfile(SAMPLES / "word_squashed.png", os.fsencode(folder) + b"/" + name)
    result = run("transcribe", "--crop", folder, "--format", "json", "--out", tmp_path / "out", *ALONE)
    assert result.exit_code == 0, result.stderr
    written = sorted((tmp_path / "out").iterdir())
    assert [load_page(file.read_bytes()).text for file in written] == ["Amlodipine"] * 3


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    photo = tmp_path / "word.txt"
    shutil.copy(SAMPLES / "word_squashed.png", photo)
    before = photo.read_bytes()
    assert isinstance(run("transcribe", photo, "--out", photo, *ALONE).exception, ConfigError)
    assert photo.read_bytes() == before


def test_a_file_of_no_format_is_refused(tmp_path: Path) -> None:
    result = run("transcribe", SAMPLES / "word_squashed.png", "--out", tmp_path / "r.xlsx", *ALONE)
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "r.xlsx").exists()


def test_version_and_help_and_profile_are_where_people_look() -> None:
    from fusion import __version__

    assert run("--version").stdout == f"fusion {__version__}\n"
    assert "transcribe" in run("-h").stdout
    assert "--profile" in run("transcribe", "-h").stdout
    shown = run("config", "show", "-p", "homework").stdout
    assert "profile: homework" in shown
    with pytest.raises(ConfigError, match="did you mean prescription"):
        raise run("transcribe", SAMPLES / "note_zh.jpg", "-p", "perscription").exception


def test_a_configuration_that_ships_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "profile: homework" in run("config", "show", "--config", "homework").stdout
    assert run("config", "show", "homework").stdout == run("config", "show", "--config", "homework").stdout
    assert isinstance(run("config", "show", "homework", "--config", "served").exception, ConfigError)
    error = run("config", "show", "--config", "homewrk").exception
    assert "Did you mean homework?" in str(error)


def test_redirected_output_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "fusion.cli", "transcribe", str(SAMPLES / "forecast_gap.png"), *ALONE]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        call, capture_output=True, env=environment, cwd=SAMPLES.parent.parent, timeout=120, check=True
    )
    assert done.stdout.decode("utf-8") == "明天气温会降到□度\n"


def test_nothing_of_a_file_name_steers_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31mb.png").write_bytes(b"")
    result = run("transcribe", tmp_path / "a\x1b[31mb.png", *ALONE)
    assert "\x1b" not in result.stderr
    assert "a␛[31mb.png" in result.stderr


def test_main_ends_with_message_and_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in (ConfigError("a.yaml", "is wrong", "Mend it."), InputError("b.png", "is empty", "Send another.")):

        def fail(error: FusionError = error) -> None:
            raise error

        monkeypatch.setattr(cli, "app", fail)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == error.exit_code
        assert str(error) in capsys.readouterr().err


def test_a_bug_is_reported_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("page text that must not be shown")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().err
    assert ended.value.code == 1
    assert "ZeroDivisionError" in shown
    assert "page text" not in shown


def test_compare_shows_both_readers_and_writes_html(tmp_path: Path) -> None:
    reference = tmp_path / "note.txt"
    # Two characters that are not on the paper: what is read right counts as wrong.
    reference.write_text("记得买牛奶和面食\n开会时间改到三点整\n", encoding="utf-8")
    with serving(lambda path, body: completion("记得买牛奶和面包")) as server:
        sets = ["--set", "vlm.engine=served", "--set", f"vlm.endpoints=[{server.url}/v1]", "--set", "vlm.retries=0"]
        html = tmp_path / "compare.html"
        result = run("compare", SAMPLES / "note_zh.jpg", "--html", html, "--reference", reference, *sets)
    assert result.exit_code == 0, result.output
    assert "OCR only 0.111, fused 0.111 (18 characters)" in result.stdout
    page = html.read_text(encoding="utf-8")
    assert "data:image/" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_ask_prints_answer_and_cited_lines() -> None:
    with serving(lambda path, body: completion("包含在 [l000, l001]")) as server:
        sets = ["--set", "vlm.engine=served", "--set", f"vlm.endpoints=[{server.url}/v1]"]
        result = run("ask", SAMPLES / "note_zh.jpg", "几点开会？", *sets)
    assert "包含在 [l000, l001]" in result.stdout
    assert "[l001] 开会时间" in result.stdout


def test_with_nothing_configured_a_chinese_page_is_the_ocrs_and_says_so() -> None:
    result = run("transcribe", SAMPLES / "forecast_gap.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == run("transcribe", SAMPLES / "forecast_gap.png", *ALONE).stdout
    assert "no second reader was asked about any line" in result.stderr


def test_a_latin_word_carries_three_looks() -> None:
    result = run("transcribe", "--crop", SAMPLES / "word_squashed.png", "--set", "vlm.ask=all", "--format", "json")
    assert result.exit_code == 0, result.output
    (line,) = load_page(result.stdout).lines
    assert [reading.source for reading in line.readings] == ["ocr", "hand", "vlm"]
    assert "vlm:" not in result.stderr


@pytest.mark.parametrize("reader", [(), ALONE], ids=["small", "none"])
def test_without_a_model_that_answers_a_question_is_answered_from_the_page_and_says_so(reader: tuple[str, ...]) -> None:
    result = run("ask", SAMPLES / "note_zh.jpg", "几点开会？", *reader)
    assert (result.exit_code, result.stdout.split()[0]) == (0, "开会时间改到三点半"), result.output
    assert "[l001]" in result.stdout
    assert "根据本页的文字回答，没有模型回答（needs a vision-language model" in result.stderr


def test_a_model_that_does_not_answer_is_said_and_the_page_answers() -> None:
    with serving(lambda path, body: (500, {}, {})) as server:
        sets = ["vlm.engine=served", f"vlm.endpoints=[{server.url}/v1]", "vlm.ask=doubtful", "vlm.retries=0"]
        result = run("ask", SAMPLES / "note_zh.jpg", "几点开会？", *(f"--set={one}" for one in sets))
    assert (result.exit_code, "[l001] 开会时间" in result.stdout) == (0, True), result.output
    assert "根据本页的文字回答" in result.stderr


def test_batch_says_what_it_will_do_what_it_did_and_what_failed(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "word_squashed.png", tmp_path / "word.png")
    (tmp_path / "empty.png").touch()
    config = tmp_path / "batch.yaml"
    config.write_text(
        f"batch: {{inputs: [{tmp_path}], output: {tmp_path}/out, crop: true, workers: 1}}\nvlm: {{engine: none}}\n"
    )
    planned = run("batch", config, "--dry-run")
    assert "inputs    2" in planned.stdout
    assert "time      about" in planned.stdout
    assert not (tmp_path / "out").exists()
    result = run("batch", config)
    assert result.exit_code == InputError.exit_code
    counts = dict(row.split() for row in result.stdout.splitlines())
    assert (counts["inputs"], counts["pages"], counts["ok"], counts["failed"]) == ("2", "1", "1", "1")
    assert "empty.png is empty" in result.stderr.replace("png: is", "png is")
    again = run("batch", config)
    assert (again.exit_code, again.stdout) == (result.exit_code, result.stdout)
    error = run("batch", config, "--set", "domain.profile=homework").exception
    assert isinstance(error, ConfigError)
    assert 'domain.profile: "general" there, "homework" here' in str(error)


def test_the_review_list_is_what_the_page_record_says(tmp_path: Path) -> None:
    sample, sets = SAMPLES / "prescription.jpg", (*ALONE, "--set", "domain.profile=prescription")
    result = run("transcribe", sample, "--format", "json", "--review", tmp_path / "list", *sets)
    assert result.exit_code == 0, result.output
    page = load_page(result.stdout)
    found = review(page, page.max_error)
    html = (tmp_path / "list" / "review.html").read_text(encoding="utf-8")
    assert html.count("<article") == len(found.items)
    assert f"{found.flagged} of {found.total} stretches need a look" in result.stderr
    assert f"first {found.items[0].line}" in result.stderr


def test_corrections_of_a_review_are_applied(tmp_path: Path) -> None:
    sample, profile = SAMPLES / "prescription.jpg", ("--profile", "prescription")
    run("transcribe", sample, "--review", tmp_path / "list", "--out", tmp_path / "x.txt", *profile, *ALONE)
    (page,) = map(load_page, (tmp_path / "list" / "pages.jsonl").read_text(encoding="utf-8").splitlines())
    line = next(line for line in page.lines if line.text.startswith("I cap"))
    place = {"page": page.id, "image_sha256": page.image_sha256, "line": line.id, "start": 0, "end": 1}
    good = {**place, "old": "I", "text": "1", "by": "Ada"}
    (tmp_path / "c.json").write_text(json.dumps([good]), encoding="utf-8")
    result = run("apply", tmp_path / "list", tmp_path / "c.json", "--out", tmp_path / "done", *profile)
    assert result.exit_code == 0, result.output
    others = [{**good, "image_sha256": "0" * 64}, {**good, "start": 2, "end": 5, "old": "cup"}]
    (tmp_path / "c.json").write_text(json.dumps([good, *others]), encoding="utf-8")
    result = run("apply", tmp_path / "list", tmp_path / "c.json", "--out", tmp_path / "done", *profile)
    assert result.exit_code == InputError.exit_code
    assert "is for another photograph" in result.stderr
    assert "is for another text: “cap” stands there" in result.stderr
    assert "1 corrections on 1 pages" in result.stdout  # the good one is applied all the same
    after = load_page((tmp_path / "done" / "prescription.jpg.json").read_text(encoding="utf-8"))
    dose = next(r.get("dose") for r in after.records if r.get("dose") is not None)
    assert dose.text == "1 cap"  # understood anew
    assert (tmp_path / "done" / "training.jsonl").is_file()


def test_corrected_pages_do_not_mix_with_a_review(tmp_path: Path) -> None:
    run("transcribe", SAMPLES / "note_zh.jpg", "--review", tmp_path, *ALONE)
    before = sorted(tmp_path.iterdir())
    (tmp_path.parent / "c.json").write_text("[]", encoding="utf-8")
    error = run("apply", tmp_path, tmp_path.parent / "c.json", "--out", tmp_path).exception
    assert isinstance(error, ConfigError)
    assert "holds a review" in str(error)
    assert sorted(tmp_path.iterdir()) == before


def test_quiet_and_verbose_stand_before_or_after_the_command(caplog: pytest.LogCaptureFixture) -> None:
    sample = (SAMPLES / "forecast_gap.png", *ALONE)
    for arguments in (("-q", "transcribe", *sample), ("transcribe", *sample, "--quiet"), ("transcribe", "-q", *sample)):
        result = run(*arguments)
        assert (result.stdout, result.stderr, result.exit_code) == ("明天气温会降到□度\n", "", 0)
    caplog.clear()
    run("transcribe", *sample, "-v")
    assert any("took" in record.getMessage() for record in caplog.records)
    assert run("transcribe", *sample).stderr  # the next call says what there is to say again


def test_standard_input_is_read_once() -> None:
    content = (SAMPLES / "forecast_gap.png").read_bytes()
    error = RUNNER.invoke(cli.app, ["transcribe", "-", "-", *ALONE], input=content).exception
    assert isinstance(error, ConfigError)
    assert "twice" in str(error)


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_pipe_that_is_closed_costs_no_review_and_no_traceback(tmp_path: Path, closed: str) -> None:
    read, write = os.pipe()
    os.close(read)
    sample = str(SAMPLES / "forecast_gap.png")
    call = [sys.executable, "-m", "fusion.cli", "transcribe", sample, "--review", str(tmp_path / "look"), *ALONE]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {closed: write}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(call, env=environment, cwd=SAMPLES.parent.parent, timeout=120, check=False, **streams)
    os.close(write)
    assert done.returncode == 0
    assert b"Error" not in (done.stderr or b"")
    assert (tmp_path / "look" / "review.html").is_file()


def test_the_smaller_the_risk_the_more_needs_a_look() -> None:
    counts = []
    for limit in (0.01, 0.3):
        result = run("transcribe", SAMPLES / "letter_en_skewed.jpg", *ALONE, "--set", f"review.max_error={limit}")
        found = re.search(r"(\d+) of (\d+) stretches need a look", result.stderr)
        counts.append(int(found[1]) if found else 0)
        assert ("no data show" in result.stderr) == (limit < 0.05)
    assert counts[0] > counts[1]


def test_batch_without_inputs_says_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "batch.yaml").write_text("ocr: {threads: 1}\n")
    assert "batch.inputs" in str(run("batch", tmp_path / "batch.yaml").exception)


def test_config_show_names_every_key_and_check_finds_typos(tmp_path: Path) -> None:
    shown = run("config", "show", "--set", "ocr.threads=3").stdout
    assert "threads: 3" in shown
    assert "≥ 1" in shown
    (tmp_path / "typo.yaml").write_text("ocr: {thread: 3}\n")
    assert "ocr.thread" in str(run("config", "check", tmp_path / "typo.yaml").exception)
    assert "good" in run("config", "check", "configs/base.yaml").stdout


def test_config_show_is_a_configuration(tmp_path: Path) -> None:
    from fusion.config import load_config

    path = tmp_path / "shown.yaml"
    path.write_text(run("config", "show", "--config", "configs/served.yaml").stdout, encoding="utf-8")
    assert load_config(path) == load_config("configs/served.yaml")


@pytest.mark.parametrize(
    ("sets", "words", "code"),
    [
        ([], ["ready", "runtime onnx", "small, the reader of this package", "writes nothing"], 0),
        (["vlm.engine=none"], ["ready", "runtime onnx", "none: OCR candidates"], 0),
        (["vlm.engine=served", "vlm.endpoints=['http://127.0.0.1:9/v1']"], ["DOES NOT ANSWER", "NOT READY"], 4),
        (["vlm.engine=local", "vlm.model=no/such-model"], ["MISSING", "vlm.download"], 4),
        (["domain.formulary=none.txt"], ["formulary", "MISSING"], 4),
        (["ocr.engine=paddle"], ["MODEL FOLDERS MISSING"], 4),
        (["ocr.detection_dir=/nowhere"], ["MISSING: no such folder"], 4),
        (["vlm.engine=served", "vlm.endpoints=['http://example.com/v1']"], ["REFUSED", "allowed_hosts"], 4),
    ],
)
def test_doctor_says_what_is_missing_and_how_to_get_it(sets: list[str], words: list[str], code: int) -> None:
    result = run("doctor", *(part for text in sets for part in ("--set", text)))
    assert result.exit_code == code
    assert all(word in result.stdout for word in words), result.stdout


def test_doctor_names_the_models_of_a_server_that_serves_another_one() -> None:
    with serving(lambda path, body: (200, {"data": [{"id": "another-model"}]}, {})) as server:
        result = run("doctor", "--set", "vlm.engine=served", "--set", f"vlm.endpoints=['{server.url}/v1']")
        assert "LISTS OTHER MODELS: another-model" in result.stdout
        assert result.exit_code == 4
    with serving(lambda path, body: (404, "", {})) as server:
        result = run("doctor", "--set", "vlm.engine=served", "--set", f"vlm.endpoints=['{server.url}/v1']")
        assert "answers" in result.stdout
        assert result.exit_code == 0


@pytest.mark.parametrize(
    "command",
    [
        ("transcribe", "page.png", "--out"),
        ("transcribe", "page.png", "--review"),
        ("convert", "page.json", "--out"),
        ("compare", "page.png", "--html"),
        ("apply", "review", "corrections.json", "--out"),
    ],
)
def test_no_option_makes_a_folder_named_like_an_address(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = run(*command, "s3://bucket/out")
    assert refused.exit_code == 2
    assert "is an address" in refused.output
    assert not list(tmp_path.iterdir())


def test_serving_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fusion.service.api", None)
    refused = CliRunner().invoke(cli.app, ["serve"]).exception
    assert isinstance(refused, DependencyError)
    assert "fusion[serve]" in str(refused)
