"""A run reports its progress as events, and listeners show or forward them.

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
"""Seconds between two progress events of one stage, at least: five a second look continuous. Chosen, not measured."""


@dataclass(frozen=True)
class StageStarted:
    """A stage has started. It will count up to `total`."""

    stage: str
    total: int
    unit: str
    """What `total` counts, such as images, passes or files."""


@dataclass(frozen=True)
class StageAdvanced:
    """`done` of `total` units of a stage are done."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class StageFinished:
    """A stage has finished, or was reused."""

    stage: str
    done: int
    seconds: float
    reused: bool


RESULT = "result"
"""The level of a note that is part of the result. The command line prints the result itself, so its listeners skip
it."""


@dataclass(frozen=True)
class Note:
    """One line for the user about a decision or another fact that is worth knowing."""

    text: str
    level: str = "info"
    """info, warning, or RESULT."""


@dataclass(frozen=True)
class DecodingStarted:
    """Codecs decode the files of listed rows start .. stop - 1; one of them causes a crash or a hang from now on."""

    start: int
    stop: int


@dataclass(frozen=True)
class DecodingEnded:
    """The files of listed rows start .. stop - 1 are decoded."""

    start: int
    stop: int


Event = StageStarted | StageAdvanced | StageFinished | Note | DecodingStarted | DecodingEnded
Listener = Callable[[Event], None]

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (StageStarted, StageAdvanced, StageFinished, Note, DecodingStarted, DecodingEnded)
}


def to_json(event: Event) -> dict[str, Any]:
    """Return the event as a JSON object: its class under "event", and its fields."""
    return {"event": type(event).__name__, **asdict(event)}


def from_json(message: dict[str, Any]) -> Event:
    """Return the event that `to_json` wrote. Raises KeyError for an unknown class."""
    values = dict(message)
    event: Event = _KINDS[values.pop("event")](**values)
    return event


def silent(event: Event) -> None:
    """Ignore the event: a listener that shows nothing."""


class Progress:
    """Sends the events of one run to a listener. Any thread may call `advance`."""

    def __init__(self, listener: Listener = silent) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._stage = ""
        self._done = self._total = 0
        self._sent = 0.0
        self._timed: tuple[str, list[StageFinished]] = ("", [])

    @contextmanager
    def timed(self, name: str, seconds: Callable[[], float]) -> Iterator[None]:
        """Report the end of a stage when this block ends, with the seconds of the caller, who reports them elsewhere
        too."""
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
        """Report the start and the end of a stage whose work is done in this block. unit : what `total` counts."""
        began = time.monotonic()
        self._stage, self._done, self._total, self._sent = name, 0, total, 0.0
        self._listener(StageStarted(name, total, unit))
        yield
        self._listener(StageAdvanced(name, self._done, self._total))
        self._finish(StageFinished(name, self._done, time.monotonic() - began, reused=False))

    @contextmanager
    def decoding(self, start: int, stop: int) -> Iterator[None]:
        """Report to the supervisor that codecs decode the files of rows start .. stop - 1 in this block."""
        self._listener(DecodingStarted(start, stop))
        yield
        self._listener(DecodingEnded(start, stop))

    def advance(self, by: int = 1) -> None:
        """Count `by` more units of the running stage as done. Any thread may call it.

        No more than the total is told, where it is known: a part of a pass is done twice where its worker has left.
        """
        with self._lock:
            self._done = min(self._done + by, self._total or self._done + by)
            self._send()

    def at(self, done: int, total: int | None = None) -> None:
        """Set how many units of the running stage are done, and the total where it is known only now."""
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
        """Report that a stage is reused from an earlier run."""
        self._finish(StageFinished(name, 0, 0.0, reused=True))

    def note(self, text: str) -> None:
        """Send a note to the user."""
        self._listener(Note(text))

    def warn(self, text: str) -> None:
        """Send a warning to the user."""
        self._listener(Note(text, "warning"))
