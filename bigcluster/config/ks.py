"""The setting `k`: one number of clusters, or a range of numbers to compare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bigcluster.config.checks import positive
from bigcluster.errors import ConfigError
from bigcluster.units import as_whole, quoted

MOST_CLUSTERS = 2**31 - 1
"""The largest number of clusters: labels are signed 32-bit numbers."""
MOST_KS = 10_000
"""The most values of k in one sweep: each one is a fit of its own, and a row of a table that somebody reads."""
AUTO = "auto"
"""The value of `k` that stands for no given number."""
_AUTO_KS = range(2, 21)
"""The numbers that `auto` tries where clusters are those of k-means: groups that a person can look through. A sweep of
them costs about as much as one fit of 200 clusters. Chosen, not measured."""
_LEAST_IMAGES = 2
"""Images for each cluster, on average, at least: with fewer, `auto` tries no larger number. Chosen, not measured."""
_DIGITS = 20
"""The most digits of a number that is read; Python refuses to read numbers of some thousand digits."""
_FORMS = "a number (10), a range (5:20 or 10:100:10, ends included) or a list (5,9,17)"


def parse_ks(name: str, value: Any, forms: str = _FORMS) -> tuple[int, ...]:
    """Read a number, a range or a list: 10 -> (10,); "5:7" -> (5, 6, 7); "10:30:10" -> (10, 20, 30); "5,9" -> (5, 9).

    name : str, the setting, and forms : what it may be, for the message. value : int or str. Returns distinct numbers
    in ascending order. Raises ConfigError for anything else.
    """
    number = as_whole(value)
    if number is not None:
        if not 1 <= number <= MOST_CLUSTERS:
            raise ConfigError(f"{name} must be from 1 to {MOST_CLUSTERS}, not {quoted(value)}")
        return (number,)
    if not isinstance(value, str) or not re.fullmatch(r"\d+(:\d+){0,2}|\d+(,\d+)+", value.replace(" ", "")):
        raise ConfigError(f"{name} must be {forms}, not {quoted(value)}")
    parts = re.split("[:,]", value.replace(" ", ""))
    numbers: Sequence[int] = [int(part) if len(part) <= _DIGITS else MOST_CLUSTERS + 1 for part in parts]
    if max(numbers) > MOST_CLUSTERS:
        raise ConfigError(f"{name} must be from 1 to {MOST_CLUSTERS}, not {quoted(value)}")
    if ":" in value:
        first, last, step = (*numbers, 1)[:3]
        if last < first or step < 1:
            raise ConfigError(f"{name} = {value} is an empty range; write the smaller number first, such as 5:20")
        numbers = range(first, last + 1, step)
    if len(numbers) > MOST_KS:
        raise ConfigError(
            f"{name} = {quoted(value)} names {len(numbers)} numbers of clusters, {MOST_KS} are the most; "
            "use a larger step, such as 10:1000:10"
        )
    if min(numbers) < 1:
        raise ConfigError(f"{name} must be at least 1, not {min(numbers)}")
    return tuple(sorted(set(numbers)))


def auto_ks(n_images: int | None = None) -> tuple[int, ...]:
    """Return the numbers of clusters that `auto` tries, ascending. n_images : how many images there are; None for any
    number."""
    most = MOST_CLUSTERS if n_images is None else n_images // _LEAST_IMAGES
    return tuple(k for k in _AUTO_KS if k <= most) or (1,)


RESOLUTIONS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Resolutions that are tried where none are given: each one doubles the one before."""
MOST_RESOLUTIONS = 100
"""The most resolutions of one call: each one is a fit, and a row of a table that somebody reads."""


def parse_resolutions(name: str, value: Any) -> tuple[float, ...]:
    """Read a number or a list: 0.5 -> (0.5,); "0.5,1,2" -> (0.5, 1.0, 2.0). Returns distinct numbers, ascending.

    Raises ConfigError for anything else.
    """
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    numbers = sorted({positive(name, _number(part) if isinstance(part, str) else part) for part in parts})
    if not 0 < len(numbers) <= MOST_RESOLUTIONS:
        raise ConfigError(f"{name} takes 1 to {MOST_RESOLUTIONS} numbers, such as 0.5,1,2, not {len(numbers)}")
    return tuple(numbers)


def _number(text: str) -> float | str:
    """Read a number; any other text is returned as it is, for the message of the check."""
    try:
        return float(text)
    except ValueError:
        return text


def clusters(name: str, value: Any) -> int | str:
    """Check a value of the setting. Returns auto, one number as int, and a range or a list as its text without
    spaces."""
    if isinstance(value, str) and value == AUTO:
        return AUTO
    ks = parse_ks(name, value, f"{AUTO}, {_FORMS}")
    return ks[0] if len(ks) == 1 else str(value).replace(" ", "")
