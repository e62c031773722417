"""This package decides how and where work runs: threads, processes, signals, memory limits, the sampler and the events.

It imports `errors`, `units`, `files` and `config`. Begin with threads.py (the bounded map that every stage uses),
then supervisor.py (the working process and how it is watched).
"""
