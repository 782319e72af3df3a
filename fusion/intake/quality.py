"""Findings: what makes a photograph hard to read, measured against the limits of the configuration.

Knows brightness, sharpness and geometry as numbers. Refuses nothing: a finding is a warning on the page, with a
sentence for people that says what to do about it.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.config import IntakeConfig
from fusion.intake.geometry import Sheet
from fusion.page import Finding
from fusion.view import View, percentile

_LEAST_INK = 60  # px of the view; with less there is nothing to judge
_BURNT = 250  # grey levels; at and above, the sensor has nothing left to tell
_UNBURNT = 238  # grey levels; paper under this was exposed well


def judge_ink(view: View, config: IntakeConfig) -> list[Finding]:
    """Findings on blur, glare and contrast; for crops as well as for pages."""
    findings = []
    contrast = measure_contrast(view)
    if contrast is not None and contrast < config.contrast:
        message = f"the ink is only {contrast:.0f} grey levels darker than the paper; use more light or a darker pen"
        findings.append(Finding("low_contrast", contrast, config.contrast, message))
    blur = measure_sharpness(view)
    if blur is not None and blur < config.blur:
        message = "the strokes are blurred; hold the camera still, tap to focus and come closer"
        findings.append(Finding("blur", blur, config.blur, message))
    glare = measure_glare(view)
    if glare > config.glare:
        message = f"light has burnt out {glare:.0%} of the page; switch the flash off or move the lamp aside"
        findings.append(Finding("glare", glare, config.glare, message))
    return findings


def judge_size(width: int, height: int, config: IntakeConfig) -> list[Finding]:
    """Finding on a page of few pixels; px."""
    side = min(width, height)
    if side >= config.small_side:
        return []
    message = f"the short side has only {side} px; hold the camera closer or scan at a higher resolution"
    return [Finding("small", float(side), float(config.small_side), message)]


def judge_skew(angle: float, config: IntakeConfig) -> list[Finding]:
    """Finding on writing off level; `angle` in degrees counter-clockwise by which it must be turned."""
    if abs(angle) <= config.skew:
        return []
    done = "it was turned level" if config.deskew else "switch intake.deskew on"
    message = f"the writing slopes by {abs(angle):.1f} degrees; {done}, or hold the camera straight"
    return [Finding("skew", abs(angle), config.skew, message)]


def judge_perspective(sheet: Sheet | None, config: IntakeConfig) -> list[Finding]:
    """Finding on a sheet photographed at an angle."""
    if sheet is None or sheet.perspective <= config.perspective:
        return []
    done = "it was straightened" if config.rectify else "switch intake.rectify on"
    message = f"the sheet was photographed at an angle; {done}, or hold the camera straight above it"
    return [Finding("perspective", sheet.perspective, config.perspective, message)]


def measure_contrast(view: View) -> float | None:
    """Paper minus ink, grey levels (80th percentile: thin strokes are half paper); None without ink."""
    if int(view.ink.sum()) < _LEAST_INK:
        return None
    depth = np.asarray(cv2.subtract(view.paper, view.grey), dtype=np.uint8)
    return percentile(depth[view.ink], 0.8)


def measure_sharpness(view: View) -> float | None:
    """Variance of the Laplacian at strokes, grey levels², at a contrast stretched to 100; None without ink.

    The stretch keeps faint but sharp pencil from passing for blur. A stroke that is a Gaussian of σ px has a Laplacian
    of about 100/σ² at its middle: hundreds to thousands when sharp, under 60 from a σ of about 2.5 px on.
    """
    contrast = measure_contrast(view)
    if not contrast:
        return None
    near = cv2.dilate(view.ink.astype(np.uint8), np.ones((3, 3), np.uint8))
    _, deviation = cv2.meanStdDev(cv2.Laplacian(view.grey, cv2.CV_16S, ksize=1), mask=near)
    return float(deviation[0, 0] * 100.0 / contrast) ** 2


def measure_glare(view: View) -> float:
    """Share of the page that is burnt out, in [0, 1].

    A white scan is not glare: there must be paper that is not burnt out, more of it than of the other, and the burnt
    part must have lost its ink. (Glare swallows strokes; a well-lit half keeps them.)
    """
    burnt = view.paper >= _BURNT
    exposed = (view.paper < _UNBURNT) & (view.paper > 90)
    share = float(burnt.mean())
    if share == 0.0 or share > float(exposed.mean()):
        return 0.0
    kept = float(view.ink[burnt].mean())
    usual = float(view.ink[exposed].mean())
    return share if kept < 0.5 * usual else 0.0
