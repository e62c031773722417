"""Whether a folder is an OUT of ours, and whether this version of bigcluster reads its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bigcluster.errors import OutError
from bigcluster.files.bounded import parse_json, read_bounded
from bigcluster.files.durable import is_folder
from bigcluster.files.layout import ARRAYS, OURS
from bigcluster.store import metadata, shapes
from bigcluster.store.marks import Marks
from bigcluster.store.shapes import FILE, FORMAT, FORMAT_KEY


def is_store(out: Path) -> bool:
    """Whether a run of ours wrote into this OUT: its metadata name a format of ours, or it holds a sealed mark.

    Raises OutError where a folder of marks is closed to us: what they vouch for would be done anew, or removed.
    """
    has_marks = is_folder(out / OURS)
    if has_marks:
        Marks(out).check_open()
    is_named = is_folder(out / ARRAYS) and FORMAT_KEY in _attributes(out)
    return is_named or (has_marks and next(Marks(out).all(), None) is not None)


def check_format(out: Path, *, or_damaged: bool = False) -> None:
    """Raise OutError where the store in OUT has another format: nothing of it may be changed.

    or_damaged : permit it where a mark says that the format is ours: the metadata file that names it is damaged.
    """
    version = _attributes(out).get(FORMAT_KEY, FORMAT)  # no store, or a damaged one: dealt with later
    if version != FORMAT and not (or_damaged and metadata.is_changed(Marks(out))):
        raise OutError(
            f"{out / ARRAYS} has the format {version}, this version of bigcluster reads format {FORMAT}: give another "
            "OUT, or use the version that wrote this one, which is left as it is"
        )


def _attributes(out: Path) -> dict[str, Any]:
    """The attributes of the group; an empty dict where its metadata cannot be read."""
    try:
        text = read_bounded(out / ARRAYS / FILE, shapes.LIMIT_BYTES)
        attributes: dict[str, Any] = parse_json(text, shapes.LIMIT_VALUES)["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return attributes if isinstance(attributes, dict) else {}
