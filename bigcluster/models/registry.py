"""The networks that are known by a name (registry.toml), and those that are recognized by the digest of their file.

Which network for what: `mobilenetv2` is the default for photographs. `dinov2-small` is the general embedding: it was
trained without labels, which clusters better far from ImageNet (Lowe et al. 2024, arXiv 2406.02465), and its licence
permits every use. MobileCLIP2 (research only) and DINOv3 (a licence of its own, behind a gate) do not.
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
"""Keys of the table that say nothing about the input and the tensors of a network."""


@dataclass(frozen=True)
class KnownFile:
    """A file that is accepted under the name of a network."""

    file: str
    addresses: tuple[str, ...]
    n_bytes: int | None
    sha256: str | None
    """64 hex digits; None where nobody computed it: then there are no addresses."""
    preprocessing: Preprocessing
    note: str


@dataclass(frozen=True)
class Entry:
    """A network of the registry."""

    name: str
    about: str
    licence: str
    files: tuple[KnownFile, ...]
    """The one that is fetched stands first."""


@cache
def registry() -> Mapping[str, Entry]:
    """Return all networks by name, in the order of the table."""
    table = parse_toml(_TABLE.read_text(encoding="utf-8"))
    return {name: _entry(name, values) for name, values in table.items()}


def _entry(name: str, values: dict[str, Any]) -> Entry:
    shared = {key: value for key, value in values.items() if key not in _OF_THE_FILE}
    files = []
    for given in values["files"]:
        about_input = shared | {key: value for key, value in given.items() if key not in _OF_THE_FILE}
        files.append(
            KnownFile(
                given["file"],
                tuple(given.get("addresses", ())),
                given.get("bytes"),
                given.get("sha256"),
                preprocessing_from(about_input, f"registry.toml, {name}"),
                given.get("note", ""),
            )
        )
    return Entry(name, values["about"], values["licence"], tuple(files))


def find(name: str) -> Entry:
    """Return a network by its name. Raises ModelError, with the nearest names, where there is none."""
    entry = registry().get(name)
    if entry is not None:
        return entry
    near = difflib.get_close_matches(name, registry(), 3, 0.5) or list(registry())
    raise ModelError(
        f"{quoted(name)} is neither a network ({', '.join(near)}) nor a file; `bigcluster models` lists the names"
    )


def recognize(sha256: str) -> tuple[Entry, KnownFile] | None:
    """Return what the registry knows of a file with this digest; None where it knows none."""
    for entry in registry().values():
        for file in entry.files:
            if file.sha256 == sha256:
                return entry, file
    return None


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Return the names of the thousand classes. The first line of the file is the background, which is no class."""
    return tuple(_LABELS.read_text(encoding="utf-8").splitlines()[1:])
