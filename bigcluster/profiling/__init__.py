"""Memory-profiling runs: the same job under memory-profiler, and the naive ways beside it.

profile     the job as a child process, watched with its children; the files under OUT/profile
watch       one process under memory-profiler -> a .dat that mprof reads
timeline    the .dat with the stages, as CSV and as a picture
naive       the ways that hold everything, to be started in a process of their own
"""

from bigcluster.profiling.profile import COMPARISONS, Profile, Way, profile

__all__ = ["COMPARISONS", "Profile", "Way", "profile"]
