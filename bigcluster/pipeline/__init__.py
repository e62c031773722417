"""The jobs, end to end. They run inside the working process."""

from bigcluster.pipeline.plan import estimated, plan_absent
from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.report import report
from bigcluster.pipeline.run import prepare, run
from bigcluster.pipeline.sweep import sweep
from bigcluster.pipeline.verify import verify

__all__ = ["estimated", "plan_absent", "predict", "prepare", "report", "run", "sweep", "verify"]
