"""The stages of a run live here: ingest, reduce, sweep and cluster. Each reads arrays of the store and writes others.

It imports `planning`, `solvers`, `store` and `catalog`. Begin with ingest.py, then reduce.py and cluster.py.
"""
