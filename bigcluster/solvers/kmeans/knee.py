"""Where an elbow curve bends, if it does: named only when nothing contradicts it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

SENSITIVITIES = (1.0, 3.0, 5.0)
FEWEST = 7  # values of k; of fewer, nothing is left when the ends are cut


@dataclass(frozen=True)
class Suggestion:
    """k : the number of clusters suggested, or None. reason : one line for a person."""

    k: int | None
    reason: str


def find_knee(ks: Sequence[int], inertia: Sequence[float], sensitivity: float) -> int | None:
    """The knee of a falling convex curve. Source: Satopaa et al. 2011, "Finding a Kneedle in a Haystack"."""
    # Only where a sweep is reported: the import brings a plotting library along where one is installed.
    from kneed import KneeLocator  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no knee found" is an answer here
        found = KneeLocator(list(ks), list(inertia), S=sensitivity, curve="convex", direction="decreasing").knee
    return None if found is None else int(found)


def suggest(ks: Sequence[int], inertia: Sequence[float], halves: Sequence[Sequence[float]]) -> Suggestion:
    """The knee that holds for all sensitivities, with either end of the range cut and on both halves, or none.

    ks : ascending. inertia : of all rows. halves : the curves of both halves; an empty one could not be fitted.
    """
    if len(ks) < FEWEST:
        return Suggestion(None, f"no clear elbow: {len(ks)} values of k are too few to bend; sweep at least {FEWEST}")
    if max(inertia) <= 0:
        return Suggestion(None, "no clear elbow: every k has inertia 0")
    found = {s: find_knee(ks, inertia, s) for s in SENSITIVITIES}
    if None in found.values():
        return Suggestion(None, "no clear elbow: the curve bends too evenly for a knee at every sensitivity")
    if len(set(found.values())) > 1:
        names = ", ".join(f"k = {k} at {s:g}" for s, k in found.items())
        return Suggestion(None, f"no clear elbow: the knee moves with the sensitivity ({names})")
    k = found[SENSITIVITIES[0]]
    assert k is not None
    for cut in (slice(max(2, len(ks) // 6), None), slice(0, -max(2, len(ks) // 4))):
        other = find_knee(ks[cut], inertia[cut], SENSITIVITIES[0])
        if other is None or abs(list(ks).index(other) - list(ks).index(k)) > 1:
            # 1000 / k bends nowhere in particular: what is named there is a matter of where the range starts and ends
            where = "there is none" if other is None else f"it is k = {other}"
            span = f"{ks[cut][0]}..{ks[cut][-1]}"
            return Suggestion(None, f"no clear elbow: the knee is k = {k}, but of k = {span} alone {where}")
    for name, curve in zip(("first", "second"), halves, strict=True):
        other = find_knee(ks, curve, SENSITIVITIES[0]) if curve else None
        if other != k:
            where = "has none" if other is None else f"bends at k = {other}"
            return Suggestion(None, f"no clear elbow: all rows bend at k = {k}, the {name} half of them {where}")
    return Suggestion(k, f"elbow at k = {k}: at sensitivities 1, 3 and 5, on a shorter range and on both halves")
