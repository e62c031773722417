"""All errors that bigcluster raises on purpose, with the exit codes that the command line gives them.

    BigclusterError              exit 1: the run failed
    ├── UsageError               exit 2: wrong usage or configuration
    │   ├── ConfigError          an unknown key, a bad value, or two settings that exclude each other
    │   ├── ImagesNotFoundError  nothing exists at IMAGES
    │   ├── OutError             OUT lies inside IMAGES, belongs to other images, or is a folder that is not ours
    │   │   └── RunNotFoundError there is no run in OUT; a StoreError as well
    │   ├── ModelError           a network cannot be used: unknown, unsafe, damaged, or of another kind
    │   └── MemoryBudgetError    the plan does not fit the budget
    ├── NoImagesError            no image is listed, or none of the listed ones can be read
    ├── TooFewSamplesError       there are fewer good images than clusters or components
    ├── ImageSizeError           `size = "native"` is used on images of unequal size
    ├── VarianceNotReachedError  the spectrum that was computed ends below the target
    ├── InputChangedError        a manifest was changed while it was in use
    ├── InvalidDataError         float input holds NaN or infinity
    ├── OutOfMemoryError         the system gave no more memory
    ├── FetchError               a network could not be downloaded
    ├── ClusterError         the workers of a dask cluster cannot be used, or stay away
    ├── InstallationError        a part of bigcluster itself is missing
    ├── ProfiledRunError         the run that was to be profiled failed; it has that run's exit code
    └── StoreError               OUT cannot be read or written, or is in use
        └── DamagedError         what OUT holds is not what was written

An image that cannot be read is not an error: it is a row with a status (see kernels/decode/result.py).
"""

from __future__ import annotations

EXIT_FAILED = 1
"""Exit code of a command that failed for a reason that is no fault of its usage, and of `verify` that found damage."""
EXIT_SOME_UNREAD = 3
"""Exit code of a command that is done, but could not read some inputs. No error has it: the results are there."""


class BigclusterError(Exception):
    """The run failed. The message is one line: it says what was needed, what there was, and what to change."""

    exit_code = 1


class UsageError(BigclusterError, ValueError):
    """The call itself is wrong. Nothing was started and nothing was changed."""

    exit_code = 2


class ConfigError(UsageError):
    """A key is unknown, a value is out of its range, or two settings exclude each other."""


class OutError(UsageError):
    """The folder OUT cannot be used for this call."""


class ImagesNotFoundError(UsageError, FileNotFoundError):
    """Nothing exists under the path IMAGES."""


class ModelError(UsageError):
    """A network that was named cannot be used: there is none, it is not safe, damaged, or of another kind."""


class MemoryBudgetError(UsageError, MemoryError):
    """The plan needs more than the budget allows."""


class NoImagesError(BigclusterError, FileNotFoundError):
    """No image was listed, or none of the listed ones could be read."""


class TooFewSamplesError(BigclusterError, ValueError):
    """There are fewer good rows than the clusters or components that were asked for."""


class ImageSizeError(BigclusterError, ValueError):
    """The images have different sizes, and `size = "native"` needs images of one size."""


class VarianceNotReachedError(BigclusterError):
    """All components that could be computed explain less than the share of the variance that was asked for."""


class InputChangedError(BigclusterError):
    """A manifest was changed after it was listed: its rows would get the results of other images."""


class InvalidDataError(BigclusterError, ValueError):
    """Float input holds NaN or infinity. The message names the first such row."""


class ClusterError(BigclusterError):
    """The scheduler or the workers of a dask cluster are not reached, cannot do the work, or die over it."""


class InstallationError(BigclusterError):
    """A part of bigcluster itself is missing or does not fit this machine."""


class FetchError(BigclusterError, OSError):
    """A network could not be downloaded from any of its addresses. The message says how to fetch it by hand."""


class OutOfMemoryError(BigclusterError, MemoryError):
    """The system gave no more memory while a stage ran: other programs took it, or a limit is below the budget."""


class ProfiledRunError(BigclusterError):
    """The run under memory-profiler failed. The error has the exit code of that run."""

    def __init__(self, message: str, exit_code: int) -> None:
        """exit_code : int, the exit code of the run."""
        super().__init__(message)
        self.exit_code = exit_code


class StoreError(BigclusterError, OSError):
    """OUT cannot be read or written, or is in use by another run."""


class RunNotFoundError(OutError, StoreError):
    """OUT should hold a run, but it is not a folder, or no run ever wrote into it."""


class DamagedError(StoreError):
    """OUT does not hold what was written there."""
