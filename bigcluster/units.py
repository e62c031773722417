"""Sizes in bytes, counts and seconds: how text from people is read, and how values are shown to people."""

from __future__ import annotations

import numbers
import operator
import re
from typing import Any, SupportsIndex

from bigcluster.errors import ConfigError

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4
"""Bytes of the binary units (IEC 80000-13)."""

_FACTORS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB}


MOST_WHOLE = 2**63 - 1
"""The largest whole number that is accepted, of bytes too: what TOML promises to read, and what 64-bit arrays hold."""
MOST_COUNT = 10**15
"""The largest number of images that is accepted: sizes computed from it stay within 64 bits."""
EXAMPLES = 5
"""Names, sizes or suffixes that a message gives of many, at most."""
_MOST_SHOWN = 80
"""Characters of a value that a message quotes: enough to recognise it, and a message stays one line."""


def quoted(value: object) -> str:
    """Return a value as a message quotes it: its repr, shortened to a bounded length."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python shows no number of thousands of digits
        return f"a value of the type {type(value).__name__} that is too large to show"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def as_whole(value: object) -> int | None:
    """Return a whole number of Python or numpy as int, and None for anything else, such as True, 2.0 or "2"."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array of several numbers, or of floats
        return None


def as_real(value: object) -> float | None:
    """Return a number of Python or numpy as float; None for anything else, or for a number too large for a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def printable(text: str) -> str:
    """Return text as one line for a terminal. Control characters, which file names may hold, are shown as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(number: int, what: str, one: str = "", several: str = "") -> str:
    """Return a number with its noun and verb.

    (1, "file") -> '1 file'; (2000, "file", "is", "are") -> '2,000 files are'.

    what : the noun in the singular; its plural is formed with an s. one, several : the verb in the singular and plural.
    """
    noun, verb = (what, one) if number == 1 else (f"{what}s", several)
    return f"{number:,} {noun} {verb}".rstrip()


def parse_bytes(text: Any, name: str = "memory") -> int:
    """Read a size with its unit: `"512MiB"` -> 536870912 bytes.

    name : the setting, for the message. Raises ConfigError for anything else, also for a number without a unit.
    """
    if not isinstance(text, str):
        raise ConfigError(f'{name} must be a size with its unit, such as "512MiB" or "1.5GiB", not {quoted(text)}')
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)?\s*", text)
    if match is None:
        raise ConfigError(f"{name} must be a size such as 512MiB or 1.5GiB, not {quoted(text)}")
    number, unit = match.groups()
    if unit is None:
        raise ConfigError(f"{name} needs a unit, such as 512MiB or 1.5GiB; got {quoted(text)}")
    factor = _FACTORS.get(unit.upper())
    if factor is None:
        raise ConfigError(f"{name} has the unknown unit {quoted(unit)}; use one of KiB, MiB, GiB, TiB, KB, MB, GB, TB")
    n_bytes = float(number) * factor
    if n_bytes > MOST_WHOLE:
        raise ConfigError(f"{name} must be a size that a machine can have, such as 512MiB, not {quoted(text)}")
    return int(n_bytes)


def parse_count(text: str) -> int:
    """Read a number of images, such as `"8190"`, `"1M"` or `"100e6"`. Raises ConfigError for anything else."""
    match = re.fullmatch(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?(?:[eE]([0-9]{1,2})|([kMG]))?", text)
    if match is not None:
        whole, decimals, exponent, factor = match.groups()
        places = int(exponent or {None: 0, "k": 3, "M": 6, "G": 9}[factor]) - len(decimals or "")
        digits = int(whole + (decimals or ""))
        if places >= 0 and 0 < digits * 10**places <= MOST_COUNT:
            return digits * int(10**places)
    raise ConfigError(f"a number of images is a whole number such as 8190, 1M or 100e6, not {quoted(text)}")


def show_bytes(n_bytes: float) -> str:
    """Show a size with three significant digits: 1536 -> '1.5 KiB'."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1000 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"


def show_count(count: int) -> str:
    """Show a number with commas: 100000 -> '100,000'."""
    return f"{count:,}"


def show_seconds(seconds: float) -> str:
    """Show a duration: 75.2 -> '1 min 15 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
