"""zarr's own small files, each vouched for by a mark that holds its text: a damaged one is put back, its data kept.

store.zarr/zarr.json          marks/metadata/store.json
store.zarr/<array>/zarr.json  marks/metadata/<array>.json
"""

from __future__ import annotations

from pathlib import Path

from bigcluster.durable import digest_of, sync_all, write_bytes
from bigcluster.store.marks import Mark, Marks

STAGE = "metadata"
FILE = "zarr.json"
_GROUP = "store"


def vouch(marks: Marks, root: Path, name: str = "") -> None:
    """Sync the metadata of an array (of the group: no name) and mark them. Nothing happens where they are marked."""
    file = root / name / FILE
    text = file.read_text(encoding="utf-8")
    known = marks.read(STAGE, name or _GROUP)
    if known is None or known.payload["text"] != text:
        sync_all([file])
        digests = {file.relative_to(root).as_posix(): digest_of(text.encode())}
        marks.write(STAGE, Mark("", digests, {"text": text}), name or _GROUP)


def is_changed(marks: Marks, root: Path, name: str = "") -> bool:
    """Whether the file is there and is not what its mark says."""
    mark, file = marks.read(STAGE, name or _GROUP), root / name / FILE
    return mark is not None and file.is_file() and file.read_bytes() != mark.payload["text"].encode()


def restore(marks: Marks, root: Path, name: str = "") -> None:
    """Where the file is not what its mark says, put it back. Without a mark it stays as it is."""
    mark = marks.read(STAGE, name or _GROUP)
    file = root / name / FILE
    if mark is None:
        return
    text = mark.payload["text"].encode()
    if not file.is_file() or file.read_bytes() != text:
        file.parent.mkdir(exist_ok=True)
        write_bytes(file, text)


def forget(marks: Marks, name: str) -> None:
    """The array is about to go."""
    marks.remove(STAGE, name)
