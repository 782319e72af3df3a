"""ONNX Runtime as every model gets it: quiet, private, with errors by name; and what a default reading loads at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fusion.errors import ReaderError
from fusion.onnx import file_sha256, open_session, run

ROOT = Path(__file__).parent.parent
CROP = ROOT / "eval" / "samples" / "word_squashed.png"
HEAVY = ("torch", "transformers", "paddleocr", "paddlex", "paddle", "openai", "onnx")


def doubling(path: Path, domain: str = "", version: int = 17, outside: str = "") -> Path:
    """A model that doubles; `outside`: the two is in this file."""
    two = numpy_helper.from_array(np.array([2.0], np.float32), "two")
    if outside:
        onnx.external_data_helper.set_external_data(two, outside, 0, 4)
        two.ClearField("raw_data")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"], domain=domain)],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [two],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, version)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def run_fresh(code: str, **variables: str) -> Any:
    """What a new process prints last, as JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**environment, **variables},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- a session ----------------------------------------------------------------------------------------------------


def test_a_session_runs_its_model_on_the_cpu_with_the_threads_asked_for(tmp_path: Path) -> None:
    session = open_session(doubling(tmp_path / "m.onnx"), threads=2)
    (found,) = session.run(None, {"x": np.array([1, 2, 3], np.float32)})
    assert found.tolist() == [2, 4, 6]
    assert session.get_providers() == ["CPUExecutionProvider"]
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    "harm", ["missing", "a folder", "empty", "a picture", "cut off", "another opset", "no weights"]
)
def test_a_file_that_can_not_be_run_is_named(tmp_path: Path, harm: str) -> None:
    path = doubling(tmp_path / "m.onnx", outside="weights.bin" if harm == "no weights" else "")
    if harm == "missing":
        path.unlink()
    elif harm == "a folder":
        path.unlink()
        path.mkdir()
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "a picture":
        path.write_bytes(CROP.read_bytes())
    elif harm == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
    elif harm == "another opset":
        doubling(path, domain="nobody.knows", version=1)
    what = "is no file" if harm in ("missing", "a folder") else "is no ONNX model that can be run"
    with pytest.raises(ReaderError, match=what) as caught:
        open_session(path, threads=1)
    assert caught.value.subject == str(path)
    assert caught.value.way_out
    assert "\n" not in str(caught.value)


def test_weights_may_stand_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.array([5.0], np.float32).tobytes())
    session = open_session(doubling(tmp_path / "m.onnx", outside="weights.bin"), threads=1)
    assert session.run(None, {"x": np.array([3], np.float32)})[0].tolist() == [15]


def test_telemetry_is_off_before_the_library_is_loaded(tmp_path: Path) -> None:
    path = doubling(tmp_path / "m.onnx")
    code = (
        "import json, os, sys\nfrom pathlib import Path\nfrom fusion.onnx import open_session\n"
        "early = 'onnxruntime' in sys.modules\n"
        f"open_session(Path({str(path)!r}), 1)\n"
        "print(json.dumps([early, os.environ['ORT_DISABLE_TELEMETRY']]))"
    )
    assert run_fresh(code) == [False, "1"]


@pytest.mark.live
@pytest.mark.parametrize(
    "opening",
    [
        "from fusion.config import OcrConfig; from fusion.ocr import OcrReader; OcrReader(OcrConfig())",
        "from fusion.config import LocalVlm; from fusion.vlm import open_reader; open_reader(LocalVlm())",
        "from fusion import Engine; Engine()",
    ],
    ids=["OCR", "small reader", "engine"],
)
def test_telemetry_is_off_whoever_loads_the_library_first(opening: str) -> None:
    code = f"""
import json, os, sys
class Watch:
    seen = []
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            self.seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
{opening}
print(json.dumps(Watch.seen))
"""
    assert run_fresh(code) == ["1"]


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert file_sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# --- what a default reading loads -----------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.parametrize(
    "work",
    ["engine = Engine()", f"engine = Engine(); pages = list(engine.read({str(CROP)!r}, crop=True))"],
    ids=["opening", "reading"],
)
def test_a_default_reading_loads_no_other_model_library(work: str) -> None:
    code = (
        f"import json, sys\nfrom fusion.engine import Engine\n{work}\n"
        "lines = [line.text for page in globals().get('pages', []) for line in page.lines]\n"
        f"print(json.dumps([[name for name in {HEAVY!r} if name in sys.modules], len(sys.modules), lines]))"
    )
    loaded, count, lines = run_fresh(code)
    assert loaded == []
    assert count < 1500
    assert bool(lines) == ("read" in work)


def test_what_an_arena_kept_is_given_back(tmp_path: Path) -> None:
    session = open_session(doubling(tmp_path / "m.onnx"), 1, arena=True)
    assert session.get_session_options().enable_cpu_mem_arena
    for shrink in (False, True):
        (found,) = run(session, {"x": np.array([1, 2, 3], np.float32)}, shrink=shrink)
        assert found.tolist() == [2, 4, 6]
    assert not open_session(tmp_path / "m.onnx", 1).get_session_options().enable_cpu_mem_arena
