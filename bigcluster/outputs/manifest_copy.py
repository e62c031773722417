"""OUT/manifest.csv: the images of a run that was given a list of them in Python, so that the next call finds them."""

from __future__ import annotations

import shutil
from io import TextIOWrapper
from pathlib import Path
from typing import cast

from bigcluster.errors import OutError
from bigcluster.files.durable import digest_of_file, replacing
from bigcluster.store import Mark, Store

MARK = "manifest"
"""The mark that tells our file from one that somebody put there."""


def write_manifest_copy(store: Store, new_list: Path, target: Path) -> None:
    """Copy a list of images to its place in OUT; the file stays as it is where it has the same content already.

    new_list : the CSV file to copy. target : OUT/manifest.csv, which is replaced whole.
    Raises OutError where `target` is a file that no run wrote.
    """
    digest = digest_of_file(new_list)
    mark = store.mark(MARK)
    old_digest = digest_of_file(target) if target.is_file() and not target.is_symlink() else None
    if old_digest == digest:
        return
    ours = () if mark is None else mark.payload["digests"]
    if (old_digest is not None or target.is_symlink() or target.exists()) and old_digest not in ours:
        raise OutError(
            f"{target} is not as a run left it: move it away, and the list that was given is kept there anew"
        )
    # Both are ours until the new one is in place.
    store.marks.write(MARK, Mark(digest, payload={"digests": [digest, *([old_digest] if old_digest else [])]}))
    with (
        new_list.open(encoding="utf-8", errors="surrogateescape", newline="") as source,
        replacing(target) as file,
    ):
        cast(TextIOWrapper, file).reconfigure(errors="surrogateescape")  # paths may be any bytes
        shutil.copyfileobj(source, file)
