"""The inner steps of k-means: distances, exact assignment, bounds that save them, sums per cluster, quality measures.

It imports `kernels.linalg`. Begin with assign.py.
"""
