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

    The engine's own share is everything but OCR and second reader, measured against the OCR time of the same page.
    """
    start = time.perf_counter()
    engine = Engine(load_config(config, overrides))
    opened = time.perf_counter() - start
    rows = [
        f"start-up {opened:.1f} s, {rounds} rounds",
        "",
        "| page | lines | intake | ocr | vlm | fuse and rest | own / ocr |",
    ]
    rows.append("|---|---|---|---|---|---|---|")
    shares = []
    with engine:
        for path in list_inputs(paths):
            samples = []
            for _ in range(rounds + 1):
                engine.clock.clear()
                start = time.perf_counter()
                pages = list(engine.read(path))
                total = time.perf_counter() - start
                ocr, vlm = engine.clock.get("ocr", 0.0), engine.clock.get("vlm", 0.0)
                intake = engine.clock.get("intake", 0.0)
                samples.append((intake, ocr, vlm, total - ocr - vlm - intake, (total - ocr - vlm) / ocr))
            medians = [statistics.median(column) for column in zip(*samples[1:], strict=True)]
            shares.append(medians[-1])
            lines = sum(len(page.lines) for page in pages)
            cells = " | ".join(f"{value:.3f}" for value in medians[:-1])
            rows.append(f"| {path.name} | {lines} | {cells} | {medians[-1]:.1%} |")
    rows += ["", f"median share of the engine's own time: {statistics.median(shares):.1%} of the OCR time"]
    return "\n".join(rows)
