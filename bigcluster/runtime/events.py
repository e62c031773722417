"""What a run says while it works: events, and listeners that show or forward them.

Library code emits events and never prints. The command line listens with a live display on a terminal and with plain
lines elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

SEND_SECONDS = 0.2
"""Progress of one stage is reported at most this often."""


@dataclass(frozen=True)
class StageStarted:
    stage: str
    total: int
    unit: str
    """What is counted: images, passes, files."""


@dataclass(frozen=True)
class StageAdvanced:
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class StageFinished:
    stage: str
    done: int
    seconds: float
    reused: bool


RESULT = "result"
"""The level of a note that is part of the result: the command line prints it there, so its listeners pass it over."""


@dataclass(frozen=True)
class Note:
    """One line for the person: something decided, kept or worth knowing."""

    text: str
    level: str = "info"
    """info, warning, or RESULT."""


@dataclass(frozen=True)
class DecodingStarted:
    """Files of listed rows start .. stop - 1 are in codecs' hands; a crash or a hang from now on is theirs."""

    start: int
    stop: int


@dataclass(frozen=True)
class DecodingEnded:
    """Those files are done with."""

    start: int
    stop: int


Event = StageStarted | StageAdvanced | StageFinished | Note | DecodingStarted | DecodingEnded
Listener = Callable[[Event], None]

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (StageStarted, StageAdvanced, StageFinished, Note, DecodingStarted, DecodingEnded)
}


def to_json(event: Event) -> dict[str, Any]:
    return {"event": type(event).__name__, **asdict(event)}


def from_json(message: dict[str, Any]) -> Event:
    values = dict(message)
    event: Event = _KINDS[values.pop("event")](**values)
    return event


def silent(event: Event) -> None:
    """The listener that shows nothing."""


class Progress:
    """Emits the events of one run; `advance` may be called from any thread."""

    def __init__(self, listener: Listener = silent) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._stage = ""
        self._done = self._total = 0
        self._sent = 0.0
        self._timed: tuple[str, list[StageFinished]] = ("", [])

    @contextmanager
    def timed(self, name: str, seconds: Callable[[], float]) -> Iterator[None]:
        """Tell of a stage's end when this block ends, with the caller's seconds: they are told elsewhere, too."""
        waiting: list[StageFinished] = []
        self._timed = (name, waiting)
        try:
            yield
        finally:
            self._timed = ("", [])
        for event in waiting:
            self._listener(replace(event, seconds=seconds()))

    def _finish(self, event: StageFinished) -> None:
        name, waiting = self._timed
        if event.stage == name:
            waiting.append(event)
        else:
            self._listener(event)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[None]:
        """Bracket a stage's work."""
        began = time.monotonic()
        self._stage, self._done, self._total, self._sent = name, 0, total, 0.0
        self._listener(StageStarted(name, total, unit))
        yield
        self._listener(StageAdvanced(name, self._done, self._total))
        self._finish(StageFinished(name, self._done, time.monotonic() - began, reused=False))

    @contextmanager
    def decoding(self, start: int, stop: int) -> Iterator[None]:
        """Bracket what codecs do with the files of rows start .. stop - 1, for whoever watches over this process."""
        self._listener(DecodingStarted(start, stop))
        yield
        self._listener(DecodingEnded(start, stop))

    def advance(self, by: int = 1) -> None:
        with self._lock:
            self._done += by
            self._send()

    def at(self, done: int, total: int | None = None) -> None:
        """Set how much of the running stage is done, and of how much where that is known only now."""
        with self._lock:
            self._done = done
            self._total = self._total if total is None else total
            self._send()

    def _send(self) -> None:
        now = time.monotonic()
        if now - self._sent >= SEND_SECONDS:
            self._sent = now
            self._listener(StageAdvanced(self._stage, self._done, self._total))

    def reused(self, name: str) -> None:
        self._finish(StageFinished(name, 0, 0.0, reused=True))

    def note(self, text: str) -> None:
        self._listener(Note(text))

    def warn(self, text: str) -> None:
        self._listener(Note(text, "warning"))
