"""The sums of a symmetric product on their way: saved between blocks of terms, found again after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigcluster.solvers.pca.operands import Array
from bigcluster.solvers.saving import Saving

Sums = dict[tuple[int, int], Array]


class SavedSums:
    """Tiles "j/i" of the panels begun so far. Saved sums are of use to a plan with the same panels alone."""

    def __init__(self, saving: Saving, panels: Sequence[tuple[int, int]], n_terms: int, dtype: np.dtype[Any]) -> None:
        self._saving, self._dtype, self._n_terms = saving, dtype, n_terms
        self._panels = [list(panel) for panel in panels]
        self._kept: set[str] = set()  # tiles of finished panels
        self._found = saving.load()
        # First tile column of the panel that was in work, and how many terms its sums hold already.
        self._first = self._terms = 0
        if self._found is not None and self._found.facts["panels"] == self._panels:
            self._first, self._terms = self._found.facts["first"], self._found.facts["terms"]
        else:
            self._found = None

    def tile(self, j: int, i: int, shape: tuple[int, int]) -> Array:
        """The sums of a tile so far; zeros where nothing was saved."""
        first = next(first for first, last in self._panels if first <= i < last)
        if self._found is None or first > self._first:
            # Zeros that were written: those that the system only promises cost another fault at the first addition,
            # of which all threads hear.
            return np.full(shape, 0, self._dtype)
        if self.done_terms(first) == self._n_terms:
            self._kept.add(f"{j}/{i}")
        return self._found.get(f"{j}/{i}")

    def done_terms(self, first: int) -> int:
        """How many terms the sums of the panel that begins there hold already."""
        if first == self._first:
            return self._terms
        return self._n_terms if first < self._first else 0

    def is_due(self, sums: Sums, first: int, terms: int) -> bool:
        """Whether to save after this many terms. A finished panel is, where others follow: nothing else keeps it."""
        return self._follows(first, terms) or self._saving.due(sum(tile.nbytes for tile in sums.values()))

    def save(self, sums: Sums, first: int, terms: int) -> None:
        """The sums of the panel that begins there, which hold this many terms."""
        facts = {"panels": self._panels, "first": first, "terms": terms}
        self._saving.save(facts, ((f"{j}/{i}", tile) for (j, i), tile in sums.items()), keep=self._kept)
        if self._follows(first, terms):
            self._kept |= {f"{j}/{i}" for j, i in sums}

    def _follows(self, first: int, terms: int) -> bool:
        """Whether a panel is finished and another one follows."""
        return terms == self._n_terms and first != self._panels[-1][0]
