"""Projects the bytes that t-SNE and UMAP will hold, by integer arithmetic alone.

All results are in bytes. n_rows, n_columns : shape of the fitted rows, which are float32. The libraries know no budget:
what they hold follows from the number of fitted rows and neighbors alone.
"""

from __future__ import annotations

from bigcluster.units import MIB

LIBRARY_BYTES = {"tsne": 168 * MIB, "umap": 360 * MIB}
"""Bytes that the libraries add, before any row: openTSNE with SciPy and scikit-learn; umap-learn with these, numba and
what it has compiled. Measured: 148 to 165 and 335 to 343 MiB."""
_NEIGHBOR_BYTES = {"tsne": 48, "umap": 160}
_ROW_BYTES = {"tsne": 3600, "umap": 1024}
_VALUE_BYTES = {"tsne": 4, "umap": 16}
"""Bytes for each neighbor of a row, for each row, and for each value of a row. Measured with openTSNE 1.0.4 and
umap-learn 0.5.12 on Python 3.11, as the growth of the peak of a process (VmHWM) from before the fit, in MiB:

    rows x columns   t-SNE, perplexity 30   perplexity 60   UMAP, 30 neighbors   60 neighbors
    2,000 x 64                9.8                                 3.8
    5,000 x 64               31.1               47.4             15.3                36.7
    5,000 x 512              61.4                                54.3
    10,000 x 64              76.3                                43.3
    20,000 x 64             118.7                                93.0
    40,000 x 64             273.4                               190.9
"""
_FIXED_BYTES = {"tsne": 16 * MIB, "umap": 0}
"""Bytes that do not depend on the rows: the grid of t-SNE, which openTSNE uses from 10,000 rows on, and where rows are
placed. Measured: 12 MiB more at 10,000 rows than at 9,900."""
_NEW_BYTES = 1024
"""Bytes for each row that is placed among the fitted ones: its neighbors, weights and gradients. Counted in the code,
not measured."""


def project_fit_bytes(method: str, n_rows: int, n_columns: int, n_neighbors: int) -> int:
    """Return the bytes of a fit on rows in memory, which are not included, with its graph of neighbors.

    n_neighbors : that are searched for each row, which are three times the perplexity of t-SNE.
    """
    a_row = n_neighbors * _NEIGHBOR_BYTES[method] + _ROW_BYTES[method] + n_columns * _VALUE_BYTES[method]
    return _FIXED_BYTES[method] + n_rows * a_row


def project_place_bytes(method: str, n_new: int) -> int:
    """Return the bytes of placing rows at once, beyond the search for their neighbors."""
    return _FIXED_BYTES[method] + n_new * _NEW_BYTES
