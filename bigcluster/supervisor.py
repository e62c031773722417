"""Runs a job in a working process and listens to it.

The worker starts with memory and thread settings that only count before the first allocation; its stderr is a pipe, for
what codecs print there is not the user's concern; and a crash of a codec takes the worker along, not us.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bigcluster import errors
from bigcluster.config import Settings, flatten
from bigcluster.planning import Resources
from bigcluster.progress import Listener, from_json

LAST_WORDS = 40
"""Lines of the worker's stderr that are kept, for the case that it dies."""


class InternalError(errors.BigclusterError):
    """A fault of bigcluster itself, or of the worker process; the worker's traceback is in the notes."""


def supervise(
    task: str, settings: Settings, resources: Resources, *, listener: Listener, **arguments: Any
) -> dict[str, Any]:
    """Run a task of `worker.TASKS` in a worker; returns its result, raises its error. `arguments` are JSON values."""
    request = {
        "task": task,
        "arguments": arguments,
        "settings": flatten(settings),
        "resources": asdict(resources),
        "root_pid": os.getpid(),
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", "bigcluster.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=worker_environment(resources.threads),
        start_new_session=True,  # Ctrl-C reaches us alone; we pass it on
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stderr is not None
    last_words: deque[str] = deque(maxlen=LAST_WORDS)
    listening = threading.Thread(target=last_words.extend, args=(worker.stderr,), daemon=True)
    listening.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it died at once: what it said last is told below
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
        return _listen(worker, worker.stdout, listener, last_words)
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
        listening.join(timeout=5)
        for pipe in (worker.stdin, worker.stdout, worker.stderr):
            with contextlib.suppress(BrokenPipeError):  # closing flushes
                pipe.close()


def worker_environment(threads: int) -> dict[str, str]:
    """Our environment with what must be set before a process starts."""
    package_parent = str(Path(__file__).parents[1])
    path = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": package_parent if not path else package_parent + os.pathsep + path,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        # glibc otherwise keeps freed memory in one arena per thread (dask issue 3530). Blocks up to these sizes are
        # reused rather than given back and faulted in again: that was a seventh of a whole run. Between stages all of
        # it goes back (measure.release_memory).
        "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_ARENA_MAX": "2",
    }


def _listen(
    worker: subprocess.Popen[str], messages: IO[str], listener: Listener, last_words: deque[str]
) -> dict[str, Any]:
    interrupted = False
    while True:
        try:
            line = messages.readline()
            if not line:
                break
            message = json.loads(line)
            if "event" in message:
                listener(from_json(message))
            elif "error" in message:
                raise _error_of(message)
            else:
                result: dict[str, Any] = message["result"]
                return result
        except KeyboardInterrupt:
            if interrupted:  # a second Ctrl-C: leave at once
                raise
            interrupted = True
            worker.send_signal(signal.SIGINT)
    if interrupted:
        raise KeyboardInterrupt
    code = worker.wait()
    if code == -signal.SIGKILL:
        raise errors.OutOfMemoryError(
            "the working process was killed (SIGKILL), which is what systems do when memory runs out; what is done is "
            "kept: run again to resume, with a smaller --memory where this comes back"
        )
    died = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    error = InternalError(f"the working process died ({died}); run again to resume")
    error.add_note("".join(last_words))
    raise error


def _error_of(message: dict[str, Any]) -> BaseException:
    """The worker's error as the same class here."""
    if message["error"] == "KeyboardInterrupt":
        return KeyboardInterrupt()
    if message["error"] == "InternalError":
        error = InternalError(message["text"])
        error.add_note(message["traceback"])
        return error
    kind: type[errors.BigclusterError] = getattr(errors, message["error"])
    return kind(message["text"])
