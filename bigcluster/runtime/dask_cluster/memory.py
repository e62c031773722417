"""This module samples the memory of a worker while a job of a run works in it, and sends what it finds in batches."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bigcluster.runtime.sampler import (
    SAMPLE_SECONDS,
    Caller,
    MemorySampler,
    ProcessMemory,
    Timeline,
    highest_rss_bytes,
)

BATCH_SECONDS = 1.0
"""Seconds between two messages of a long job. Chosen, not measured: ten samples travel together."""
CHILDREN_SECONDS = 0.3
"""Seconds after which the list of child processes is read again: decoding children live for one part of an ingest.
Chosen, not measured."""


class SentMemory(MemorySampler):
    """Samples this process and its children, which all count, while jobs work. Between jobs it does nothing."""

    def __init__(self, process: str, send: Callable[[dict[str, Any]], None]) -> None:
        """process : the name of this process. send : takes a message for `WorkersMemory.add`."""
        pid = os.getpid()
        # All of its memory counts, but not a peak that it had before the run.
        super().__init__(
            Caller(pid, {pid: ProcessMemory(0, highest_rss_bytes(pid))}), children_seconds=CHILDREN_SECONDS
        )
        self._process, self._send = process, send
        self._sampled_at, self._sent_at = float("-inf"), 0.0

    @contextmanager
    def of_job(self) -> Iterator[None]:
        """Sample during this block, in a thread that ends with it, and send what was sampled at its end."""
        stop, self._sent_at = threading.Event(), time.monotonic()
        thread = threading.Thread(target=self._run, args=(stop,), name="memory-sampler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if time.monotonic() - self._sampled_at >= max(SAMPLE_SECONDS, self._pause):
                with self._within_share():
                    self.enter("")
            self._flush()

    def _add(self, total: int) -> None:
        super()._add(total)
        self._sampled_at = time.monotonic()
        if self._sampled_at - self._sent_at >= BATCH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        with self._sampling:
            rows, self.timeline = self.timeline.rows, Timeline()
            now = self._sent_at = time.monotonic()
            samples = [[round(now - self._began - row.seconds, 3), row.n_bytes] for row in rows]
            if samples:
                self._send(
                    {
                        "host": platform.node(),
                        "process": self._process,
                        "samples": samples,
                        "unseen": self.unseen_bytes,
                    }
                )
