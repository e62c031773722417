"""From a decoded picture to the target size: orientation, resize, tones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.decode.samples import WHITE, Pixels

_COUNTED = 1 << 16
"""Values at a time where work needs wider copies of them."""
_NORMAL_MEAN = 128.0
_NORMAL_SCALE = 48.0  # one standard deviation in grey levels: +-2.6 of them fit into 0..255

_ORIENT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def orient(array: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (1 to 8) to an (h, w[, 3]) picture. Source: EXIF 2.32, tag 274."""
    return np.ascontiguousarray(_ORIENT[orientation](array))


def fit_to(array: Pixels, width: int, height: int, fit: str) -> Pixels:
    """An (h, w[, 3]) picture at the target size. `fit`: stretch, pad (white) or crop (the middle)."""
    have_height, have_width = array.shape[:2]
    if (have_width, have_height) == (width, height):
        return array
    if fit == "stretch":
        return _resize(array, width, height)
    if fit == "crop":
        return _resize(_middle(array, width, height), width, height)
    scale = min(width / have_width, height / have_height)
    scaled = _resize(array, max(1, round(have_width * scale)), max(1, round(have_height * scale)))
    return _center(scaled, width, height)


def _middle(array: Pixels, width: int, height: int) -> Pixels:
    """The largest middle part of the target's proportions: cut before resizing, or a thin strip would grow huge."""
    have_height, have_width = array.shape[:2]
    scale = max(width / have_width, height / have_height)
    cut_width = min(have_width, max(1, round(width / scale)))
    cut_height = min(have_height, max(1, round(height / scale)))
    left, top = (have_width - cut_width) // 2, (have_height - cut_height) // 2
    return np.ascontiguousarray(array[top : top + cut_height, left : left + cut_width])


def _resize(array: Pixels, width: int, height: int) -> Pixels:
    """Area average down, bicubic up."""
    shrinks = width * height < array.shape[0] * array.shape[1]
    return cast(
        Pixels, cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    )


def _center(array: Pixels, width: int, height: int) -> Pixels:
    """Center a picture that is not larger than the target on a white canvas of the target size."""
    have_height, have_width = array.shape[:2]
    left, top = (width - have_width) // 2, (height - have_height) // 2
    canvas: Pixels = np.full((height, width, *array.shape[2:]), WHITE, np.uint8)
    canvas[top : top + have_height, left : left + have_width] = array
    return canvas


def normalize_each(array: Pixels) -> Pixels:
    """Remove a picture's own mean and scale: 128 + 48 (x - mean) / std, rounded and clipped. A flat one becomes 128.

    Through the histogram: exact, and no float copy of the picture.
    """
    flat = array.reshape(-1)
    counts = np.zeros(256, np.int64)
    for start in range(0, flat.size, _COUNTED):
        counts += np.bincount(flat[start : start + _COUNTED], minlength=256)
    levels = np.arange(256, dtype=np.float64)
    mean = (counts @ levels) / flat.size
    std = np.sqrt(counts @ (levels - mean) ** 2 / flat.size)
    if std == 0:
        return np.full_like(array, int(_NORMAL_MEAN))
    table = np.rint(_NORMAL_MEAN + _NORMAL_SCALE * (levels - mean) / std).clip(0, 255).astype(np.uint8)
    return np.take(table, array)
