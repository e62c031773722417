"""The form of JSON that a stranger may have written: checks of keys and types, put together to a description.

A check takes a value and says whether it has the form; it raises nothing, whatever the value is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bigcluster.units import MOST_WHOLE

Check = Callable[[Any], bool]
_MOST_LINE_CHARACTERS = 10_000
"""Characters of a line of text that is shown, at most. Chosen, not measured."""


def whole(least: int = 0) -> Check:
    """A check for whole numbers from `least` up to 63 bits."""
    return lambda value: type(value) is int and least <= value <= MOST_WHOLE


def number(value: Any) -> bool:
    """Whether a value is a finite number whose square is finite too."""
    return type(value) in (int, float) and abs(value) < MOST_WHOLE**2


def positive(value: Any) -> bool:
    """Whether a value is a number above zero."""
    return number(value) and value > 0


def score(value: Any) -> bool:
    """Whether a value is a number, or NaN, as a score is where it is not defined."""
    return number(value) or (type(value) is float and math.isnan(value))


def truth(value: Any) -> bool:
    """Whether a value is True or False."""
    return type(value) is bool


def text(value: Any) -> bool:
    """Whether a value is a str."""
    return type(value) is str


def printable_line(value: Any) -> bool:
    """Whether a value is a text that can be shown in one line."""
    return type(value) is str and len(value) <= _MOST_LINE_CHARACTERS and value.isprintable()


def one_of(*values: str) -> Check:
    """A check for one of these texts."""
    return lambda value: type(value) is str and value in values


def optional(check: Check) -> Check:
    """A check for None, or for what `check` accepts."""
    return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
    """A check for a list all of whose items `check` accepts."""
    return lambda value: type(value) is list and all(map(check, value))


def dict_of(check: Check, name: Check = text) -> Check:
    """A check for a dictionary all of whose keys `name` accepts, and all of whose values `check` does."""
    return lambda value: type(value) is dict and all(map(name, value)) and all(map(check, value.values()))


def keys(required: dict[str, Check], more: dict[str, Check] | None = None, *, others: bool = False) -> Check:
    """A check for a dictionary that has all required keys and may have those of `more`; where `others` is True, any
    other keys too."""
    known = required | (more or {})

    def check(value: Any) -> bool:
        if type(value) is not dict or not required.keys() <= value.keys():
            return False
        if not others and not value.keys() <= known.keys():
            return False
        return all(known[name](one) for name, one in value.items() if name in known)

    return check
