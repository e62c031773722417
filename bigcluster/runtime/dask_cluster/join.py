"""This module joins a cluster that somebody else has started: its address, its certificates, and how to reach it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, Security, __version__
from distributed.comm import connect as connect_to

from bigcluster.errors import ClusterError, ConfigError
from bigcluster.files.bounded import SETTINGS_BYTES, read_bounded
from bigcluster.runtime.dask_cluster.tasks import TOPIC
from bigcluster.runtime.events import Progress
from bigcluster.runtime.workers_memory import WorkersMemory

CONNECT_SECONDS = 10.0
"""Seconds for one attempt to reach a scheduler. Chosen, not measured."""
ANSWER_SECONDS = 5.0
"""Seconds in which a scheduler that was reached says what it is. Chosen, not measured."""
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")


def address_of(scheduler: str) -> str:
    """Return the address of a scheduler: it is given, or a scheduler file says it. Raises ConfigError."""
    if "://" not in scheduler:
        try:
            address = json.loads(read_bounded(Path(scheduler), SETTINGS_BYTES, follow=True))["address"]
        except OSError as error:
            raise ConfigError(f"cannot read the scheduler file {scheduler}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{scheduler} is no scheduler file: it has no address") from error
        scheduler = str(address)
    parts = urlsplit(scheduler)
    try:
        is_whole = parts.scheme in ("tcp", "tls") and parts.hostname is not None and parts.port is not None
    except ValueError:  # a port that is no number
        is_whole = False
    if not is_whole:
        raise ConfigError(f"--scheduler must be tcp://HOST:PORT, tls://HOST:PORT or a scheduler file, not {scheduler}")
    return scheduler


def warning_for(address: str) -> str | None:
    """Return what a person should know about an address; None where there is nothing."""
    host = urlsplit(address).hostname or ""
    if address.startswith("tls://") or host.startswith(_LOOPBACK):
        return None
    return (
        f"{address} is neither encrypted nor closed: whoever reaches its scheduler or a worker can run programs there; "
        "outside of a trusted network use tls://"
    )


def security_for(address: str, ca: str | None, cert: str | None, key: str | None) -> Security | None:
    """Return the certificates for an address; None where it needs none. Raises ConfigError where they do not fit."""
    files = {"cluster.tls_ca": ca, "cluster.tls_cert": cert, "cluster.tls_key": key}
    if not address.startswith("tls://"):
        return None
    missing = [name for name, file in files.items() if file is None]
    if missing:
        raise ConfigError(f"{address} needs certificates: give {', '.join(missing)} (--set {missing[0]}=FILE)")
    for name, file in files.items():
        if not Path(file or "").is_file():
            raise ConfigError(f"{name}: there is no file {file}")
    return Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)


def connector(scheduler: str, ca: str | None, cert: str | None, key: str | None) -> Callable[[], Client]:
    """Return a function that connects to a scheduler, and raises OSError or ClusterError. Raises ConfigError."""
    security_for(address_of(scheduler), ca, cert, key)

    def connect() -> Client:
        address = address_of(scheduler)  # a scheduler that was started again may have another one
        security = security_for(address, ca, cert, key)
        # A client waits for ever for an answer, where something listens that does not speak or is no scheduler.
        asyncio.run(asyncio.wait_for(_check_scheduler(address, security), CONNECT_SECONDS + ANSWER_SECONDS))
        return Client(address, timeout=CONNECT_SECONDS, security=security, set_as_default=False)

    return connect


async def _check_scheduler(address: str, security: Security | None) -> None:
    """Ask who listens at an address. Raises OSError, and ClusterError where it is not a scheduler of our version."""
    arguments = {} if security is None else security.get_connection_args("client")
    try:
        comm = await connect_to(address, timeout=CONNECT_SECONDS, **arguments)
    except ValueError as error:  # of tornado, where the other side sends something else than TLS
        raise ConnectionError("it does not speak TLS: give an address that begins with tcp://") from error
    try:
        await comm.write({"op": "identity", "reply": True})
        what = (await comm.read())["type"].lower()
        if what != "scheduler":
            raise ClusterError(f"{address} is the address of a {what} of dask: give that of its scheduler")
        await comm.write({"op": "versions", "reply": True})
        theirs = (await comm.read())["packages"]["distributed"]
    finally:
        comm.abort()
    if theirs != __version__:
        raise ClusterError(
            f"the scheduler at {address} has dask.distributed {theirs}, and this process has {__version__}: install "
            "the same version in both places"
        )


def following(
    connect: Callable[[], Client], run: str, progress: Progress, memory: WorkersMemory
) -> Callable[[], Client]:
    """Return a function that connects and brings what workers report of a run to its progress and its memory."""

    def report(event: tuple[float, Any]) -> None:
        _, message = event
        if message.get("run") != run:
            return
        if "memory" in message:
            memory.add(message["memory"])
        else:
            progress.advance(message["advance"])

    def connected() -> Client:
        client = connect()
        client.subscribe_topic(TOPIC, report)
        return client

    return connected


def first(connect: Callable[[], Client], scheduler: str) -> Callable[[], Client]:
    """Return a function that does the same, and whose first failure is a ClusterError."""
    is_first = [True]

    def connected() -> Client:
        try:
            return connect()
        except OSError as error:
            if is_first:
                raise ClusterError(
                    f"no scheduler of dask answers at {scheduler}: {_cause(error)}; start one with `dask scheduler`"
                ) from error
            raise
        finally:
            is_first.clear()

    return connected


def _cause(error: BaseException | None) -> str:
    """Return the first line of the error at the bottom that says something: dask wraps it twice."""
    text = f"it was waited for {CONNECT_SECONDS + ANSWER_SECONDS:g} s"
    while isinstance(error, OSError):
        text = next(iter(str(error).splitlines()), text)
        error = error.__cause__
    return text
