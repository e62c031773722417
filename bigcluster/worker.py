"""The working process: `python -m bigcluster.worker`. Started by bigcluster.supervisor, never by hand.

It reads one JSON request from stdin, runs it, and writes one JSON message per line to stdout: events, then a result or
an error. When stdin closes, the supervisor is gone and the worker leaves at once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any

from bigcluster import pipeline
from bigcluster.config import KEYS, settings_from
from bigcluster.errors import BigclusterError, StoreError
from bigcluster.planning import Resources
from bigcluster.progress import Event, to_json

TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "run": pipeline.run,
    "sweep": pipeline.sweep,
    "predict": pipeline.predict,
    "report": pipeline.report,
}


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

    return _serve(request, send)


def _serve(request: dict[str, Any], send: Any) -> int:
    def emit(event: Event) -> None:
        send(to_json(event))

    try:
        settings = settings_from({name: request["settings"][name] for name in KEYS})
        task = TASKS[request["task"]]
        found = task(
            settings,
            Resources(**request["resources"]),
            **request["arguments"],
            listener=emit,
            root_pid=request["root_pid"],
        )
    except KeyboardInterrupt:
        send({"error": "KeyboardInterrupt", "text": "interrupted"})
        return 1
    except BigclusterError as error:
        send({"error": type(error).__name__, "text": str(error)})
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        send({"error": StoreError.__name__, "text": f"{error.strerror or error}{where}; run again to resume"})
        return 1
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        send({"error": "InternalError", "text": text, "traceback": traceback.format_exc()})
        return 1
    send({"result": found})
    return 0


def _leave_with_supervisor() -> None:
    stdin: IO[str] = sys.stdin
    while stdin.readline():
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
