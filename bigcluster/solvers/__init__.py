"""PCA and k-means over rows that do not fit in memory. They see a row source, a runtime and a workspace in bytes.

It imports `kernels`, `runtime` and `store.row_source`; it knows neither settings nor files of OUT. Begin with
pca/fit.py and kmeans/fit.py.
"""
