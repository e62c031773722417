"""Checks of single settings: each returns the value in its one canonical form, or raises ConfigError."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from bigcluster.errors import ConfigError, UsageError
from bigcluster.files.paths import local_path
from bigcluster.units import MOST_WHOLE, as_real, as_whole, quoted

Check = Callable[[str, Any], Any]


def one_of(*choices: str) -> Check:
    """Make a check that accepts these texts."""

    def check(name: str, value: Any) -> str:
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
        if number > MOST_WHOLE:
            raise ConfigError(f"{name} must be a whole number of at most {MOST_WHOLE}, not {quoted(value)}")
        return number

    return check


def fraction(name: str, value: Any) -> float:
    """Accept a number above 0 and at most 1."""
    number = as_real(value)
    if number is None or not 0 < number <= 1:
        raise ConfigError(f"{name} must be a share above 0 and at most 1, such as 0.8, not {quoted(value)}")
    return number


def not_negative(name: str, value: Any) -> float:
    """Accept a finite number of at least 0."""
    number = as_real(value)
    if number is None or not 0 <= number <= sys.float_info.max:
        raise ConfigError(f"{name} must be a number of at least 0, not {quoted(value)}")
    return number


def positive(name: str, value: Any) -> float:
    """Accept a finite number above 0."""
    number = as_real(value)
    if number is None or not 0 < number <= sys.float_info.max:
        raise ConfigError(f"{name} must be a number above 0, such as 0.5 or 2, not {quoted(value)}")
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


PIXELS = ("gray", "color")
"""The values of `features` that stand for the pixels themselves."""
_SPELLINGS = {"grey": "gray", "colour": "color"}
"""Other spellings of these values."""
COLUMN = "column:"
"""The first characters of a value of `features` that names a column of the manifest."""
_VECTOR_SUFFIXES = (".npy", ".parquet")
"""The suffixes of files of vectors."""


def are_vectors(features: str) -> bool:
    """Return whether a value of `features` names vectors of the user."""
    return features.startswith(COLUMN) or features.lower().endswith(_VECTOR_SUFFIXES)


def is_file_of_features(features: str) -> bool:
    """Return whether a value of `features` is the path of a file, and not one of the words or the name of a network."""
    if features in PIXELS or features.startswith(COLUMN):
        return False
    return "/" in features or features.lower().endswith(".onnx") or are_vectors(features)


def source_of_features(name: str, value: Any) -> str:
    """Accept gray, color, the name of a network, a file, or column:NAME. Whether it exists is checked later."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    value = _SPELLINGS.get(value, value) if isinstance(value, str) else value
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or value == COLUMN:
        raise ConfigError(
            f"{name} must be gray, color, the name of a network (`bigcluster models` lists them), a file .onnx, .npy "
            f"or .parquet, or column:NAME, not {quoted(value)}"
        )
    return value.strip()


def text(name: str, value: Any) -> str:
    """Accept a text of printable characters that is not empty."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ConfigError(f"{name} must be a text, not {quoted(value)}")
    return value


def input_size(name: str, value: Any) -> str:
    """Accept the size of a network's input: 128 (which becomes 128x128) or WIDTHxHEIGHT."""
    if isinstance(value, str) and value == "native":
        raise ConfigError(f"{name} must be a number of pixels (128) or WIDTHxHEIGHT, not native")
    return image_size(name, value)


def optional(check: Check) -> Check:
    """Make a check that accepts None, and all that `check` accepts."""
    return lambda name, value: None if value is None else check(name, value)
