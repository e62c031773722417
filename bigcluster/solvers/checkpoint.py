"""How an iterative solver survives a kill: between passes it saves its state, and starts from what was saved.

A solver knows no paths: it hands over named arrays and JSON values, and gets them back. A resumed fit continues with
the same numbers, so its result is that of an undisturbed one, bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]
Facts = dict[str, Any]


class SavedState(Protocol):
    """What `Saving.load` found."""

    @property
    def facts(self) -> Facts:
        """JSON values, as they were saved."""

    def get(self, name: str) -> Array:
        """One array, read anew at every call, by several threads at once. Raises DamagedError where it is not what was
        saved."""


class Saving(Protocol):
    """Where one fit saves its state; one state at a time."""

    def load(self) -> SavedState | None:
        """The state of this very fit, same settings and data; None where there is none."""

    def due(self, n_bytes: int) -> bool:
        """Whether it is time to save a state of about this size: rarely enough to cost next to nothing."""

    def save(self, facts: Facts, arrays: Iterable[tuple[str, Array]], keep: Collection[str] = ()) -> None:
        """Replace the state: new arrays, taken one at a time, and of the state before those named in `keep`."""


class NotSaving:
    """For fits that nobody resumes."""

    def load(self) -> None:
        return None

    def due(self, n_bytes: int) -> bool:
        del n_bytes
        return False

    def save(self, facts: Facts, arrays: Iterable[tuple[str, Array]], keep: Collection[str] = ()) -> None:
        del facts, arrays, keep


NOT_SAVING = NotSaving()
