"""Turns decoded samples of any format, mode and depth into grey or RGB of 8 bits.

| samples | become |
|---|---|
| more than 8 bits, white known | that value is 255 |
| 16 bits, white not known | shifted by the number of bits (8, 10, 12, 14 or 16) that the picture uses |
| white is 0 | turned over, after the shift |
| transparent, by alpha, key or palette | over white, hidden colours do not appear |
| colours multiplied by their alpha | white is added, nothing multiplied again |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]

WHITE = 255
"""Grey level of white in 8 bits."""
BAND_VALUES = 1 << 16
"""Values that are processed at once where intermediates are wider than 8 bits: 512 KiB at most. Those of a whole
picture would be most of the memory of a decode."""
_USUAL_BITS = (8, 10, 12, 14, 16)
"""Bits of a sample that cameras and scanners use."""


@dataclass(frozen=True)
class Samples:
    """The decoded samples of a picture, with what is known of their meaning."""

    array: NDArray[Any]
    """uint8 or uint16 of shape (h, w) grey, (h, w, 2) grey and alpha, (h, w, 3) RGB, or (h, w, 4) RGB and alpha."""
    white: int | None = None
    """The value of white, of uint16 samples; None where the file does not say."""
    white_is_zero: bool = False
    premultiplied: bool = False
    """Whether colours are multiplied by their alpha."""

    @property
    def has_alpha(self) -> bool:
        return self.array.ndim == 3 and self.array.shape[2] in (2, 4)

    def without_alpha(self) -> Samples:
        """The same samples without their alpha channel."""
        return Samples(self.colors, self.white, self.white_is_zero)

    @property
    def colors(self) -> NDArray[Any]:
        """The samples without alpha: (h, w) or (h, w, 3)."""
        if not self.has_alpha:
            return self.array
        return self.array[..., 0] if self.array.shape[2] == 2 else self.array[..., :3]


def with_key(array: NDArray[Any], key: int) -> NDArray[Any]:
    """Add an alpha channel to grey samples, (h, w) -> (h, w, 2): transparent where a sample equals `key`."""
    opaque = np.iinfo(array.dtype).max
    return np.dstack([array, np.where(array == key, 0, opaque).astype(array.dtype)])


def to_uint8(samples: Samples) -> Pixels:
    """Convert samples to 8 bits over white: (h, w) grey or (h, w, 3) RGB, uint8."""
    colors = samples.colors
    alpha = samples.array[..., -1] if samples.has_alpha else None
    if colors.dtype != np.uint8:
        if alpha is not None:
            alpha = _to_8_bits(alpha, np.iinfo(alpha.dtype).max if samples.white is None else samples.white)
        colors = _to_8_bits(colors, _used_white(colors) if samples.white is None else samples.white)
    if samples.white_is_zero:
        colors = WHITE - colors
    if alpha is None:
        return np.ascontiguousarray(colors)
    return _over_white(colors, alpha, premultiplied=samples.premultiplied)


def _used_white(colors: NDArray[Any]) -> int:
    """The largest value of as many bits as the picture uses: 12-bit data in 16 bits must not become nearly black."""
    largest = int(colors.max(initial=0))
    return next((1 << bits) - 1 for bits in _USUAL_BITS if largest < 1 << bits)


def _to_8_bits(values: NDArray[Any], white: int) -> Pixels:
    """Shift where white is all bits set; scale and round where it is another value (a PGM may say 1000)."""
    if white & (white + 1) == 0:
        return (values >> (white.bit_length() - 8)).astype(np.uint8)
    return ((values.astype(np.uint32) * WHITE + white // 2) // white).clip(0, WHITE).astype(np.uint8)


def _over_white(colors: NDArray[Any], alpha: Pixels, *, premultiplied: bool) -> Pixels:
    """Blend colors (h, w[, 3]) with white by alpha (h, w), rounded to nearest, one band of rows at a time."""
    out: Pixels = np.empty(colors.shape, np.uint8)
    band_rows = max(1, BAND_VALUES // max(1, colors.shape[1]))
    for start in range(0, len(colors), band_rows):
        band = slice(start, start + band_rows)
        share = alpha[band].astype(np.uint16).reshape(alpha[band].shape + (1,) * (colors.ndim - 2))
        if premultiplied:
            out[band] = np.minimum(colors[band] + (WHITE - share), WHITE)
        else:
            blend = colors[band] * share + WHITE * (WHITE - share)  # at most 255 * 255: fits uint16
            out[band] = (blend + 127) // 255
    return out
