"""Brings a decoded picture to the target: applies the orientation, resizes, and normalizes the grey levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.decode.samples import BAND_VALUES, WHITE, Pixels

_NORMAL_MEAN, _NORMAL_SCALE = 128.0, 48.0
"""Mean and standard deviation of a normalized picture, in grey levels: the middle of 0..255, with room for 2.6 standard
deviations on either side."""

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


def resize_to(array: Pixels, width: int, height: int, fit: str) -> Pixels:
    """Resize an (h, w[, 3]) uint8 picture to (height, width[, 3]).

    fit : "stretch" changes the proportions, "pad" adds white borders, "crop" takes the middle.
    """
    old_height, old_width = array.shape[:2]
    if (old_width, old_height) == (width, height):
        return array
    if fit == "stretch":
        return resize(array, width, height)
    if fit == "crop":
        return resize(middle_part(array, width, height), width, height)
    scale = min(width / old_width, height / old_height)
    scaled = resize(array, max(1, round(old_width * scale)), max(1, round(old_height * scale)))
    return _pad(scaled, width, height)


def resize_for_network(array: Pixels, width: int, height: int, rule: str) -> Pixels:
    """Resize an (h, w[, 3]) uint8 picture to the (height, width[, 3]) of a network's input.

    rule : "crop" takes the largest middle part, "squash" changes the proportions, and "pad" repeats the edges, which
    was measured to be better than a border of one colour. Where both sides shrink by less than half, as after the
    scaled decode of a JPEG, the resize is bilinear. Clusters of features of MobileNetV2 were as good as with area
    averages (NMI .553 and .551 on 2,060 photos), and it takes a fifth of the time.
    """
    if rule == "crop":
        array = middle_part(array, width, height)
    elif rule == "pad":
        old_height, old_width = array.shape[:2]
        scale = min(width / old_width, height / old_height)
        inner_width, inner_height = (max(1, round(side * scale)) for side in (old_width, old_height))
        inner = resize_for_network(array, inner_width, inner_height, "squash")
        left, top = (width - inner_width) // 2, (height - inner_height) // 2
        right, bottom = width - inner_width - left, height - inner_height - top
        return cast(Pixels, cv2.copyMakeBorder(inner, top, bottom, left, right, cv2.BORDER_REPLICATE))
    old_height, old_width = array.shape[:2]
    if (old_width, old_height) == (width, height):
        return array
    if width <= old_width < 2 * width and height <= old_height < 2 * height:
        return cast(Pixels, cv2.resize(array, (width, height), interpolation=cv2.INTER_LINEAR))
    return resize(array, width, height)


def middle_part(array: Pixels, width: int, height: int) -> Pixels:
    """Return the largest middle part with the proportions of the target, as a view.

    It is taken before resizing, because a thin strip would grow huge otherwise.
    """
    old_height, old_width = array.shape[:2]
    scale = max(width / old_width, height / old_height)
    cut_width = min(old_width, max(1, round(width / scale)))
    cut_height = min(old_height, max(1, round(height / scale)))
    left, top = (old_width - cut_width) // 2, (old_height - cut_height) // 2
    return array[top : top + cut_height, left : left + cut_width]


def resize(array: Pixels, width: int, height: int) -> Pixels:
    """Resize by area averages where the picture shrinks, bicubically where it grows."""
    shrinks = width * height < array.shape[0] * array.shape[1]
    return cast(
        Pixels, cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    )


def _pad(array: Pixels, width: int, height: int) -> Pixels:
    """Center a picture that is not larger than the target on a white canvas of the target size."""
    old_height, old_width = array.shape[:2]
    left, top = (width - old_width) // 2, (height - old_height) // 2
    canvas: Pixels = np.full((height, width, *array.shape[2:]), WHITE, np.uint8)
    canvas[top : top + old_height, left : left + old_width] = array
    return canvas


def normalize_each(array: Pixels) -> Pixels:
    """Normalize mean and contrast of a uint8 picture: 128 + 48 (x - mean) / std, rounded and clipped to 0..255.

    A picture of one level becomes 128. The histogram gives mean and std exactly, without a float copy of the picture.
    """
    flat = array.reshape(-1)
    counts = np.zeros(256, np.int64)
    for start in range(0, flat.size, BAND_VALUES):
        counts += np.bincount(flat[start : start + BAND_VALUES], minlength=256)
    levels = np.arange(256, dtype=np.float64)
    mean = (counts @ levels) / flat.size
    std = np.sqrt(counts @ (levels - mean) ** 2 / flat.size)
    if std == 0:
        return np.full_like(array, int(_NORMAL_MEAN))
    table = np.rint(_NORMAL_MEAN + _NORMAL_SCALE * (levels - mean) / std).clip(0, 255).astype(np.uint8)
    return np.take(table, array)
