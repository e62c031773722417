"""The jobs, end to end. They run inside the working process."""

from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.run import prepare, run
from bigcluster.pipeline.sweep import sweep
from bigcluster.pipeline.verify import verify

__all__ = ["predict", "prepare", "run", "sweep", "verify"]
