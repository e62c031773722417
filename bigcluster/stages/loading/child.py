"""The child process of isolation.py. It serves one file after another until stdin ends or a file ends the process."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from bigcluster.kernels.decode import DecodeSpec, prepare_codecs, read_header, read_workload
from bigcluster.runtime.memory_limit import limit_memory
from bigcluster.stages.loading.captured_stderr import CapturedStderr
from bigcluster.stages.loading.files import load_alone, opened
from bigcluster.stages.loading.isolation import NO_MEMORY, READY, from_wire


def main() -> None:
    """Read requests from stdin and answer each of them on stdout.

    The first line holds the spec and the limits. Each further line holds a task, a path, the folder that the path may
    not leave, and a spec or null. The task `load` decodes: the answer is the record, and the pixels where the record is
    ok. The tasks `look` and `size` answer with what the header says.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    start = json.loads(sys.stdin.buffer.readline())
    spec = DecodeSpec(**start["spec"])
    prepare_codecs()
    pixels = np.zeros(spec.n_decoded_values, np.uint8)
    with CapturedStderr() as captured:
        _send(answers, READY)
        if start["limit_bytes"] is not None:
            limit_memory(start["limit_bytes"])
        for line in sys.stdin.buffer:
            task, path, confined_to, seen_as = json.loads(line)
            folder = None if confined_to is None else Path(from_wire(confined_to))
            signal.setitimer(signal.ITIMER_REAL, start["timeout_seconds"])
            answer: Any
            try:
                if task == "load":
                    record = load_alone(from_wire(path), folder, spec, pixels, captured)
                    answer, data = record.to_json(), pixels.data if record.ok else b""
                else:
                    answer, data = _header(from_wire(path), folder, seen_as), b""
            except MemoryError:
                answer, data = NO_MEMORY, b""
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(answers, json.dumps(answer).encode() + b"\n", data)


def _header(path: str, folder: Path | None, spec: dict[str, Any] | None) -> Any:
    """Return (width, height), or the work of decoding by a spec; None where the file or its header cannot be read."""
    try:
        with opened(path, folder) as file:
            if spec is None:
                return read_header(file)
            seen = read_workload(file, os.fstat(file.fileno()).st_size, DecodeSpec(**spec))
            return None if seen is None else asdict(seen)
    except OSError:
        return None


def _send(answers: IO[bytes], *parts: Any) -> None:
    for part in parts:
        answers.write(part)
    answers.flush()


if __name__ == "__main__":
    main()
