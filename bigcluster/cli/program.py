"""The command line. Results go to stdout, progress and messages to stderr; the exit code says how it went.

0 all good; 1 the run failed, or verify found damage; 2 wrong usage or config; 3 done, but some inputs could not be
read; 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from bigcluster.cli.answers import say
from bigcluster.cli.commands import app
from bigcluster.errors import BigclusterError, ConfigError

EXIT_INTERRUPTED = 130


def main() -> None:
    """The console script: errors become one line and their exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as leaving:
        code = leaving.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except BigclusterError as error:
        say(f"bigcluster: {_one_line(error)}")
        for note in getattr(error, "__notes__", ()):
            if note.strip():
                say(note.rstrip())
        code = error.exit_code
    except Exception as error:
        code = _usage_error(error)
    if code == EXIT_INTERRUPTED:  # some versions of typer return it, others raise
        say("interrupted; what is done is saved, the same command resumes")
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(error: BigclusterError) -> str:
    """Names in a message come from strangers: a newline or a terminal's control code is shown, not obeyed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))


def _usage_error(error: Exception) -> int:
    """click's usage errors as one line; anything else is a fault of ours and keeps its traceback."""
    shown = getattr(error, "format_message", None)
    if shown is None:
        raise error
    say(f"bigcluster: {shown()} (see bigcluster --help)")
    return int(getattr(error, "exit_code", ConfigError.exit_code))
