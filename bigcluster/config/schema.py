"""All settings: their defaults, their valid values and what they are for.

The dataclasses below are the only list of the settings. The command line, TOML files, `--set`, run.toml and the table
in README are made from this list or checked against it.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from bigcluster.config.ks import clusters, parse_ks
from bigcluster.errors import ConfigError, UsageError
from bigcluster.files.paths import local_path
from bigcluster.units import as_real, as_whole, quoted

Check = Callable[[str, Any], Any]
MOST = 2**63 - 1
"""The largest whole number that is accepted: what TOML promises to read, and what 64-bit arrays hold."""


def key(default: Any, check: Check, doc: str) -> Any:
    """Declare a setting.

    check : function of (name, value) that returns the value in its one canonical form, or raises ConfigError.
    doc : str, what the setting decides, for README.
    """
    return field(default=default, metadata={"check": check, "doc": doc})


def one_of(*choices: str, also: Mapping[str, str] | None = None) -> Check:
    """Make a check that accepts these texts. also : dict, other spellings of a choice."""

    def check(name: str, value: Any) -> str:
        value = (also or {}).get(value, value) if isinstance(value, str) else value
        if not isinstance(value, str) or value not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {quoted(value)}")
        return str(value)

    return check


def whole_number(at_least: int, **aliases: int) -> Check:
    """Make a check that accepts whole numbers. aliases : texts that stand for numbers, such as auto=4."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, str) and value in aliases:
            return aliases[value]
        number = as_whole(value)
        if number is None or number < at_least:
            or_word = "".join(f" or {word}" for word in aliases)
            raise ConfigError(f"{name} must be a whole number of at least {at_least}{or_word}, not {quoted(value)}")
        if number > MOST:
            raise ConfigError(f"{name} must be a whole number of at most {MOST}, not {quoted(value)}")
        return number

    return check


def fraction(name: str, value: Any) -> float:
    """Accept a number above 0 and at most 1."""
    number = as_real(value)
    if number is None or not 0 < number <= 1:
        raise ConfigError(f"{name} must be a share above 0 and at most 1, such as 0.8, not {quoted(value)}")
    return number


def positive(name: str, value: Any) -> float:
    """Accept a finite number of at least 0."""
    number = as_real(value)
    if number is None or not 0 <= number <= sys.float_info.max:
        raise ConfigError(f"{name} must be a number of at least 0, not {quoted(value)}")
    return number


def seconds(name: str, value: Any) -> float:
    """Accept a duration from a tenth of a second to a day."""
    number = as_real(value)
    if number is None or not 0.1 <= number <= 86_400:
        raise ConfigError(f"{name} must be a number of seconds from 0.1 to 86400, not {quoted(value)}")
    return number


def yes_or_no(name: str, value: Any) -> bool:
    """Accept true or false."""
    # bool_ of numpy is not a bool of Python, and this module may not import numpy.
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise ConfigError(f"{name} must be true or false, not {quoted(value)}")


def path(name: str, value: Any) -> str:
    """Accept the path of a local file or folder."""
    try:
        return local_path(name, value)
    except UsageError as error:
        raise ConfigError(str(error)) from error


def encoding(name: str, value: Any) -> str:
    """Accept auto or a text encoding, under Python's name for it: "CP1252" -> 'cp1252'."""
    try:
        codec = None if isinstance(value, str) and value == "auto" else codecs.lookup(value)
        if codec is not None and not isinstance("".encode(value), bytes):
            raise LookupError
    except (LookupError, TypeError, ValueError, UnicodeError) as error:
        raise ConfigError(
            f"{name} must be auto or a text encoding, such as windows-1252 or utf-8, not {quoted(value)}"
        ) from error
    return "auto" if codec is None else codec.name


def patterns(name: str, value: Any) -> tuple[str, ...]:
    """Accept a pattern or a list of patterns; returns a tuple."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"{name} must be a pattern or a list of patterns, such as ['*_thumb.jpg'], not {value!r}")
    return tuple(texts)


def image_size(name: str, value: Any) -> str:
    """Accept 64 (which becomes 64x64), WIDTHxHEIGHT, a pair (width, height), or native; returns a text."""
    sides = value if isinstance(value, tuple | list) and len(value) == 2 else ()
    if sides and all(as_whole(side) is not None for side in sides):
        value = "x".join(str(as_whole(side)) for side in sides)
    number = as_whole(value)
    if number is not None and 0 < number < 100_000:
        value = str(number)
    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:[xX]([1-9][0-9]{0,4}))?", value) if isinstance(value, str) else None
    if isinstance(value, str) and value == "native":
        return "native"
    if match is None:
        raise ConfigError(
            f"{name} must be a number of pixels (64), WIDTHxHEIGHT (300x430) or native, not {quoted(value)}"
        )
    width, height = match.groups()
    return f"{width}x{height or width}"


def optional(check: Check) -> Check:
    """Make a check that accepts None, and all that `check` accepts."""
    return lambda name, value: None if value is None else check(name, value)


@dataclass(frozen=True)
class ImageSettings:
    """How an image file becomes pixels."""

    fit: str = key(
        "stretch",
        one_of("stretch", "pad", "crop"),
        "how an image takes the target size: stretch it, pad it with white, or crop its middle",
    )
    normalize: str = key(
        "none",
        one_of("none", "image"),
        "image removes each image's own mean and scale, so that overall darkness does not decide",
    )
    max_pixels: int = key(
        250_000_000,
        whole_number(1),
        "larger images are not decoded (status too_large): a guard against decompression bombs",
    )
    timeout: float = key(
        30.0, seconds, "seconds after which reading and decoding one image is given up (status timeout)"
    )


@dataclass(frozen=True)
class ManifestSettings:
    """How a CSV or Parquet file of images is read."""

    allow_outside: bool = key(
        False,
        yes_or_no,
        "whether a manifest may name files outside its own folder (a manifest may come from a stranger)",
    )
    encoding: str = key(
        "auto",
        encoding,
        "the encoding of a CSV manifest; auto is UTF-8 or what its byte order mark says, and paths of any bytes",
    )


@dataclass(frozen=True)
class PCASettings:
    """How the PCA is fitted."""

    solver: str = key(
        "auto",
        one_of("auto", "gram", "covariance", "subspace", "incremental"),
        "auto chooses by number and size of the images; incremental is dask-ml's IncrementalPCA",
    )
    iterated_power: int = key(
        2, whole_number(0), "power iterations of the incremental solver; with 0 its components are inaccurate"
    )


@dataclass(frozen=True)
class GemmSettings:
    """How matrices are multiplied (GEMM: general matrix multiplication)."""

    kernel: str = key(
        "auto",
        one_of("auto", "integer", "float32"),
        "how 8-bit pixels are multiplied: integer is fast, float32 runs on any machine; both are exact and the same",
    )


@dataclass(frozen=True)
class KMeansSettings:
    """How k-means is fitted."""

    algorithm: str = key(
        "auto",
        one_of("auto", "lloyd", "minibatch", "two-level", "dask-ml"),
        "auto chooses by number of images, components and clusters; dask-ml is its k-means||, repaired",
    )
    n_init: int = key(
        4,
        whole_number(1, auto=4),
        "fits from different first centers, of which the smallest inertia wins (a sweep finishes two)",
    )
    max_iter: int = key(300, whole_number(1), "the most Lloyd iterations of a fit")
    tol: float = key(1e-4, positive, "a fit stops when the centers move less than this, relative to the mean variance")


@dataclass(frozen=True)
class ReportSettings:
    """What the report shows."""

    write: bool = key(
        True, yes_or_no, "whether a run ends with writing report/; `bigcluster report OUT` writes it at any time"
    )
    map: str = key(
        "pca",
        one_of("pca", "tsne", "umap", "none"),
        "the map of the report: pca (the first two components), tsne or umap (with the extra of that name), or none",
    )
    thumbnails: int = key(
        20_000,
        whole_number(1),
        "up to this many images all have thumbnails in the report; of more images, the nearest of each cluster",
    )


@dataclass(frozen=True)
class Settings:
    """All that decides the result: the same settings on the same images give the same labels. OUT/run.toml has them."""

    images: str | None = key(
        None, optional(path), "the images: a folder, a glob, or a CSV or Parquet manifest with a path column"
    )
    out: str | None = key(None, optional(path), "the folder for the results")
    exclude: tuple[str, ...] = key(
        (),
        patterns,
        "patterns of files and folders that are not listed; a pattern is of names, or with a slash of whole paths",
    )
    features: str = key(
        "gray",
        one_of("gray", "color", also={"grey": "gray", "colour": "color"}),
        "what describes an image: its gray or its color pixels",
    )
    size: str = key(
        "64x64",
        image_size,
        "the size that images are resized to: 64, WIDTHxHEIGHT, or native (all images have one size)",
    )
    reduce: str = key(
        "pca", one_of("pca", "none"), "how images are reduced: pca, or none to cluster the pixels themselves"
    )
    variance: float | None = key(
        0.8, optional(fraction), "keep the fewest components that explain this share of the variance"
    )
    components: int | None = key(
        None, optional(whole_number(1)), "keep exactly this number of components (instead of variance)"
    )
    k: int | str | None = key(
        None,
        optional(clusters),
        "the number of clusters, or a range (5:20, 10:100:10, 5,9,17) to sweep and choose from",
    )
    seed: int = key(0, whole_number(0), "the seed of all random choices")
    link: str = key(
        "hardlink",
        one_of("hardlink", "symlink", "copy", "none"),
        "how images appear under clusters/: hardlink (a relative symlink across file systems), symlink, copy or none",
    )
    image: ImageSettings = field(default_factory=ImageSettings)
    manifest: ManifestSettings = field(default_factory=ManifestSettings)
    pca: PCASettings = field(default_factory=PCASettings)
    gemm: GemmSettings = field(default_factory=GemmSettings)
    kmeans: KMeansSettings = field(default_factory=KMeansSettings)
    report: ReportSettings = field(default_factory=ReportSettings)

    @property
    def ks(self) -> tuple[int, ...]:
        """The numbers of clusters to try, in ascending order; empty where k is not set."""
        return () if self.k is None else parse_ks("k", self.k)


@dataclass(frozen=True)
class Key:
    """One setting under its dotted name, such as `image.fit`."""

    name: str
    default: Any
    check: Check
    doc: str


def _keys(section: type, prefix: str = "") -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for item in fields(section):
        if "check" in item.metadata:
            name = prefix + item.name
            keys[name] = Key(name, item.default, item.metadata["check"], item.metadata["doc"])
        else:
            keys |= _keys(item.default_factory, item.name + ".")  # type: ignore[arg-type]
    return keys


KEYS: dict[str, Key] = _keys(Settings)


def settings_from(values: dict[str, Any]) -> Settings:
    """Build the settings from checked values by dotted name. Names that are absent take their defaults."""

    def build(section: type, prefix: str) -> Any:
        arguments: dict[str, Any] = {}
        for item in fields(section):
            if "check" not in item.metadata:
                arguments[item.name] = build(item.default_factory, item.name + ".")  # type: ignore[arg-type]
            elif prefix + item.name in values:
                value = values[prefix + item.name]
                arguments[item.name] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        return section(**arguments)

    settings: Settings = build(Settings, "")
    return settings


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of settings by dotted name, in the order of the dataclasses. Values may be None."""
    flat: dict[str, Any] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            flat |= flatten(value, prefix + item.name + ".")
        else:
            flat[prefix + item.name] = value
    return flat
