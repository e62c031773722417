"""The command line in a process that ends with its parent process: `python -m bigcluster.cli.watched run ...`.

The stdin of this process is a pipe that the parent holds open and never writes to. When the parent has ended, for
whatever reason, this process sends itself SIGTERM: the run stops and keeps what is done. When it fails, it prints only
the JSON document of the error on stdout, which the parent process turns into the one line that a person reads.
"""

from __future__ import annotations

import os
import signal
import threading

from bigcluster.cli import answers, main


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    answers.pass_errors_on()
    main()
