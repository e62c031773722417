"""Every error that bigcluster raises on purpose, and the exit code that the command line gives it.

    BigclusterError              exit 1: the run failed
    ├── UsageError               exit 2: wrong usage or configuration
    │   ├── ConfigError          unknown key, bad value, two settings that exclude each other
    │   ├── ImagesNotFoundError  there is nothing at IMAGES
    │   ├── OutError             OUT inside IMAGES, of other images, or a folder that is not ours
    │   │   └── RunNotFoundError there is no run in OUT; a StoreError as well
    │   └── MemoryBudgetError    the plan does not fit the budget
    ├── NoImagesError            nothing listed, or nothing of it could be read
    ├── TooFewSamplesError       fewer good rows than clusters or components need
    ├── ImageSizeError           `size = "native"` on images of unequal size
    ├── VarianceNotReachedError  the spectrum that was computed ends below the target
    ├── InputChangedError        a manifest that was changed while it was in use
    ├── InvalidDataError         NaN or infinity in float input
    ├── OutOfMemoryError         the system gave no more memory
    ├── InstallationError        a part of bigcluster itself is missing
    ├── ProfiledRunError         the run that was to be profiled failed; it has that run's exit code
    └── StoreError               OUT cannot be read or written, or is in use
        └── DamagedError         what OUT holds is not what was written

A picture that cannot be read is not an error: it is a row with a status (see kernels/decode.py).
"""

from __future__ import annotations


class BigclusterError(Exception):
    """The run failed. The message is one line: what was needed, what there was, what to change."""

    exit_code = 1


class UsageError(BigclusterError, ValueError):
    """The call itself is wrong: nothing was started, nothing was changed."""

    exit_code = 2


class ConfigError(UsageError):
    """An unknown key, a value out of its range, or two settings that exclude each other."""


class OutError(UsageError):
    """OUT cannot be used for this call."""


class ImagesNotFoundError(UsageError, FileNotFoundError):
    """IMAGES names nothing that exists."""


class MemoryBudgetError(UsageError, MemoryError):
    """The plan needs more than the budget allows."""


class NoImagesError(BigclusterError, FileNotFoundError):
    """No image was listed, or none of the listed ones could be read."""


class TooFewSamplesError(BigclusterError, ValueError):
    """Fewer good rows than clusters or components were asked for."""


class ImageSizeError(BigclusterError, ValueError):
    """`size = "native"` needs images of one size."""


class VarianceNotReachedError(BigclusterError):
    """The largest rank that could be computed captures less than the variance asked for."""


class InputChangedError(BigclusterError):
    """A manifest is no longer what was listed: its rows would get the results of others."""


class InvalidDataError(BigclusterError, ValueError):
    """Float input holds NaN or infinity; the message names the first such row."""


class InstallationError(BigclusterError):
    """A part of bigcluster itself is missing or does not fit this machine."""


class OutOfMemoryError(BigclusterError, MemoryError):
    """The system gave no more memory while a stage ran: others took it, or a limit is below the budget."""


class ProfiledRunError(BigclusterError):
    """The run under memory-profiler failed, with this exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StoreError(BigclusterError, OSError):
    """OUT cannot be read or written, or is in use by another run."""


class RunNotFoundError(OutError, StoreError):
    """OUT, which should hold a run, is no folder or was never written by a run."""


class DamagedError(StoreError):
    """What OUT holds is not what was written."""
