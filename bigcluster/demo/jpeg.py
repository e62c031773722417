"""How a cut becomes a file."""

from __future__ import annotations

import cv2

from bigcluster.demo.tones import Picture

# About 47 kB a cut, as the scanned ones have.
JPEG_QUALITY = 89


def encode(page: Picture) -> bytes:
    """The JPEG file of one cut."""
    _, encoded = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(encoded.data)


def encode_png(page: Picture) -> bytes:
    """The PNG file of one cut."""
    return bytes(cv2.imencode(".png", page)[1].data)
