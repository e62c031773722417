"""Bytes, counts and seconds: reading them from people, showing them to people."""

from __future__ import annotations

import re

from bigcluster.errors import ConfigError

KIB = 1024
MIB = 1024**2
GIB = 1024**3
TIB = 1024**4

_FACTORS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB}


def parse_bytes(text: str) -> int:
    """`"512MiB"` -> 536870912. A number without a unit is refused: 512 of what?"""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)?\s*", text)
    if match is None:
        raise ConfigError(f"memory must be a size such as 512MiB or 1.5GiB, not {text!r}")
    number, unit = match.groups()
    if unit is None:
        raise ConfigError(f"memory needs a unit, such as {number}MiB or {number}GiB; got {text!r}")
    factor = _FACTORS.get(unit.upper())
    if factor is None:
        raise ConfigError(f"memory has the unknown unit {unit!r}; use one of KiB, MiB, GiB, TiB, KB, MB, GB, TB")
    return int(float(number) * factor)


def parse_count(text: str) -> int:
    """`"8190"`, `"1M"`, `"100e6"` -> a whole number of at least 1."""
    match = re.fullmatch(r"([0-9]+)(?:\.([0-9]+))?(?:[eE]([0-9]{1,2})|([kMG]))?", text)
    if match is not None:
        whole, decimals, exponent, factor = match.groups()
        places = int(exponent or {None: 0, "k": 3, "M": 6, "G": 9}[factor]) - len(decimals or "")
        digits = int(whole + (decimals or ""))
        if places >= 0 and digits > 0:
            return digits * int(10**places)
    raise ConfigError(f"a number of images is a whole number such as 8190, 1M or 100e6, not {text!r}")


def show_bytes(n_bytes: float) -> str:
    """1536 -> '1.5 KiB'; three significant digits are enough for a person."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1000 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"


def show_count(count: int) -> str:
    return f"{count:,}"


def show_seconds(seconds: float) -> str:
    """75.2 -> '1 min 15 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
