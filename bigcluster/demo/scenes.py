"""What each style of cut shows, and how it is drawn. A scene inks an empty white page."""

from __future__ import annotations

import numpy as np

from bigcluster.demo import tones
from bigcluster.demo.figures import draw_person
from bigcluster.demo.pen import BLACK, WHITE, Paint, Pen, bows, disc, smooth
from bigcluster.demo.tones import HEIGHT, WIDTH

# Backgrounds


def _backdrop(pen: Pen) -> None:
    """What stands behind a figure: nothing, a screentone, a graded one, bubbles, flowers, hatching."""
    kind = pen.pick(7)
    if kind == 0:
        pen.page[:] = pen.tone(pen.between(0.1, 0.6))
    elif kind == 1:
        pen.page[:] = tones.graded((5.0, 7.0, 9.0)[pen.pick(3)], pen.pick(4), int(pen.between(-60, 120)), pen.rng)
    elif kind == 2:
        _bubbles(pen, 14)
    elif kind == 3:
        _flowers(pen, 9)
    elif kind == 4:
        _scribble(pen, 150)
    elif kind == 5:
        pen.page[:] = BLACK
        _bubbles(pen, 10)


def _bubbles(pen: Pen, count: int) -> None:
    for _ in range(count):
        radius = pen.between(8, 45)
        paint: Paint = WHITE if pen.chance(0.5) else pen.tone(0.2)
        pen.fill(disc(pen.between(0, WIDTH), pen.between(0, HEIGHT), radius, radius), paint, BLACK, 1)


def _flowers(pen: Pen, count: int) -> None:
    for _ in range(count):
        x, y, radius = pen.between(0, WIDTH), pen.between(0, HEIGHT), pen.between(15, 48)
        angle = np.linspace(0, 2 * np.pi, 40)
        petals = radius * (0.65 + 0.35 * np.cos(angle * (4 + pen.pick(4)) + pen.between(0, 6)))
        outline = np.stack([x + petals * np.cos(angle), y + petals * np.sin(angle)], axis=1)
        pen.fill(outline, WHITE if pen.chance(0.6) else pen.tone(0.3), BLACK, 1)
        pen.fill(disc(x, y, radius / 5, radius / 5), BLACK, None)


def _scribble(pen: Pen, count: int, grey: int = BLACK) -> None:
    """Loose pen strokes all over, in one direction with a scatter."""
    starts = pen.rng.uniform((-20, -20), (WIDTH, HEIGHT), (count, 2))
    angle = pen.between(0, np.pi) + pen.rng.normal(0, 0.25, count)
    reach = pen.rng.uniform(25, 110, (count, 1))
    ends = starts + reach * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    pen.lines(bows(starts, ends, pen.rng.normal(0, 0.12, (count, 1))), grey)


def _rays(pen: Pen, x: float, y: float, inner: float, count: int, grey: int) -> None:
    """Focus lines: wedges from the edge of the paper towards (x, y)."""
    angle = pen.rng.uniform(0, 2 * np.pi, count)
    width = pen.rng.uniform(0.006, 0.05, count)
    depth = inner * pen.rng.uniform(1.0, 1.9, count)
    wedges = np.empty((count, 3, 2))
    for corner, (turned, reach) in enumerate(((angle, depth), (angle - width, 380.0), (angle + width, 380.0))):
        wedges[:, corner, 0] = x + reach * np.cos(turned)
        wedges[:, corner, 1] = y + reach * np.sin(turned)
    for wedge in wedges:
        pen.fill(wedge, grey, None)


# Titles


def _band(pen: Pen, top: bool, black: bool) -> None:
    height = 62 + pen.pick(32)
    y = 0 if top else HEIGHT - height
    pen.box(0, y, WIDTH, y + height, BLACK if black else WHITE, None if black else BLACK)
    # The space code takes the first 21 rows on the left.
    first = y + (24 if top else 8)
    small = tones.GLYPH_SIDES[pen.pick(2)]
    room = y + height - small - 8 - first
    side = max(side for side in tones.GLYPH_SIDES[: 5 + pen.pick(3)] if side <= room)
    pen.letters(12 + pen.pick(60), first, 1, 3 + pen.pick(7), side, black, False)
    pen.letters(12 + pen.pick(90), y + height - small - 5, 1, 8 + pen.pick(12), small, black, False)


def _side_note(pen: Pen) -> None:
    """A few vertical lines of small writing on a strip of paper beside the figure."""
    side = tones.GLYPH_SIDES[pen.pick(3)]
    columns, rows = 1 + pen.pick(3), 6 + pen.pick(12)
    left = 10 if pen.chance(0.5) else WIDTH - 14 - columns * side
    top = 95 + pen.pick(80)
    pen.box(left - 3, top - 3, left + columns * side + 3, min(HEIGHT - 1, top + rows * side + 3), WHITE, BLACK)
    pen.letters(left, top, rows, columns, side, False, True)


def _plaque(pen: Pen, left: int, top: int) -> None:
    """A horizontal title in a box."""
    side, columns = tones.GLYPH_SIDES[4 + pen.pick(2)], 4 + pen.pick(4)
    columns = min(columns, (WIDTH - 18 - left) // side)
    pen.box(left, top, left + columns * side + 14, top + side + 12, WHITE, BLACK)
    pen.letters(left + 7, top + 7, 1, columns, side, False, False)


# The scenes


def portrait(pen: Pen, *, top: bool, black: bool) -> None:
    """One person, and a title band across the cut: at its top or bottom, black or white."""
    _backdrop(pen)
    size = pen.between(52, 88)
    draw_person(pen, pen.between(100, 200), pen.between(165, 225) + (35 if top else -30), size)
    if pen.chance(0.5):
        _side_note(pen)
    _band(pen, top, black)


def text(pen: Pen, *, white: bool) -> None:
    """Nothing but writing, white on black or black on white: a large title, then the small print."""
    if white:
        pen.page[:] = BLACK
    side = tones.GLYPH_SIDES[4 + pen.pick(3)]
    if pen.chance(0.6):
        pen.letters(WIDTH - 16 - side, 14, 20, 1, side, white, True)
        small = tones.GLYPH_SIDES[pen.pick(5)]
        columns = (WIDTH - 30 - side) // (small + 4)
        for column in range(columns):
            pen.letters(12 + column * (small + 4), 34, 40, 1, small, white, True)
        return
    pen.letters(14, 32, 2, 12, side, white, False)
    y = 50 + 2 * side
    while y < HEIGHT - 30:
        small = tones.GLYPH_SIDES[pen.pick(5)]
        pen.letters(14, y, 1, 30, small, white, False)
        y += small + 4 + pen.pick(9)


def night(pen: Pen) -> None:
    """Nearly black: a moon, stars, a skyline, a few words."""
    pen.page[:] = BLACK
    n_stars = 40 + pen.pick(60)
    stars = pen.rng.uniform((0, 0), (WIDTH, HEIGHT), (n_stars, 2))
    pen.lines(np.stack([stars, stars + pen.rng.uniform(0, 2.5, (n_stars, 1))], axis=1), WHITE)
    radius = pen.between(12, 42)
    x, y = pen.between(50, 250), pen.between(60, 200)
    pen.fill(disc(x, y, radius, radius), WHITE, None)
    pen.fill(disc(x + radius * pen.between(-0.7, 0.7), y - radius * 0.2, radius, radius), BLACK, None)
    _scribble(pen, 20, 90)
    for left in range(-10, WIDTH, 34):
        pen.box(left, HEIGHT - pen.between(30, 140), left + 30, HEIGHT, BLACK, 120)
    pen.letters(40 + pen.pick(60), 210 + pen.pick(60), 1, 5, tones.GLYPH_SIDES[4], True, False)


def sketch(pen: Pen) -> None:
    """Light line art that fills the cut."""
    _scribble(pen, 60, 120)
    draw_person(pen, pen.between(110, 190), pen.between(150, 230), pen.between(70, 105), 110)
    _plaque(pen, 12 + pen.pick(70), 370)


def screentone(pen: Pen) -> None:
    """A figure on a screentone over the whole cut, its title cut out of it."""
    pen.page[:] = pen.tone(pen.between(0.35, 0.8))
    draw_person(pen, pen.between(90, 210), pen.between(140, 250), pen.between(55, 90))
    _plaque(pen, 18 + pen.pick(50), 30 if pen.chance(0.5) else 362)


def focus(pen: Pen) -> None:
    """Focus lines around a face, with a shout."""
    x, y = pen.between(110, 190), pen.between(150, 260)
    if pen.chance(0.3):
        pen.page[:] = BLACK
        _rays(pen, x, y, 90, 90, WHITE)
    else:
        _rays(pen, x, y, 90, 110, BLACK)
    draw_person(pen, x, y, pen.between(42, 66))
    side, rows = tones.GLYPH_SIDES[5], 4 + pen.pick(4)
    left = 12 if pen.chance(0.5) else WIDTH - 18 - side
    pen.fill(disc(left + side / 2, 44 + rows * side / 2, side, rows * side * 0.68), WHITE)
    pen.letters(left, 44, rows, 1, side, False, True)


def pair(pen: Pen) -> None:
    """Two people, the title down a black strip at the side."""
    _backdrop(pen)
    draw_person(pen, pen.between(60, 110), pen.between(120, 200), pen.between(42, 62), 40)
    draw_person(pen, pen.between(160, 220), pen.between(190, 290), pen.between(45, 68), 40)
    left = 0 if pen.chance(0.15) else WIDTH - 56
    pen.box(left, 0, left + 56, HEIGHT, BLACK, None)
    pen.letters(left + 8, 28, 6 + pen.pick(4), 1, tones.GLYPH_SIDES[5], True, True)


def machine(pen: Pen) -> None:
    """A machine seen from the front: every plate, rivet and pipe twice, left and right of the middle."""
    if pen.chance(0.5):
        pen.page[:] = tones.graded(5.0, pen.pick(4), int(pen.between(0, 120)), pen.rng)
    middle = pen.between(130, 170)
    for level in np.linspace(410, 70, 11):
        reach, width, height = pen.between(-12, 60), pen.between(45, 95), pen.between(40, 85)
        lean = pen.between(-22, 22)
        x, y = reach, level + pen.between(-20, 20)
        plate = np.array([(x, y), (x + width, y + lean), (x + width - lean, y + height), (x + lean / 2, y + height)])
        kind = pen.pick(6)
        paint: Paint = BLACK if kind == 0 else WHITE if kind < 4 else pen.tone(pen.between(0.1, 0.7))
        for side in (-1, 1):
            mirrored = plate * (side, 1) + np.array((middle, 0))
            pen.fill(smooth(mirrored, 1), paint)
            pen.lines([mirrored * 0.8 + mirrored.mean(axis=0) * 0.2], BLACK if kind else WHITE)
            pen.fill(disc(float(mirrored[:, 0].mean()), float(mirrored[:, 1].mean()), 5, 5), WHITE, BLACK, 1)
    _machine_head(pen, middle)
    _plaque(pen, 26, 352)


def _machine_head(pen: Pen, middle: float) -> None:
    """A helmet with antennas and a visor."""
    width, top = pen.between(26, 42), pen.between(38, 62)
    for side in (-1, 1):
        antenna = np.array([(middle + side * width * 0.5, top + 12), (middle + side * width * 1.3, top - 34)])
        pen.lines([antenna], BLACK, 3)
    helmet = [(-width, top + 14), (-width * 0.6, top), (width * 0.6, top), (width, top + 14)]
    helmet += [(width * 0.8, top + 62), (0, top + 78), (-width * 0.8, top + 62)]
    pen.fill(np.array(helmet) + np.array((middle, 0)), WHITE if pen.chance(0.7) else pen.tone(0.2), BLACK, 3)
    pen.box(middle - width * 0.7, top + 26, middle + width * 0.7, top + 40, BLACK, None)
    for side in (-1, 1):
        pen.fill(disc(middle + side * width * 0.35, top + 33, 5, 4), WHITE, None)


def scenery(pen: Pen) -> None:
    """Hills under a toned sky, grass in front."""
    pen.page[:] = tones.graded((5.0, 8.0)[pen.pick(2)], 1, int(pen.between(-40, 80)), pen.rng)
    radius = pen.between(24, 40)
    pen.fill(disc(pen.between(60, 240), pen.between(70, 130), radius, radius), WHITE, BLACK, 2)
    for depth in range(3):
        level = 170 + 70 * depth + pen.between(-35, 35)
        x = np.linspace(-10, WIDTH + 10, 24)
        ridge = level + 26 * np.sin(x / pen.between(25, 70) + pen.between(0, 6)) + pen.rng.normal(0, 5, 24)
        hill = np.concatenate([np.stack([x, ridge], axis=1), [(WIDTH + 10.0, 450.0), (-10.0, 450.0)]])
        pen.fill(hill, (pen.tone(0.2), WHITE, pen.tone(0.45), BLACK)[pen.pick(4)])
    n_blades = 160
    roots = pen.rng.uniform((0, 320), (WIDTH, HEIGHT + 20), (n_blades, 2))
    pen.lines(bows(roots, roots + pen.rng.normal((0, -45), (14, 12), (n_blades, 2)), 0.15), BLACK)
    _plaque(pen, 26 + pen.pick(60), 366)
