"""What the tests of the report share: pictures with bad names, a report of them, and how its pieces are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from conftest import encoded

HOSTILE = [
    "<img src=x onerror=alert(1)>.png",
    "<script>alert(1)<script>.png",
    "say \"hi\" & 'bye'.png",
    "line\nbreak.png",
    "=cmd.png",
    "back\\slash.png",
    os.fsdecode(b"caf\xe9.png"),
    "100% #1?.png",
    "\u2028\u202egnp.png",
    "{{7*7}}.png",
    "ÅNGSTRÖM 🐈.png",
]
N_DARK, N_LIGHT = 215, 30
"""The dark ones are one cluster, more than a page of members."""


def make_pictures(folder: Path) -> None:
    """Dark pictures, light ones, striped ones with hostile names, and a file that is none."""
    rng = np.random.default_rng(0)
    (folder / "hostile").mkdir(parents=True)
    for i in range(N_DARK + N_LIGHT):
        tone = 30 if i < N_DARK else 210
        picture = (tone + rng.integers(-25, 25, (24, 18))).astype(np.uint8)
        (folder / f"cut-{i:03d}.png").write_bytes(encoded(picture))
    for i, name in enumerate(HOSTILE):
        stripes = np.tile(np.array([[0, 255]], np.uint8), (24, 9))
        stripes[:, 0] = 20 * i
        (folder / "hostile" / name).write_bytes(encoded(stripes))
    (folder / "hostile" / "<b>none<b>.png").write_bytes(b"no picture")


def piece(out: Path, name: str, report: str = "report") -> Any:
    """What a script file hands over: the JSON between the parentheses."""
    text = (out / report / "data" / f"{name}.js").read_text(encoding="ascii")
    start = f'bigclusterTake("{name}",'
    assert text.startswith(start)
    assert text.endswith(");\n")
    return json.loads(text[len(start) : -3])


def members_of(out: Path, label: int) -> list[list[Any]]:
    """All pages of a cluster's list."""
    pages = len(list((out / "report" / "data" / "members" / f"{label:02d}").iterdir()))
    return [row for page in range(pages) for row in piece(out, f"members/{label:02d}/{page}")]
