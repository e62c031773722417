"""The form of JSON that a stranger may have written: checks of keys and types, put together to a description.

A check takes a value and says whether it has the form; it raises nothing, whatever the value is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]
END_OF_WHOLE = 1 << 63
"""No whole number of ours is as large: they go into 64 bits."""
_MOST_LINE_CHARACTERS = 10_000
"""Characters of a sentence that is shown."""


def whole(least: int = 0) -> Check:
    return lambda value: type(value) is int and least <= value < END_OF_WHOLE


def number(value: Any) -> bool:
    """Finite, and such that its square is as well."""
    return type(value) in (int, float) and abs(value) < END_OF_WHOLE**2


def positive(value: Any) -> bool:
    return number(value) and value > 0


def score(value: Any) -> bool:
    """A number, or NaN where a score is not defined."""
    return number(value) or (type(value) is float and math.isnan(value))


def truth(value: Any) -> bool:
    return type(value) is bool


def text(value: Any) -> bool:
    return type(value) is str


def printable_line(value: Any) -> bool:
    """Text that can be shown in a line."""
    return type(value) is str and len(value) <= _MOST_LINE_CHARACTERS and value.isprintable()


def one_of(*values: str) -> Check:
    return lambda value: type(value) is str and value in values


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


def dict_of(check: Check, name: Check = text) -> Check:
    return lambda value: type(value) is dict and all(map(name, value)) and all(map(check, value.values()))


def keys(required: dict[str, Check], more: dict[str, Check] | None = None, *, others: bool = False) -> Check:
    """A dictionary with the required keys; `more` may be there, and where `others` is True any others too."""
    known = required | (more or {})

    def check(value: Any) -> bool:
        if type(value) is not dict or not required.keys() <= value.keys():
            return False
        if not others and not value.keys() <= known.keys():
            return False
        return all(known[name](one) for name, one in value.items() if name in known)

    return check
