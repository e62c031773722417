"""The names of the stages: plans, completion marks, summary.json, memory.csv and progress all use these.

The store keeps its marks under them, so a changed name is another format.
"""

from __future__ import annotations

INGEST = "ingest"
FEATURES = "features"
REDUCE = "reduce"
MANIFOLD = "manifold"
SWEEP = "sweep"
NEIGHBORS = "neighbors"
CLUSTER = "cluster"
OUTPUT = "output"
REPORT = "report"

# Stages of a finished run that are computed when a command needs them.
PREDICT = "predict"
COMPONENTS = "components"
NORMS = "norms"
NOVELTY = "novelty"
