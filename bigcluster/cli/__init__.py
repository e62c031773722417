"""The command line. `main` is the console script `bigcluster`.

It imports `api` and everything below it. Begin with commands.py, then answers.py (what goes to stdout and stderr) and
program.py (how errors become exit codes).
"""

from __future__ import annotations

from bigcluster.runtime.processes import leave_current_folder

__all__ = ["main"]


def main() -> None:
    """Run the command in sys.argv and end the process with its exit code."""
    leave_current_folder()  # before anything else is imported
    from bigcluster.cli.program import main as run_program

    run_program()
