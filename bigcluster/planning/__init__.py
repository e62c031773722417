"""What a run will do, decided before any image is decoded: stages, block shapes, projected bytes.

The budget is turned into blocks in flight, batches and workspaces here and nowhere else. A plan that cannot fit is
refused with the setting that would. It imports `solvers` (their footprints) and what lies below. Begin with planner.py.
"""
