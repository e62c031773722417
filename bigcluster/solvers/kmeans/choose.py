"""Which k-means: chosen by the numbers of rows, columns and clusters, never by the budget."""

from __future__ import annotations

from bigcluster.errors import ConfigError

ALGORITHMS = ("lloyd", "minibatch", "two-level", "dask-ml")

TWO_LEVEL_FROM = 10_000  # clusters
MINIBATCH_FROM = 10**14  # multiply-adds of one exact pass: a quarter of an hour on two cores


def choose(n_rows: int, n_columns: int, n_clusters: int) -> tuple[str, str]:
    """(algorithm, reason). Never "dask-ml": that one is chosen by name only."""
    if n_clusters >= TWO_LEVEL_FROM:
        return "two-level", f"{n_clusters:,} clusters: flat iterations grow with their number, two levels with its root"
    work = n_rows * n_columns * n_clusters
    if work >= MINIBATCH_FROM:
        return "minibatch", f"one exact pass is {work:.1e} multiply-adds"
    return "lloyd", f"exact: one pass is at most {work:.1e} multiply-adds"


def check_algorithm(name: str) -> str:
    if name not in ("auto", *ALGORITHMS):
        raise ConfigError(f"algorithm must be one of auto, {', '.join(ALGORITHMS)}, not {name!r}")
    return name
