"""The few ways in which a cut is inked: filled shapes, lines, strands, lettering.

Points are (n, 2) floats, x then y, in pixels of the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from bigcluster.demo import tones
from bigcluster.demo.tones import HEIGHT, WIDTH, Picture

Points = npt.NDArray[np.float64]
Paint = int | Picture  # a grey value, or a (HEIGHT, WIDTH) tone

WHITE, BLACK = 255, 0  # grey levels
FRACTION_BITS = 3
"""OpenCV takes coordinates as integers with this many binary digits after the point."""


@dataclass(frozen=True)
class Pen:
    """One cut being drawn, page (HEIGHT, WIDTH) uint8, and the randomness that belongs to it."""

    page: Picture
    rng: np.random.Generator

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def chance(self, share: float) -> bool:
        return float(self.rng.random()) < share

    def pick(self, n: int) -> int:
        """One of 0 .. n-1."""
        return int(float(self.rng.random()) * n)

    def scatter(self, n: int, left: float, top: float, right: float, bottom: float) -> Points:
        """(n, 2) points anywhere in a box."""
        points: Points = self.rng.random((n, 2)) * np.array((right - left, bottom - top)) + np.array((left, top))
        return points

    def fill(self, points: Points, paint: Paint, outline: int | None = BLACK, thickness: int = 2) -> None:
        """A filled shape; outline None leaves its edge bare."""
        corners = fixed(points)
        if isinstance(paint, int):
            cv2.fillPoly(self.page, [corners], paint, cv2.LINE_8, FRACTION_BITS)
        else:
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            cv2.fillPoly(mask, [corners], 255, cv2.LINE_8, FRACTION_BITS)
            cv2.copyTo(paint, mask, self.page)
        if outline is not None:
            cv2.polylines(self.page, [corners], True, outline, thickness, cv2.LINE_AA, FRACTION_BITS)

    def lines(self, curves: Points | Sequence[Points], grey: int = BLACK, thickness: int = 1) -> None:
        """Open curves: (n_curves, n_points, 2), or a list of points."""
        drawn = list(fixed(curves)) if isinstance(curves, np.ndarray) else [fixed(curve) for curve in curves]
        # The scan softens thin lines anyway; smoothing hundreds of them here would double the cost of a cut.
        edge = cv2.LINE_8 if thickness == 1 else cv2.LINE_AA
        cv2.polylines(self.page, drawn, False, grey, thickness, edge, FRACTION_BITS)

    def box(self, left: float, top: float, right: float, bottom: float, paint: Paint, outline: int | None) -> None:
        """A filled rectangle, its sides along the paper."""
        y, x = slice(max(0, round(top)), max(0, round(bottom))), slice(max(0, round(left)), max(0, round(right)))
        self.page[y, x] = paint if isinstance(paint, int) else paint[y, x]
        if outline is not None:
            cv2.rectangle(self.page, (round(left), round(top)), (round(right), round(bottom)), outline, 2)

    def letters(self, left: int, top: int, rows: int, columns: int, side: int, white: bool, vertical: bool) -> None:
        """A block of invented writing, `side` pixels a letter; lines end where they like, blank letters are spaces."""
        rows, columns = min(rows, (HEIGHT - 4 - top) // side), min(columns, (WIDTH - 4 - left) // side)
        if rows < 1 or columns < 1:
            return
        chosen = self.rng.integers(0, tones.N_GLYPHS, (rows, columns))
        # Lines run along the second axis of this view.
        lines = chosen.T if vertical else chosen
        longest = lines.shape[1]
        lengths = self.rng.integers(longest // 2 + 1, longest + 1, (len(lines), 1))
        lines[np.arange(longest) >= lengths] = 0
        ink = tones.glyphs(side)[chosen]  # (rows, columns, side, side)
        ink = ink.transpose(0, 2, 1, 3).reshape(rows * side, columns * side)
        target = self.page[top : top + rows * side, left : left + columns * side]
        target[:] = cv2.max(target, ink) if white else cv2.min(target, cv2.bitwise_not(ink))

    def tone(self, darkness: float) -> Picture:
        """A screentone or a hatching, about so dark."""
        if self.chance(0.2):
            return tones.crop(tones.hatch((4, 5, 6, 8)[self.pick(4)], (1, -1)[self.pick(2)], darkness > 0.4), self.rng)
        level = (0.12, 0.25, 0.4, 0.6, 0.75)[int(np.searchsorted((0.18, 0.32, 0.5, 0.67), darkness))]
        return tones.crop(tones.halftone((4.0, 5.0, 6.5)[self.pick(3)], level), self.rng)


def fixed(points: Points) -> npt.NDArray[np.int32]:
    """Pixels to OpenCV's fixed-point integers."""
    return (points * (1 << FRACTION_BITS)).astype(np.int32)


@cache
def _unit_arc(start: float, end: float, n_points: int) -> Points:
    angle = np.linspace(start, end, n_points)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def arc(x: float, y: float, width: float, height: float, start: float, end: float, n_points: int = 14) -> Points:
    """Part of an ellipse, radians, 0 to the right and growing clockwise: (n_points, 2)."""
    points: Points = _unit_arc(start, end, n_points) * np.array((width, height)) + np.array((x, y))
    return points


def disc(x: float, y: float, width: float, height: float) -> Points:
    """A whole ellipse as a polygon."""
    return arc(x, y, width, height, 0.0, 2 * np.pi, 20)


@cache
def _corner_cutting(n_corners: int, rounds: int) -> Points:
    """Chaikin's scheme is linear in the corners: (n_corners * 2 ** rounds, n_corners)."""
    weights = np.eye(n_corners)
    for _ in range(rounds):
        after = np.roll(weights, -1, axis=0)
        cut = np.stack([0.75 * weights + 0.25 * after, 0.25 * weights + 0.75 * after], axis=1)
        weights = cut.reshape(-1, n_corners)
    return weights


def smooth(corners: Points, rounds: int = 2) -> Points:
    """A closed polygon with its corners cut: 2 ** rounds as many points."""
    return _corner_cutting(len(corners), rounds) @ corners


@cache
def _unit_bow(n_points: int) -> tuple[Points, Points]:
    t = np.linspace(0, 1, n_points)[None, :, None]
    return t, 4 * t * (1 - t)


def bows(start: Points, end: Points, bend: Points | float, n_points: int = 6) -> Points:
    """Bent strokes from start to end, both (n, 2): (n, n_points, 2). `bend` is the sideways share of their length."""
    t, bulge = _unit_bow(n_points)
    along = end - start
    aside = along[:, ::-1] * bend
    aside[:, 0] *= -1
    return start[:, None] + along[:, None] * t + aside[:, None] * bulge
