"""`eval batch`: what a batch run promises, measured: workers, a changed weight, memory, kills.

Every run is the command itself in a process of its own. These machines are noisy: figures to quote are ratios of one call.
"""

from __future__ import annotations

import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

CHANGED = "review.max_error=0.2"  # asks no reader again, and every decision


def measure(config: Path, overrides: Sequence[str], kills: int, rounds: int) -> str:
    """Run a batch `rounds` times with one and with two workers, again with a changed weight, and killed `kills` times."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        one, two, again, growth = [], [], [], []
        for number in range(rounds):
            out = folder / f"one{number}"
            spent, sizes = _timed(_command(config, out, [*overrides, "batch.workers=1"]), out)
            one.append(spent)
            growth.append(sizes[len(sizes) * 9 // 10] / sizes[len(sizes) // 10])
            two.append(_timed(_command(config, folder / f"two{number}", [*overrides, "batch.workers=2"]), folder)[0])
            changed = _command(config, out, [*overrides, "batch.workers=1", CHANGED], "--restart")
            again.append(_timed(changed, folder)[0])
        killed = _killed(config, overrides, folder, kills, folder / "two0")
    speed = statistics.median(a / b for a, b in zip(one, two, strict=True))
    spared = statistics.median(a / b for a, b in zip(one, again, strict=True))
    return "\n".join(
        [
            f"first run, one worker: {statistics.median(one):.1f} s, start-up included; medians of {rounds} rounds",
            f"two workers against one: {speed:.2f} times as fast",
            f"again with {CHANGED}: {spared:.1f} times as fast",
            f"memory of a worker after nine tenths of the run against after one: {statistics.median(growth) - 1:+.1%}",
            killed,
        ]
    )


def _command(config: Path, out: Path, overrides: Sequence[str], *flags: str) -> list[str]:
    sets = [part for one in [*overrides, f"batch.output={out}"] for part in ("--set", one)]
    return [sys.executable, "-m", "fusion.cli", "-q", "batch", str(config), *sets, *flags]


def _timed(command: Sequence[str], out: Path) -> tuple[float, list[int]]:
    """Seconds of a run, and the memory of its first worker, read every tenth of a second, KB."""
    start, sizes = time.perf_counter(), [1]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.1)
            if (out / "record.jsonl").exists() and b"number" in (out / "record.jsonl").read_bytes():
                sizes.extend(_memory(process.pid))
    return time.perf_counter() - start, sizes[1:] or sizes


def _memory(parent: int) -> list[int]:
    """The resident memory of the process that has most, of those that a run has started, KB."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split():
            status = Path(f"/proc/{child}/status").read_text(encoding="utf-8")
            found += [int(size) for size in re.findall(r"VmRSS:\s+(\d+)", status)]
    return [max(found)] if found else []


def _killed(config: Path, overrides: Sequence[str], folder: Path, kills: int, whole: Path) -> str:
    """Kill runs at random moments and let them go on, until all kills are spent; then compare with a whole run."""
    out, rng, spent, same = folder / "killed", random.Random(1), 0, 0
    runs = 0
    while spent < kills:
        command = _command(config, out, [*overrides, "batch.workers=2"])
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.2, 8.0))
            if process.poll() is None:
                process.kill()
                spent += 1
                if spent < kills:
                    continue
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        runs, same = runs + 1, same + (_results(out) == _results(whole))
        shutil.rmtree(out)
    return f"killed {spent} times at random moments over {runs} runs: {same} ended like a whole run, byte for byte"


def _results(folder: Path) -> dict[str, bytes]:
    paths = [folder / "results.jsonl", folder / "records.csv", *(folder / "pages").iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.exists()}
