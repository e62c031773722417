"""This module reads the networks that have a name (registry.toml), and recognizes a file of theirs by its digest.

`mobilenetv2` is the choice for photographs. `dinov2-small` is the general one: it was trained without labels, and such
networks cluster pictures unlike those of ImageNet better (Lowe et al. 2024, arXiv 2406.02465). Only networks whose
licence permits every use are listed: MobileCLIP2 is for research only, and DINOv3 has a licence of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bigcluster.errors import ModelError
from bigcluster.files.toml import parse_toml
from bigcluster.models.preprocess import Preprocessing, preprocessing_from
from bigcluster.units import quoted

_TABLE = Path(__file__).with_name("registry.toml")
_LABELS = Path(__file__).with_name("imagenet_labels.txt")
_OF_THE_FILE = ("file", "addresses", "bytes", "sha256", "note", "about", "licence", "files")
"""Keys of the table that do not describe the input and the tensors of a network."""


@dataclass(frozen=True)
class KnownFile:
    """A file that is accepted under the name of a network."""

    file: str
    addresses: tuple[str, ...]
    n_bytes: int | None
    sha256: str | None
    """64 hex digits; None where it was never computed, and then there are no addresses."""
    preprocessing: Preprocessing
    note: str


@dataclass(frozen=True)
class Entry:
    """A network of the registry."""

    name: str
    about: str
    licence: str
    files: tuple[KnownFile, ...]
    """All files that are accepted under the name. The first one is downloaded."""


@cache
def registry() -> Mapping[str, Entry]:
    """Return all networks by name, in the order of the table."""
    table = parse_toml(_TABLE.read_text(encoding="utf-8"))
    return {name: _entry(name, values) for name, values in table.items()}


def _entry(name: str, values: dict[str, Any]) -> Entry:
    shared = {key: value for key, value in values.items() if key not in _OF_THE_FILE}
    files = []
    for table in values["files"]:
        preprocessing = shared | {key: value for key, value in table.items() if key not in _OF_THE_FILE}
        files.append(
            KnownFile(
                table["file"],
                tuple(table.get("addresses", ())),
                table.get("bytes"),
                table.get("sha256"),
                preprocessing_from(preprocessing, f"registry.toml, {name}"),
                table.get("note", ""),
            )
        )
    return Entry(name, values["about"], values["licence"], tuple(files))


def find(name: str, named_by: str = "features") -> Entry:
    """Return a network by its name. named_by : what names it, for the message.

    Raises ModelError, with the nearest names, where there is none.
    """
    entry = registry().get(name)
    if entry is not None:
        return entry
    near = difflib.get_close_matches(name, registry(), 3, 0.5) or list(registry())
    raise ModelError(
        f"{named_by}: {quoted(name)} is neither a network ({', '.join(near)}) nor a file; `bigcluster models` lists "
        "the names"
    )


def recognize(sha256: str) -> tuple[Entry, KnownFile] | None:
    """Return the network and the file of the registry that have this digest, and None where there is none."""
    for entry in registry().values():
        for file in entry.files:
            if file.sha256 == sha256:
                return entry, file
    return None


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Return the names of the thousand classes. The first line of the file, the background, is not a class."""
    return tuple(_LABELS.read_text(encoding="utf-8").splitlines()[1:])
