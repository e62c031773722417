"""What `verify` compares: tables with the store, folders with tables, the model with its pixels.

It imports `outputs`, `outdir` and `stages`. Begin with tables.py; pipeline/verify.py calls all of it.
"""
