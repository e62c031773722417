"""Whether OUT may be used: whose folder it is, what it kept, and which images it belongs to."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from bigcluster.catalog.roots import root_of
from bigcluster.config import Settings, flatten, is_file_of_features, read_toml
from bigcluster.errors import ConfigError, OutError, RunNotFoundError, StoreError
from bigcluster.files.durable import is_folder, is_regular, is_unfinished
from bigcluster.files.kept import KEPT
from bigcluster.files.layout import STORES
from bigcluster.outdir.holder import HOLDER
from bigcluster.outdir.lock import LOCK, MOST_BYTES, parse

RUN_TOML = "run.toml"
MANIFEST = "manifest.csv"
"""The images of a run that was given a list of them in Python."""
HEADING = "# The settings of the last run.\n"
"""Begins OUT/run.toml."""
_BEGUN = {LOCK, HOLDER, RUN_TOML, *STORES, KEPT}
"""The only names in an OUT whose run was killed before it wrote its first mark."""


def kept_values(out: str) -> dict[str, Any] | None:
    """The flat settings of the last run from OUT/run.toml, without `out`; None where there is no such file.

    A list of images that was copied to OUT/manifest.csv is named at its place in this OUT, which may have been moved.
    Raises ConfigError where the file cannot be read as settings.
    """
    path = Path(out) / RUN_TOML
    if not path.is_file():
        return None
    values = read_toml(path)
    folder = values.pop("out", None)
    if folder is not None and values.get("images") == os.path.join(folder, MANIFEST):
        values["images"] = os.path.join(out, MANIFEST)  # it moves with OUT
    return values


def absolute(settings: Settings) -> dict[str, Any]:
    """The flat settings as run.toml stores them: paths are absolute, so that they hold in any folder.

    Raises ConfigError for a name that TOML cannot hold.
    """
    values = flatten(settings)
    for name in ("images", "out", *["features"] * is_file_of_features(settings.features)):
        values[name] = str(Path(values[name]).absolute())
        if not values[name].isprintable() or any("\ud800" <= c <= "\udfff" for c in values[name]):
            raise ConfigError(f"{name} has a name that run.toml cannot hold: {values[name]!r}; rename the folder")
    return values


def is_out(out: Path) -> bool:
    """Whether a run of ours wrote into this folder: it holds a store of ours, or what an early killed run leaves.

    A single file of a fitting name is no proof.
    """
    return out.is_dir() and (_has_store(out) or _is_begun(out))


def out_of(file: str) -> Path | None:
    """The folder with a store of ours in which a file lies at any depth, links followed; None where there is none."""
    return next((folder for folder in Path(os.path.realpath(file)).parents if _has_store(folder)), None)


def _has_store(out: Path) -> bool:
    from bigcluster.store import is_store  # zarr and numpy: the process that supervises asks nothing of this

    return is_store(out)


def _is_begun(out: Path) -> bool:
    """Whether a folder holds what a run that was killed at its start leaves, and nothing else."""
    lock, settings = out / LOCK, out / RUN_TOML
    if not is_regular(lock) or lock.stat().st_size > MOST_BYTES:
        return False
    parsed = parse(lock.read_bytes())
    if parsed is None:
        return False
    _, tokens = parsed
    inside = {name for name in os.listdir(out) if not any(is_unfinished(name, token) for token in tokens)}
    are_bare = all(is_folder(out / store) and _is_bare(out / store, tokens) for store in inside.intersection(STORES))
    if not (inside <= _BEGUN and are_bare):
        return False
    return RUN_TOML not in inside or (is_regular(settings) and _starts_with(settings, HEADING.encode()))


def _is_bare(store: Path, tokens: list[str]) -> bool:
    """Whether a folder of the store was made and nothing written into it."""
    return all(any(is_unfinished(name, token) for token in tokens) for name in os.listdir(store))


def _starts_with(path: Path, heading: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(heading)) == heading


def check_is_out(out: Path, *, or_damaged: bool = False) -> None:
    """Raise RunNotFoundError where no run wrote into this folder, OutError where a version with another format did:
    nothing in it is touched then.

    or_damaged : permit that the file which names the format is not what this version wrote there.
    """
    from bigcluster.store import check_format

    if not is_out(out):
        raise no_run(out)
    check_format(out, or_damaged=or_damaged)


def no_run(out: str | Path) -> RunNotFoundError:
    """The error for an OUT that no run wrote."""
    return RunNotFoundError(f"{out} holds no run; run `bigcluster run IMAGES --out {out} -k 10` first")


def claim(out: Path, images: str) -> None:
    """Check that OUT may be used for these images and make the folder.

    Raises OutError for a folder of other files, of another IMAGES root or of another format, StoreError where it cannot
    be written.
    """
    from bigcluster.store import check_format

    if out.exists() and not out.is_dir():
        raise OutError(f"OUT is a file: {out}; give a folder")
    try:
        inside = sorted(os.listdir(out)) if out.is_dir() else []
        if inside and not is_out(out):
            raise OutError(
                f"OUT holds files that are not ours ({inside[0]}, {len(inside)} in all): {out}; give another"
            )
        check_format(out)
        previous = kept_values(str(out)) or {}
        if "images" in previous:
            _check_root(out, previous["images"], root_of(images))
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if isinstance(error, OutError):
            raise
        raise StoreError(f"OUT cannot be written: {out}: {error.strerror}; give a folder of your own") from error


def _check_root(out: Path, kept_images: str, root: Path) -> None:
    """Refuse another root. One that was renamed is no other: the stored paths are relative to it."""
    kept_root = root_of(kept_images)
    if kept_root == root:
        return
    if kept_root.exists():
        raise OutError(f"OUT belongs to the images in {kept_root}, not {root}: {out}; give another")
    raise OutError(
        f"OUT belongs to the images in {kept_root}, which is gone, not {root}: {out}; where it was renamed, set images "
        f"in {out / RUN_TOML} to its new name, and all is reused; otherwise give another OUT"
    )
