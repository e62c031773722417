"""Working memory of one decode: upper bounds in bytes per pixel, measured for every kind of picture that is read.

Direct pictures go through OpenCV, at a reduced scale where a JPEG allows it; all others through Pillow and conversions,
where the picture, its RGB or RGBA form and the array of it exist at once.
"""

from __future__ import annotations

DIRECT_GREY = 3
DIRECT_COLOR = 7
"""The picture in colour, its grey, and the codec's rows."""
JPEG_COEFFICIENTS = {"L": 2, "RGB": 6}
"""A progressive file keeps those of the whole picture, 2 bytes a sample, while its scans come in. By mode."""
CAREFUL = 17
DEEP = 20
CAREFUL_OF_FORMAT = {"WEBP": 26, "AVIF": 21, "JPEG2000": 26, "HEIF": 26, "JXL": 40}
"""Their codecs hold pictures of their own."""


def direct_bytes(
    width: int, height: int, *, color: bool, reduction: int = 1, coefficients_of: str | None = None
) -> int:
    """OpenCV's decode. color : of the file or of what is asked; coefficients_of : the mode of a progressive JPEG."""
    coefficients = 0 if coefficients_of is None else JPEG_COEFFICIENTS[coefficients_of] * width * height
    reduced = -(-width // reduction) * -(-height // reduction)
    return coefficients + (DIRECT_COLOR if color else DIRECT_GREY) * reduced


def careful_bytes(n_pixels: int, *, image_format: str, deep: bool) -> int:
    """Pillow's decode, or OpenCV's of 16-bit samples, and what follows."""
    return n_pixels * CAREFUL_OF_FORMAT.get(image_format, DEEP if deep else CAREFUL)
