"""The checks of `verify` live here: tables against the store, folders against tables, the model against its pixels.

It imports `outputs`, `outdir` and `stages`. Begin with tables.py; pipeline/verify.py calls all of it.
"""
