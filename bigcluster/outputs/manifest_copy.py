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


def keep(store: Store, given: Path, kept: Path) -> None:
    """Put the list in its place in OUT. Raises OutError where that is taken by a file that is not ours."""
    wanted = digest_of_file(given)
    mark = store.mark(MARK)
    there = digest_of_file(kept) if kept.is_file() and not kept.is_symlink() else None
    if there == wanted:
        return
    ours = () if mark is None else mark.payload["digests"]
    if (there is not None or kept.is_symlink() or kept.exists()) and there not in ours:
        raise OutError(f"{kept} is not as a run left it: move it away, and the list that was given is kept there anew")
    # Both are ours until the new one is in place.
    store.marks.write(MARK, Mark(wanted, payload={"digests": [wanted, *([there] if there else [])]}))
    with (
        given.open(encoding="utf-8", errors="surrogateescape", newline="") as source,
        replacing(kept) as file,
    ):
        cast(TextIOWrapper, file).reconfigure(errors="surrogateescape")  # paths may be any bytes
        shutil.copyfileobj(source, file)
