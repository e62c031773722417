"""One short script per peer, each runnable alone: `python -m benchmarks.peers.sklearn_pca --images DIR --out OUT`."""
