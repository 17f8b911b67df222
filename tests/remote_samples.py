"""A loopback S3 server, a proxy in front of it that injects faults, and small raw data sets."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from moto.server import ThreadedMotoServer


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """A real S3 protocol server on loopback; yields its endpoint."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def s3_environment(endpoint: str, local: Path) -> dict[str, str]:
    """What a user of that server would set."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PASS2D_LOCAL_CACHE": str(local),
        "PASS2D_STORE_WAIT": "1e-6",
    }


Fault = Callable[["Request"], str | None]
"""Looks at a request; answers "500", "503", "slow", "cut" (the body of the answer ends early),
"cut-put" (half of the request's body goes on, then the line drops), "close", or None."""


class Request:
    """What a fault decides on."""

    def __init__(self, number: int, method: str, path: str) -> None:
        self.number = number
        """1, 2, ... of the requests since the fault was set."""
        self.method = method
        self.path = path


class FaultyProxy:
    """Forwards HTTP to a server and spoils what `fault` says."""

    def __init__(self, endpoint: str) -> None:
        self.fault: Fault = lambda request: None
        self.log: list[tuple[str, str]] = []
        """(method, path) of every request."""
        self.released = threading.Event()
        """Ends slow answers."""
        host, port = endpoint.removeprefix("http://").split(":")
        proxy, count_lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def relay(self) -> None:
                with count_lock:
                    proxy.log.append((self.command, self.path))
                    request = Request(len(proxy.log), self.command, self.path)
                kind = proxy.fault(request)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if kind in ("500", "503"):
                    self.answer_error(int(kind))
                elif kind == "slow":
                    proxy.released.wait(60)
                    self.close_connection = True
                elif kind == "close":
                    self.close_connection = True
                elif kind == "cut-put":
                    self.forward_half(body)
                    self.close_connection = True
                else:
                    self.forward(body, is_cut=kind == "cut")

            def answer_error(self, status: int) -> None:
                code = {500: "InternalError", 503: "SlowDown"}[status]
                text = f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            def forward_half(self, body: bytes) -> None:
                upstream = http.client.HTTPConnection(host, int(port), timeout=60)
                upstream.putrequest(self.command, self.path, skip_host=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders(body[: len(body) // 2])
                upstream.close()

            def forward(self, body: bytes, *, is_cut: bool) -> None:
                upstream = http.client.HTTPConnection(host, int(port), timeout=60)
                upstream.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "expect"):
                        upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                data = answer.read()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                length = len(data)
                if self.command == "HEAD":
                    length = int(answer.getheader("Content-Length") or 0)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if is_cut else data)
                self.close_connection = is_cut
                upstream.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = relay  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def set_fault(self, fault: Fault) -> None:
        """Count requests anew and spoil them by ``fault``."""
        self.log.clear()
        self.fault = fault

    def close(self) -> None:
        """Stop serving."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def folder_bytes(root: Path) -> dict[str, bytes]:
    """Shard files below a local data set."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.glob("*/*.zarr/**/*"))
        if path.is_file()
    }
