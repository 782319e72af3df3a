"""The house rules, read off the source: who imports whom, what an import costs, what prints, what is installed."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fusion"
ROOMS = ("intake", "ocr", "vlm", "fuse", "complete", "domain", "output", "batch", "service", "train")
COMMON = {
    "page",
    "ink",
    "config",
    "errors",
    "ctc",
    "quantities",
    "review",
    "records",
    "onnx",
    "view",
    "placement",
    "formats",
}
ALSO = {
    "batch": {"engine", "intake", "output", "doctor"},  # many inputs through the engine, and their files
    "service": {"engine", "domain", "output", "__version__"},  # a door to the engine, as the command line is
    "train": {"vlm", "ocr", "domain"},  # what is trained and built is theirs
}
HEAVY = ("torch", "paddle", "paddleocr", "paddlex", "transformers", "openai", "onnxruntime", "cv2", "fastapi")
LIGHT_MODULES = ("fusion", "fusion.config", "fusion.page", "fusion.errors", "fusion.terminal", "fusion.cli")
BROAD = {"engine.py": 2, "cli.py": 1, "onnx.py": 2, "batch/worker.py": 1, "batch/remote.py": 1, "service/workers.py": 1}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


MODULES = python_files(PACKAGE)
SIZED = python_files(PACKAGE, ROOT / "eval")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


# --- who imports whom ---------------------------------------------------------------------------------------------


def imports_from_fusion(path: Path) -> Iterator[str]:
    """First part below `fusion` of everything that a file imports from the package, wherever in the file it stands."""
    here = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(tree_of(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "fusion" else [module]
        for name in names:
            first, *rest = name.split(".")
            if first == "fusion":
                yield rest[0] if rest else "fusion"


@pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room).is_dir()])
def test_a_room_knows_only_the_common_files_and_its_own(room: str) -> None:
    allowed = COMMON | {room} | ALSO.get(room, set())
    strangers = [
        f"{name_of(path)} imports fusion.{name}"
        for path in python_files(PACKAGE / room)
        for name in imports_from_fusion(path)
        if name not in allowed
    ]
    assert strangers == []


def test_the_common_files_know_no_room() -> None:
    for name in COMMON:
        assert set(imports_from_fusion(PACKAGE / f"{name}.py")) <= COMMON


def test_every_folder_of_the_package_is_a_known_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(ROOMS)


def test_the_data_model_needs_the_standard_library_alone() -> None:
    for node in tree_of(PACKAGE / "page.py").body:  # what importing it imports
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert all(name.split(".")[0] in sys.stdlib_module_names for name in names)


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_importing_costs_no_model_library(module: str) -> None:
    if not (ROOT / (module.replace(".", "/") + ".py")).is_file() and module != "fusion":
        pytest.skip(f"{module} is not there yet")
    code = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == ""


# --- how it is written --------------------------------------------------------------------------------------------


def is_broad(node: ast.AST) -> bool:
    """`except:`, `except Exception` or `except BaseException`, alone or among others."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")) for kind in caught
    )


def test_broad_excepts_stand_only_at_the_stage_door_and_the_top_of_the_command_line() -> None:
    found = {name_of(path): sum(map(is_broad, ast.walk(tree_of(path)))) for path in MODULES}
    allowed = {f"fusion/{name}": count for name, count in BROAD.items()}
    assert {name: count for name, count in found.items() if count > allowed.get(name, 0)} == {}


def test_only_the_command_line_prints() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        if path != PACKAGE / "terminal.py"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    mute = [name_of(path) for path in SIZED if len(ast.get_docstring(tree_of(path)) or "") < 20]
    assert mute == []


# --- what is in the folder ----------------------------------------------------------------------------------------

MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:work|root|home|Users)/\w")
HOSTS = ("pypi" + ".org", "npm" + "js", "debian" + ".org")


def tracked_files() -> list[Path]:
    """Text files that .gitignore does not name; read without git, so that an unpacked archive can be tested too."""
    ignored = [".git/", *(ROOT / ".gitignore").read_text(encoding="utf-8").split()]

    def skip(path: Path) -> bool:
        parts = path.relative_to(ROOT).parts
        for pattern in ignored:
            bare = pattern.strip("/")
            if any(fnmatch.fnmatch(part, bare) for part in (parts[:1] if pattern.startswith("/") else parts)):
                return True
        return False

    found = []
    for path in sorted(ROOT.rglob("*")):
        if path.is_file() and not skip(path) and b"\0" not in path.read_bytes()[:8192]:
            found.append(path)
    return found


def test_every_folder_of_the_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert found | {"fusion.configs"} == set(settings["packages"])


def test_no_file_names_a_folder_of_this_machine_or_a_registry() -> None:
    files = tracked_files()
    assert ROOT / "pyproject.toml" in files
    found = []
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{name_of(path)}: {match.group()}" for match in MACHINE_PATH.finditer(text)]
        found += [f"{name_of(path)}: {host}" for host in HOSTS if host in text.casefold()]
    assert found == []
