"""The jobs, end to end, a module each: run, sweep, predict, report, verify have a function of their own name.

They run inside the working process, which imports the one that it was started for.
"""
