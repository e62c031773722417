"""The jobs from start to end: run, plan, sweep, predict, report, verify and components have a module each.

It imports `stages`, `outputs`, `report` and what lies below. Begin with run.py. The jobs run inside the working process
(worker.py), which imports the one that it was asked for.
"""
