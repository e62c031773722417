"""The main program of the command line. It runs a command and turns its errors into one line and an exit code.

Exit codes: 0, all is good; 1, the run failed, or verify found damage; 2, the usage or a setting is wrong; 3, the run is
done, but some inputs could not be read; 130, the run was interrupted.
"""

from __future__ import annotations

import errno
import sys
import traceback

import typer

from bigcluster.cli import answers, streams
from bigcluster.cli.commands import app
from bigcluster.errors import EXIT_FAILED, BigclusterError, ConfigError
from bigcluster.runtime.failures import as_known_error
from bigcluster.runtime.processes import set_for_us
from bigcluster.runtime.sampler import count_whole_process
from bigcluster.runtime.signals import end_as_interrupted

EXIT_INTERRUPTED = 130
"""Exit code of a command that was interrupted: 128 and the number of SIGINT, as shells report it."""
INTERRUPTED = "interrupted; what is done is saved, the same command resumes"


def main() -> None:
    """Run the command in sys.argv and end the process. An error is shown as one line."""
    out, _ = streams.guard()
    end_as_interrupted()
    count_whole_process()
    # This process multiplies no large matrices. Where no thread can be started, OpenBLAS would interrupt it at import.
    set_for_us("OPENBLAS_NUM_THREADS", "1")
    try:
        code = _run()
        code = _finish(out, code)
    except KeyboardInterrupt:  # a second Ctrl-C, while the message about the first one was printed
        code = EXIT_INTERRUPTED
    answers.note(f"ended with exit code {code}")
    sys.exit(code)


def _run() -> int:
    try:
        code = app(standalone_mode=False)
    except typer.Exit as leaving:
        code = leaving.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except Exception as error:
        return _failed(error)
    if code == EXIT_INTERRUPTED:  # some versions of typer return it, others raise
        answers.tell_error("Interrupted", INTERRUPTED, EXIT_INTERRUPTED)
    return code if isinstance(code, int) else 0


def _failed(error: Exception) -> int:
    """Print an error as one line and return its exit code. An error without a known cause keeps its traceback."""
    known = error if isinstance(error, BigclusterError) else _usage_error(error) or as_known_error(error)
    if known is None:
        answers.tell_error("InternalError", f"{type(error).__name__}: {error}", EXIT_FAILED)
        traceback.print_exception(error)
        return EXIT_FAILED
    answers.tell_error(type(known).__name__, str(known), known.exit_code)
    for note in getattr(known, "__notes__", ()):
        for line in note.rstrip().splitlines():
            answers.say(line)
    return known.exit_code


def _usage_error(error: Exception) -> ConfigError | None:
    """Turn an error of the library that reads the command line into a ConfigError; None for any other error."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    option = getattr(error, "option_name", "")
    context = getattr(error, "ctx", None)
    short = "-" + option.lstrip("-")
    known = [name for parameter in context.command.params for name in parameter.opts] if context else []
    if option.startswith("--") and short in known:
        return ConfigError(f"No such option: {option}; did you mean {short}? (see bigcluster --help)")
    return ConfigError(f"{message()} (see bigcluster --help)")


def _finish(out: streams.Outlet, code: int) -> int:
    """Return the exit code of the process.

    Where the result could not be printed, that is the exit code of the job, or 1 if stdout was the only place for it.
    """
    out.flush()
    if out.error is None or out.error.errno == errno.EPIPE:  # whoever read it has read enough
        return code
    answers.say(f"bigcluster: the answer could not be written to stdout: {out.error.strerror}")
    return code or (EXIT_FAILED if answers.is_on_stdout_alone() else 0)
