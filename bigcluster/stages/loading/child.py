"""The child of isolated.py: decodes one file after another until stdin ends, or until one of them ends it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np

from bigcluster.kernels.decode import DecodeSpec, prepare_codecs
from bigcluster.stages.loading.files import load_alone
from bigcluster.stages.loading.isolated import READY, from_wire
from bigcluster.stages.loading.words import CodecWords


def main() -> None:
    """Serve: the spec and the time limit first, then a path and the folder it may not leave, a line each."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    start = json.loads(sys.stdin.buffer.readline())
    spec = DecodeSpec(**start["spec"])
    prepare_codecs()
    pixels = np.zeros(spec.n_values, np.uint8)
    with CodecWords() as words:
        _send(answers, READY)
        for line in sys.stdin.buffer:
            path, confined_to = json.loads(line)
            signal.setitimer(signal.ITIMER_REAL, start["timeout_seconds"])
            folder = None if confined_to is None else Path(from_wire(confined_to))
            record = load_alone(from_wire(path), folder, spec, pixels, words)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(answers, json.dumps(record.to_json()).encode() + b"\n", pixels.data if record.ok else b"")


def _send(answers: IO[bytes], *parts: Any) -> None:
    for part in parts:
        answers.write(part)
    answers.flush()


if __name__ == "__main__":
    main()
