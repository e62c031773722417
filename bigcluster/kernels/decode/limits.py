"""What a decode may take, checked against the header: pixels, and working memory."""

from __future__ import annotations

from bigcluster.kernels.decode.header import Header
from bigcluster.kernels.decode.result import DecodeSpec, RejectedError
from bigcluster.units import show_bytes


def check_limits(header: Header, spec: DecodeSpec, n_bytes: int) -> None:
    n_pixels = header.width * header.height
    if n_pixels > spec.max_pixels:
        raise RejectedError(
            "too_large",
            f"{header.width} x {header.height} pixels, image.max_pixels is {spec.max_pixels}",
        )
    need = decode_working_bytes(
        header.width,
        header.height,
        direct=header.direct,
        reduction=reduction_of(header, spec),
        n_values=spec.n_values,
        n_bytes=n_bytes,
    )
    if spec.max_bytes is not None and need > spec.max_bytes:
        raise RejectedError(
            "too_large",
            f"decoding needs {show_bytes(need)}, the memory budget leaves {show_bytes(spec.max_bytes)}",
            need,
        )


def decode_working_bytes(
    width: int, height: int, *, direct: bool = False, reduction: int = 1, n_values: int = 0, n_bytes: int = 0
) -> int:
    """Upper bound of what one decode holds: the file's bytes, the picture, and the result before it is handed over.

    Direct: up to 7 bytes a pixel of the reduced picture and, for progressive files, the coefficients of all of it (2
    bytes a sample, 3 samples). Careful: Pillow's picture, its RGBA and RGB conversions and the composite.
    """
    n_pixels = width * height
    picture = n_pixels * 6 + 7 * n_pixels // reduction**2 if direct else n_pixels * 20
    return n_bytes + picture + 2 * n_values


def reduction_of(header: Header, spec: DecodeSpec) -> int:
    if not header.is_jpeg:
        return 1
    width, height = header.seen
    return next((by for by in (8, 4, 2) if width >= by * spec.width and height >= by * spec.height), 1)
