"""A folder of chunk files for zarr that never takes a lost chunk for zeros, and knows the digests of what it wrote.

zarr reads a chunk whose file is not there as the fill value, without a word: right for sparse arrays, wrong for ours,
where every chunk is written, and where a disk may vanish while a stage reads it.

The digest of a chunk is the CRC-32C that stands at its end, of the bytes as they are handed over: they are in the cache
then, and nobody reads them back. It finds what disks and copies do, all bursts of up to 32 bits and all but one of four
billion other changes; a SHA-256 would take a sixth of an ingest to find that one.

Whole chunks go to disk and come from it without zarr, which would copy each of them three times, in files that are the
same to the byte: the values in C order, little-endian, and their CRC-32C.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from bigcluster.errors import StoreError
from bigcluster.files.bounded import open_regular
from bigcluster.files.durable import DIGEST_DIGITS, digest_of, open_folder, unfinished, write_all, write_bytes
from bigcluster.files.kept import clear_way, set_aside
from bigcluster.files.layout import ARRAYS
from bigcluster.files.shared_disk import comes_to_light
from bigcluster.store.marks import Marks
from bigcluster.store.metadata import CRC_BYTES

_READ_BYTES = 1 << 20
"""Bytes that are read at a time where only the digest of a file is computed. Chosen, not measured."""
_PIECE_BYTES = 1 << 18
"""Bytes of a chunk that one write call takes. The kernel allocates page cache in pieces of the size of the write, and
large pieces are slow to allocate: writes of 8 MiB took three to nine times as long."""


def fits_digest(file: str, data: bytes, digest: str) -> bool:
    """Whether the content of a file fits the digest that its mark holds.

    file : path relative to OUT, which says whether it is a chunk. data : the whole content.
    """
    return digest == (chunk_digest(data) if _is_chunk(file) else digest_of(data))


def file_fits_digest(path: Path, file: str, digest: str) -> tuple[bool, int]:
    """As `fits_digest`, for a file of any size, which is read in pieces; returns also how many bytes were read.

    Raises UnfitFileError where `path` is no regular file, FileNotFoundError where there is none.
    """
    with open_regular(path) as stream:
        n_bytes = os.fstat(stream.fileno()).st_size
        if not _is_chunk(file):
            return hashlib.file_digest(stream, "sha256").hexdigest()[:DIGEST_DIGITS] == digest, n_bytes
        return stored_digest(stream, n_bytes) == digest, n_bytes


def stored_digest(stream: IO[bytes], n_bytes: int) -> str:
    """As `chunk_digest`, for an open chunk file of `n_bytes` bytes, which is read in pieces."""
    crc, left = 0, n_bytes - CRC_BYTES
    while left > 0 and (piece := stream.read(min(left, _READ_BYTES))):
        crc, left = google_crc32c.extend(crc, piece), left - len(piece)
    expected = int.from_bytes(stream.read(CRC_BYTES), "little")
    return _show_crc(crc) if left == 0 and crc == expected else ""


def chunk_digest(data: bytes | memoryview) -> str:
    """The CRC-32C of a chunk in 8 hex digits; "" where the checksum at its end does not fit its values.

    data : the content of a chunk file, its values and then the four bytes of their CRC-32C.
    """
    content = np.frombuffer(data, np.uint8)
    crc = google_crc32c.value(content[:-CRC_BYTES])
    return _show_crc(crc) if crc == int.from_bytes(content[-CRC_BYTES:].tobytes(), "little") else ""


def _show_crc(crc: int) -> str:
    return f"{crc:08x}"


class LostChunkError(ValueError):
    """A chunk that was written has no file any more."""


class ChunkFiles(LocalStore):  # type: ignore[misc]
    """The zarr store in OUT. Unlike with LocalStore, reading a chunk that has no file raises LostChunkError."""

    def __init__(self, out: Path, *, read_only: bool = False) -> None:
        super().__init__(out / ARRAYS, read_only=read_only)
        self.out = out
        self._digests: dict[str, str] = {}
        self._chunk_bytes: dict[str, int] = {}
        self.edition = uuid4().hex
        """A random text, another one after each change of an array's shape; see `Store.edition`."""
        self._version: tuple[str, str] | None = None
        self._seen: tuple[int, int] | None = None
        """Inode number and time of the file of the mark when it was last found to be that of the version."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the folder by its path, for reading: the digests of what was written stay here."""
        return _opened_for_reading, (self.out, dict(self._chunk_bytes), self._version)

    def of_version(self, stage: str, fingerprint: str) -> ChunkFiles:
        """These files for reading; a chunk raises StoreError once the mark of a stage has another fingerprint."""
        return _opened_for_reading(self.out, dict(self._chunk_bytes), (stage, fingerprint))

    def _check_version(self, key: str) -> None:
        """Raise StoreError where a later run has written other chunks: it removes the mark before it writes any."""
        if self._version is None or not _is_chunk(key):
            return
        stage, fingerprint = self._version
        marks = Marks(self.out)
        try:
            status = marks.path(stage).lstat()
            now = (status.st_ino, status.st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError):
            now = None
        if now is None or now != self._seen:
            mark = marks.read(stage)
            if mark is None or mark.fingerprint != fingerprint:
                raise StoreError(
                    f"{self.out} was clustered anew after this array of it was opened, or is just now; open the run "
                    "again"
                )
            self._seen = now

    def expect(self, name: str, n_bytes: int) -> None:
        """Tell the size in bytes of every chunk file of an array: a file of another size is not read."""
        self._chunk_bytes[name] = n_bytes

    def _check_size(self, key: str) -> None:
        name, _, inside = key.partition("/c/")
        if inside and name in self._chunk_bytes:
            comes_to_light(self.root / key)
            with suppress(FileNotFoundError, NotADirectoryError):  # told below
                status = (self.root / key).lstat()
                if not stat.S_ISREG(status.st_mode) or status.st_size != self._chunk_bytes[name]:
                    raise ValueError(f"{self.root / key} is not a file of {self._chunk_bytes[name]} bytes")

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        self._check_version(key)
        self._check_size(key)
        value = await super().get(key, *args, **options)
        self._check_version(key)  # after the read as well: a run may have begun meanwhile
        return self._there(key, value)

    def get_sync(self, key: str, *args: Any, **options: Any) -> Any:
        self._check_version(key)
        self._check_size(key)
        value = super().get_sync(key, *args, **options)
        self._check_version(key)
        return self._there(key, value)

    async def set(self, key: str, value: Any) -> None:
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Any) -> None:
        self._check_writable()
        data = value.as_buffer_like()
        if _is_chunk(key):
            self._digests[key] = chunk_digest(data)
            self._write(key, [memoryview(data).cast("B")])
        else:
            write_bytes(self.root / key, data, self.out)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        if not (self.root / key).exists():
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self.delete_sync, key)

    def delete_sync(self, key: str) -> None:
        """Delete metadata. Chunks stay: Store.create, which knows their size, removes those beyond a new shape."""
        self._check_writable()
        if _is_chunk(key):
            return
        path = self.root / key
        with suppress(FileNotFoundError), open_folder(path.parent, self.out) as folder:
            os.unlink(path.name, dir_fd=folder)

    async def delete_dir(self, prefix: str) -> None:
        """Refuse: zarr would delete a whole folder where an array is made in place of another one."""
        raise StoreError(
            f"{self.root / prefix} is not deleted as a folder: Store.remove knows which of its files are ours"
        )

    def write_chunk(self, key: str, chunk: NDArray[Any]) -> None:
        """Write a whole chunk. Its file is in place, but not yet synced, when this returns.

        key : the file relative to the store. chunk : an array of the shape of the chunks, padded at the far edges.
        """
        data = _bytes_of(np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")))
        crc: int = google_crc32c.value(data)
        self._write(key, [*_pieces(data.data), memoryview(crc.to_bytes(CRC_BYTES, "little"))])
        self._digests[key] = _show_crc(crc)

    def _write(self, key: str, pieces: list[memoryview]) -> None:
        """Write a chunk file and put it in place.

        All chunks of an array have one size: a file of another size in its place is somebody else's, and is moved to
        OUT/kept. So is a file in the place of its folder.
        """
        path, out = self.root / key, self.out
        clear_way(path.parent, out)
        with open_folder(path.parent, out, create=True) as folder, unfinished(folder, path.name) as new:
            for piece in pieces:
                write_all(new.file, piece)
            if not _is_free_or_of_size(path.name, folder, sum(map(len, pieces))):
                set_aside(path, out)
            new.place(path.name)

    def read_chunk(self, key: str, into: NDArray[Any]) -> None:
        """Read a whole chunk into `into`, a C-contiguous array of the shape and dtype of the chunks.

        Raises LostChunkError where its file is gone, ValueError where its length or its checksum does not fit.
        """
        data, checksum = _bytes_of(into), bytearray(CRC_BYTES + 1)
        path = self.root / key
        while True:
            try:
                with path.open("rb", buffering=0) as file:
                    n_bytes = file.readinto(data) + file.readinto(checksum)
                break
            except (FileNotFoundError, NotADirectoryError):
                if not comes_to_light(path):
                    raise LostChunkError(f"{path} is gone") from None
        if n_bytes != len(data) + CRC_BYTES:
            raise ValueError(f"{self.root / key} has another length")
        if google_crc32c.value(data) != int.from_bytes(checksum[:CRC_BYTES], "little"):
            raise ValueError(f"{self.root / key} does not fit its checksum")
        if sys.byteorder == "big":
            into.byteswap(inplace=True)

    def take_digests(self, keys: Iterable[str]) -> dict[str, str]:
        """The digests of chunks that were just written, by file; they are forgotten here.

        Raises KeyError for a chunk that was not written.
        """
        return {key: self._digests.pop(key) for key in keys}

    def _there(self, key: str, value: Any) -> Any:
        if value is None and _is_chunk(key):
            raise LostChunkError(f"{self.root / key} is gone")
        return value


def _opened_for_reading(out: Path, chunk_bytes: dict[str, int], version: tuple[str, str] | None = None) -> ChunkFiles:
    """The files of a store for reading. chunk_bytes : see `expect`. version : see `of_version`."""
    files = ChunkFiles(out, read_only=True)
    files._version = version
    for name, n_bytes in chunk_bytes.items():
        files.expect(name, n_bytes)
    return files


def _is_chunk(key: str) -> bool:
    return "/c/" in key


def _bytes_of(chunk: NDArray[Any]) -> NDArray[np.uint8]:
    """The memory of a C-contiguous array as a flat array of uint8; nothing is copied."""
    assert chunk.flags.c_contiguous
    return chunk.reshape(-1).view(np.uint8)


def _pieces(data: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(data), _PIECE_BYTES):
        yield data[start : start + _PIECE_BYTES]


def _is_free_or_of_size(name: str, folder: int, n_bytes: int) -> bool:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size == n_bytes
