"""The servers that the benchmark compares start, answer and end as it relies on."""

import random
from pathlib import Path

import psutil
import pytest

from bench import load, subjects
from protos.orders.v1 import orders_pb2
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
