"""PCA and KMeans with scikit-learn's interface, for arrays and dask arrays that a program has already.

It imports `solvers` and `store.row_source`. Begin with kmeans.py.
"""
