"""A folder of chunk files for zarr that never takes a lost chunk for zeros, and knows the digests of what it wrote.

zarr reads a chunk whose file is not there as the fill value, without a word: right for sparse arrays, wrong for ours,
where every chunk is written, and where a disk may vanish while a stage reads it.

A digest is taken of the bytes as they are handed over: they are in the cache then, and nobody reads them back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

from bigcluster.durable import digest_of


class LostChunkError(ValueError):
    """A chunk that was written has no file any more."""


class ChunkFiles(LocalStore):  # type: ignore[misc]
    """As LocalStore, but reading a chunk that is not there raises LostChunkError."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._digests: dict[str, str] = {}

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        return self._there(key, await super().get(key, *args, **options))

    def get_sync(self, key: str, *args: Any, **options: Any) -> Any:
        return self._there(key, super().get_sync(key, *args, **options))

    async def set(self, key: str, value: Any) -> None:
        if _is_chunk(key):
            self._digests[key] = await asyncio.to_thread(digest_of, value.as_buffer_like())
        await super().set(key, value)

    def set_sync(self, key: str, value: Any) -> None:
        if _is_chunk(key):
            self._digests[key] = digest_of(value.as_buffer_like())
        super().set_sync(key, value)

    def take_digests(self, keys: Iterable[str]) -> dict[str, str]:
        """File -> digest of chunks that were just written. KeyError for a chunk that was not."""
        return {key: self._digests.pop(key) for key in keys}

    def _there(self, key: str, found: Any) -> Any:
        if found is None and _is_chunk(key):
            raise LostChunkError(f"{self.root / key} is gone")
        return found


def _is_chunk(key: str) -> bool:
    return "/c/" in key
