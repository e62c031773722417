"""Listed files -> their pixels and their records, whatever a file does to the codec that reads it."""

from bigcluster.stages.loading.loader import Loader

__all__ = ["Loader"]
