"""Listed files are decoded into pixels and records here, whatever a file does to the codec that reads it.

It imports `catalog`, `kernels.decode`, `planning.plan` and `runtime`. Begin with loader.py (many files at
once), then files.py (one file) and isolation.py (a file in a child process). This file imports none of them: a decoding
child would start with zarr and more that it does not need, in twice the time.
"""
