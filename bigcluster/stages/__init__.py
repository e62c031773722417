"""The steps of a run, each from stored arrays to stored arrays: ingest, reduce, sweep, cluster, and what they share.

It imports `planning`, `solvers`, `store` and `catalog`. Begin with ingest.py, then reduce.py and cluster.py.
"""
