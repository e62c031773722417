"""This module draws the picture whose decoding time `machine` measures. It stands for a scanned drawing.

Lines give blocks of a JPEG many coefficients, and grain gives every other block a few. Their numbers are chosen so that
the files are about as large as those of scanned drawings, because the decoding time depends most on the size: 51 kB as
a JPEG of quality 89, 96 kB as a PNG. Decoding takes as long as that of a cut of the demo catalog, within 8 %.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

WIDTH, HEIGHT = 300, 430
"""The size of the picture in pixels, as that of a cut of the demo catalog."""
_LINES = 55
"""Number of lines; each is 1 to 4 pixels wide and has a grey level below 128."""
_GRAIN = 6.0
"""Standard deviation of the grain, in grey levels."""
_JPEG_QUALITY = 89
"""Of 100; what scanners write lies between 85 and 95."""


def draw() -> Picture:
    """Draw the picture, always the same: (HEIGHT, WIDTH) uint8, grey."""
    rng = np.random.default_rng(0)
    page = np.full((HEIGHT, WIDTH), 255, np.uint8)
    ends = rng.integers([0, 0, 0, 0, 1, 0], [WIDTH, HEIGHT, WIDTH, HEIGHT, 5, 128], (_LINES, 6)).tolist()
    for x0, y0, x1, y1, thickness, grey in ends:
        cv2.line(page, (x0, y0), (x1, y1), grey, thickness, cv2.LINE_AA)
    grain = np.abs(rng.normal(0, _GRAIN, page.shape))
    return np.clip(page - grain, 0, 255).astype(np.uint8)


def encode_jpeg(page: Picture) -> bytes:
    """Encode a grey picture, (height, width) uint8, as a JPEG file."""
    return cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def encode_png(page: Picture) -> bytes:
    """Encode a grey picture, (height, width) uint8, as a PNG file."""
    return cv2.imencode(".png", page)[1].tobytes()
