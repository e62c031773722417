"""How a name and a number are shown to a person."""

from __future__ import annotations

_CONTROL_PICTURES = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
"""Control characters are shown as their pictures: a name with a line break stays one line, and looks it."""


def visible(text: str) -> str:
    """A name as one line of text. report.js has the same rule."""
    return text.translate(_CONTROL_PICTURES)


def number(value: float) -> str:
    """Four significant digits without an exponent where a person would write none. report.js has the same rule."""
    if value == 0 or not 1e-4 <= abs(value) < 1e9:
        return f"{value:.4g}"
    return f"{float(f'{value:.4g}'):,.10f}".rstrip("0").rstrip(".")


def file_name(path: str) -> str:
    """The part after the last `/` of a path as labels.csv shows it."""
    return path.rsplit("/", 1)[-1]
