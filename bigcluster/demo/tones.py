"""Screentones, paper grain and lettering, made once and cropped for every cut.

A fresh noise field costs more than the whole drawing. A crop of a large shared one at a random offset costs a view, and
two crops are as good as uncorrelated.
"""

from __future__ import annotations

from functools import cache
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 300, 430  # pixels

MARGIN = 64
"""Pixels of room for a random offset; more than the period of every screentone."""
GRAIN_SIDE = 1024
"""Pixels of a side of the sheet of paper grain that crops are taken from."""
N_GLYPHS = 240
"""Glyphs of the made-up writing. Chosen, not measured."""
GLYPH_SIDES = (11, 13, 16, 20, 26, 34, 46)
"""Pixels of the sides in which there are glyphs."""
_TONE_SEED = 20
"""The tones are the same for every seed of a catalog, which chooses among them."""


def crop(sheet: Picture, rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> Picture:
    """A (height, width) view of the sheet at a random offset."""
    y = int(rng.integers(sheet.shape[0] - height + 1))
    x = int(rng.integers(sheet.shape[1] - width + 1))
    view: Picture = sheet[y : y + height, x : x + width]
    return view


@cache
def grain() -> Picture:
    """(GRAIN_SIDE, GRAIN_SIDE) uint8: what scanning and printing leave on the paper."""
    rng = np.random.default_rng([_TONE_SEED, 0])
    noise = np.abs(rng.standard_normal((GRAIN_SIDE, GRAIN_SIDE), dtype=np.float32))
    return cast(Picture, np.minimum(noise * 4, 40).astype(np.uint8))


@cache
def dots(pitch: float) -> Picture:
    """The height map of a halftone at 45 degrees, uint8, its period `pitch` pixels; see `halftone`."""
    y, x = np.mgrid[: HEIGHT + MARGIN, : WIDTH + MARGIN].astype(np.float32)
    turn = np.float32(np.sqrt(2) * np.pi / pitch)
    waves = np.cos((x + y) * turn) + np.cos((x - y) * turn)  # -2 .. 2
    return cast(Picture, ((waves + 2) * 63.75).astype(np.uint8))


@cache
def halftone(pitch: float, darkness: float) -> Picture:
    """An even screentone, uint8: black dots over the share `darkness` of the paper."""
    heights = dots(pitch).astype(np.float32)
    edge = np.quantile(heights, 1 - darkness)
    # A slope instead of a step: dots with soft edges, as a scan has them.
    return cast(Picture, np.clip(128 - (heights - edge) * 2.0, 40, 255).astype(np.uint8))


@cache
def hatch(pitch: int, slope: int, cross: bool) -> Picture:
    """Parallel pen lines, uint8, `pitch` pixels apart; `cross` adds the other direction."""
    y, x = np.mgrid[: HEIGHT + MARGIN, : WIDTH + MARGIN]
    lines = (x + slope * y) % pitch
    ink = lines < max(1, pitch // 4)
    if cross:
        ink = ink | ((x - slope * y) % pitch < max(1, pitch // 4))
    return cast(Picture, cv2.GaussianBlur(np.where(ink, 0, 255).astype(np.uint8), (3, 3), 0.5))


@cache
def ramp(turned: int) -> Picture:
    """(HEIGHT, WIDTH) uint8 from 0 to 255, downwards, upwards, rightwards or outwards from the middle."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shapes = (
        y / HEIGHT,
        1 - y / HEIGHT,
        (x / WIDTH + y / HEIGHT) / 2,
        np.hypot(x - WIDTH / 2, y - HEIGHT / 2) / np.hypot(WIDTH / 2, HEIGHT / 2),
    )
    return cast(Picture, (shapes[turned] * 255).astype(np.uint8))


def graded(pitch: float, turned: int, shift: int, rng: np.random.Generator) -> Picture:
    """(HEIGHT, WIDTH) uint8: a halftone whose dots grow along a ramp; `shift` > 0 is lighter."""
    return cast(Picture, cv2.addWeighted(crop(dots(pitch), rng), -4.0, ramp(turned), -4.0, 4.0 * (255 + shift)))


@cache
def glyphs(side: int) -> Picture:
    """(N_GLYPHS, side, side) uint8 ink, 255 where the brush went. Nobody can read them; glyph 0 is blank."""
    ink = [cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA) for large in _large_glyphs()]
    return np.stack([np.zeros((side, side), np.uint8), *ink])


@cache
def _large_glyphs() -> tuple[Picture, ...]:
    rng = np.random.default_rng([_TONE_SEED, 1])
    return tuple(_large_glyph(rng) for _ in range(N_GLYPHS - 1))


def _large_glyph(rng: np.random.Generator) -> Picture:
    """One invented character of one or two radicals, (64, 64)."""
    ink = np.zeros((64, 64), np.uint8)
    layout = rng.integers(4)
    if layout == 0:
        cells = [(6, 6, 58, 58)]
    elif layout == 1:
        cells = [(5, 7, 25, 58), (30, 6, 59, 58)]
    elif layout == 2:
        cells = [(8, 4, 56, 26), (6, 31, 58, 60)]
    else:
        cells = [(6, 5, 58, 20), (6, 25, 28, 60), (34, 25, 59, 60)]
    for cell in cells:
        _radical(ink, rng, *cell)
    return ink


def _radical(ink: Picture, rng: np.random.Generator, left: int, top: int, right: int, bottom: int) -> None:
    """A few brush strokes in a box: bars, a stem, sweeps to both sides, a frame."""
    middle = (left + right) // 2 + int(rng.integers(-3, 4))
    kind = rng.integers(5)
    if kind != 1:
        for y in np.linspace(top + 2, bottom - 4, int(rng.integers(2, 4))):
            inset = int(rng.integers(0, 6))
            cv2.line(ink, (left + inset, int(y) + 1), (right - inset, int(y)), 255, 5, cv2.LINE_AA)
    if kind in (0, 2):
        cv2.line(ink, (middle, top), (middle, bottom), 255, 5, cv2.LINE_AA)
    if kind in (1, 2, 4):
        waist = (top + bottom) // 2 + int(rng.integers(-4, 5))
        cv2.line(ink, (middle, top), (left, bottom), 255, 5, cv2.LINE_AA)
        cv2.line(ink, (middle, waist), (right, bottom), 255, 6, cv2.LINE_AA)
    if kind == 3:
        cv2.rectangle(ink, (left, top), (right, bottom), 255, 5, cv2.LINE_AA)
