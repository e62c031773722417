"""The working process: `python -m bigcluster.worker`. Started by bigcluster.supervisor, never by hand.

It reads one JSON request from stdin, runs it, and writes one JSON message per line to stdout: events, then a result or
an error. When stdin closes, the supervisor is gone and the worker leaves at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import traceback
from importlib import import_module
from typing import IO, Any

from bigcluster.allowed import Resources
from bigcluster.config import KEYS, settings_from
from bigcluster.errors import BigclusterError, OutOfMemoryError, StoreError
from bigcluster.measure import Caller
from bigcluster.progress import Event, to_json

TASKS = ("run", "sweep", "predict", "verify", "report")
"""Modules of bigcluster.pipeline, and their functions."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main() -> int:
    """Serve one request; the exit status says whether a result was sent."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_supervisor, daemon=True).start()
    # What libraries print must not get between the messages: stdout becomes stderr, the pipe is kept aside.
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            messages.write(json.dumps(message) + "\n")
            messages.flush()

    return serve(request, send)


def serve(request: dict[str, Any], send: Any) -> int:
    def emit(event: Event) -> None:
        send(to_json(event))

    try:
        settings = settings_from({name: request["settings"][name] for name in KEYS})
        name = request["task"]
        if name not in TASKS:
            raise ValueError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
        task = getattr(import_module(f"bigcluster.pipeline.{name}"), name)
        found = task(
            settings,
            Resources(**request["resources"]),
            **request["arguments"],
            listener=emit,
            caller=Caller.from_json(request["caller"]),
        )
    except KeyboardInterrupt:
        send({"error": "KeyboardInterrupt", "text": "interrupted"})
        return 1
    except BigclusterError as error:
        send({"error": type(error).__name__, "text": str(error)})
        return 1

    except Exception as error:
        send(_message_of(error))
        return 1
    send({"result": found})
    return 0


def _message_of(error: Exception) -> dict[str, str]:
    """An error that nobody raised on purpose, as one line where its cause is known, else with its traceback."""
    if _ran_out_of_memory(error):
        return {"error": OutOfMemoryError.__name__, "text": OUT_OF_MEMORY}
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        what = "free some space and run" if error.errno in _FULL else "run"
        return {"error": StoreError.__name__, "text": f"{error.strerror or error}{where}; {what} again to resume"}
    text = f"{type(error).__name__}: {error}"
    return {"error": "InternalError", "text": text, "traceback": traceback.format_exc()}


OUT_OF_MEMORY = (
    "the system gave no more memory, though the plan fits the budget: other processes hold it, or a limit is lower; "
    "what is done is kept: run again to resume, with a smaller --memory where this comes back"
)


def _ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised for, says so; C++ libraries say it in words alone."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if any(
            words in str(error) for words in ("bad_alloc", "bad allocation", "Insufficient memory", "start new thread")
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _leave_with_supervisor() -> None:
    stdin: IO[str] = sys.stdin
    while stdin.readline():
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
