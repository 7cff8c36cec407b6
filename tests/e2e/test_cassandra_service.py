"""The service on Cassandra shards: orders through several workers, and what each worker makes of another's."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.orders.v1 import orders_pb2 as pb
from shards.keys import mint_uuid7
from tests.support.cassandra_node import kill_all_nodes, revive
from tests.support.crest import Crest, create_request, orders
from tests.support.storage import storage


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Crest]:
    """Two workers over three shards and a Redis Cluster."""
    with Crest("127.0.0.43", 20_400, tmp_path / "unused", *storage("cassandra").flags) as server:
        server.wait_serving()
        yield server


async def test_orders_live_through_workers_that_share_cassandra(server: Crest) -> None:
    """Created through one worker, replayed, moved and listed through the other; both see the same."""
    async with server.channel(0) as one, server.channel(1) as two:
        first, second = orders(one), orders(two)
        requests = [create_request(f"customer-{mint_uuid7().hex()}") for number in range(30)]
        created = await asyncio.gather(*(first.CreateOrder(request, timeout=20) for request in requests))
        replayed = await asyncio.gather(*(second.CreateOrder(request, timeout=20) for request in requests))
        assert [answer.order for answer in replayed] == [answer.order for answer in created]
        assert all(answer.replayed for answer in replayed)
        paid = await second.ConfirmPayment(pb.ConfirmPaymentRequest(order_id=created[0].order.order_id), timeout=20)
        for request, answer in zip(requests, created, strict=True):
            listed = await second.ListOrders(pb.ListOrdersRequest(customer_id=request.customer_id), timeout=20)
            assert [order.order_id for order in listed.orders] == [answer.order.order_id]
        strong = pb.GetOrderRequest(order_id=created[0].order.order_id, consistency=pb.CONSISTENCY_STRONG)
        assert (await first.GetOrder(strong, timeout=20)).order == paid.order


async def test_killed_worker_loses_no_acknowledged_order(server: Crest) -> None:
    """An order acknowledged by a worker that is then killed is found through the other one."""
    pids = server.wait_serving()
    async with server.channel(0) as one, server.channel(1) as two:
        created = await asyncio.gather(
            *(orders(one).CreateOrder(create_request(f"customer-{number}"), timeout=20) for number in range(50))
        )
        os.kill(pids[0], signal.SIGKILL)
        for answer in created:
            got = await orders(two).GetOrder(pb.GetOrderRequest(order_id=answer.order.order_id), timeout=20)
            assert got.order == answer.order


async def test_workers_that_start_without_their_store_wait_for_it(tmp_path: Path) -> None:
    """Started while all nodes are down, workers do not fail however long that lasts, and serve once the nodes do."""
    cassandra = storage("cassandra")
    assert cassandra.nodes is not None
    kill_all_nodes(cassandra.nodes)
    # less than a worker waits for, so that it would be ended if waiting counted as a failure to start
    flags = ("--boot-timeout-s", "8", "--boot-failures-max", "1", *cassandra.flags)
    with Crest("127.0.0.43", 20_500, tmp_path / "unused", *flags) as server:
        try:
            await asyncio.to_thread(server.wait_logged, "waiting for the store", 4)
        finally:
            revive(cassandra.nodes)
        server.wait_serving()
        async with server.channel() as channel:
            assert (await orders(channel).CreateOrder(create_request(), timeout=20)).order.version == 1
        assert server.logged("a child has ended") == []
