"""OUT/profile: the files of a profile, in place of those of an earlier one. Files of others in it stay."""

from __future__ import annotations

import shutil
from pathlib import Path

from bigcluster import outdir
from bigcluster.files.durable import remove_folder
from bigcluster.outdir.tree import OwnedTree
from bigcluster.runtime.events import Listener, Note

FOLDER = "profile"
CREATED = "profile-files"
"""In the store: the list of what we made."""


def publish(made: Path, out: Path, listener: Listener) -> Path:
    """Put the files of the folder `made` into OUT/profile. Raises StoreError where another process has OUT."""
    root = Path(out).resolve()
    outdir.check_is_out(root)
    with outdir.locked(root):
        tree = OwnedTree.of(root, FOLDER, root / outdir.STORE, CREATED)
        staging = tree.new_staging()
        try:
            for file in sorted(made.iterdir()):
                shutil.copyfile(file, staging / file.name)
            tree.replace_by(staging, lambda line: listener(Note(line, "warning")))
        finally:
            remove_folder(staging)
    return out / FOLDER
