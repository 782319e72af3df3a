"""What is installed, what will be used, what is missing and how to get it; and the configuration in words.

Loads no model, and asks no network but configured endpoints, and those only for their list of models.
"""

from __future__ import annotations

import os
import platform
import socket
import typing
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel

from fusion.config import Config, LocalVlm, PluginVlm, ReplayVlm, ServedVlm
from fusion.errors import ConfigError, DependencyError

PACKAGES = (
    "onnxruntime",
    "rapidocr",
    "opencv-python-headless",
    "rapidfuzz",
    "pypdfium2",
    "pydantic",
    "numpy",
    "pillow",
)
"""Packages that shape every result."""
EXTRAS = {
    "pyarrow": "parquet",
    "fsspec": "remote",
    "ray": "ray",
    "torch": "glm",
    "transformers": "glm",
    "paddleocr": "paddle",
    "paddlepaddle": "paddle",
    "pillow-heif": "heic",
    "fastapi": "serve",
}
"""Packages that some configurations need, each with the extra that installs it."""
Rows = Iterator[tuple[str, bool]]
"""Rows of the report, each with whether the configured job can run as far as this row says."""
_INDENT = " " * 10


def versions() -> dict[str, str]:
    """Installed versions of fusion and the packages that shape a result."""
    return {name: _version(name) or "missing" for name in ("fusion", *PACKAGES, *EXTRAS)}


def examine(config: Config) -> tuple[str, bool]:
    """A report for people, and whether the configured job can run."""
    rows = [*_packages(), *_ocr(config), *_vlm(config), *_files(config)]
    healthy = all(good for _, good in rows)
    texts = [text for text, _ in rows]
    gaps = "on: gaps may be filled, marked [so]" if config.complete.enabled else "off: gaps stay □"
    texts += [f"complete  {gaps}", "", "ready" if healthy else "NOT READY: see the words in capitals above"]
    return "\n".join(texts), healthy


def _packages() -> Rows:
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    yield f"fusion {_version('fusion')}, Python {platform.python_version()}, {machine}\n", True
    for name in PACKAGES:
        installed = _version(name)
        yield f"  {name:24} {installed or 'MISSING: pip install ' + name}", installed is not None
    for name, extra in EXTRAS.items():
        yield f"  {name:24} {_version(name) or f'not installed (extra {extra})'}", True
    yield "", True


def _files(config: Config) -> Rows:
    formulary, weights = config.domain.formulary, config.fuse.weights
    for name, path, default in (("formulary", formulary, "none"), ("weights", weights, "packaged")):
        there = path is None or path.is_file()
        yield f"{name:9} {path or default}{'' if there else ' MISSING: no such file'}", there


def _ocr(config: Config) -> Rows:
    ocr = config.ocr
    models = ((ocr.detection_model, ocr.detection_dir), (ocr.recognition_model, ocr.recognition_dir))
    names = " + ".join(name for name, _ in models)
    yield f"ocr       {names}, runtime {ocr.engine}, {ocr.device}, {ocr.threads} threads", True
    if ocr.engine == "paddle":
        installed = _version("paddlepaddle-gpu") or _version("paddlepaddle")
        yield f"{_INDENT}paddlepaddle {installed or 'MISSING: docs/install.md says how'}", installed is not None
        if not all(folder and folder.is_dir() for _, folder in models):
            yield f"{_INDENT}MODEL FOLDERS MISSING: set ocr.detection_dir and ocr.recognition_dir", False
        return
    for name, folder in models:
        if folder is not None:
            yield f"{_INDENT}{folder}{'' if folder.is_dir() else ' MISSING: no such folder'}", folder.is_dir()
            continue
        try:
            from fusion.ocr import weights

            yield f"{_INDENT}{weights.packaged_onnx(name)}", True
        except (DependencyError, ImportError) as error:
            yield f"{_INDENT}MISSING {error}", False


def _vlm(config: Config) -> Rows:
    vlm = config.vlm
    if isinstance(vlm, ServedVlm):
        yield from _served(vlm)
    elif isinstance(vlm, LocalVlm):
        yield from _local(vlm)
    elif isinstance(vlm, ReplayVlm):
        there = vlm.path.is_file()
        yield f"vlm       recorded readings: {vlm.path}, column {vlm.column}{'' if there else ' MISSING'}", there
    elif isinstance(vlm, PluginVlm):
        yield f"vlm       {vlm.engine}, a reader of another package", True
    else:
        yield "vlm       none: OCR candidates and evidence only", True


def _served(vlm: ServedVlm) -> Rows:
    from fusion.vlm.endpoints import parse_endpoints, shown
    from fusion.vlm.served import other_models

    yield f"vlm       {vlm.model}, served, {vlm.dialect} dialect", True
    try:
        parse_endpoints(vlm.endpoints, vlm.allowed_hosts)
    except ConfigError as error:
        yield f"{_INDENT}REFUSED {error}", False
        return
    answering = [_answers(url, vlm.timeout) for url in vlm.endpoints]
    for url, up in zip(vlm.endpoints, answering, strict=True):
        state = "answers" if up else f"DOES NOT ANSWER: start it, e.g. vllm serve {vlm.model}"
        yield f"{_INDENT}{shown(url)} {state}", any(answering)  # one endpoint is enough
    if vlm.api_key_env and vlm.api_key_env not in os.environ:
        yield f"{_INDENT}KEY MISSING: set the environment variable {vlm.api_key_env}", False
        return
    for url, models in other_models(vlm).items():
        yield f"{_INDENT}{shown(url)} LISTS OTHER MODELS: {', '.join(models)}; set vlm.model", False


def _local(vlm: LocalVlm) -> Rows:
    if vlm.model == "small" or (Path(vlm.model) / "reader.json").is_file():
        from fusion.vlm import small

        folder = small.folder_of(vlm.model)
        needed = (*small.GRAPHS.values(), small.MODEL, small.HEAD, small.READER)
        missing = ", ".join(name for name in needed if not (folder / name).is_file())
        origin = "small, the reader of this package" if vlm.model == "small" else f"{vlm.model}, a small reader"
        yield f"vlm       {origin}, local, {vlm.device}, {vlm.threads} threads", True
        state = f"MISSING: {missing}" if missing else "it weighs readings of Latin script; it writes nothing"
        yield f"{_INDENT}{state}", not missing
        return
    try:
        from transformers.utils.hub import cached_file

        found = cached_file(vlm.model, "config.json", local_files_only=True)
    except ImportError:
        yield f"vlm       {vlm.model}, local\n{_INDENT}MISSING: pip install 'fusion[glm]'", False
        return
    except (OSError, ValueError):
        found = None
    missing = "downloaded on first use" if vlm.download else "MISSING: fetch it, or set vlm.download: true"
    state = "found" if found else missing
    yield f"vlm       {vlm.model}, local, {vlm.device}, {vlm.threads} threads: {state}", bool(found) or vlm.download


def _answers(url: str, timeout: float) -> bool:
    """Whether something listens at the endpoint's port; nothing is sent."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), min(timeout, 3)):
            return True
    except OSError:
        return False


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe(config: Config) -> str:
    """The effective configuration as YAML, each key with its meaning and range as a comment."""
    rows = [f"# effective configuration, hash {config.hash}"]
    for name in type(config).model_fields:
        section: BaseModel = getattr(config, name)
        rows.append(f"{name}:")
        values = section.model_dump(mode="json")
        for key, field in type(section).model_fields.items():
            bounds = ", ".join(_bound(limit) for limit in field.metadata)
            rows.append(f"  # {field.description}" + (f" [{bounds}]" if bounds else "") + _choices(field.annotation))
            rows.append(f"  {key}: {_scalar(values[key])}")
    return "\n".join(rows)


def _bound(limit: object) -> str:
    """One limit in signs: Ge(ge=1) is ≥ 1."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least"}
    return next((f"{sign} {getattr(limit, name)}" for name, sign in signs.items() if hasattr(limit, name)), str(limit))


def _choices(annotation: object) -> str:
    options = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    return f" ({' | '.join(map(str, options))})" if len(options) > 1 else ""


def _scalar(value: object) -> str:
    import yaml

    if isinstance(value, list):  # addresses may hold a secret; the run itself refuses them
        from fusion.vlm.endpoints import shown

        value = [shown(one) if isinstance(one, str) and "//" in one else one for one in value]
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
