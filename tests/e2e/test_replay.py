"""Creates sent again and again, to all workers of the real server at once, make exactly one order each.

The same code with a million requests is `make torture`.
"""

from pathlib import Path

import pytest

from tests.support.addresses import loopback
from tests.support.storage import storage
from tests.torture.nodes import NodeDeaths
from tests.torture.run import torture
from tests.torture.service import Setup

HOST = loopback(26)

TIMEOUT_S = 600
"""Twenty times what a test takes on an idle machine."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


@pytest.mark.parametrize(
    ("transport", "store", "count", "port"),
    [
        ("native", "embedded", 10_000, 20_500),
        ("grpcio", "embedded", 1_000, 20_520),
        ("native", "cassandra", 2_000, 20_560),
    ],
)
async def test_every_request_makes_one_order(transport: str, store: str, count: int, port: int, tmp_path: Path) -> None:
    """Each of the requests, sent 1-5 times concurrently to all workers, makes one order, is answered the same bytes
    every time, says once that it created, and is listed after a kill -9 of all processes.
    """
    setup = Setup(HOST, port, 2, transport, tmp_path / "data", storage(store).flags)
    result = await torture(setup, count, seed=3, seconds=TIMEOUT_S, deadly=False)
    assert result.ledger.findings == []
    assert result.ledger.orders == count
    assert result.ledger.answers == result.sends
    assert result.ledger.replays == result.sends - count


async def test_every_request_makes_one_order_while_workers_die(tmp_path: Path) -> None:
    """With workers killed meanwhile and callers that ask again, each request still makes exactly one order."""
    setup = Setup(HOST, 20_540, 2, "native", tmp_path / "data")
    result = await torture(setup, 3_000, seed=4, seconds=TIMEOUT_S, deadly=True)
    assert result.ledger.findings == []
    assert result.ledger.orders == 3_000


async def test_every_request_makes_one_order_while_all_nodes_die(tmp_path: Path) -> None:
    """With all Cassandra nodes killed at once under load, and again with all processes at the end, each request makes
    exactly one order, and all of them are there afterwards.
    """
    cassandra = storage("cassandra")
    assert cassandra.nodes is not None
    setup = Setup(HOST, 20_580, 2, "native", tmp_path / "data", cassandra.flags)
    nodes = NodeDeaths(cassandra.nodes, times=1, seed=5)
    result = await torture(setup, 100_000, seed=5, seconds=TIMEOUT_S, deadly=True, nodes=nodes)
    assert result.ledger.findings == []
    assert result.ledger.missing == result.ledger.surplus == 0
    assert result.node_kills == 2
