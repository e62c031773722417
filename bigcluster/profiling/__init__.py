"""Memory-profiling runs: the same job under memory-profiler, and the naive ways of doing it beside it.

It imports `outputs` and `outdir`. Begin with profile.py.

profile.py      the job as a child process, watched with its children
watch.py        one process under memory-profiler; its .dat file can be read by mprof
timeline.py     the .dat file with the stages, as CSV and as a picture
naive.py        the ways that hold everything, each started in a process of its own
publish.py      the files under OUT/profile
"""

from bigcluster.profiling.profile import COMPARISONS, Profile, Way, profile

__all__ = ["COMPARISONS", "Profile", "Way", "profile"]
