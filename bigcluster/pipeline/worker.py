"""This is the working process, `python -m bigcluster.pipeline.worker`. bigcluster.runtime.supervisor starts it.

It reads one JSON request from stdin, runs it, and writes one JSON message per line to stdout: events, then a result or
an error. When stdin closes, the supervisor has ended, and the worker ends at once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from importlib import import_module
from typing import IO, Any

from bigcluster.config import KEYS, settings_from
from bigcluster.errors import BigclusterError
from bigcluster.runtime.events import Event, to_json
from bigcluster.runtime.failures import as_known_error
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.runtime.signals import end_on_sigterm_alone, raise_lost_interrupt

TASKS = ("run", "plan", "sweep", "resolutions", "predict", "verify", "report", "components")
"""The names of the jobs. Each is a module of bigcluster.pipeline and a function in it."""


def main() -> int:
    """Run one request from stdin and return the exit status: 0 where a result was sent, otherwise 1."""
    end_on_sigterm_alone()
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_supervisor, daemon=True).start()
    # Output of libraries must not mix with the messages: fd 1 becomes stderr, and the pipe has another descriptor.
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            messages.write(json.dumps(message) + "\n")
            messages.flush()

    return serve(request, send)


def serve(request: dict[str, Any], send: Any) -> int:
    """Run a request and send its events and its result or error; return 0 where a result was sent, otherwise 1.

    send : a function that takes one JSON object.
    """

    def emit(event: Event) -> None:
        send(to_json(event))
        raise_lost_interrupt()

    try:
        settings = settings_from({name: request["settings"][name] for name in KEYS})
        name = request["task"]
        if name not in TASKS:
            raise ValueError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
        task = getattr(import_module(f"bigcluster.pipeline.{name}"), name)
        result = task(
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
        notes = "".join(getattr(error, "__notes__", ()))
        send({"error": type(error).__name__, "text": str(error)} | ({"traceback": notes} if notes else {}))
        return 1

    except Exception as error:
        send(_message_of(error))
        return 1
    send({"result": result})
    return 0


def _message_of(error: Exception) -> dict[str, str]:
    """Return the message of an unexpected error: one line where its cause is known, otherwise with its traceback."""
    known = as_known_error(error)
    if known is not None:
        return {"error": type(known).__name__, "text": str(known)}
    text = f"{type(error).__name__}: {error}"
    return {"error": "InternalError", "text": text, "traceback": traceback.format_exc()}


def _leave_with_supervisor() -> None:
    stdin: IO[str] = sys.stdin
    while stdin.readline():
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
