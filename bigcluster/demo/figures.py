"""People, as a catalog cut shows them: a head with hair, a pair of eyes, shoulders below.

Coordinates inside a head: the face is about 2 wide, its middle (0, 0), the chin near (0, 1.25).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bigcluster.demo.pen import BLACK, WHITE, Paint, Pen, Points, arc, bows, disc, smooth

_FACE = smooth(
    np.array(
        [
            *[(-0.95, -0.9), (-1.02, 0), (-0.95, 0.5), (-0.62, 0.95), (-0.14, 1.27)],
            *[(0.14, 1.27), (0.62, 0.95), (0.95, 0.5), (1.02, 0), (0.95, -0.9)],
        ]
    )
)

_NECK = np.array([(-0.4, 0.8), (0.4, 0.8), (0.45, 1.7), (-0.45, 1.7)])
_COLLAR = np.array([(-0.75, 1.6), (0, 2.7), (0.75, 1.6), (0.45, 1.45), (0, 2.1), (-0.45, 1.45)])
_BOW = np.array([(0, 2.6), (-0.7, 2.3), (-0.7, 3.0), (0, 2.6), (0.7, 2.3), (0.7, 3.0)])
_RIBBON = np.array([(0.6, -1.2), (0.1, -1.7), (0.2, -1.0), (0.6, -1.2), (1.2, -1.6), (1.2, -0.9)])
# Four short strokes below an eye.
_BLUSH = np.array([[(i * 0.09 - 0.12, 0.47), (i * 0.09 - 0.07, 0.37)] for i in range(4)])


@dataclass(frozen=True)
class Head:
    """Where a head is and what it wears."""

    to_paper: Points  # (2, 2): size and tilt
    middle: Points  # (2,): of the face, pixels
    turn: float  # -1 .. 1: which side the face looks to
    hair: Paint
    dark_hair: bool
    clothes: Paint

    def place(self, points: Points) -> Points:
        """Head units to pixels, (..., 2)."""
        placed: Points = points.reshape(-1, 2) @ self.to_paper + self.middle
        return placed.reshape(points.shape)


def draw_person(pen: Pen, x: float, y: float, size: float, n_strands: int = 60) -> None:
    """One person down to the shoulders."""
    head = _random_head(pen, x, y, size)
    length = pen.between(0.9, 3.2)
    _back_hair(pen, head, length, n_strands)
    _shoulders(pen, head, n_strands // 4)
    pen.fill(head.place(_FACE), WHITE)
    _eyes(pen, head)
    _mouth(pen, head)
    _fringe(pen, head, n_strands)
    _extras(pen, head)


def _random_head(pen: Pen, x: float, y: float, size: float) -> Head:
    kind = pen.pick(5)
    hair: Paint = BLACK if kind < 2 else WHITE if kind == 2 else pen.tone(pen.between(0.15, 0.75))
    outfit = pen.pick(5)
    clothes: Paint = BLACK if outfit == 0 else WHITE if outfit < 3 else pen.tone(pen.between(0.1, 0.6))
    tilt = pen.between(-0.28, 0.28)
    to_paper = np.array([(math.cos(tilt), math.sin(tilt)), (-math.sin(tilt), math.cos(tilt))]) * size
    return Head(to_paper, np.array((x, y)), pen.between(-1, 1), hair, kind < 2, clothes)


def _back_hair(pen: Pen, head: Head, length: float, n_strands: int) -> None:
    flare = pen.between(0.0, 0.6)
    n_tips = 5 + pen.pick(7)
    tips = np.empty((2 * n_tips + 1, 2))
    tips[:, 0] = np.linspace(1.2 + flare, -1.2 - flare, 2 * n_tips + 1)
    tips[:, 1] = length + pen.rng.normal(0, 0.16, 2 * n_tips + 1)
    tips[1::2, 1] -= 0.35
    crown = arc(0, -0.15, 1.28, 1.4, np.pi, 2 * np.pi)
    pen.fill(head.place(np.concatenate([crown, tips])), head.hair)
    ends = pen.scatter(n_strands, -1.2 - flare, 0, 1.2 + flare, length)
    starts = ends * np.array((0.8, 0)) + np.array((0, -0.8))
    strands = head.place(bows(starts, ends, pen.rng.normal(0, 0.12, (n_strands, 1))))
    pen.lines(strands, WHITE if head.dark_hair else BLACK)


def _fringe(pen: Pen, head: Head, n_strands: int) -> None:
    n_tips = 4 + pen.pick(5)
    edge = np.empty((2 * n_tips + 1, 2))
    edge[:, 0] = np.linspace(1.12, -1.12, 2 * n_tips + 1) + pen.rng.normal(0, 0.05, 2 * n_tips + 1)
    edge[::2, 1] = pen.rng.uniform(-0.6, -0.4, n_tips + 1)
    edge[1::2, 1] = pen.rng.uniform(-0.3, 0.1, n_tips)
    edge[[0, -1], 1] = pen.rng.uniform(0.3, 0.9, 2)  # locks beside the cheeks
    crown = arc(0, -0.15, 1.2, 1.35, np.pi, 2 * np.pi)
    pen.fill(head.place(np.concatenate([crown, edge])), head.hair)
    to = pen.pick(3) * 0.4 - 0.4  # where the hair is parted
    ends = pen.scatter(n_strands, -1.1, -0.75, 1.1, -0.35)
    starts = ends * np.array((0.35, 0)) + np.array((0.65 * to, -1.4))
    bend = (ends[:, :1] - to) * -0.2
    strands = head.place(bows(starts, ends, bend, 5))
    pen.lines(strands, WHITE if head.dark_hair else BLACK)


def _shoulders(pen: Pen, head: Head, n_folds: int) -> None:
    width = pen.between(1.7, 2.4)
    half = np.array([(0.45, 1.5), (width * 0.8, 1.85), (width, 2.5), (width * 1.1, 7)])
    body = np.concatenate([half, half[::-1] * np.array((-1, 1))])
    pen.fill(head.place(smooth(body)), head.clothes)
    pen.fill(head.place(_NECK), WHITE)
    pen.fill(head.place(_COLLAR), WHITE if pen.chance(0.6) else BLACK)
    if pen.chance(0.5):
        pen.fill(head.place(_BOW), BLACK if pen.chance(0.4) else WHITE)
    starts = pen.scatter(n_folds, -width, 2.4, width, 4.5)
    # Folds hang from the shoulders: downwards, away from the middle.
    ends = starts * np.array((1.25, 1)) + pen.scatter(n_folds, 0, 0.4, 0, 1.4)
    folds = head.place(bows(starts, ends, 0.08, 5))
    pen.lines(folds, WHITE if isinstance(head.clothes, int) and head.clothes == BLACK else BLACK)


def _eyes(pen: Pen, head: Head) -> None:
    closed = pen.chance(0.15)
    height = pen.between(0.19, 0.29)
    iris: Paint = BLACK if pen.chance(0.4) else 105
    for side in (-1, 1):
        x, y = 0.46 * side + 0.16 * head.turn, 0.33
        if closed:
            pen.lines([head.place(arc(x, y + 0.12, 0.25, 0.18, np.pi, 2 * np.pi))], BLACK, 3)
        else:
            gaze = x + 0.05 * head.turn
            pen.fill(head.place(disc(gaze, y, 0.18, height)), iris, BLACK, 2)
            pen.fill(head.place(disc(gaze, y + 0.02, 0.08, height * 0.45)), BLACK, None)
            pen.fill(head.place(disc(gaze - 0.07, y - height * 0.45, 0.08, 0.1)), WHITE, None)
            # The upper lash runs out to the side, the lower one is a hint.
            pen.lines([head.place(arc(x, y, 0.29, height * 1.1, np.pi * 1.04, np.pi * 1.96))], BLACK, 3)
            pen.lines([head.place(arc(x, y + 0.02, 0.2, height, np.pi * 0.3, np.pi * 0.7, 5))], BLACK, 1)
        pen.lines([head.place(arc(x, y - height - 0.1, 0.28, 0.1, np.pi * 1.1, np.pi * 1.9, 6))], BLACK, 1)
        pen.lines(head.place(_BLUSH + np.array((x, y))), 90)


def _mouth(pen: Pen, head: Head) -> None:
    x = 0.22 * head.turn
    pen.lines([head.place(np.array([(x, 0.62), (x + 0.06 * head.turn, 0.7), (x, 0.72)]))])
    kind = pen.pick(3)
    if kind == 0:
        pen.fill(head.place(arc(x, 0.88, 0.2, 0.18, 0, np.pi)), 90, BLACK, 1)
    elif kind == 1:
        pen.lines([head.place(arc(x, 0.82, 0.2, 0.1, 0.1, np.pi - 0.1))], BLACK, 2)
    else:
        pen.fill(head.place(disc(x, 0.94, 0.08, 0.07)), WHITE, BLACK, 1)


def _extras(pen: Pen, head: Head) -> None:
    """Cat ears, glasses, a ribbon, or nothing."""
    kind = pen.pick(6)
    if kind == 0:
        for side in (-1, 1):
            pen.fill(head.place(np.array([(0.35 * side, -1.35), (1.0 * side, -2.0), (1.1 * side, -0.95)])), head.hair)
    elif kind == 1:
        for side in (-1, 1):
            pen.lines([head.place(disc(0.47 * side + 0.2 * head.turn, 0.32, 0.38, 0.36))], BLACK, 2)
    elif kind == 2:
        pen.fill(head.place(_RIBBON), WHITE if head.dark_hair else BLACK, WHITE if not head.dark_hair else BLACK)
