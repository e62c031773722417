"""Which files of a folder are listed, according to their names; and a line about those that are not."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bigcluster.units import EXAMPLES

IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "avif", "jp2"),
        *("bmp", "dib", "tif", "tiff", "pbm", "pgm", "ppm", "pnm"),
    )
)
"""Suffixes of files that every installation reads."""
_HEIF = ("heic", "heif", "hif", "heics", "heifs")
_RAW = (
    *("3fr", "arw", "cr2", "cr3", "dcr", "dng", "erf", "fff", "iiq", "kdc", "mef", "mos", "mrw", "nef", "nrw"),
    *("orf", "pef", "raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
)
EXTRAS = {
    "heif": ("pi_heif", frozenset(f".{suffix}" for suffix in _HEIF)),
    "jxl": ("pylibjxl", frozenset((".jxl",))),
    "raw": ("rawpy", frozenset(f".{suffix}" for suffix in _RAW)),
}
"""Extra of this package -> the module that it installs, and the suffixes of the files that this module reads."""
KNOWN_SUFFIXES = IMAGE_SUFFIXES.union(*(suffixes for _, suffixes in EXTRAS.values()))
_SKIPPED_FOLDERS = frozenset(
    ("@eaDir", "#recycle", "@Recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information")
)
"""Folders in which storage systems and Windows keep thumbnails, deleted files and copies of the originals."""
_LIBRARY, _ORIGINALS = ".photoslibrary", ("originals", "Masters")
"""In a library of Apple Photos only the originals are listed: all other pictures in it are made from them."""
EXCLUDED = "(excluded)"


def is_installed(extra: str) -> bool:
    """Whether the module of an extra can be imported."""
    return importlib.util.find_spec(EXTRAS[extra][0]) is not None


def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that this installation reads."""
    return IMAGE_SUFFIXES.union(*(suffixes for extra, (_, suffixes) in EXTRAS.items() if is_installed(extra)))


@dataclass(frozen=True)
class Exclusion:
    """Patterns as in a shell. A pattern is for names; one with a slash is for whole paths, relative to IMAGES."""

    patterns: tuple[str, ...]

    def excludes(self, path: str, is_folder: bool) -> bool:
        """Whether a pattern matches. path : relative, with slashes.

        A pattern that ends with a slash matches folders only.
        """
        for pattern in self.patterns:
            bare = pattern.rstrip("/")
            whole = path if "/" in bare else path.rpartition("/")[2]
            if (is_folder or bare == pattern) and fnmatch.fnmatchcase(whole, bare.removeprefix("/")):
                return True
        return False


class FileFilter:
    """Says which files a walk lists. It counts the skipped ones in `ignored`, by suffix or by reason."""

    def __init__(self, exclude: tuple[str, ...], ignored: Counter[str]) -> None:
        self._suffixes, self._exclusion, self._ignored = image_suffixes(), Exclusion(exclude), ignored

    def is_image(self, name: str) -> bool:
        """Whether a name has the suffix of an image."""
        return os.path.splitext(name)[1].lower() in self._suffixes

    def is_skipped(self, path: str, is_folder: bool, *, counted: bool = True) -> bool:
        """Whether a file or folder is skipped because of its name. counted : whether to count it as ignored."""
        folder, _, name = path.rpartition("/")
        why = ""
        if self._exclusion.excludes(path, is_folder):
            why = EXCLUDED
        elif is_folder and name in _SKIPPED_FOLDERS:
            why = f"(folder {name})"
        elif is_folder and folder.lower().endswith(_LIBRARY) and name not in _ORIGINALS:
            why = f"(folder in {_LIBRARY})"
        if why and counted:
            self._ignored[why] += 1
        return bool(why)


def left_out(ignored: Mapping[str, int]) -> str:
    """Return one line about the files that are not listed, and what would read them; '' where all are listed."""
    suffixes = {kind: n for kind, n in ignored.items() if not kind.startswith("(")}
    folders = {kind: n for kind, n in ignored.items() if re.match(r"\(folder (?!listed)", kind)}
    readable = [(kind, n) for kind, n in suffixes.items() if _extra_of(kind) is not None]
    others = sorted((item for item in suffixes.items() if item not in readable), key=lambda item: (-item[1], item[0]))
    parts = [_by_extra(extra, readable) for extra in EXTRAS]
    named = EXAMPLES if len(others) <= EXAMPLES else EXAMPLES - 1
    parts += [f"{n} {kind or 'without suffix'}" for kind, n in others[:named]]
    if others[named:]:
        parts.append(f"{sum(n for _, n in others[named:])} of {len(others) - named} more suffixes")
    parts += [f"{n} folder{'s' * (n > 1)} {kind[len('(folder ') : -1]}" for kind, n in sorted(folders.items())]
    if EXCLUDED in ignored:
        parts.append(f"{ignored[EXCLUDED]} excluded")
    text = ", ".join(part for part in parts if part)
    return f"left out: {text}" if text else ""


def _by_extra(extra: str, readable: list[tuple[str, int]]) -> str:
    """Return `3 .heic, 1 .hif (pip install 'bigcluster[heif]' reads them)`, or '' where there are no such files."""
    mine = ", ".join(f"{n} {kind}" for kind, n in sorted(readable) if _extra_of(kind) == extra)
    return f"{mine} (pip install 'bigcluster[{extra}]' reads them)" if mine else ""


def _extra_of(suffix: str) -> str | None:
    return next((extra for extra, (_, suffixes) in EXTRAS.items() if suffix in suffixes), None)
