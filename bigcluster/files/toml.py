"""Reading TOML that a stranger may have written. Larger or deeper text than settings is refused unparsed.

tomllib keeps about 900 bytes for each part of a dotted key, and takes time quadratic in the parts of one key.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from bigcluster.files.bounded import SETTINGS_BYTES
from bigcluster.units import show_bytes

_MOST_PARTS = 4
"""Parts of a dotted key, at most; ours have one or two."""
_MOST_KEYS = 1000
"""Keys, tables and lists together, at most; there are some fifty settings in a handful of tables."""
_MOST_DEPTH = 8
"""Lists and inline tables within each other, at most; ours are one deep."""

# A string without an end reaches as far as it can: the parser stops there, and each character is looked at once.
_TOKENS = re.compile(
    r'''"""[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*+"{0,5}'''
    r"""|'''[^']*+(?:'(?!'')[^']*+)*+'{0,5}"""
    r"""|"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"?"""
    r"""|'[^'\n]*+'?"""
    r"""|\#[^\n]*+"""
    r"""|[.=\[\]{},\n]""",
    re.DOTALL,
)


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML. Raises ValueError, in one line, where it is not TOML, or is larger or deeper than settings can be."""
    if len(text) > SETTINGS_BYTES:
        raise ValueError(f"it has more than {show_bytes(SETTINGS_BYTES)}")
    n_keys = depth = n_dots = 0
    for match in _TOKENS.finditer(text):
        token = match[0]
        if token == ".":  # a number has one at most
            n_dots += 1
            if n_dots >= _MOST_PARTS:
                raise ValueError(f"a key has more than {_MOST_PARTS} parts")
            continue
        if token[0] in "\"'#":
            continue
        n_dots = 0
        if token in "=[{":
            n_keys += 1
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        if n_keys > _MOST_KEYS:
            raise ValueError(f"it has more than {_MOST_KEYS} keys, tables and lists")
        if depth > _MOST_DEPTH:
            raise ValueError(f"lists or tables are nested more than {_MOST_DEPTH} deep")
    return tomllib.loads(text)
