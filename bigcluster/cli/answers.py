"""What a command says: its result on stdout, everything else on stderr, and in the file of `--log` with its time.

With `--json` stdout takes one JSON document, of an error too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bigcluster.cli.log import LogFile
from bigcluster.units import printable

if TYPE_CHECKING:
    from bigcluster.runtime.events import Event, Listener


class _Saying:
    """What this process says and where: a command line runs one command."""

    log: LogFile | None = None
    told: bool = False
    """Whether the result is on stdout already."""
    on_stdout_alone: bool = True
    """Whether what goes to stdout is nowhere else."""


def log_to(file: str | None) -> str | None:
    """The callback of `--log`."""
    if file is not None:
        _Saying.log = LogFile(file)
    return file


def tell(
    found: dict[str, Any], as_json: bool, show: Callable[[], None], *, quiet: bool = False, kept: bool = True
) -> None:
    """The result: one JSON document, or what `show` prints for a person. kept : whether files hold it too."""
    _Saying.on_stdout_alone, _Saying.told = as_json or not kept, True
    if as_json:
        print(json.dumps(found, indent=2))
    elif not quiet:
        show()


def is_on_stdout_alone() -> bool:
    """Whether what went to stdout is nowhere else."""
    return _Saying.on_stdout_alone


def stdout() -> Any:
    from rich.console import Console

    # Tables in a pipe are not squeezed into 80 columns.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def say(line: str) -> None:
    """One line on stderr and in the log. Names in it come from strangers."""
    print(printable(line), file=sys.stderr, flush=True)
    note(line)


def note(line: str) -> None:
    """One line in the log alone."""
    if _Saying.log is not None:
        _Saying.log.line(line)


def tell_error(kind: str, message: str, exit_code: int) -> None:
    """Why there is no result: one line on stderr; with `--json` a document on stdout too."""
    say(f"bigcluster: {message}")
    if "--json" in sys.argv[1:] and not _Saying.told:  # also where the command line itself is wrong
        print(json.dumps({"error": {"kind": kind, "message": message, "exit_code": exit_code}}, indent=2))


@contextmanager
def listening(*, quiet: bool) -> Iterator[Listener]:
    """The listener for this stderr and for the log."""
    from bigcluster.cli import display

    with display.listening(quiet=quiet) as shown:
        if _Saying.log is None:
            yield shown
            return
        logged = display.Plain(_Saying.log.line)

        def both(event: Event) -> None:
            logged(event)
            shown(event)

        yield both
