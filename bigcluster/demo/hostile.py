"""The files of a bad day: what strangers' folders hold beside good pictures.

Each one says which decode status it should come out with. Those that are `ok` show a picture of WIDTH x HEIGHT pixels,
like every cut.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from bigcluster.demo.jpeg import JPEG_QUALITY, encode
from bigcluster.demo.styles import draw_cut
from bigcluster.demo.tones import HEIGHT, WIDTH, Picture

FOLDER = "hostile"
HUGE_SIDE = 60_000
"""Pixels of the sides of the picture that a file of a hundred bytes claims to hold."""
_ORIENTATION_TAG, _TURN_RIGHT = 274, 6
"""The tag of Exif, and its value for a picture that is to be turned by 90 degrees."""


@dataclass(frozen=True)
class HostileFile:
    """One file of a bad day.

    path : relative to the catalog, with `/`.
    expected_status : of its decode (`ok`, `empty`, `truncated`, `unsupported`, `too_large`, `unreadable`), or None
        where nothing should be listed under this path.
    write : puts it at a path, given one good cut.
    """

    path: str
    expected_status: str | None
    write: Callable[[Path, Picture], None]


def write_hostile(directory: Path, seed: int) -> None:
    """Write every hostile file below `directory`. Their cuts are drawn from the end of the index range, so that none
    is a copy of a cut of the catalog."""
    for i, file in enumerate(HOSTILE):
        target = directory / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        file.write(target, draw_cut(seed, 2**31 - 1 - i)[0])


def expected_statuses() -> dict[str, str]:
    """Listed path -> decode status, for whoever asks: permissions do not stop root, who reads what others cannot."""
    statuses = {file.path: file.expected_status for file in HOSTILE if file.expected_status is not None}
    if os.geteuid() == 0:
        statuses = {path: "ok" if status == "unreadable" else status for path, status in statuses.items()}
    return statuses


def _write_good(path: Path, page: Picture) -> None:
    path.write_bytes(encode(page))


def _write_empty(path: Path, page: Picture) -> None:
    path.write_bytes(b"")


def _write_truncated(path: Path, page: Picture) -> None:
    content = encode(page)
    path.write_bytes(content[: len(content) // 2])


def _write_text(path: Path, page: Picture) -> None:
    path.write_text("This is not a picture, whatever its name says.\n", encoding="utf-8")


def _write_12_bits_in_16(path: Path, page: Picture) -> None:
    """What scanners and cameras leave: 0 .. 4095 in 16 bits, nearly black where all 16 are taken as significant."""
    _write_encoded(path, page.astype(np.uint16) * 16 + 8)


def _write_transparent(path: Path, page: Picture) -> None:
    """Opaque in an ellipse; below the transparent rest lie colours that nobody is meant to see."""
    alpha = np.zeros_like(page)
    cv2.ellipse(alpha, (WIDTH // 2, HEIGHT // 2), (WIDTH // 2 - 10, HEIGHT // 2 - 10), 0, 0, 360, 255, cv2.FILLED)
    hidden = np.where(alpha == 0, 255 - page, page)
    _write_encoded(path, np.dstack([hidden, page, page, alpha]))


def _write_encoded(path: Path, pixels: Picture | npt.NDArray[np.uint16]) -> None:
    _, encoded = cv2.imencode(path.suffix, pixels)
    path.write_bytes(encoded.data)


def _write_cmyk(path: Path, page: Picture) -> None:
    Image.fromarray(page).convert("CMYK").save(path, "JPEG", quality=JPEG_QUALITY)


def _write_one_bit(path: Path, page: Picture) -> None:
    Image.fromarray(page).convert("1").save(path, "PNG")


def _write_animated(path: Path, page: Picture) -> None:
    frames = [Image.fromarray(frame) for frame in (page, 255 - page, np.fliplr(page))]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)


def _write_huge_header(path: Path, page: Picture) -> None:
    """A PNG of a hundred bytes whose header claims 3.6 gigapixels."""
    header = struct.pack(">IIBBBBB", HUGE_SIDE, HUGE_SIDE, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")]
    content = io.BytesIO()
    content.write(b"\x89PNG\r\n\x1a\n")
    for kind, data in chunks:
        content.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    path.write_bytes(content.getvalue())


def _write_rotated(path: Path, page: Picture) -> None:
    """Stored lying on its side; the EXIF orientation says to turn it right."""
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = _TURN_RIGHT
    Image.fromarray(np.ascontiguousarray(np.rot90(page))).save(path, "JPEG", quality=JPEG_QUALITY, exif=exif)


def _write_loop(path: Path, page: Picture) -> None:
    """A folder that contains itself, for whoever follows links."""
    path.symlink_to(os.pardir, target_is_directory=True)


def _write_unreadable(path: Path, page: Picture) -> None:
    _write_good(path, page)
    path.chmod(0)


def _named(name: str) -> HostileFile:
    return HostileFile(f"{FOLDER}/names/{name}", "ok", _write_good)


HOSTILE: tuple[HostileFile, ...] = (
    HostileFile(f"{FOLDER}/12-bits-in-16.png", "ok", _write_12_bits_in_16),
    HostileFile(f"{FOLDER}/animated.gif", "ok", _write_animated),
    HostileFile(f"{FOLDER}/cmyk.jpg", "ok", _write_cmyk),
    HostileFile(f"{FOLDER}/empty.jpg", "empty", _write_empty),
    HostileFile(f"{FOLDER}/huge-header.png", "too_large", _write_huge_header),
    HostileFile(f"{FOLDER}/one-bit.png", "ok", _write_one_bit),
    HostileFile(f"{FOLDER}/rotated-by-exif.jpg", "ok", _write_rotated),
    HostileFile(f"{FOLDER}/text.jpg", "unsupported", _write_text),
    HostileFile(f"{FOLDER}/transparent.png", "ok", _write_transparent),
    HostileFile(f"{FOLDER}/truncated.jpg", "truncated", _write_truncated),
    HostileFile(f"{FOLDER}/unreadable.jpg", "unreadable", _write_unreadable),
    HostileFile(f"{FOLDER}/loop/again", None, _write_loop),
    HostileFile(f"{FOLDER}/loop/inside.jpg", "ok", _write_good),
    HostileFile(f"{FOLDER}/twins/left/same.jpg", "ok", _write_good),
    HostileFile(f"{FOLDER}/twins/right/same.jpg", "ok", _write_good),
    _named('said "quotes".jpg'),
    _named("it's.jpg"),
    _named("comma, comma.jpg"),
    _named("line\nbreak.jpg"),
    _named("emoji 🐈.jpg"),
    _named('=HYPERLINK("x").jpg'),
    _named("-minus.jpg"),
    _named("back\\slash.jpg"),
    _named("<img src=x onerror=alert(1)>.jpg"),
    _named("UPPER.JPG"),
    # Not UTF-8: byte E9 alone, as an old disk from another country has it.
    _named(os.fsdecode(b"caf\xe9.jpg")),
)
