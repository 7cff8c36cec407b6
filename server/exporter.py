"""The process that answers Prometheus, and a plain ``/healthz``, so that no worker spends its time on either.

It adds up what the workers' files say, alive or not, and what the supervisor tells of them.
"""

from __future__ import annotations

import http.server
import json
import logging
import os
import select
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeAlias

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from server import logs
from server.metrics.catalog import WORKER_LAGS, WORKER_RESTARTS, WORKER_STATE
from server.processes import (
    BEAT,
    BEAT_INTERVAL_S,
    READY,
    Control,
    ControlReader,
    ExitCode,
    Launch,
    State,
    die_with_parent,
    leave_terminal_to_parent,
)

REQUESTS_MAX: Final = 8
"""Requests answered at once; a further one is told to come back."""

REQUEST_TIMEOUT_S: Final = 10.0
"""For a caller to say what it wants and to take the answer."""

_Request: TypeAlias = socket.socket | tuple[bytes, socket.socket]
_Address: TypeAlias = Any  # whatever the address family says

_log: Final = logging.getLogger("crest.exporter")


class Workers(Collector):
    """What the supervisor last said of the workers, as metrics."""

    def __init__(self) -> None:
        self.control = Control((), open_shared=False)

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics that no worker can tell of itself."""
        restarts = CounterMetricFamily(WORKER_RESTARTS.name, WORKER_RESTARTS.text, labels=WORKER_RESTARTS.labels)
        states = GaugeMetricFamily(WORKER_STATE.name, WORKER_STATE.text, labels=WORKER_STATE.labels)
        lags = GaugeMetricFamily(WORKER_LAGS.name, WORKER_LAGS.text, labels=WORKER_LAGS.labels)
        for worker in self.control.workers:
            lags.add_metric([str(worker.id)], float(worker.lags))
            restarts.add_metric([str(worker.id)], worker.restarts)
            for state in State:
                states.add_metric([str(worker.id), state.value], float(worker.state is state))
        yield restarts
        yield states
        yield lags


class Answers:
    """What is answered, by path."""

    def __init__(self, metrics_dir: Path, workers: Workers) -> None:
        self._registry = CollectorRegistry()
        MultiProcessCollector(self._registry, path=str(metrics_dir))  # type: ignore[no-untyped-call]  # the library's
        self._registry.register(workers)
        self._workers = workers

    def answer(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Returns status, content type and body; ``accept`` is the header that chooses a format of metrics."""
        match path.partition("?")[0]:
            case "/metrics":
                encode, content_type = exposition.choose_encoder(accept)
                return HTTPStatus.OK, content_type, encode(self._registry)
            case "/healthz":
                states = {str(worker.id): worker.state.value for worker in self._workers.control.workers}
                serves = State.SERVING.value in states.values()
                status = HTTPStatus.OK if serves else HTTPStatus.SERVICE_UNAVAILABLE
                return status, "application/json", json.dumps({"serving": serves, "workers": states}).encode() + b"\n"
            case _:
                return HTTPStatus.NOT_FOUND, "text/plain", b"here are /metrics and /healthz\n"


class HttpServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves ``Answers``, few requests at once. Raises ``OSError`` where it cannot listen."""

    daemon_threads = True
    allow_reuse_address = True
    allow_reuse_port = True  # the supervisor holds the port, and a replacement starts beside the one it replaces

    def __init__(self, address: tuple[str, int], answers: Answers) -> None:
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        self.answers = answers
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Binds without looking its own name up, as HTTPServer does, which may ask the network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: _Request, client_address: _Address) -> None:
        """Answers in a thread of its own, unless there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        elif isinstance(request, socket.socket):
            with request:
                request.sendall(b"HTTP/1.0 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")

    def process_request_thread(self, request: _Request, client_address: _Address) -> None:
        """Answers, and makes room for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: _Request, client_address: _Address) -> None:
        """Logs a defect; a caller that went away is none of our business."""
        del request, client_address
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            _log.error("a request met a defect", exc_info=error)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HttpServer
    timeout = REQUEST_TIMEOUT_S
    server_version = "crest"
    sys_version = ""

    def do_GET(self) -> None:
        status, content_type, body = self.server.answers.answer(self.path, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name it has there
        _log.debug(format, *args)


def main() -> ExitCode:
    """Serves until the supervisor says to end, or is gone."""
    launch = Launch.from_environ(os.environ)
    die_with_parent(launch.parent_pid)
    leave_terminal_to_parent()
    config = launch.config
    logs.configure("exporter", config.log_format, config.log_level)
    asked_to_end = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked_to_end.set()

    signal.signal(signal.SIGTERM, ask)
    workers = Workers()
    try:
        server = HttpServer((config.host.strip("[]"), config.metrics_port), Answers(launch.metrics_dir, workers))
    except OSError as error:
        _log.error("cannot listen on %s port %s: %s", config.host, config.metrics_port, error.strerror)
        return ExitCode.PORT_TAKEN
    threading.Thread(target=server.serve_forever, daemon=True, name="http").start()
    os.write(launch.status_fd, READY)
    controls = ControlReader()
    while not asked_to_end.is_set():
        if select.select([launch.control_fd], [], [], BEAT_INTERVAL_S)[0]:
            data = os.read(launch.control_fd, 65536)
            if not data:
                return ExitCode.CUT
            workers.control = controls.feed(data) or workers.control
        os.write(launch.status_fd, BEAT)
    server.server_close()
    return ExitCode.STOPPED


if __name__ == "__main__":
    sys.exit(main())
