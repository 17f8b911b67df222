"""Nothing that was started for a run outlives it; a cluster that is none is said at once."""

from __future__ import annotations

import contextlib
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from cache.errors import CacheError, ConfigError
from pipeline.options import PrepareConfig
from pipeline.ray_processes import end_marked, marking, uninterrupted

SLEEP = "import time; print(flush=True); time.sleep(600)"
ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}])"


@contextlib.contextmanager
def sleeper(code: str = SLEEP) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has printed a line."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_only_marked_processes_end_also_those_that_lost_their_parent() -> None:
    with sleeper() as other, contextlib.ExitStack() as stack:
        with marking() as mark:
            ours = stack.enter_context(sleeper())
            stack.enter_context(sleeper(ORPHAN)).wait(60)  # its child lives on
        later = stack.enter_context(sleeper())
        assert end_marked(mark) == 2
        assert ours.wait(60) == -signal.SIGKILL
        assert other.poll() is None
        assert later.poll() is None


def test_ctrl_c_waits_until_all_is_shut_down() -> None:
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


class Web(socketserver.StreamRequestHandler):
    """Answers as a web server does that understands nothing."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_an_address_where_no_ray_answers_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.ray_runner import connected

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with (
                pytest.raises(
                    CacheError, match=r"cannot connect to .*who listens there is not Ray"
                ),
                connected(PrepareConfig(ray_address=address)),
            ):
                pass
        server.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for address in (f"127.0.0.1:{port}", "host:port", ":6379", "[::1]:1", "auto"):
        with (
            pytest.raises(CacheError, match=r"cannot connect to .* Check --ray-address"),
            connected(PrepareConfig(ray_address=address)),
        ):
            pass
    with pytest.raises(ConfigError, match="--ray-address is empty"):
        PrepareConfig(ray_address=" ")
