"""Runs under memory-profiler, and the naive ways to do the same job, measured in the same way.

It imports `outputs` and `outdir`. Begin with profile.py.

profile.py      runs the job in a process, and measures it with its children
watch.py        measures one process with memory-profiler; mprof can read its .dat file
timeline.py     writes memory and stages over time as CSV and as a picture
naive.py        the naive ways, which hold all images in memory, each in a process of its own
publish.py      puts the files into OUT/profile
"""

from bigcluster.profiling.profile import COMPARISONS, Profile, Way, profile

__all__ = ["COMPARISONS", "Profile", "Way", "profile"]
