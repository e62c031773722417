"""This package decides what a run will do before any image is decoded: stages, block shapes and projected bytes.

Only here is the budget turned into blocks in flight, batches and workspaces. A plan that does not fit is refused, and
the error names a setting that fits. It imports `solvers` (their footprints) and what lies below. Begin with
planner.py.
"""
