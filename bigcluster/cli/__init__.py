"""The command line: `main` is the console script."""

from __future__ import annotations

from bigcluster.runtime.processes import leave_current_folder

__all__ = ["main"]


def main() -> None:
    """Run the command of sys.argv and leave with its exit code."""
    leave_current_folder()  # before anything else is imported
    from bigcluster.cli.program import main as run_program

    run_program()
