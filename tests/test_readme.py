"""README and docs say what happens: their commands are run and the output compared with what they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusion import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = {path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
EXAMPLES = [
    (command, output.rstrip("\n"))
    for text in TEXTS.values()
    for block in re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    for command, output in re.findall(r"^\$ (fusion .*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.live
@pytest.mark.parametrize(("command", "output"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_an_example_prints_what_the_readme_shows(command: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(cli.app, shlex.split(command)[1:])
    assert result.stdout.rstrip("\n") == output


def test_ci_runs_the_readmes_own_command() -> None:
    assert "<!-- test -->" in README
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.live
def test_the_python_of_the_docs_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of one page build on each other."""
    monkeypatch.chdir(ROOT)
    for path, text in TEXTS.items():
        names: dict[str, object] = {}
        for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            exec(compile(block, path.name, "exec"), names)
    assert "Amoxicillin" in capsys.readouterr().out


def test_every_file_that_is_named_exists() -> None:
    for path, text in TEXTS.items():
        targets = re.findall(r"\]\(([^)#]+)\)", text)
        assert [target for target in targets if not (path.parent / target).exists()] == [], path.name
        named = re.findall(r"`?((?:configs|eval|tests|fusion)/[\w/.]+\.(?:ya?ml|py|tsv|md|json))`?", text)
        assert [name for name in named if not (ROOT / name).is_file()] == [], path.name


def test_every_page_of_the_docs_is_linked_from_the_readme() -> None:
    assert [path.name for path in TEXTS if path.parent.name == "docs" and f"](docs/{path.name})" not in README] == []


def test_every_configuration_that_ships_is_named() -> None:
    from fusion.config import packaged_configs

    install = TEXTS[ROOT / "docs" / "install.md"]
    assert [name for name in packaged_configs() if f"`{name}`" not in install] == []
