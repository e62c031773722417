"""A server on this machine that sends the file of a network, or fails in the ways in which servers do."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bigcluster.models.fetch import FOLDER_VARIABLE

DATA = bytes(range(256)) * 4096
"""A mebibyte."""
DIGEST = hashlib.sha256(DATA).hexdigest()


def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Answer a request in the way that the last part of its path names."""
    kind = handler.path.rsplit("/", 1)[-1].replace("-", " ")
    if kind == "cut once" and handler.path in handler.server.cut_paths:  # type: ignore[attr-defined]
        kind = "right"
    if kind == "404":
        handler.send_error(404)
        return
    if kind == "silent":
        time.sleep(3)
        return
    if kind == "moved":
        handler.send_response(302)
        handler.send_header("Location", "/right")
        handler.end_headers()
        return
    body = {
        "wrong": DATA[:-1] + b"\0",
        "html": b"<!DOCTYPE html><html><body>Sign in</body></html>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "empty": b"",
        "long": DATA + b"more",
    }.get(kind, DATA)
    handler.send_response(200)
    if kind != "unsized":
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    for number, piece in enumerate(pieces):
        if kind.startswith("cut") and number == 3:
            handler.server.cut_paths.add(handler.path)  # type: ignore[attr-defined]
            handler.close_connection = True
            return
        handler.wfile.write(piece)
        if kind == "slow":
            time.sleep(0.05)


class Server(http.server.ThreadingHTTPServer):
    """A server that lists the path of every request. `answer` says what it sends."""

    daemon_threads = True

    def __init__(self) -> None:
        requested_paths = self.requested_paths = []  # type: list[str]
        self.cut_paths: set[str] = set()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requested_paths.append(self.path)
                answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: some tests make clients that hang up."""

    def address(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{kind}"


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server in a thread."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def use_empty_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use this folder as the cache, no folder of the user, and no proxy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for name in (FOLDER_VARIABLE, "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
