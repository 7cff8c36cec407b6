"""Peers of the benchmark with a database keep orders on the shards, with the guarantee that they are named for."""

import random
import sys
from pathlib import Path

import grpc
import pytest

from bench import load, subjects
from bench.bed import Bed
from bench.driver import Driver, DriverError
from bench.installed import InstallError
from bench.peers import building
from protos.orders.v1 import orders_pb2_grpc
from tests.support.addresses import loopback
from tests.support.cassandra_node import shared_cluster

HOST = loopback(26)


@pytest.mark.timeout(600)
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
