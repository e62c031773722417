"""This module makes the input of a neural network from a decoded picture: resized, scaled and in its layout.

The part of the picture that is resized is a view. The scaled values are looked up in a table for each channel and
written directly into the input, so the only copy between picture and input is the resized picture in uint8.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.decode.resize import resize_for_network
from bigcluster.kernels.decode.samples import Pixels

Tables = NDArray[Any]
"""(3, 256): the input value of each grey level of red, green and blue, in the dtype of the input, float32 or uint8."""


def scaling_tables(mean: tuple[float, ...], std: tuple[float, ...]) -> Tables:
    """Return (level - mean) / std of all grey levels, (3, 256) float32, rounded once from float64."""
    levels = np.arange(256, dtype=np.float64)
    tables: Tables = ((levels - np.array(mean)[:, None]) / np.array(std)[:, None]).astype(np.float32)
    return tables


def network_input(
    picture: Pixels, out: NDArray[Any], tables: Tables, *, rule: str, channels_first: bool, bgr: bool, gray: bool
) -> None:
    """Write a picture into the input of a network.

    picture : (h, w, 3) uint8, RGB. out : (c, height, width), or (height, width, c) where not `channels_first`;
    C-contiguous, of the dtype of `tables`; c is 3, or 1 for a network that takes grey pictures.
    rule : as for `resize_for_network`; a picture of the size of the input stays as it is. bgr : blue comes first.
    gray : all channels get the grey of the picture (BT.601 luma).
    """
    height, width = out.shape[1:] if channels_first else out.shape[:2]
    n_channels = out.shape[0] if channels_first else out.shape[2]
    small = resize_for_network(picture, width, height, rule)
    order = (1,) if n_channels == 1 else (2, 1, 0) if bgr else (0, 1, 2)  # grey is scaled as green is
    if gray or n_channels == 1:
        planes = [cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)] * 3
    elif channels_first:
        planes = list(cv2.split(small))
    else:
        if bgr:
            small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        cv2.LUT(small, np.ascontiguousarray(tables[list(order)].T)[None], dst=out)
        return
    for channel, color in enumerate(order):
        if channels_first:
            cv2.LUT(planes[color], tables[color][None], dst=out[channel])
        else:
            out[..., channel] = cv2.LUT(planes[color], tables[color][None])
