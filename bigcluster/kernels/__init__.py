"""Arithmetic and decoding on arrays in memory: numpy in, numpy out, with neither dask nor paths.

It imports `errors`, `units` and `runtime.blas`. Begin with decode/ (bytes to pixels), linalg/ (matrix products) or
kmeans/ (assignment and centers).
"""
