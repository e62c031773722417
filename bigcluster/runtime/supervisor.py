"""The supervisor runs a job in a working process and listens to it.

The worker starts with settings of memory and threads that only take effect before the first allocation. Its stderr is a
pipe, because messages of libraries do not concern the user. A crash of a codec ends the worker and not the supervisor,
which starts another worker and tells it which files were being decoded.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections import deque
from dataclasses import asdict, dataclass, replace
from queue import Empty, SimpleQueue
from typing import IO, Any

from bigcluster import errors
from bigcluster.config import Settings, flatten, is_file_of_features
from bigcluster.runtime.events import SEND_SECONDS, DecodingEnded, DecodingStarted, Listener, Note, from_json
from bigcluster.runtime.failures import OUT_OF_MEMORY, mentions_memory
from bigcluster.runtime.processes import absolute, start_python
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.runtime.signals import raise_lost_interrupt

_PATHS = ("images", "to")
"""Arguments of tasks that are paths: the current folder of the worker is another one."""
STDERR_LINES = 40
"""Number of lines at the end of the stderr of the worker that are stored, in case it dies. Chosen, not measured."""
CHILD_SECONDS = 10.0
"""Seconds that a decoding child may take to start and to end on a busy machine. Chosen, not measured."""


class InternalError(errors.BigclusterError):
    """A fault of bigcluster itself or of the worker process. The traceback of the worker is in the notes of the
    error."""


@dataclass
class _LostError(Exception):
    """The worker died or fell silent before it sent a result."""

    how: str
    decoding: list[tuple[int, int]]
    """Pairs (start, stop) of listed rows whose files were being decoded."""
    stderr_tail: str


def with_absolute_paths(settings: Settings) -> Settings:
    """Return the settings with absolute paths: `images`, `out`, `features` where it names a file, and certificates."""
    return replace(
        settings,
        images=settings.images and absolute(settings.images),
        out=settings.out and absolute(settings.out),
        features=_absolute_features(settings.features),
        cluster=replace(
            settings.cluster,
            tls_ca=settings.cluster.tls_ca and absolute(settings.cluster.tls_ca),
            tls_cert=settings.cluster.tls_cert and absolute(settings.cluster.tls_cert),
            tls_key=settings.cluster.tls_key and absolute(settings.cluster.tls_key),
        ),
    )


def _absolute_features(features: str) -> str:
    return absolute(features) if is_file_of_features(features) else features


def supervise(
    task: str,
    settings: Settings,
    resources: Resources,
    *,
    listener: Listener,
    caller: Caller | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Run a task of `worker.TASKS` in a worker and return its result. `arguments` are JSON values.

    caller : this process and its memory before the job; by default all its memory counts for the job.

    Where a worker dies or hangs while it decodes files, another worker is started, in which a child decodes those
    files. They cannot end a second worker, so there are at most as many restarts as blocks of files. Raises the error
    of the task, OutOfMemoryError where the worker died of a lack of memory, InternalError where it died otherwise, and
    KeyboardInterrupt.
    """
    isolate_rows: list[tuple[int, int]] = []
    arguments |= {name: absolute(arguments[name]) for name in _PATHS if name in arguments}
    if arguments.get("features") is not None:
        arguments["features"] = _absolute_features(arguments["features"])
    settings = with_absolute_paths(settings)
    while True:
        request = {
            "task": task,
            "arguments": arguments | ({"isolate_rows": isolate_rows} if isolate_rows else {}),
            "settings": flatten(settings),
            "resources": asdict(resources),
            "caller": (caller or Caller(os.getpid())).to_json(),
        }
        try:
            return _work(request, worker_variables(resources.threads), settings.image.timeout, listener)
        except _LostError as lost:
            suspects = [span for span in lost.decoding if span not in isolate_rows]
            if not suspects and mentions_memory(lost.stderr_tail):  # OpenBLAS leaves by itself then
                raise errors.OutOfMemoryError(OUT_OF_MEMORY) from None
            if not suspects:
                error = InternalError(f"the working process {lost.how}; run again to resume")
                error.add_note(lost.stderr_tail)
                raise error from None
            isolate_rows += suspects
            number = sum(stop - start for start, stop in suspects)
            which = "one image: it is" if number == 1 else f"one of {number} images: they are"
            listener(
                Note(
                    f"the working process {lost.how} over {which} decoded again, one by one",
                    "warning",
                )
            )


def _work(
    request: dict[str, Any], variables: dict[str, str], timeout_seconds: float, listener: Listener
) -> dict[str, Any]:
    """Start one worker and return its result. Raises its error, or _LostError where it sent no result."""
    worker = start_python(
        "bigcluster.pipeline.worker",
        variables=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches the supervisor alone, which passes it on
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stderr is not None
    stderr_lines: deque[str] = deque(maxlen=STDERR_LINES)
    listening = threading.Thread(target=stderr_lines.extend, args=(worker.stderr,), daemon=True)
    listening.start()
    messages = _Messages(worker.stdout)
    try:
        with contextlib.suppress(BrokenPipeError):  # it died at once: the end of its stderr is reported below
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
        isolate_rows = {tuple(span) for span in request["arguments"].get("isolate_rows", ())}
        return _listen(worker, messages, listener, isolate_rows, timeout_seconds)
    except _LostError as lost:
        listening.join(timeout=5)
        lost.stderr_tail = "".join(stderr_lines)
        raise
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
        for thread in (listening, messages.thread):
            thread.join(timeout=5)
        for pipe in (worker.stdin, worker.stdout, worker.stderr):
            with contextlib.suppress(BrokenPipeError):  # closing flushes
                pipe.close()


class _Messages:
    """The messages of the worker. A thread reads them, so that waiting for one can end after a time."""

    def __init__(self, pipe: IO[str]) -> None:
        self._lines: SimpleQueue[str] = SimpleQueue()
        self.thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self.thread.start()

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            self._lines.put(line)
        self._lines.put("")

    def next(self, timeout_seconds: float | None) -> str:
        """Return the next line, or "" at the end. Raises queue.Empty where none came in time."""
        try:
            return self._lines.get(timeout=timeout_seconds)
        except Empty:  # perhaps this process was suspended: messages that came meanwhile are about to be read
            return self._lines.get(timeout=1)


def worker_variables(threads: int) -> dict[str, str]:
    """Return the environment variables that must be set before a worker starts. threads : threads of BLAS."""
    return {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        # glibc otherwise keeps freed memory in one arena per thread (dask issue 3530). Blocks up to these sizes are
        # reused rather than returned and faulted in again, which took a seventh of a whole run. Between stages all of
        # it is returned to the system (sampler.release_memory).
        "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_ARENA_MAX": "2",
    }


def _listen(
    worker: subprocess.Popen[str],
    messages: _Messages,
    listener: Listener,
    isolate_rows: set[tuple[int, ...]],
    timeout_seconds: float,
) -> dict[str, Any]:
    interrupted = False
    decoding: list[tuple[int, int]] = []
    while True:
        try:
            line = messages.next(_patience(decoding, isolate_rows, timeout_seconds))
            if not interrupted:
                raise_lost_interrupt()
            if not line:
                break
            message = json.loads(line)
            if "error" in message:
                raise _error_of(message)
            if "result" in message:
                result: dict[str, Any] = message["result"]
                return result
            match event := from_json(message):
                case DecodingStarted():
                    decoding.append((event.start, event.stop))
                case DecodingEnded():
                    decoding.remove((event.start, event.stop))
                case _:
                    listener(event)
        except KeyboardInterrupt:
            if interrupted:  # a second Ctrl-C: leave at once
                raise
            interrupted = True
            worker.terminate()  # which is its interrupt
        except Empty:
            worker.kill()
            if interrupted:
                raise KeyboardInterrupt from None
            raise _LostError(f"made no progress for {timeout_seconds:g} s", decoding, "") from None
    if interrupted:
        raise KeyboardInterrupt
    code = worker.wait()
    if code == -signal.SIGKILL:
        raise errors.OutOfMemoryError(
            "the working process was killed (SIGKILL), which is what systems do when memory runs out; what is done is "
            "kept: run again to resume, with a smaller --memory where this comes back"
        )
    died = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    raise _LostError(f"died ({died})", decoding, "")


def _patience(
    decoding: list[tuple[int, int]], isolate_rows: set[tuple[int, ...]], timeout_seconds: float
) -> float | None:
    """Return the seconds that the worker may be silent. While it decodes, it reports every file; otherwise None."""
    if not decoding:
        return None
    if isolate_rows.isdisjoint(decoding):
        return timeout_seconds + SEND_SECONDS
    return 2 * timeout_seconds + CHILD_SECONDS  # the child has the same limit and ends by itself


def _error_of(message: dict[str, Any]) -> BaseException:
    """Return the error of the worker as an error of the same class."""
    if message["error"] == "KeyboardInterrupt":
        return KeyboardInterrupt()
    if message["error"] == "InternalError":
        error = InternalError(message["text"])
        if "traceback" in message:
            error.add_note(message["traceback"])
        return error
    kind: type[errors.BigclusterError] = getattr(errors, message["error"])
    return kind(message["text"])
