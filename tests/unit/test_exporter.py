"""What the exporter answers."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import pytest

from server.exporter import REQUESTS_MAX, Answers, HttpServer, Workers
from server.processes import Control, State, WorkerStatus
from tests.support.deadlines import eventually

HOST = "127.0.0.23"


@pytest.fixture
def workers() -> Workers:
    """A worker that serves and one that drains."""
    workers = Workers()
    workers.control = Control(
        (WorkerStatus(0, "a:1", State.SERVING, 3), WorkerStatus(1, "a:2", State.DRAINING, 0, lags=True)),
        open_shared=True,
    )
    return workers


@pytest.fixture
def port(tmp_path: Path, workers: Workers) -> Iterator[int]:
    """The port of a running exporter."""
    with HttpServer((HOST, 0), Answers(tmp_path, workers)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def ask(port: int, path: str) -> int:
    """Returns the status that a caller gets."""
    with closing(HTTPConnection(HOST, port, timeout=10)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


def test_restarts_and_states_are_shown(tmp_path: Path, workers: Workers) -> None:
    """What the supervisor says of the workers stands beside what they say of themselves."""
    status, content_type, body = Answers(tmp_path, workers).answer("/metrics?x=1", "")
    lines = body.decode().splitlines()
    assert status == HTTPStatus.OK
    assert content_type.startswith("text/plain")
    assert 'crest_worker_restarts_total{worker="0"} 3.0' in lines
    assert 'crest_worker_state{state="DRAINING",worker="1"} 1.0' in lines
    assert 'crest_worker_lags{worker="0"} 0.0' in lines
    assert 'crest_worker_lags{worker="1"} 1.0' in lines
    assert 'crest_worker_state{state="SERVING",worker="1"} 0.0' in lines


def test_openmetrics_is_answered_when_asked_for(tmp_path: Path, workers: Workers) -> None:
    """A scraper that prefers OpenMetrics gets it."""
    _, content_type, body = Answers(tmp_path, workers).answer("/metrics", "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_health_is_that_of_any_worker(tmp_path: Path, workers: Workers) -> None:
    """The server is well while one worker serves, and not well when none does or nothing is known."""
    answers = Answers(tmp_path, workers)
    status, _, body = answers.answer("/healthz", "")
    assert status == HTTPStatus.OK
    assert json.loads(body) == {"serving": True, "workers": {"0": "SERVING", "1": "DRAINING"}}
    workers.control = Control((), open_shared=False)
    assert answers.answer("/healthz", "")[0] == HTTPStatus.SERVICE_UNAVAILABLE


def test_other_paths_are_not_found(port: int) -> None:
    """A path that is not there is told as such."""
    assert ask(port, "/") == HTTPStatus.NOT_FOUND


def test_idle_callers_do_not_pile_up(port: int) -> None:
    """With as many silent callers as are served at once the next is told to come back, and served once they left."""
    silent = [socket.create_connection((HOST, port), timeout=10) for _ in range(REQUESTS_MAX)]
    with socket.create_connection((HOST, port), timeout=10) as refused:
        assert refused.recv(100).startswith(b"HTTP/1.0 503")
    for idle in silent:
        idle.close()
    # each thread notices by and by, that of a caller who was answered too
    eventually(lambda: ask(port, "/healthz") == HTTPStatus.OK, "served again")
