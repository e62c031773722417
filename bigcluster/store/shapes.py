"""The text of zarr's own files, and whether those in a store are such as we write, before zarr opens anything.

zarr does what they say: another codec unfolds a chunk of 65 bytes to gigabytes, and a shape is memory. Our arrays have
one codec chain, values in C order and their CRC-32C; their chunks are of a few MiB, or one holds the whole array.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bigcluster.files.bounded import parse_json, read_bounded
from bigcluster.store.chunk_grid import CHUNK_BYTES

FILE = "zarr.json"
FORMAT = 3
FORMAT_KEY = "bigcluster_format"
"""Among the attributes of the group: what shows that a store is ours."""
LIMIT_BYTES = 64 << 10
"""Bytes of a metadata file that is read: ours have less than 1 KiB."""
LIMIT_VALUES = 1000
"""JSON values in a metadata file that is parsed: ours have about thirty."""
_CODECS = (
    ({"name": "bytes"}, {"name": "bytes", "configuration": {"endian": "little"}}),
    ({"name": "crc32c"}, {"name": "crc32c", "configuration": {}}),
)
"""One after the other, as zarr may write each: it names no order of bytes for values of one byte."""
_KEY_ENCODINGS = ({"name": "default"}, {"name": "default", "configuration": {"separator": "/"}})
_GROUP_KEYS = {"attributes", "zarr_format", "node_type"}
_ARRAY_KEYS = {
    *(*_GROUP_KEYS, "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs"),
    *("storage_transformers", "dimension_names"),
}
_MOST_AXES = 3
"""Axes of our arrays, at most: `usual` has three."""
_KINDS = "biuf"
"""Kinds of numpy dtypes that our arrays have: truth values, integers with and without a sign, and floats."""
_MOST_SMALL_CHUNKS = 65_536
"""Chunks of an array whose chunks are far smaller than CHUNK_BYTES, such as the column sums of narrow pictures. Chosen,
not measured."""
_LARGEST_CHUNK_BYTES = 4 * CHUNK_BYTES
"""Bytes of a chunk of an array that has several: ours have CHUNK_BYTES at most, or one row where that is larger. The
factor is chosen, not measured."""


def group_text() -> str:
    """The text of the metadata of our group, as zarr writes it."""
    return json.dumps({"attributes": {FORMAT_KEY: FORMAT}, "zarr_format": 3, "node_type": "group"}, indent=2)


def array_text(shape: Sequence[int], dtype: str, chunks: Sequence[int]) -> str:
    """The text of the metadata of an array of ours, as zarr writes it. dtype : its name in numpy, such as `float32`.

    Raises TypeError where numpy knows no such dtype.
    """
    kind = np.dtype(dtype)
    values = {
        "shape": list(shape),
        "data_type": kind.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": kind.type(0).item(),
        "codecs": [_CODECS[0][kind.itemsize > 1], _CODECS[1][0]],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return json.dumps(values, indent=2)


def check_group(root: Path) -> None:
    """Check the metadata file of the group in a store.

    Raises ValueError where it is not as this program writes it, OSError where it cannot be read.
    """
    check_group_text(read_bounded(root / FILE, LIMIT_BYTES))


def check_group_text(text: bytes | str) -> None:
    """Check the text of the metadata of the group. Raises ValueError where it is not as this format wants it."""
    metadata = _parse(text)
    if metadata.get("node_type") != "group" or not metadata.keys() <= _GROUP_KEYS:
        raise ValueError("it is not the metadata of our group")
    attributes = metadata.get("attributes")
    if not isinstance(attributes, dict) or attributes.get(FORMAT_KEY) != FORMAT:
        raise ValueError("its attributes are not those of our group")


def check_array(root: Path, name: str) -> None:
    """Check the metadata file of an array in a store.

    Raises ValueError where it is not as this program writes it, OSError where it cannot be read.
    """
    check_array_text(read_bounded(root / name / FILE, LIMIT_BYTES))


def check_array_text(text: bytes | str) -> None:
    """Check the text of the metadata of an array. Raises ValueError where it is not as this program writes it."""
    metadata = _parse(text)
    try:
        _check(metadata)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"it is not the metadata of an array of ours ({type(error).__name__})") from error


def _parse(text: bytes | str) -> dict[str, Any]:
    if len(text) > LIMIT_BYTES:
        raise ValueError("it is larger than any of ours")
    metadata = parse_json(text, LIMIT_VALUES)
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        raise ValueError("it is not zarr's metadata")
    return metadata


def _check(values: dict[str, Any]) -> None:
    if values["node_type"] != "array" or not values.keys() <= _ARRAY_KEYS or values.get("storage_transformers"):
        raise ValueError("it is not the metadata of an array of ours")
    if values["fill_value"] not in (0, False) or values.get("attributes") or any(values.get("dimension_names") or ()):
        raise ValueError("its fill value, attributes or names are not as ours are")
    if not _are_ours(values["codecs"]):
        raise ValueError("its codecs are not bytes and crc32c")
    if _named(values["chunk_grid"]) != ("regular", {"chunk_shape"}):
        raise ValueError("its chunks are not cut as ours are")
    if values["chunk_key_encoding"] not in _KEY_ENCODINGS:
        raise ValueError("its chunks are not named as ours are")
    shape, chunks = values["shape"], values["chunk_grid"]["configuration"]["chunk_shape"]
    whole_numbers = all(type(n) is int and n >= least for sizes, least in ((shape, 0), (chunks, 1)) for n in sizes)
    if not whole_numbers or len(shape) != len(chunks) or not 1 <= len(shape) <= _MOST_AXES:
        raise ValueError(f"its shape is {shape} in chunks of {chunks}")
    dtype = np.dtype(str(values["data_type"]))
    if dtype.kind not in _KINDS or dtype.name != values["data_type"]:
        raise ValueError(f"its values are of the type {dtype}")
    chunk_bytes = math.prod(chunks) * dtype.itemsize
    n_chunks = math.prod(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
    if n_chunks > _MOST_SMALL_CHUNKS and chunk_bytes < CHUNK_BYTES // 16:
        raise ValueError(f"it has {n_chunks} chunks of {chunk_bytes} bytes each")
    is_whole = all(chunk == max(1, size) for chunk, size in zip(chunks, shape, strict=True))
    if chunk_bytes > _LARGEST_CHUNK_BYTES and not is_whole and chunks[0] > 1:
        raise ValueError(f"its chunks have {chunk_bytes} bytes")


def _are_ours(codecs: Any) -> bool:
    return len(codecs) == len(_CODECS) and all(one in known for one, known in zip(codecs, _CODECS, strict=True))


def _named(value: Any) -> tuple[str, set[str]]:
    """The name of a part of the metadata, and what it configures."""
    return value["name"], set(value["configuration"])
