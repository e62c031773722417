"""A network that the registry does not know is first loaded, and computed for one picture, in a child process.

A file says what is computed, and not how long that takes and how much memory: constants are computed while a network is
loaded, and a network may have a loop. In the process of the run, ONNX Runtime cannot be stopped within one step, and
memory would be above the budget before it can be measured. The child has limited memory and is ended where it takes too
long, so a network that cannot be used costs one line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import MemoryBudgetError, ModelError, OutOfMemoryError
from bigcluster.models.session import PATIENCE_SECONDS, open_session, run
from bigcluster.runtime.memory_limit import limit_memory
from bigcluster.runtime.onnx_runtime import onnx_runtime
from bigcluster.runtime.processes import start_python
from bigcluster.units import MIB, show_bytes

CHILD_BYTES = 60 * MIB
"""Bytes of the child without the network: 55 MiB were measured for Python, numpy and ONNX Runtime 1.27."""
_NO_MEMORY = "no memory"
"""The answer of a child to which the system gave no more memory."""


def try_network(
    network: bytes,
    outputs: list[str],
    inputs: dict[str, NDArray[Any]],
    path: Path,
    *,
    provider: str,
    limit_bytes: int | None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Load a network and compute one picture in a child process.

    network : the bytes of an ONNX file. outputs, inputs : as for `session.run`, with one input. path : the file that
    messages name. limit_bytes : bytes of memory that the network may take; None for no limit.
    patience_seconds : seconds for both together.

    Raises ModelError where the network cannot be used or takes too long, and MemoryBudgetError where it takes more
    memory.
    """
    ((name, picture),) = inputs.items()  # a picture is the only input
    task = {
        "path": str(path),
        "provider": provider,
        "outputs": outputs,
        "input": name,
        "dtype": picture.dtype.name,
        "shape": picture.shape,
        "n_bytes": len(network),
        "limit_bytes": limit_bytes,
    }
    request = b"".join((json.dumps(task).encode(), b"\n", np.ascontiguousarray(picture).tobytes(), network))
    with start_python(
        "bigcluster.models.trial", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            answer = child.communicate(request, timeout=patience_seconds)[0].decode().strip()
        except subprocess.TimeoutExpired as error:
            raise ModelError(
                f"{path} takes more than {patience_seconds:g} s to be loaded and for one picture: not used"
            ) from error
        finally:
            child.kill()
    if answer == _NO_MEMORY and limit_bytes is not None:
        raise MemoryBudgetError(
            f"{path} takes more than the {show_bytes(limit_bytes)} that the memory budget leaves for a network; use a "
            "larger --memory or a smaller network"
        )
    if answer:
        raise ModelError(answer)
    if child.returncode:
        raise ModelError(f"{path} ends the process that loads it (exit status {child.returncode}): not used")


def main() -> None:
    """Do in the child what `try_network` asks for, and say in one line on stdout why it failed."""
    with open(0, "rb") as stdin:
        task = json.loads(stdin.readline())
        picture = np.empty(task["shape"], task["dtype"])
        stdin.readinto(picture.data.cast("B"))
        network = stdin.read(task["n_bytes"])
    onnx_runtime()  # before memory is limited
    if task["limit_bytes"] is not None:
        limit_memory(task["limit_bytes"])
    path = Path(task["path"])
    try:
        session = open_session(network, path, provider=task["provider"])
        del network
        run(session, task["outputs"], {task["input"]: picture}, path)
    except (OutOfMemoryError, MemoryError):
        sys.stdout.write(_NO_MEMORY)
    except ModelError as error:
        sys.stdout.write(str(error))


if __name__ == "__main__":
    main()
