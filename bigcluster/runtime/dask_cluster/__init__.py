"""Jobs run here on the workers of a dask cluster. No other package imports the library distributed.

It imports `runtime.cluster` and `runtime.threads`. Begin with cluster.py (passes), then flight.py (tasks that fail,
are late or get lost), tasks.py (what runs on a worker) and link.py (the scheduler).
"""

from bigcluster.runtime.dask_cluster.cluster import DaskCluster
from bigcluster.runtime.dask_cluster.link import Link

__all__ = ["DaskCluster", "Link"]
