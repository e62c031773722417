"""Put first on PYTHONPATH by the figures that kill: stages save their state whenever they may, not once in a while."""

from bigcluster.store import states

states.COST_FACTOR = 0
