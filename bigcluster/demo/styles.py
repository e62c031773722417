"""The styles of the catalog: what kinds of cut there are, how common each is, how each is drawn.

Cut `index` of `seed` is the same picture whatever else is drawn: its randomness is keyed by the two numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from bigcluster.demo import scenes, tones
from bigcluster.demo.pen import BLACK, WHITE, Pen
from bigcluster.demo.tones import HEIGHT, WIDTH, Picture


@dataclass(frozen=True)
class Style:
    """One kind of cut; `share` is the probability that a cut is of this kind."""

    name: str
    share: float
    draw: Callable[[Pen], None]


def style_of(seed: int, index: int) -> Style:
    """The style of one cut, without drawing it."""
    return _choose(np.random.default_rng([seed, index]))


def draw_cut(seed: int, index: int) -> tuple[Picture, Style]:
    """Draw cut `index`: ((HEIGHT, WIDTH) uint8, its style)."""
    rng = np.random.default_rng([seed, index])
    style = _choose(rng)
    pen = Pen(np.full((HEIGHT, WIDTH), WHITE, np.uint8), rng)
    style.draw(pen)
    _space_code(pen, index)
    return _print(pen), style


def _choose(rng: np.random.Generator) -> Style:
    # The last style also takes what rounding leaves of the shares.
    return STYLES[min(int(np.searchsorted(_CUMULATIVE, rng.random(), side="right")), len(STYLES) - 1)]


def _space_code(pen: Pen, index: int) -> None:
    """The number of the circle's table, in the corner where every cut has it, and the cut's frame."""
    pen.box(0, 0, 62, 21, WHITE, BLACK)
    code = f"{chr(65 + index // 100 % 26)}{index // 2 % 50 + 1:02d}{'ab'[index % 2]}"
    cv2.putText(pen.page, code, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, BLACK, 1, cv2.LINE_AA)
    cv2.rectangle(pen.page, (0, 0), (WIDTH - 1, HEIGHT - 1), BLACK, 3)


def _print(pen: Pen) -> Picture:
    """What print and scanner do to the drawing: softer edges, grain on paper and ink."""
    grain = tones.grain()
    page: Picture = cv2.GaussianBlur(pen.page, (3, 3), 0.6)  # pixels: the softness that a scan leaves
    cv2.add(page, tones.crop(grain, pen.rng), dst=page)
    cv2.subtract(page, tones.crop(grain, pen.rng), dst=page)
    return page


STYLES: tuple[Style, ...] = (
    Style("black-band-top", 0.10, partial(scenes.portrait, top=True, black=True)),
    Style("black-band-bottom", 0.12, partial(scenes.portrait, top=False, black=True)),
    Style("white-band-top", 0.10, partial(scenes.portrait, top=True, black=False)),
    Style("white-band-bottom", 0.12, partial(scenes.portrait, top=False, black=False)),
    Style("text-on-white", 0.08, partial(scenes.text, white=False)),
    Style("text-on-black", 0.05, partial(scenes.text, white=True)),
    Style("night", 0.05, scenes.night),
    Style("sketch", 0.11, scenes.sketch),
    Style("screentone", 0.08, scenes.screentone),
    Style("focus", 0.05, scenes.focus),
    Style("pair", 0.07, scenes.pair),
    Style("machine", 0.03, scenes.machine),
    Style("scenery", 0.04, scenes.scenery),
)
_CUMULATIVE = np.cumsum([style.share for style in STYLES])
