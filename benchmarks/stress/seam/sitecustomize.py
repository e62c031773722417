"""Put first on PYTHONPATH by the figures that kill: stages save their state whenever they may, not once in a while."""

from bigcluster.store import checkpoints

checkpoints.COST_FACTOR = 0
