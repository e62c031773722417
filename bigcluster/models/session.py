"""Sessions of ONNX Runtime: how a network is loaded, and its errors in one line.

One session serves all threads. Each call of Run takes one picture and works on the calling thread alone: measured, that
is the fastest and takes the least memory, and no bit depends on the number of threads or on the pictures beside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bigcluster.errors import ModelError, OutOfMemoryError
from bigcluster.runtime.onnx_runtime import onnx_runtime
from bigcluster.units import quoted

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""Names of what computes, and what ONNX Runtime calls them."""
_FATAL = 4
"""The level of ONNX Runtime's log from which it writes to stderr: its errors come as exceptions too."""
PATIENCE_SECONDS = 60.0
"""Seconds that a network may take to be loaded, and for its first picture; those of the registry take less than one."""
_MOST_TEXT = 200
"""Characters of an error of ONNX Runtime that a message quotes."""


def runtime_version() -> str:
    """Return the version of ONNX Runtime."""
    return str(onnx_runtime().__version__)


def provider_of(name: str) -> str:
    """Return ONNX Runtime's name of a provider. Raises ModelError where there is none, or it is not installed."""
    if name not in PROVIDERS:
        raise ModelError(f"the provider must be one of {', '.join(PROVIDERS)}, not {quoted(name)}")
    provider = PROVIDERS[name]
    available = onnx_runtime().get_available_providers()
    if provider not in available:
        there = ", ".join(known for known, theirs in PROVIDERS.items() if theirs in available)
        raise ModelError(f"the provider {name} is not there: this ONNX Runtime has {there}")
    return provider


def open_session(network: bytes, path: Path, *, provider: str = "cpu", optimized: bool = True) -> Any:
    """Load a network. Raises ModelError where ONNX Runtime refuses it. path : for messages."""
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _FATAL
    providers = [provider_of(provider)]
    # Constants are computed while a network is loaded, and may take long. ONNX Runtime looks at the request to stop
    # between the steps of loading, and not within the one that computes constants.
    with _watched(lambda: options.set_load_cancellation_flag(True), path, "to be loaded"):
        try:
            return onnxruntime.InferenceSession(network, options, providers=providers)
        except Exception as error:  # its exceptions have no class in common
            raise _as_ours(error, f"{path} cannot be loaded") from error


@contextmanager
def _watched(stop: Callable[[], None], path: Path, what: str) -> Iterator[None]:
    """Call `stop` where the work takes too long, and raise ModelError for it. what : the work, for the message."""
    has_stopped = threading.Event()

    def end() -> None:
        has_stopped.set()
        stop()

    watch = threading.Timer(PATIENCE_SECONDS, end)
    watch.start()
    try:
        yield
    except ModelError as error:
        if has_stopped.is_set():
            raise ModelError(f"{path} takes more than {PATIENCE_SECONDS:g} s {what}: not used") from error
        raise
    finally:
        watch.cancel()


def run_first(session: Any, outputs: list[str], inputs: dict[str, Any], path: Path) -> list[Any]:
    """As `run`, for the first picture of a network: one that does not end, as a file may say, is stopped."""
    options = onnx_runtime().RunOptions()
    options.log_severity_level = _FATAL
    with _watched(lambda: setattr(options, "terminate", True), path, "for one picture"):
        return run(session, outputs, inputs, path, options)


def run(session: Any, outputs: list[str], inputs: dict[str, Any], path: Path, options: Any = None) -> list[Any]:
    """Compute tensors of one picture. Raises ModelError where the network fails, OutOfMemoryError."""
    try:
        values: list[Any] = session.run(outputs, inputs, options)
    except Exception as error:  # as above
        raise _as_ours(error, f"{path} cannot be computed") from error
    return values


def _as_ours(error: Exception, what: str) -> ModelError | OutOfMemoryError:
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "bad_alloc" in said or "Failed to allocate memory" in said:
        return OutOfMemoryError(f"{what}: the system gave no more memory")
    return ModelError(f"{what}; ONNX Runtime says: {said[:_MOST_TEXT]}")
