"""Peers and ourselves on the same work, in fresh processes: `python -m benchmarks --help`."""
