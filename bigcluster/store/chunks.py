"""A folder of chunk files for zarr that never takes a lost chunk for zeros.

zarr reads a chunk whose file is not there as the fill value, without a word: right for sparse arrays, wrong for ours,
where every chunk is written, and where a disk may vanish while a stage reads it.
"""

from __future__ import annotations

from typing import Any

from zarr.storage import LocalStore


class LostChunkError(ValueError):
    """A chunk that was written has no file any more."""


class ChunkFiles(LocalStore):  # type: ignore[misc]
    """As LocalStore, but reading a chunk that is not there raises LostChunkError."""

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        return self._there(key, await super().get(key, *args, **options))

    def get_sync(self, key: str, *args: Any, **options: Any) -> Any:
        return self._there(key, super().get_sync(key, *args, **options))

    def _there(self, key: str, found: Any) -> Any:
        if found is None and "/c/" in key:
            raise LostChunkError(f"{self.root / key} is gone")
        return found
