"""The jobs live here, one module each: run, plan, sweep, predict, report, verify and components.

It imports `stages`, `outputs`, `report` and lower layers. Begin with run.py. A job runs in the working
process (worker.py), which imports only the module of that job.
"""
