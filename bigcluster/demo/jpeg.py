"""Encodes a cut as a file."""

from __future__ import annotations

import cv2

from bigcluster.demo.tones import Picture

JPEG_QUALITY = 89
"""JPEG quality of 100: cuts of about 47 kB, as large as scanned ones."""


def encode(page: Picture) -> bytes:
    """Encode a cut, (HEIGHT, WIDTH) uint8, as a JPEG file."""
    _, encoded = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(encoded.data)
