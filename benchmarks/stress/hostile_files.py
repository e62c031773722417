"""Files that take far more to read than they seem to: each maker writes one into a folder; they lie, repeat or unfold.

All are made from scratch. Sparse files take no room on the disk, the others some KB to some MB.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SPARSE_BYTES = 2 << 30
Maker = Callable[[Path], None]


def sparse(file: Path, start: bytes = b"", n_bytes: int = SPARSE_BYTES) -> Path:
    """A file that begins with `start` and has so many bytes, of which the others are holes."""
    with file.open("wb") as out:
        out.write(start)
        out.truncate(n_bytes)
    return file


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# -- TIFF


def tiff(entries: list[tuple[int, int, int, bytes | int]], data: dict[int, bytes], *, next_ifd: int = 0) -> bytes:
    """A little-endian TIFF: (tag, type, count, value or offset) each, and bytes at offsets."""
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in sorted(entries, key=lambda entry: entry[0]):
        directory += struct.pack("<HHI", tag, kind, count)
        directory += value.ljust(4, b"\0")[:4] if isinstance(value, bytes) else struct.pack("<I", value)
    whole = bytearray(b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", next_ifd))
    for offset, content in sorted(data.items()):
        whole.extend(bytes(max(0, offset - len(whole))))
        whole[offset : offset + len(content)] = content
    return bytes(whole)


def _basics(width: int, height: int, compression: int = 1) -> list[tuple[int, int, int, bytes | int]]:
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]


def tiff_tag(folder: Path) -> None:
    """A tag of 2 GB, all holes."""
    entries = [*_basics(64, 64), (273, 4, 1, 4096), (279, 4, 1, 4096), (270, 2, (1 << 31) - 16384, 8192)]
    sparse(folder / "tag.tif", tiff(entries, {4096: bytes(4096)}))


def tiff_strips(folder: Path) -> None:
    """3 million strips of one row each."""
    n = 3_000_000
    rows = np.full(n, 8, "<u4").tobytes()
    entries = [*_basics(1, n), (273, 4, n, 4096), (278, 4, 1, 1), (279, 4, n, 4096 + len(rows))]
    counts = np.ones(n, "<u4").tobytes()
    (folder / "strips.tif").write_bytes(tiff(entries, {4096: rows, 4096 + len(rows): counts}))


def tiff_tile(folder: Path) -> None:
    """It says 64 x 64, and its only tile holds 32,768 x 32,000 pixels."""
    packer = zlib.compressobj(9)
    packed = b"".join([*(packer.compress(bytes(32_768 * 100)) for _ in range(320)), packer.flush()])
    entries = [*_basics(64, 64, 8), (322, 4, 1, 32_768), (323, 4, 1, 32_000)]
    entries += [(324, 4, 1, 4096), (325, 4, 1, len(packed))]
    (folder / "tile.tif").write_bytes(tiff(entries, {4096: packed}))


def tiff_loop(folder: Path) -> None:
    """Its second directory is its first one, and a tag of a sub-directory leads there too."""
    entries = [*_basics(64, 64), (273, 4, 1, 4096), (279, 4, 1, 4096), (330, 4, 1, 8), (34665, 4, 1, 8)]
    (folder / "loop.tif").write_bytes(tiff(entries, {4096: bytes(4096)}, next_ifd=8))


def tiff_entries(folder: Path) -> None:
    """65,000 tags, each of them 64 KB, which all lie at the same place."""
    entries = [*_basics(64, 64), (273, 4, 1, 900_000), (279, 4, 1, 4096)]
    entries += [(tag, 7, 65_536, 900_000) for tag in range(400, 65_400)]
    (folder / "entries.tif").write_bytes(tiff(entries, {900_000: bytes(70_000)}))


# -- other pictures


def webp_sparse(folder: Path) -> None:
    sparse(folder / "x.webp", b"RIFF" + struct.pack("<I", SPARSE_BYTES - 8) + b"WEBPVP8X\x0a\0\0\0" + bytes(10))


def webp_canvas(folder: Path) -> None:
    """An animation of one small frame on a canvas of 16,383 x 16,383."""
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    data = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (16_382).to_bytes(3, "little") * 2
    (folder / "canvas.webp").write_bytes(data)


def avif_sparse(folder: Path) -> None:
    sparse(folder / "x.avif", struct.pack(">I", 24) + b"ftypavif\0\0\0\0avifmif1")


def avif_small(folder: Path) -> None:
    """6,000 x 6,000 pixels in a few KB, of which its container says that they are 64 x 64."""
    data = bytearray(saved(Image.new("L", (6000, 6000), 200), "AVIF", speed=10, quality=1))
    at = data.index(b"ispe") + 8
    while data[at : at + 8] == struct.pack(">II", 6000, 6000):
        data[at : at + 8] = struct.pack(">II", 64, 64)
        found = data.find(b"ispe", at)
        at = found + 8 if found >= 0 else len(data)
    (folder / "small.avif").write_bytes(data)


def jp2_components(folder: Path) -> None:
    """64 x 64 pixels with 16,384 components, as its first marker says; there are no more bytes."""
    n = 16_384
    siz = struct.pack(">HIIIIIIIIH", 0, 64, 64, 0, 0, 64, 64, 0, 0, n) + b"\x07\x01\x01" * n
    stream = b"\xff\x4f\xff\x51" + struct.pack(">H", len(siz) + 2) + siz + b"\xff\x52\0\x0c" + bytes(10) + b"\xff\xd9"
    (folder / "components.jp2").write_bytes(stream)


def jp2_tiles(folder: Path) -> None:
    """A picture whose header is changed to tiles of one pixel: there are 65,535 of them."""
    data = bytearray(saved(Image.new("L", (255, 257), 100), "JPEG2000"))
    at = data.index(b"\xff\x4f\xff\x51") + 4 + 2 + 2 + 16
    data[at : at + 8] = struct.pack(">II", 1, 1)
    (folder / "tiles.jp2").write_bytes(data)


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


_IHDR = (b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0))
_IDAT = (b"IDAT", zlib.compress(bytes(65 * 64)))
_IEND = (b"IEND", b"")


def png_chunks(folder: Path) -> None:
    """3 million chunks of text, half of them before the pixels and half of them behind."""
    one = png_of((b"tEXt", b"a\0b"))[8:] * 1_500_000
    (folder / "chunks.png").write_bytes(png_of(_IHDR) + one + png_of(_IDAT)[8:] + one + png_of(_IEND)[8:])


def png_text(folder: Path) -> None:
    """2,000 pieces of text that unfold to 1 MB each."""
    text = (b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9))
    (folder / "text.png").write_bytes(png_of(_IHDR, *[text] * 2000, _IDAT, _IEND))


def png_profile(folder: Path) -> None:
    """A colour profile of 1 MB that unfolds to 1 GB."""
    packer = zlib.compressobj(9)
    packed = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(1024)), packer.flush()])
    (folder / "profile.png").write_bytes(png_of(_IHDR, (b"iCCP", b"a\0\0" + packed), _IDAT, _IEND))


def jpeg_exif(folder: Path) -> None:
    """4 million Exif segments, which a library puts together one by one."""
    start = saved(Image.new("L", (64, 64), 100), "JPEG")
    (folder / "exif.jpg").write_bytes(start[:2] + b"\xff\xe1\0\x08Exif\0\0" * 4_000_000 + start[2:])


def jpeg_scans(folder: Path) -> None:
    """12,000 x 12,000 pixels, one component after the other: the whole picture is held as coefficients."""
    data = saved(Image.new("RGB", (16, 16), "red"), "JPEG", subsampling=0)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    big = data[: frame + 5] + struct.pack(">HH", 12_000, 12_000) + data[frame + 9 : scan]
    one = b"".join(b"\xff\xda\0\x08\x01" + bytes([component, 0, 0, 63, 0]) + bytes(64) for component in (1, 2, 3))
    (folder / "scans.jpg").write_bytes(big + one + b"\xff\xd9")


def gif_comments(folder: Path) -> None:
    """A million comments before the first frame."""
    data = saved(Image.new("P", (64, 64)), "GIF")
    at = data.index(b"\x2c")
    (folder / "comments.gif").write_bytes(
        data[:at] + b"\x21\xfe\x10" + b"x" * 16 + (b"\0\x21\xfe\x10" + b"x" * 16) * 1_000_000 + b"\0" + data[at:]
    )


def ppm_comment(folder: Path) -> None:
    """A comment of 64 MB in its header."""
    (folder / "comment.pgm").write_bytes(b"P5\n#" + b"x" * (64 << 20) + b"\n8 8 255\n" + bytes(64))


def ppm_sparse(folder: Path) -> None:
    """A comment without an end."""
    sparse(folder / "x.ppm", b"P6\n#")


def bmp_large(folder: Path) -> None:
    """32,000 x 32,000 pixels in runs, of which no byte is there."""
    header = struct.pack("<IiiHHIIiiII", 40, 32_000, 32_000, 1, 8, 1, 0, 0, 0, 256, 0)
    (folder / "large.bmp").write_bytes(
        b"BM" + struct.pack("<IHHI", 1078, 0, 0, 1078) + header + bytes(1024) + b"\0\x01"
    )


PICTURES: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        *(webp_sparse, avif_sparse, tiff_tag, tiff_strips, png_chunks, tiff_tile, avif_small, jpeg_exif),
        *(tiff_loop, tiff_entries, webp_canvas, jp2_components, jp2_tiles, png_text, png_profile, jpeg_scans),
        *(gif_comments, ppm_comment, ppm_sparse, bmp_large),
    )
}
"""Beside sound pictures in a folder."""


# -- folders and manifests


def links(folder: Path) -> None:
    """29 folders in a row, three links to each next one: 3^29 paths."""
    for level in range(29):
        (folder / f"{level:02d}").mkdir()
    for level in range(28):
        for name in "abc":
            (folder / f"{level:02d}" / name).symlink_to(f"../{level + 1:02d}", target_is_directory=True)


def suffixes(folder: Path) -> None:
    """100,000 files that are no pictures, each with a suffix of its own."""
    for i in range(100_000):
        os.close(os.open(folder / f"f.{i:x}{'x' * 100}", os.O_CREAT | os.O_WRONLY))


FOLDERS: dict[str, Maker] = {maker.__name__: maker for maker in (links, suffixes)}
"""Beside sound pictures in a folder."""


def csv_columns(folder: Path) -> None:
    (folder / "list.csv").write_text("path" + ",c" * 3_000_000 + "\n")


def csv_equal(folder: Path) -> None:
    (folder / "list.csv").write_text("path" + ",c" * 20_000 + "\na.jpg" + ",1" * 20_000 + "\n")


def csv_sparse(folder: Path) -> None:
    sparse(folder / "list.csv", b"path,a\n")


def csv_rows(folder: Path) -> None:
    """20 million rows in 40 MB: their names would take 2 GB."""
    (folder / "list.csv").write_text("path\n" + "a\n" * 20_000_000)


def parquet_cells(folder: Path) -> None:
    """One text of 120 KB in 100,000 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), ["x" * 120_000])
    pq.write_table(pa.table({"path": ["a.jpg"] * 100_000, "text": shared}), folder / "list.parquet", compression="zstd")


def parquet_pages(folder: Path) -> None:
    """A page of 1 GB in some ten KB."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = pa.array([bytes(1 << 20)] * 1000, pa.binary())
    options = {"compression": "zstd", "use_dictionary": False, "data_page_size": 1 << 31}
    pq.write_table(pa.table({"path": cells}), folder / "list.parquet", **options)


MANIFESTS: dict[str, tuple[str, Maker]] = {
    "csv_columns": ("list.csv", csv_columns),
    "csv_equal": ("list.csv", csv_equal),
    "csv_sparse": ("list.csv", csv_sparse),
    "csv_rows": ("list.csv", csv_rows),
    "parquet_cells": ("list.parquet", parquet_cells),
    "parquet_pages": ("list.parquet", parquet_pages),
}
"""Name -> the file that is given as IMAGES, and its maker."""
