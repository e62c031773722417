"""This module loads a network into a session of ONNX Runtime, runs it, and turns its errors into one line.

One session serves all threads. Each call of `run` takes one picture and computes on the calling thread alone. This was
measured to be the fastest and to take the least memory. No bit depends on the number of threads or on other pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bigcluster.errors import ModelError, OutOfMemoryError
from bigcluster.runtime.failures import mentions_memory
from bigcluster.runtime.onnx_runtime import onnx_runtime
from bigcluster.units import quoted

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""The names of providers in settings, and those that ONNX Runtime gives to them."""
_FATAL = 4
"""The lowest level of messages that ONNX Runtime writes to stderr. Errors are lower, and come as exceptions."""
PATIENCE_SECONDS = 60.0
"""Seconds that loading may take, and the first picture. Networks of the registry take less than one."""
_MOST_TEXT = 200
"""Characters of an error of ONNX Runtime that a message quotes, at most. Chosen, not measured."""


def runtime_version() -> str:
    """Return the version of ONNX Runtime."""
    return str(onnx_runtime().__version__)


def provider_of(name: str) -> str:
    """Return the name of a provider in ONNX Runtime.

    Raises ModelError for an unknown provider, or one that is not installed.
    """
    if name not in PROVIDERS:
        raise ModelError(f"the provider must be one of {', '.join(PROVIDERS)}, not {quoted(name)}")
    provider = PROVIDERS[name]
    available = onnx_runtime().get_available_providers()
    if provider not in available:
        installed = ", ".join(known for known, name_of_runtime in PROVIDERS.items() if name_of_runtime in available)
        raise ModelError(f"the provider {name} is not there: this ONNX Runtime has {installed}")
    return provider


def open_session(network: bytes, path: Path, *, provider: str = "cpu", optimized: bool = True) -> Any:
    """Load a network and return its session.

    network : the bytes of an ONNX file. path : the file that messages name. optimized : whether the graph is optimized.
    Raises ModelError where ONNX Runtime refuses the network, OutOfMemoryError where there is no memory.
    """
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
        except Exception as error:  # the exceptions of ONNX Runtime have no common class
            raise _as_ours(error, f"{path} cannot be loaded") from error


@contextmanager
def _watched(stop: Callable[[], None], path: Path, what: str) -> Iterator[None]:
    """Call `stop` where the block takes too long, and then raise ModelError. what : the work, for the message."""
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
    """Do as `run` does, and stop a network that takes too long: a file may describe a computation without an end."""
    options = onnx_runtime().RunOptions()
    options.log_severity_level = _FATAL
    with _watched(lambda: setattr(options, "terminate", True), path, "for one picture"):
        return run(session, outputs, inputs, path, options)


def run(session: Any, outputs: list[str], inputs: dict[str, Any], path: Path, options: Any = None) -> list[Any]:
    """Compute tensors of one picture.

    outputs : the names of the tensors. inputs : arrays by the names of inputs. path : the file that messages name.
    Returns one value for each output. Raises ModelError where the network fails, OutOfMemoryError without memory.
    """
    try:
        values: list[Any] = session.run(outputs, inputs, options)
    except Exception as error:  # as in open_session
        raise _as_ours(error, f"{path} cannot be computed") from error
    return values


def _as_ours(error: Exception, what: str) -> ModelError | OutOfMemoryError:
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or mentions_memory(text):
        return OutOfMemoryError(f"{what}: the system gave no more memory")
    return ModelError(f"{what}; ONNX Runtime says: {text[:_MOST_TEXT]}")
