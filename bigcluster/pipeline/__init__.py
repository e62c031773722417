"""The jobs, end to end. They run inside the working process."""

from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.report import report
from bigcluster.pipeline.run import prepare, run
from bigcluster.pipeline.sweep import sweep

__all__ = ["predict", "prepare", "report", "run", "sweep"]
