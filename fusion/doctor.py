"""What is installed, what will be used, what is missing and how to get it; and the configuration in words.

Knows packages, files and the configuration; loads no model and asks no network but configured endpoints' ports.
"""

from __future__ import annotations

import os
import platform
import socket
import typing
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
    "openai": "served",
    "torch": "glm",
    "transformers": "glm",
    "paddleocr": "paddle",
    "paddlepaddle": "paddle",
    "pillow-heif": "heic",
}
"""Packages that some configurations need, each with the extra that installs it."""


def versions() -> dict[str, str]:
    """Installed versions of fusion and the packages that shape a result."""
    return {name: _version(name) or "missing" for name in ("fusion", *PACKAGES, *EXTRAS)}


def examine(config: Config) -> tuple[str, bool]:
    """A report for people, and whether the configured job can run."""
    rows = [
        f"fusion {_version('fusion')}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores",
        "",
    ]
    found = {name: _version(name) for name in PACKAGES}
    rows += [f"  {name:24} {number or 'MISSING: pip install ' + name}" for name, number in found.items()]
    rows += [f"  {name:24} {_version(name) or f'not installed (extra {extra})'}" for name, extra in EXTRAS.items()]
    rows.append("")
    healthy = all(found.values())
    for part in (_ocr, _vlm, _files):
        part_rows, good = part(config)
        rows += part_rows
        healthy = healthy and good
    rows.append(f"complete  {'on: gaps may be filled, marked [so]' if config.complete.enabled else 'off: gaps stay □'}")
    rows += ["", "ready" if healthy else "NOT READY: see the words in capitals above"]
    return "\n".join(rows), healthy


def _files(config: Config) -> tuple[list[str], bool]:
    formulary, weights = config.domain.formulary, config.fuse.weights
    rows, good = [], True
    for name, path, default in (("formulary", formulary, "none"), ("weights", weights, "packaged")):
        there = path is None or path.is_file()
        good = good and there
        rows.append(f"{name:9} {path or default}{'' if there else ' MISSING: no such file'}")
    return rows, good


def _ocr(config: Config) -> tuple[list[str], bool]:
    ocr = config.ocr
    rows = [
        f"ocr       {ocr.detection_model} + {ocr.recognition_model}, runtime {ocr.engine}, {ocr.device}, {ocr.threads} threads"
    ]
    if ocr.engine == "paddle":
        installed = _version("paddlepaddle-gpu") or _version("paddlepaddle")
        missing = "MISSING: docs/install.md says how"
        rows.append(f"          paddlepaddle {installed or missing}")
        folders = [
            folder for folder in (ocr.detection_dir, ocr.recognition_dir) if folder is None or not folder.is_dir()
        ]
        if folders:
            rows.append("          MODEL FOLDERS MISSING: set ocr.detection_dir and ocr.recognition_dir")
        return rows, installed is not None and not folders
    good = True
    for name, folder in ((ocr.detection_model, ocr.detection_dir), (ocr.recognition_model, ocr.recognition_dir)):
        if folder is not None:
            rows.append(f"          {folder}{'' if folder.is_dir() else ' MISSING: no such folder'}")
            good = good and folder.is_dir()
            continue
        try:
            from fusion.ocr import weights

            rows.append(f"          {weights.packaged_onnx(name)}")
        except (DependencyError, ImportError) as error:
            rows.append(f"          MISSING {error}")
            good = False
    return rows, good


def _vlm(config: Config) -> tuple[list[str], bool]:
    vlm = config.vlm
    if isinstance(vlm, ServedVlm):
        from fusion.vlm.endpoints import parse_endpoints, shown

        rows = [f"vlm       {vlm.model}, served, {vlm.dialect} dialect"]
        try:
            parse_endpoints(vlm.endpoints, vlm.allowed_hosts)
        except ConfigError as error:
            return [*rows, f"          REFUSED {error}"], False
        if vlm.dialect == "openai" and _version("openai") is None:
            return [*rows, "          MISSING: pip install 'fusion[served]'"], False
        states = [_answers(url, vlm.timeout) for url in vlm.endpoints]
        for url, up in zip(vlm.endpoints, states, strict=True):
            rows.append(
                f"          {shown(url)} {'answers' if up else 'DOES NOT ANSWER: start it, e.g. vllm serve ' + vlm.model}"
            )
        if vlm.api_key_env and vlm.api_key_env not in os.environ:
            return [*rows, f"          KEY MISSING: set the environment variable {vlm.api_key_env}"], False
        return rows, any(states)
    if isinstance(vlm, LocalVlm) and (vlm.model == "small" or (Path(vlm.model) / "reader.json").is_file()):
        from fusion.vlm import small

        folder = small.folder_of(vlm.model)
        needed = (*small.GRAPHS.values(), small.MODEL, small.HEAD, small.READER)
        missing = [name for name in needed if not (folder / name).is_file()]
        origin = "small, the reader of this package" if vlm.model == "small" else f"{vlm.model}, a small reader"
        rows = [f"vlm       {origin}, local, {vlm.device}, {vlm.threads} threads"]
        state = f"MISSING: {', '.join(missing)}" if missing else "it weighs readings of Latin script; it writes nothing"
        return [*rows, f"          {state}"], not missing
    if isinstance(vlm, LocalVlm):
        try:
            from transformers.utils.hub import cached_file

            found = cached_file(vlm.model, "config.json", local_files_only=True)
        except ImportError:
            return [f"vlm       {vlm.model}, local", "          MISSING: pip install 'fusion[glm]'"], False
        except (OSError, ValueError):
            found = None
        state = (
            "found"
            if found
            else "downloaded on first use"
            if vlm.download
            else "MISSING: fetch it, or set vlm.download: true"
        )
        return [f"vlm       {vlm.model}, local, {vlm.device}, {vlm.threads} threads: {state}"], bool(
            found
        ) or vlm.download
    if isinstance(vlm, ReplayVlm):
        there = vlm.path.is_file()
        return [f"vlm       recorded readings: {vlm.path}, column {vlm.column}{'' if there else ' MISSING'}"], there
    if isinstance(vlm, PluginVlm):
        return [f"vlm       {vlm.engine}, a reader of another package"], True
    return ["vlm       none: OCR candidates and evidence only"], True


def _answers(url: str, timeout: float) -> bool:
    """Whether something listens at the endpoint's port; nothing is sent."""
    parts = urlsplit(url)
    try:
        with socket.create_connection(
            (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), min(timeout, 3)
        ):
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
