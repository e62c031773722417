"""How an iterative fit survives a kill: between passes it saves a checkpoint, and a later fit continues from it.

A solver knows no paths: it gives named arrays and JSON values to a CheckpointStore and gets them back. A resumed fit
continues with the same numbers, so its result has the same bits as that of an undisturbed fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Protocol

from bigcluster.kernels.linalg.types import AnyArray

Facts = dict[str, Any]


class Checkpoint(Protocol):
    """The saved state of a fit, as `CheckpointStore.load` returns it."""

    @property
    def facts(self) -> Facts:
        """The JSON values, as they were saved."""

    def get(self, name: str) -> AnyArray:
        """Read one array anew at every call; several threads may call it at once.

        Raises DamagedError where the array is not what was saved.
        """


class CheckpointStore(Protocol):
    """Where one fit saves its state. It holds one checkpoint at a time."""

    def load(self) -> Checkpoint | None:
        """The checkpoint of a fit with the same settings and data; None where there is none."""

    def should_save(self, n_bytes: int) -> bool:
        """Whether to save a checkpoint of about n_bytes now: rarely enough that saving costs next to no time."""

    def save(self, facts: Facts, arrays: Iterable[tuple[str, AnyArray]], keep: Collection[str] = ()) -> None:
        """Replace the checkpoint.

        arrays : names and new arrays, taken one at a time; keep : names of arrays of the last checkpoint that belong to
        the new one as well.
        """


class NoCheckpoints:
    """A CheckpointStore that saves nothing, for fits that nobody resumes."""

    def load(self) -> None:
        return None

    def should_save(self, n_bytes: int) -> bool:
        del n_bytes
        return False

    def save(self, facts: Facts, arrays: Iterable[tuple[str, AnyArray]], keep: Collection[str] = ()) -> None:
        del facts, arrays, keep


NO_CHECKPOINTS = NoCheckpoints()
