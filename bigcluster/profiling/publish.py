"""The folder OUT/profile. New files replace those of an earlier profile; files that bigcluster did not make stay."""

from __future__ import annotations

import shutil
from pathlib import Path

from bigcluster import outdir
from bigcluster.files.durable import remove_folder
from bigcluster.outdir.tree import OwnedTree
from bigcluster.runtime.events import Listener, Note

FOLDER = "profile"
CREATED = "profile-files"
"""Name of the stored list of the files that bigcluster made in OUT/profile."""


def publish(folder: Path, out: Path, listener: Listener) -> Path:
    """Copy the files of a folder into OUT/profile; return that path.

    listener : gets a warning for each file of OUT/profile that had to be moved. Raises StoreError where another process
    uses OUT.
    """
    root = Path(out).resolve()
    outdir.check_is_out(root)
    with outdir.locked(root, lambda line: listener(Note(line))):
        tree = OwnedTree.of(root, FOLDER, CREATED)
        staging = tree.new_staging()
        try:
            for file in sorted(folder.iterdir()):
                shutil.copyfile(file, staging / file.name)
            tree.replace_by(staging, lambda line: listener(Note(line, "warning")))
        finally:
            remove_folder(staging)
    return out / FOLDER
