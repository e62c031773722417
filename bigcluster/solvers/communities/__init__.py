"""Communities of the graph of nearest neighbors: groups of rows without a given number of groups.

It imports `errors`, `kernels.linalg` and `store.row_source`, and takes the ids of a graph of `solvers.neighbors`. Begin
with leiden.py; votes.py says to which communities the neighbors of a row belong.
"""

from bigcluster.solvers.communities.leiden import Communities, leiden
from bigcluster.solvers.communities.votes import Votes, assign, votes

__all__ = ["Communities", "Votes", "assign", "leiden", "votes"]
