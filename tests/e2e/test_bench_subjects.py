"""The servers that the benchmark compares start, answer and end as it relies on."""

import json
import random
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest

from bench import load, subjects
from bench.installed import InstallError
from bench.peers import building
from protos.orders.v1 import orders_pb2
from tests.support.addresses import loopback
from tests.support.server_process import alive

HOST = loopback(26)


@pytest.mark.parametrize(("transport", "port"), [("native", 20_600), ("grpcio", 20_620)])
def test_empty_peer_answers_the_bytes_it_was_given(transport: str, port: int, tmp_path: Path) -> None:
    """Each process of the empty peer answers exactly these bytes at its own port, uses time, and ends with the peer."""
    answer = orders_pb2.CreateOrderResponse(replayed=True).SerializeToString()
    with subjects.empty(HOST, port, 2, transport, tmp_path, answer) as peer:
        assert peer.answer(load.create_request(random.Random(1))) == answer
        pids = [process.pid for process in peer.processes()]
        assert len(pids) == 2
        assert peer.cpu_s() > 0
    assert not [pid for pid in pids if alive(pid)]


def test_subject_that_dies_tells_its_log(tmp_path: Path) -> None:
    """A subject whose process ends before it answers is an error that shows the last lines of its log."""
    answer = b""
    with subjects.empty(HOST, 20_640, 1, "no such transport", tmp_path, answer) as peer:
        with pytest.raises(subjects.SubjectError, match="no such transport"):
            peer.answer(load.create_request(random.Random(1)))
        left = peer.processes()
    assert not [process for process in left if psutil.pid_exists(process.pid)]


def test_peer_in_go_answers_the_bytes_it_was_given(tmp_path: Path) -> None:
    """The empty peer in Go answers exactly these bytes, from one process that ends with it."""
    answer = orders_pb2.CreateOrderResponse(replayed=True).SerializeToString()
    _build_or_skip()
    with subjects.empty_go(HOST, 20_650, tmp_path, answer) as peer:
        assert peer.answer(load.create_request(random.Random(1))) == answer


def test_blog_post_answers_a_second_later(tmp_path: Path) -> None:
    """The peer that sleeps answers an order as JSON, and none of its processes is left."""
    with subjects.flask(HOST, 20_655, tmp_path, workers=1, threads=2) as peer:
        subjects.wait_until_it_listens(peer, HOST, 20_655)
        request = Request(f"http://{HOST}:20655/order", b'{"sku": "a"}', {"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as answer:  # noqa: S310  of our own server, on loopback
            assert json.load(answer)["sku"] == "a"
        pids = [process.pid for process in peer.processes()]
    assert not [pid for pid in pids if alive(pid)]


def _build_or_skip() -> None:
    """Skips where the peers in Go cannot be built."""
    try:
        building.ensure()
    except InstallError as error:
        pytest.skip(f"no peers in Go: {error}")
