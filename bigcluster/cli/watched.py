"""The command line in a process that ends with the one that started it: `python -m bigcluster.cli.watched run ...`.

Its stdin is a pipe that the other process holds open and never writes to. When that one is gone, however it went, this
one is interrupted as by SIGTERM: what is done is saved.
"""

from __future__ import annotations

import os
import signal
import threading

from bigcluster.cli import main


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    main()
