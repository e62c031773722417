"""The arithmetic of k-means on a block of rows: assignment to centers, distance bounds, cluster sums, quality measures.

It imports `errors` and `kernels.linalg`. Begin with sums.py, which defines the label of a row; then centers.py (the
error bound of the float32 filters), assign.py (every center for every row) and bounds.py (only the centers that can be
nearest).
"""
