"""`eval bench`: where the time of a page goes, stage by stage.

Knows the engine's own clocks. These machines are noisy: the figures to quote are shares and medians of one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from fusion.config import load_config
from fusion.engine import Engine
from fusion.intake import list_inputs


def bench(paths: Sequence[Path], config: Path | None, overrides: Sequence[str], rounds: int) -> str:
    """Read every page `rounds` times and return a table of seconds per page, the first round left out.

    With `all / without` the whole time is set against the same page without the second reader's part.
    """
    start = time.perf_counter()
    engine = Engine(load_config(config, overrides))
    opened = time.perf_counter() - start
    rows = [
        f"start-up {opened:.1f} s; medians of {rounds} rounds, seconds per page",
        "",
        "| page | lines | asked | intake | OCR | second reader | per line asked | decisions | all | all / without |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    with engine:
        for path in list_inputs(paths):
            samples = []
            for _ in range(rounds + 1):
                engine.clock.clear()
                start = time.perf_counter()
                pages = list(engine.read(path))
                total = time.perf_counter() - start
                intake, ocr, vlm = (engine.clock[k] for k in ("intake", "ocr", "vlm"))
                rest = total - intake - ocr - vlm
                lines = [line for page in pages for line in page.lines]
                asked = sum(any(reading.source == "vlm" for reading in line.readings) for line in lines)
                samples.append((intake, ocr, vlm, vlm / max(1, asked), rest, total, total / (total - vlm)))
            medians = [statistics.median(column) for column in zip(*samples[1:], strict=True)]
            cells = " | ".join(f"{value:.3f}" for value in medians[:-1])
            rows.append(f"| {path.name} | {len(lines)} | {asked} | {cells} | {medians[-1]:.2f} |")
    return "\n".join(rows)
