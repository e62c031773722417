"""The graph of the exact nearest neighbors of rows that may be larger than memory.

It imports `kernels.neighbors`, `runtime`, `store.row_source` and the blocks of `solvers.kmeans`. Begin with graph.py.
"""

from bigcluster.solvers.neighbors.graph import METRICS, NeighborGraph, nearest_to, neighbor_graph

__all__ = ["METRICS", "NeighborGraph", "nearest_to", "neighbor_graph"]
