"""The numbers of clusters that `k` may name: one, or a range to sweep."""

from __future__ import annotations

import re
from typing import Any

from bigcluster.errors import ConfigError

_FORMS = "a number (10), a range (5:20 or 10:100:10, ends included) or a list (5,9,17)"


def parse_ks(name: str, value: Any) -> tuple[int, ...]:
    """10 -> (10,); "5:7" -> (5, 6, 7); "10:30:10" -> (10, 20, 30); "5,9,17" -> (5, 9, 17). Ascending, distinct."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(r"\d+(:\d+){0,2}|\d+(,\d+)+", value.replace(" ", "")):
        raise ConfigError(f"{name} must be {_FORMS}, not {value!r}")
    numbers = [int(part) for part in re.split("[:,]", value.replace(" ", ""))]
    if ":" in value:
        first, last, step = (*numbers, 1)[:3]
        if last < first or step < 1:
            raise ConfigError(f"{name} = {value} is an empty range; write the smaller number first, such as 5:20")
        numbers = list(range(first, last + 1, step))
    if min(numbers) < 1:
        raise ConfigError(f"{name} must be at least 1, not {min(numbers)}")
    return tuple(sorted(set(numbers)))


def clusters(name: str, value: Any) -> int | str:
    """The check of the setting: a number as int, a range or list as the text that was given."""
    ks = parse_ks(name, value)
    return ks[0] if len(ks) == 1 else str(value).replace(" ", "")
