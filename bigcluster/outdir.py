"""The OUT folder: whose it is, what it kept, and which images it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bigcluster.catalog.roots import root_of
from bigcluster.config import Settings, flatten, read_toml, to_toml
from bigcluster.durable import write_text
from bigcluster.errors import ConfigError, OutError, StoreError

RUN_TOML = "run.toml"
STORE = "store.zarr"
_OURS = (RUN_TOML, STORE)
"""A folder that holds one of these is the OUT of an earlier run."""


def kept_values(out: str) -> dict[str, Any] | None:
    """The settings that OUT/run.toml kept from the last run, without `out`, or None."""
    path = Path(out) / RUN_TOML
    if not path.is_file():
        return None
    return {name: value for name, value in read_toml(path).items() if name != "out"}


def absolute(settings: Settings) -> dict[str, Any]:
    """The flat settings as run.toml keeps them: `images` and `out` absolute, so that they hold from any folder."""
    values = flatten(settings)
    for name in ("images", "out"):
        values[name] = str(Path(values[name]).absolute())
        if not values[name].isprintable() or any("\ud800" <= c <= "\udfff" for c in values[name]):
            raise ConfigError(f"{name} has a name that run.toml cannot hold: {values[name]!r}; rename the folder")
    return values


def claim(out: Path, images: str) -> None:
    """Check that OUT may be used for these images and make the folder.

    Raises OutError for a folder of other files or of another IMAGES root, StoreError where it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise OutError(f"OUT is a file: {out}; give a folder")
    try:
        inside = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
        if inside and not any(name in inside for name in _OURS):
            raise OutError(
                f"OUT holds files that are not ours ({inside[0]}, {len(inside)} in all): {out}; give another"
            )
        kept = kept_values(str(out)) or {}
        if "images" in kept and root_of(kept["images"]) != root_of(images):
            raise OutError(
                f"OUT belongs to the images in {root_of(kept['images'])}, not {root_of(images)}: {out}; give another"
            )
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if isinstance(error, OutError):
            raise
        raise StoreError(f"OUT cannot be written: {out}: {error.strerror}; give a folder of your own") from error


def keep(settings: Settings) -> None:
    """Write OUT/run.toml: `bigcluster run --config OUT/run.toml` repeats the run."""
    values = absolute(settings)
    write_text(Path(values["out"]) / RUN_TOML, "# The settings of the last run.\n" + to_toml(values))
