"""ONNX Runtime, opened the same way for every model: a fixed number of threads that sleep while they wait, no telemetry.

Knows files and sessions; knows nothing of what a model is for. Importing this file loads no library.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion.errors import ReaderError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Read when the library is loaded. Its telemetry looks up its maker's host even where nothing is sent.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
_SILENT = 4
"""Log level: what goes wrong is said once, by our own errors."""


def open_session(path: Path, threads: int, *, arena: bool = False) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU; it may be run from several threads at once.

    Args:
        path: ONNX file.
        threads: threads of one operator. They don't spin while they wait: on a busy machine spinning barriers cost a
            multiple of the work itself.
        arena: keep the memory of a run for the next one, which a model of whole pages is quicker with: its layers are so large
            that the system hands them out anew, and cleared, each time.

    Raises:
        ReaderError: the file is no model that ONNX Runtime can run.
    """
    if not path.is_file():
        raise ReaderError(path, "is no file", "Give the ONNX file itself.")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(threads, os.cpu_count() or 1)  # more than cores only wait for each other
    options.inter_op_num_threads = 1
    # Lines differ in width: what ONNX Runtime keeps for every shape that it has seen grows with the pages read.
    options.enable_cpu_mem_arena, options.enable_mem_pattern = arena, False
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base but this one
        problem = f"is no ONNX model that can be run ({_first_line(error)})"
        raise ReaderError(path, problem, "Fetch or export it again.") from error


def run(session: Any, inputs: Mapping[str, NDArray[Any]], *, shrink: bool = False) -> list[NDArray[np.float32]]:
    """The outputs of a session.

    Args:
        session: as `open_session` opened it.
        inputs: by name.
        shrink: give the memory of its arena back afterwards.

    Raises:
        ReaderError: the model can't take these inputs.
    """
    try:
        outputs: list[NDArray[np.float32]] = session.run(None, dict(inputs), _shrinking() if shrink else None)
    except Exception as error:  # as above
        way = "Look at the input; if it is an ordinary one, fetch or export the model again."
        raise ReaderError("ONNX Runtime", f"the model could not take this input ({_first_line(error)})", way) from error
    return outputs


@lru_cache(maxsize=1)
def _shrinking() -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def runtime_version() -> str:
    """Version of ONNX Runtime."""
    return version("onnxruntime")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes: the identity of a model. A file that has not changed is read once per process."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    """What the library says, without paths of its own sources."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
