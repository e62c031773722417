"""Matrix products and sums over rows, in float32 and in exact 8-bit integers, with our own C behind some of them.

It imports `errors` and `runtime.blas`. Begin with floats.py (float32 products) and gemm.py (8-bit ones).
"""
