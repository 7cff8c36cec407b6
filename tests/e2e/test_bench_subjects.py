"""The servers that the benchmark compares start, answer and end as it relies on."""

import json
import random
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
import psutil
import pytest

from bench import load, subjects
from bench.bed import Bed
from bench.driver import Driver, DriverError
from bench.installed import InstallError
from bench.peers import building
from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from tests.support.cassandra_node import shared_cluster
from tests.support.server_process import alive

HOST = "127.0.0.26"


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


@pytest.mark.timeout(240)
def test_peers_keep_orders_on_the_shards_as_their_names_say(tmp_path: Path) -> None:
    """Every peer stores an order and answers it whole; sent again, it is one order with `go-once` alone."""
    bed = Bed(shared_cluster().state.path)
    _build_or_skip()
    peers = {
        "go-once": subjects.go("once", HOST, 20_660, tmp_path, bed),
        "go-plain": subjects.go("plain", HOST, 20_665, tmp_path, bed),
        "naive": subjects.naive(HOST, 20_670, 1, tmp_path, bed),
    }
    for name, subject in peers.items():
        request = load.create_request(random.Random(1))
        with subject as peer:
            peer.answer(load.create_request(random.Random(2)))
            with grpc.insecure_channel(peer.endpoints[0]) as channel:
                stub = orders_pb2_grpc.OrderServiceStub(channel)
                first, second = (stub.CreateOrder(request, timeout=30) for _ in range(2))
        assert first.order.customer_id == request.customer_id
        assert list(first.order.lines) == list(request.lines)
        assert first.order.total_minor == sum(line.quantity * line.unit_price_minor for line in request.lines)
        assert not first.replayed
        assert (second.order == first.order) == second.replayed == (name == "go-once"), name


def test_raw_batches_and_callers_tell_their_figures(tmp_path: Path) -> None:
    """What loads without ghz runs for as long as it is told, and answers with rows and seconds."""
    bed = Bed(shared_cluster().state.path)
    file = bed.named("raw_test", tmp_path)
    command = [sys.executable, "-m", "bench.peers.raw", f"--topology-file={file}", "--batch-rows=10"]
    with Driver("raw", command, tmp_path / "raw.log") as raw:
        figures = raw.run(0.2)
        assert figures["rows"] > 0
        assert raw.cpu_s() > 0
    with pytest.raises(DriverError, match="No such option"):
        Driver("raw", [*command, "--nonsense"], tmp_path / "raw.log").__enter__()


def _build_or_skip() -> None:
    """Skips where the peers in Go cannot be built."""
    try:
        building.ensure()
    except InstallError as error:
        pytest.skip(f"no peers in Go: {error}")
