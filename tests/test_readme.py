"""The README says what happens: its commands are run and their output compared with what it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusion import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
EXAMPLES = [
    (command, output.rstrip("\n"))
    for block in SHOWN
    for command, output in re.findall(r"^\$ (fusion .*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.live
@pytest.mark.parametrize(("command", "output"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_an_example_prints_what_the_readme_shows(command: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    result = CliRunner().invoke(cli.app, shlex.split(command)[1:])
    assert result.stdout.rstrip("\n") == output


def test_ci_runs_the_readmes_own_command() -> None:
    assert "<!-- test -->" in README
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_configuration_the_readme_names_exists() -> None:
    named = set(re.findall(r"configs/[\w/]+\.yaml", README))
    assert named
    assert all((ROOT / name).is_file() for name in named)
