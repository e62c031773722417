"""What a command says: its result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def tell(found: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """The result: one JSON document, or what `show` prints for a person."""
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show()


def stdout() -> Any:
    from rich.console import Console

    # Tables in a pipe are not squeezed into 80 columns.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def say_kept(kept: dict[str, Any] | None, settings: Any) -> None:
    """Name the settings that are in force because the last run had them."""
    from bigcluster.config import KEYS, flatten

    now = flatten(settings)
    used = [
        f"{name} = {value}"
        for name, value in (kept or {}).items()
        if name != "images" and now.get(name) == value and KEYS[name].default != value
    ]
    if used:
        say(f"kept from the last run: {', '.join(used)} (--fresh ignores them)")
