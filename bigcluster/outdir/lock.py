"""One process holds OUT at a time.

Between processes of one host, the lock is on the folder itself, so that it holds although somebody deletes OUT/.lock,
and on that file too, for file systems that lock no folders. The file names its holder, and the tokens of processes that
ended before they had cleared away their unfinished files. Between hosts, holder.py does it.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bigcluster.errors import OutError, StoreError
from bigcluster.files.durable import TOKEN, entries_below, is_unfinished, open_folder, remove_folder, unlink_below
from bigcluster.outdir.holder import holding
from bigcluster.outdir.places import check_places
from bigcluster.runtime.sampler import has_ended

LOCK = ".lock"
_LEAVING_SECONDS = 1.0
"""Seconds to wait for the lock of a run. One whose terminal was killed ends within that time, since its worker notices.
Chosen, not measured."""
_DYING_SECONDS = 60.0
"""Seconds to wait for the lock of a process that was killed: it has the lock until its last thread has finished its
access to the disk. Chosen, not measured."""
_TEXT = re.compile(r"(?P<holder>process \d+ on [^\n]{1,255})?\n?(unfinished(?P<tokens>( [0-9a-f]{16})+)\n)?")
MOST_BYTES = 1 << 16
"""Bytes of OUT/.lock that are read: a token takes 17 bytes, and every run removes all of them."""
_CANNOT_LOCK = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Error numbers of file systems that cannot lock folders, such as NFS, or anything."""


@contextmanager
def locked(out: Path, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Lock OUT for this process while the block runs. The lock of a process that has ended does not count.

    The lock is advisory, by flock, and between hosts by OUT/.holder; systems without flock lock nothing.
    say : gets one line where a process of another host is waited for.
    Raises StoreError where another process has the lock, OutError where a link stands at one of our names or OUT/.lock
    is no file of ours.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return

    def lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                raise
        return True

    with open_folder(out) as folder:
        file = _open(folder, out)
        try:
            _wait_for(lambda: lock(folder) and lock(file), lambda: _read(file, out)[0], out)
            check_places(out)
            tokens = _read(file, out)[1]
            _write(file, f"process {os.getpid()} on {socket.gethostname()}", [*tokens, TOKEN])
            os.fsync(file)  # after a power cut, the token tells whose what stands here unfinished is
            try:
                with holding(folder, out, say):
                    yield
            finally:
                # It may have been swept meanwhile. What this process leaves unfinished, it says itself.
                _write(file, "", [token for token in _read(file, out)[1] if token != TOKEN])
        finally:
            os.close(file)


def sweep_unfinished(out: Path) -> None:
    """Remove the unfinished files of killed processes, whose tokens are in OUT/.lock. OUT must be locked.

    The tokens are random, so that files of others have other names. OUT and all folders below it are searched.
    """
    with open_folder(out) as folder:
        file = _open(folder, out)
        try:
            holder, tokens = _read(file, out)
            old = [token for token in tokens if token != TOKEN]
            if old:
                for token in old:
                    _sweep(out, token)
                _write(file, holder, [TOKEN])
        finally:
            os.close(file)


def _sweep(out: Path, token: str) -> None:
    for entry in entries_below(out, into=lambda folder: not is_unfinished(folder.name, token)):
        if is_unfinished(entry.name, token):
            if entry.is_dir(follow_symlinks=False):
                remove_folder(Path(entry.path))
            else:
                unlink_below(Path(entry.path), out)


def _open(folder: int, out: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(LOCK, flags, 0o666, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise _not_ours(out) from None
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # another name of a file of somebody else
        os.close(file)
        raise _not_ours(out)
    return file


def _not_ours(out: Path) -> OutError:
    return OutError(f"{out / LOCK} is not the lock of bigcluster: a link, or a file of somebody else; move it away")


def _read(file: int, out: Path) -> tuple[str, list[str]]:
    """(holder of the lock, tokens of its unfinished files). Raises OutError where the file has another form."""
    match = parse(os.pread(file, MOST_BYTES, 0))
    if match is None:
        raise _not_ours(out)
    return match


def parse(data: bytes) -> tuple[str, list[str]] | None:
    """(holder, tokens) in the content of a lock file; None where it has another form."""
    match = _TEXT.fullmatch(data.decode(errors="replace"))
    return None if match is None else (match["holder"] or "", (match["tokens"] or "").split())


def _write(file: int, holder: str, tokens: list[str]) -> None:
    text = (f"{holder}\n" if holder else "") + (f"unfinished {' '.join(tokens)}\n" if tokens else "")
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _wait_for(take: Callable[[], bool], holder: Callable[[], str], out: Path) -> None:
    began = time.monotonic()
    while not take():
        named = holder()
        if time.monotonic() - began > (_DYING_SECONDS if _is_dying(named) else _LEAVING_SECONDS):
            raise StoreError(f"OUT is in use by {named or 'another run'}: {out}; wait for it")
        time.sleep(0.05)


def _is_dying(holder: str) -> bool:
    """Whether the process that a lock names has ended on this host, except for threads that wait for the disk."""
    match = re.fullmatch(r"process (\d+) on (.+)", holder)
    return match is not None and match[2] == socket.gethostname() and has_ended(int(match[1]))
