"""A codec that crashes, hangs or leaves when the last bytes of a file ask for it, as a faulty one does over some files.

POSSESSED is put in front of processes as their sitecustomize. What follows is real, such as the death of a process.
"""

from __future__ import annotations

POSSESSED = """
import ctypes, os, resource, signal, sys, time

def possess():
    import cv2
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    alone = "bigcluster.stages.loading.child" in sys.orig_argv
    sound = cv2.imdecode

    def imdecode(data, flags):
        end = bytes(data[-12:])
        if end == b"#segfault..." or (end == b"#with-others" and not alone):
            os.kill(os.getpid(), signal.SIGSEGV)
        if end == b"#abort......":
            os.abort()
        if end == b"#memory.....":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == b"#exit.......":
            os._exit(1)
        if end == b"#hang.......":
            ctypes.PyDLL(None).sleep(3600)  # with the interpreter's lock held: no thread of this process can help
        return sound(data, flags)

    cv2.imdecode = imdecode

if any(name.startswith("bigcluster.") or name == "--multiprocessing-fork" for name in sys.orig_argv):
    possess()
"""
"""Also in processes that multiprocessing starts, as the workers of dask are."""


def asking(data: bytes, what: str) -> bytes:
    """A picture with a wish behind its end. what : segfault, with-others, abort, memory, exit or hang."""
    return data + f"#{what}".ljust(12, ".").encode()
