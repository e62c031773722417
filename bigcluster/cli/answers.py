"""Where the words of a command go: the result to stdout, everything else to stderr, and both kinds to the `--log` file.

With `--json`, stdout gets one JSON document. An error is such a document too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from bigcluster.cli.log import LogFile
from bigcluster.errors import EXIT_SOME_UNREAD
from bigcluster.units import printable

if TYPE_CHECKING:
    from bigcluster.runtime.events import Event, Listener


class _Saying:
    """The output state of this process, which runs one command."""

    log: LogFile | None = None
    is_printed: bool = False
    """Whether the result has been printed on stdout."""
    on_stdout_alone: bool = True
    """Whether stdout is the only place that holds the result."""
    passes_errors_on: bool = False
    """Whether another process of ours reads the document of an error and prints its line."""


def log_to(file: str | None) -> str | None:
    """Open the log file. This is the callback of the option `--log`; it returns the name unchanged."""
    if file is not None:
        _Saying.log = LogFile(file)
    return file


def pass_errors_on() -> None:
    """From now on, print only the JSON document of an error on stdout: the parent process prints its line."""
    _Saying.passes_errors_on = True


def tell(
    result: dict[str, Any], as_json: bool, show: Callable[[], None], *, quiet: bool = False, in_files: bool = True
) -> None:
    """Print the result.

    result : the result, as JSON values, printed where `as_json` is true. show : prints the result for a person, unless
    `quiet` is true. in_files : whether files in OUT hold the result too.
    """
    _Saying.on_stdout_alone, _Saying.is_printed = as_json or not in_files, True
    if as_json:
        print(json.dumps(result, indent=2))
    elif not quiet:
        show()


def is_on_stdout_alone() -> bool:
    """Whether stdout is the only place that holds the result."""
    return _Saying.on_stdout_alone


def stdout() -> Any:
    """Return the console of rich that prints results on stdout."""
    from rich.console import Console

    # Tables in a pipe are not squeezed into 80 columns.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def say(line: str) -> None:
    """Print one line on stderr and in the log. It may hold file names, whose unprintable characters are escaped."""
    print(printable(line), file=sys.stderr, flush=True)
    note(line)


def note(line: str) -> None:
    """Write one line to the log only."""
    if _Saying.log is not None:
        _Saying.log.line(line)


def tell_error(kind: str, message: str, exit_code: int) -> None:
    """Say why there is no result: one line on stderr, and with `--json` also a document on stdout.

    kind : the name of the error class. exit_code : the exit code that the process will end with.
    """
    if not _Saying.passes_errors_on:
        say(f"bigcluster: {message}")
    if "--json" in sys.argv[1:] and not _Saying.is_printed:  # also where the command line itself is wrong
        print(json.dumps({"error": {"kind": kind, "message": message, "exit_code": exit_code}}, indent=2))


@contextmanager
def listening(*, quiet: bool) -> Iterator[Listener]:
    """Yield the listener that shows events on stderr and writes them to the log."""
    from bigcluster.cli import display

    with display.listening(quiet=quiet) as listener:
        if _Saying.log is None:
            yield listener
            return
        logged = display.Plain(_Saying.log.line)

        def both(event: Event) -> None:
            logged(event)
            listener(event)

        yield both


def leave_with(counts: dict[str, Any], file: str, quiet: bool) -> None:
    """Leave with exit code 3 where images, or folders that may hold images, could not be read.

    file : the table that names the unread images. With `quiet`, this function prints the warning that the result, which
    is not shown then, would have held.
    """
    from bigcluster.cli import display

    if counts["failed"] and quiet:
        say(f"warning: {display.unread(counts, file)}")
    if counts["failed"] or counts["unreadable_folders"]:
        raise typer.Exit(EXIT_SOME_UNREAD)
