"""An interrupt is never lost, wherever in the process it comes."""

from __future__ import annotations

import subprocess
import sys

IN_A_CALLBACK = """
import ctypes, os, signal, sys
from bigcluster.runtime.signals import end_on_sigterm_alone, raise_lost_interrupt

end_on_sigterm_alone()
raise_lost_interrupt()  # nothing came yet

@ctypes.CFUNCTYPE(ctypes.c_int)
def callback():
    os.kill(os.getpid(), signal.SIGTERM)
    return 0

callback()
print("the interrupt was lost")
try:
    try:
        raise ValueError
    except ValueError:
        raise_lost_interrupt()
    print("it did not disturb what handles an exception")
    raise_lost_interrupt()
except KeyboardInterrupt:
    print("and came again")
"""


def test_an_interrupt_that_comes_in_a_callback_of_c_code_is_raised_later() -> None:
    ran = subprocess.run([sys.executable, "-c", IN_A_CALLBACK], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "the interrupt was lost",
        "it did not disturb what handles an exception",
        "and came again",
    ]
    assert "Exception ignored" in ran.stderr
