"""The file OUT/.holder names the process that holds OUT, and shows that it is alive, to processes of other hosts too.

The lock of the system (lock.py) reaches every process of one host. It does not reach other hosts: each FUSE mount has
locks of its own, and NFS has them only with a lock daemon. So beside the lock there is a file that only one process can
create, which holds even there. Its holder touches it every 30 seconds. A file of a process that has ended on this host
is replaced at once; one of another host is replaced when it was not touched three times.
"""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bigcluster.errors import OutError, StoreError
from bigcluster.files.bounded import UnfitFileError, open_regular
from bigcluster.files.durable import TOKEN, unfinished_name, write_all, write_for
from bigcluster.files.shared_disk import NFS_SECONDS, expect_other_hosts
from bigcluster.runtime.sampler import has_ended, started_at

HOLDER = ".holder"
HEARTBEAT_SECONDS = 30.0
"""Seconds between two touches of the file. Chosen, not measured: NFS clients keep what they know for up to 30 s."""
_MISSED = 3
"""Touches that must be missing before a process of another host counts as ended."""
_LOOK_SECONDS = 0.5
"""Seconds between two looks at the file of another host. Chosen, not measured."""
_SAME_START_SECONDS = 1.0
"""Seconds by which the start of one process may differ between two readings: the clock may be set meanwhile."""
_MOST_BYTES = 1 << 10
"""Bytes of the file that are read: one line, of which a host name may be 255."""
_FORM = re.compile(
    r"run (?P<token>[0-9a-f]{16}) process (?P<pid>\d{1,10}) since (?P<since>\d{1,12}\.\d{1,2}) in (?P<space>\d{0,20}) "
    r"of (?P<kernel>[0-9a-f-]{0,36}) on (?P<host>[^\n]{1,255})\n"
)
_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Error numbers of file systems without hard links."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_MOUNTS = Path("/proc/self/mountinfo")
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay", "apfs", "hfs", "jfs", "reiserfs"}
"""File systems of one host, whose locks reach all of its processes, those of other containers too."""


@dataclass(frozen=True)
class Holder:
    """A process that holds OUT, as its file names it."""

    token: str
    """Of its unfinished files: 16 hex digits, another one for every process."""
    pid: int
    since: float
    """Seconds since 1970 at which it started."""
    space: str
    """The namespace of its process number, as Linux numbers it; "" elsewhere."""
    kernel: str
    """The id that Linux takes when it starts; "" elsewhere. Containers of one host share it."""
    host: str

    @classmethod
    def this(cls) -> Holder:
        """Return the holder that this process is."""
        return cls(
            TOKEN,
            os.getpid(),
            round(started_at(os.getpid()) or 0.0, 2),
            "".join(re.findall(r"\d+", _link(_PID_NAMESPACE))),
            _text(_BOOT_ID),
            socket.gethostname(),
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def line(self) -> str:
        """Return the content of its file."""
        where = f"in {self.space} of {self.kernel} on {self.host}"
        return f"run {self.token} process {self.pid} since {self.since:.2f} {where}\n"

    @classmethod
    def of_line(cls, line: str) -> Holder | None:
        """Return the holder that a file names; None where the file has another form."""
        match = _FORM.fullmatch(line)
        if match is None:
            return None
        pid, since = int(match["pid"]), float(match["since"])
        return cls(match["token"], pid, since, match["space"], match["kernel"], match["host"])

    def has_ended(self, *, locks_reach_it: bool) -> bool | None:
        """Return whether the process has ended; None where this process cannot know.

        locks_reach_it : whether the lock of OUT, which this process has, reaches all processes of this host.
        """
        this = Holder.this()
        if self.kernel != this.kernel or (not this.kernel and self.host != this.host):
            return None
        if locks_reach_it:  # it has no lock any more, or its OUT is another folder, of which this one is a copy
            return True
        if self.space != this.space:  # of another container: its number says nothing here
            return None
        since = None if has_ended(self.pid) else started_at(self.pid)
        return since is None or abs(since - self.since) > _SAME_START_SECONDS


@contextmanager
def holding(folder: int, out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold OUT for this process while the block runs. The lock of the system must be held.

    folder : the open folder. say : gets one line where a process of another host is waited for.
    Raises StoreError where a process that is alive holds OUT, OutError where OUT/.holder is no file of ours.
    """
    this = Holder.this()
    while not _create(folder, this):
        holder = read_holder(out)
        if holder is None:  # it went just now
            continue
        ended = holder.has_ended(locks_reach_it=_is_local(folder))
        if ended is None:
            ended = _is_silent(out, holder, say)
        if not ended:
            raise StoreError(f"OUT is in use by {holder}: {out}; wait for it")
        _remove(folder, out, holder)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(folder, stop), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        _remove(folder, out, this)


@dataclass(frozen=True)
class HeldBy:
    """The run that holds OUT, for processes that write for it: they call this object before each job."""

    out: Path
    between_hosts: bool
    """Whether processes of other hosts write to OUT."""
    token: str = TOKEN

    def __call__(self) -> None:
        """Write for that run from now on. Raises StoreError where another run holds OUT now."""
        write_for(self.token)
        expect_other_hosts(NFS_SECONDS if self.between_hosts else 0.0)
        holder = read_holder(self.out)
        if holder is not None and holder.token != self.token:
            raise StoreError(f"{self.out} is not held by the run any more for which this process works; it ends")


def read_holder(out: Path) -> Holder | None:
    """Return the process that holds OUT; None where there is none. Raises OutError where the file is not ours."""
    try:
        with open_regular(out / HOLDER) as file:  # to open it makes NFS ask the server
            holder = Holder.of_line(file.read(_MOST_BYTES).decode(errors="replace"))
    except FileNotFoundError:
        return None
    except UnfitFileError:
        holder = None
    if holder is None:
        raise OutError(f"{out / HOLDER} is not a file of bigcluster; move it away")
    return holder


def _create(folder: int, holder: Holder) -> bool:
    """Create the file, with its whole content at once; return False where there is one.

    A file system without hard links gets no such file: it is one of this host, such as exFAT.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    name = unfinished_name()
    file = os.open(name, flags, 0o666, dir_fd=folder)
    try:
        with io.FileIO(file, "wb", closefd=False) as stream:
            write_all(stream, memoryview(holder.line().encode()))
        os.fsync(file)
        os.link(name, HOLDER, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    finally:
        os.close(file)
        os.unlink(name, dir_fd=folder)
    return True


def _remove(folder: int, out: Path, holder: Holder) -> None:
    """Remove the file where it still names this holder."""
    if read_holder(out) == holder:
        with suppress(FileNotFoundError):
            os.unlink(HOLDER, dir_fd=folder)


def _beat(folder: int, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with suppress(FileNotFoundError):  # somebody deleted it, and the lock of the system still holds
            os.utime(HOLDER, dir_fd=folder, follow_symlinks=False)


def _is_silent(out: Path, holder: Holder, say: Callable[[str], None]) -> bool:
    """Return whether nobody touches the file for as long as three touches take; it may go meanwhile."""
    patience_seconds = _MISSED * HEARTBEAT_SECONDS
    say(f"OUT was in use by {holder}: waiting up to {patience_seconds:g} s for a sign that it is alive")
    touched, began = _touched(out), time.monotonic()
    while time.monotonic() - began < patience_seconds:
        time.sleep(min(_LOOK_SECONDS, HEARTBEAT_SECONDS))
        now = _touched(out)
        if now is None:
            return True
        if now != touched:
            return False
    return True


def _touched(out: Path) -> tuple[int, int] | None:
    try:
        with open_regular(out / HOLDER) as file:
            status = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _is_local(folder: int) -> bool:
    """Return whether the folder lies on a file system of this host alone, as far as the system says."""
    device = os.fstat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _text(_MOUNTS).splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2:3] == [wanted]:
            return rest.split()[0] in _LOCAL
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # not on Linux
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
