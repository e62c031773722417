"""The chunked arrays of a run in OUT/store.zarr, and the only module that knows zarr.

Each array is cut as `bigcluster.store.chunk_grid` says; a chunk is one file, uncompressed (line art and photos gain
little from compression at this speed), with a CRC-32C that is checked at every read.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray

from bigcluster.errors import BigclusterError, MemoryBudgetError, StoreError
from bigcluster.files.bounded import UnfitFileError
from bigcluster.files.durable import (
    is_folder,
    open_folder,
    remove_if_empty,
    sync_all,
    unfinished_name,
    write_text,
)
from bigcluster.files.kept import clear_way, set_aside
from bigcluster.files.layout import ARRAYS
from bigcluster.store import extents, metadata, shapes
from bigcluster.store.chunk_io import ChunkFiles
from bigcluster.store.chunk_moves import move_rows
from bigcluster.store.format import check_format
from bigcluster.store.inventory import is_without_files, remove_array, remove_chunks, take_inventory
from bigcluster.store.marks import DONE, Mark, Marks, is_number
from bigcluster.store.row_io import read_at_once
from bigcluster.store.shapes import FILE, FORMAT_KEY
from bigcluster.units import show_bytes

METADATA = FILE

Digests = dict[str, str]
"""File that was written, relative to OUT -> digest of its content."""


class Store:
    """The arrays and marks in one OUT. Where they lie: see `files.layout`."""

    def __init__(self, out: Path, *, create: bool = True, most_bytes: int | None = None) -> None:
        """Open the store in a folder, or create it there.

        create : False where a folder that is no store is an error.
        most_bytes : the memory that all arrays from `load` that are in use may take together, and that the list of
            files may take; None for no limit.
        Raises OutError for a store of another format, StoreError where it cannot be written or is damaged.
        """
        self.out, self.root, self.most_bytes = out, out / ARRAYS, most_bytes
        root = self.root
        if not create and not (root / METADATA).is_file():
            raise StoreError(f"{root} is no store; run the job to its end first")
        self.marks = Marks(out)
        # zarr's own parallelism is kept small: its tasks run inside ours.
        # Empty chunks are written: an all-black image is data, not a hole - in arrays that are opened again, too.
        zarr.config.set({"async.concurrency": 2, "threading.max_workers": 2, "array.write_empty_chunks": True})
        check_format(out)
        try:
            metadata.restore(self.marks)
            if (root / METADATA).exists():
                shapes.check_group(root)
            if create:
                out.mkdir(parents=True, exist_ok=True)
                metadata.write_group(self.marks)
            self._files = ChunkFiles(out)
            self._group = zarr.open_group(self._files, mode="r+", zarr_format=3)
            if FORMAT_KEY not in self._group.attrs:
                raise ValueError("a group of somebody else")
        except BigclusterError:
            raise
        except OSError as error:
            raise StoreError(f"cannot write the store {root}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # what zarr makes of broken JSON
            raise StoreError(f"{root / METADATA} is damaged; delete {root} to begin anew") from error
        self._identity = _identity(root)
        self._open: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._loaded: list[weakref.ref[NDArray[Any]]] = []
        """The arrays that `load` returned; an array counts until nothing refers to it any more."""

    @property
    def edition(self) -> str:
        """A random text that is another one after an array was made, resized or removed.

        A process that opened the store under an earlier text does not know the arrays as they are now.
        """
        return self._files.edition

    def create(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, chunks: tuple[int, ...]) -> Any:
        """Create an array, or keep the stored one where row shape, dtype and chunks are the same; it is resized.

        chunks : the shape of a chunk. Returns the zarr array. Chunks are removed after the marks that vouch for them.
        """
        array = self._existing(name)
        if array is not None and not self.fits(name, shape[1:], dtype, chunks):
            self._remove_marks_of(name, 0)
            self.remove(name)
            array = None
        if array is None:
            self._create(name, shape, dtype, chunks)
        elif shape[0] < array.shape[0]:
            self._remove_marks_of(name, -(-shape[0] // chunks[0]))
            self._drop_beyond(name, -(-shape[0] // chunks[0]))
        metadata.write_array(self.marks, name, shape, np.dtype(dtype).name, chunks)
        if array is None or array.shape != shape:
            self._files.edition = uuid4().hex
            array = self._open[name] = self._group[name]
            self._expect(name)
        return array

    def _drop_beyond(self, name: str, first: int) -> None:
        """Remove the rows of chunks from number `first` on. Existing files are listed, whatever the metadata say."""
        size = chunk_file_bytes(self.array(name))
        remove_chunks(self.out, f"{ARRAYS}/{name}/c", size, lambda file: _is_from(first, file))

    def has(self, name: str) -> bool:
        """Whether there is an array of that name that a run of ours made."""
        return self._existing(name) is not None

    def fits(self, name: str, row_shape: tuple[int, ...], dtype: DTypeLike, chunks: tuple[int, ...]) -> bool:
        """Whether there is an array with this shape of a row, dtype and chunks, so that `create` keeps its values."""
        array = self._existing(name)
        return array is not None and bool(
            array.dtype == dtype and array.chunks == chunks and array.shape[1:] == row_shape
        )

    def _create(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, chunks: tuple[int, ...]) -> None:
        """Make an array. Its folder gets its name once its metadata are in it: one without metadata is not ours."""
        place = self.root / name
        clear_way(place, self.out)
        if is_folder(place) and ((place / METADATA).exists() or is_without_files(place)):
            set_aside(place, self.out)  # an array or a folder of somebody else
        unfinished = unfinished_name()
        text = shapes.array_text(shape, np.dtype(dtype).name, chunks)
        write_text(self.root / unfinished / METADATA, text, self.out)
        with open_folder(self.root, self.out) as store:
            try:
                os.rename(unfinished, name, src_dir_fd=store, dst_dir_fd=store)
            except OSError:  # it holds files of somebody else, which stay; or no folder can be renamed there
                with open_folder(place, self.out, create=True) as folder:
                    os.rename(f"{unfinished}/{METADATA}", METADATA, src_dir_fd=store, dst_dir_fd=folder)
                    os.fsync(folder)
                remove_if_empty(unfinished, store)
            os.fsync(store)

    def _remove_marks_of(self, name: str, first: int) -> None:
        """Remove the marks that vouch for rows of chunks from number `first` on, before these are removed."""
        for stage, block, mark in self.marks.all():
            if any(_is_from(first, file) for file in mark.digests if file.startswith(f"{ARRAYS}/{name}/c/")):
                self.marks.remove(stage, block)

    def _existing(self, name: str) -> Any | None:
        with self._lock:
            try:
                if name not in self._open and self._is_ours(name):
                    metadata.restore(self.marks, name)
                    if (self.root / name / METADATA).exists():
                        shapes.check_array(self.root, name)
                    if name in self._group:
                        self._open[name] = self._group[name]
                        self._expect(name)
            except BigclusterError:
                raise
            except (ValueError, KeyError, TypeError, AttributeError, UnfitFileError) as error:
                raise StoreError(
                    f"{self.root / name / METADATA} is damaged; delete {self.root / name} to make it anew"
                ) from error
            return self._open.get(name)

    def _is_ours(self, name: str) -> bool:
        """Whether a mark vouches for an array of that name. An array that somebody else put there counts as absent."""
        if metadata.is_registered(self.marks, name):
            return True
        if not (self.root / name / METADATA).exists():
            return False
        return any(file.startswith(f"{ARRAYS}/{name}/") for _, _, mark in self.marks.all() for file in mark.digests)

    def _expect(self, name: str) -> None:
        self._files.expect(name, chunk_file_bytes(self._open[name]))

    def repair_metadata(self, block: str) -> None:
        """Write the metadata of an array anew from their mark, or the mark from the metadata, whichever is damaged.

        block : the block of the `metadata` mark, which is the name of the array.
        """
        if (self.root / block).is_dir() and self._existing(block) is not None:
            metadata.register(self.marks, block)

    def array(self, name: str) -> Any:
        """The zarr array of that name. Raises StoreError where there is none."""
        array = self._existing(name)
        if array is None:
            raise StoreError(f"{self.root} holds no array {name!r}; run the job to its end first")
        return array

    def remove(self, name: str) -> None:
        """Remove an array that is not needed any more. Files in its folder that somebody else put there stay."""
        array = self.array(name)
        self._files.edition = uuid4().hex
        with self._lock:
            self._open.pop(name, None)
            remove_array(self.out, name, chunk_file_bytes(array))
            metadata.unregister(self.marks, name)

    def discard(self, name: str) -> None:
        """Remove an array, and before it the marks that vouch for it; nothing happens where there is none."""
        if self.has(name):
            self._remove_marks_of(name, 0)
            self.remove(name)

    def write_rows(self, name: str, start: int, block: NDArray[Any]) -> Digests:
        """Write whole rows; returns the digests of the chunk files, which are not yet synced.

        start : the first row, at a chunk boundary. block : (n_rows, ...), whole chunks except at the end of the array.
        Raises ValueError for rows that are not whole chunks.
        """
        array = self.array(name)
        chunk_rows = array.chunks[0]
        if start % chunk_rows or (len(block) % chunk_rows and start + len(block) != array.shape[0]):
            raise ValueError(f"rows {start}:{start + len(block)} of {name} are not whole chunks of {chunk_rows}")
        return self._write(name, (slice(start, start + len(block)),), block)

    def write_columns(self, name: str, start: int, block: NDArray[Any]) -> Digests:
        """As `write_rows`, for whole columns of a matrix. block : (n_rows, n_columns), whole chunks of columns."""
        array = self.array(name)
        chunk_columns, stop = array.chunks[1], start + block.shape[1]
        if start % chunk_columns or (stop % chunk_columns and stop != array.shape[1]):
            raise ValueError(f"columns {start}:{stop} of {name} are not whole chunks of {chunk_columns}")
        return self._write(name, (slice(None), slice(start, stop)), block)

    def _write(self, name: str, where: tuple[slice, ...], values: NDArray[Any]) -> Digests:
        """Write whole chunks. At the far edges they are padded with zeros, as zarr does."""
        array = self.array(name)
        everything = (slice(None),) * (array.ndim - len(where))
        starts, touched = [], []  # axis by axis: where the values begin, and chunk numbers
        for part, size, chunk in zip(where + everything, array.shape, array.chunks, strict=True):
            start, stop, _ = part.indices(size)
            starts.append(start)
            touched.append(range(start // chunk, -(-stop // chunk)))
        keys = []
        for place in product(*touched):
            corners = [at * chunk - start for at, chunk, start in zip(place, array.chunks, starts, strict=True)]
            part = values[tuple(slice(at, at + chunk) for at, chunk in zip(corners, array.chunks, strict=True))]
            keys.append("/".join([name, "c", *map(str, place)]))
            self._files.write_chunk(keys[-1], _filled_up(part, array.chunks, array.dtype))
        return {f"{ARRAYS}/{key}": digest for key, digest in self._files.take_digests(keys).items()}

    def move_rows(self, source: str, index: int, target: str, to: int, *, begun: bool = False) -> None:
        """Rename the files of a row of chunks, as `chunk_moves.move_rows` says."""
        move_rows(self.out, source, index, target, to, begun=begun)

    def drop_rows(self, name: str, index: int) -> None:
        """Remove the files of row `index` of the chunks; nothing happens where there are none, or no such array."""
        if not self.has(name):
            return
        array, chunks = self.array(name), f"{ARRAYS}/{name}/c"
        if array.ndim == 1:
            remove_chunks(self.out, chunks, chunk_file_bytes(array), lambda file: file == f"{chunks}/{index}")
        else:
            remove_chunks(self.out, f"{chunks}/{index}", chunk_file_bytes(array))

    def save(self, name: str, values: NDArray[Any], chunks: tuple[int, ...] | None = None) -> Digests:
        """Store a whole small array in place of the one of that name; returns the digests of its chunk files.

        chunks : the shape of a chunk; None for one chunk.
        """
        if chunks is None:
            chunks = tuple(max(1, n) for n in values.shape)
        if self._existing(name) is not None:
            self.remove(name)
        self.create(name, values.shape, values.dtype, chunks)
        return self._write(name, (), values)

    def load(self, name: str) -> NDArray[Any]:
        """Read a whole array into memory; for small arrays.

        Raises MemoryBudgetError where it takes more than `most_bytes`, together with those that are still in use.
        """
        array = self.array(name)
        n_bytes = math.prod(array.shape) * array.dtype.itemsize
        with self._lock:
            self._loaded = [loaded for loaded in self._loaded if loaded() is not None]
            loaded_bytes = sum(array_loaded.nbytes for loaded in self._loaded if (array_loaded := loaded()) is not None)
        if self.most_bytes is not None and loaded_bytes + n_bytes > self.most_bytes:
            beside = f" beside the {show_bytes(loaded_bytes)} of others" if loaded_bytes else ""
            raise MemoryBudgetError(
                f"the stored array {name!r} in {self.root} takes {show_bytes(n_bytes)}{beside}, the memory budget "
                f"leaves {show_bytes(self.most_bytes)}; use a larger --memory, or delete the array to have it made anew"
            )
        array_loaded = read_at_once(array)
        with self._lock:
            self._loaded.append(weakref.ref(array_loaded))
        return array_loaded

    def mark(self, stage: str, block: str = DONE) -> Mark | None:
        """The mark of a stage or a block, None where it does not hold any more.

        A mark holds while all its files exist, because zarr silently reads a missing chunk as zeros. That of a whole
        stage holds only while the arrays have the shapes that it says.
        """
        mark = self.marks.read(stage, block)
        if mark is None or not all((self.out / file).is_file() for file in mark.digests):
            return None
        return mark if block != DONE or self.agrees(stage, mark) else None

    def agrees(self, stage: str, mark: Mark) -> bool:
        """Whether the arrays of a stage have the shapes that its mark and the pixels say."""
        ingested = self.marks.read("ingest") if stage in ("reduce", "manifold", "neighbors", "cluster") else None
        return extents.agree(stage, mark, self._existing, ingested)

    def drop_damaged(self) -> list[str]:
        """Remove the marks of damaged files, so that the next run makes them anew; returns these files, relative to
        OUT. Every file is read.
        """
        inventory = take_inventory(self.out, most_bytes=self.most_bytes)
        inventory.drop(self.marks)
        return [damage.file for damage in inventory.damaged]

    def sync(self, digests: Mapping[str, str]) -> None:
        """Sync files that this process wrote. On a shared disk, no other process can do it."""
        sync_all(self.out / file for file in digests)

    def refresh(self) -> None:
        """Forget what is known of the arrays: another process may have made some of them anew."""
        self._files.edition = uuid4().hex
        with self._lock:
            self._open.clear()

    def commit(
        self, stage: str, fingerprint: str, digests: Mapping[str, str], payload: dict[str, Any], block: str = DONE
    ) -> Mark:
        """Sync the files of `digests`, then write the mark that vouches for them, and return it.

        Raises StoreError where the store is another folder than it was: what it held before is not there to vouch for.
        """
        if _identity(self.root) != self._identity:
            raise StoreError(f"{self.root} vanished while it was in use; mount its disk and run again to resume")
        self.sync(digests)
        mark = Mark(fingerprint, dict(digests), payload)
        self.marks.write(stage, mark, block)
        return mark


def _is_from(first: int, file: str) -> bool:
    """Whether a chunk file, `store.zarr/<array>/c/<row>/...`, is in row `first` of the chunks, or in a later one.

    A name that has no row of ours, as in the mark of a stranger, counts as one of a later row.
    """
    row = file.split("/")[3]
    return not is_number(row) or int(row) >= first


def chunk_file_bytes(array: Any) -> int:
    """The size of every chunk file of an array, in bytes."""
    n_bytes: int = math.prod(array.chunks) * array.dtype.itemsize + metadata.CRC_BYTES
    return n_bytes


def _filled_up(part: NDArray[Any], shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    if part.shape == shape:
        return np.ascontiguousarray(part, dtype)
    whole: NDArray[Any] = np.zeros(shape, dtype)
    whole[tuple(slice(size) for size in part.shape)] = part
    return whole


def _identity(folder: Path) -> tuple[int, int]:
    """Device and inode number of a folder. They differ once a disk was unmounted: another folder is there then."""
    status = folder.stat()
    return status.st_dev, status.st_ino
