"""The service on Cassandra shards: orders through several workers, and what each worker makes of another's."""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from protos.orders.v1 import orders_pb2 as pb
from protos.topology.v1 import topology_pb2, topology_pb2_grpc
from shards.keys import mint_uuid7, slot_and_tag
from tests.support.addresses import loopback
from tests.support.cassandra_node import kill_all_nodes, revive
from tests.support.crest import Crest, create_request, orders
from tests.support.storage import storage
from tests.support.waiting import until

DEAD = 2
"""The shard whose node dies."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Crest]:
    """Two workers over three shards and a Redis Cluster."""
    with Crest(loopback(43), 20_400, tmp_path / "unused", *storage("cassandra").flags) as server:
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


async def test_a_shard_that_is_down_stops_its_own_orders_only(server: Crest) -> None:
    """While a shard's node is dead its customers are told to come back, and everybody else is served as ever; when the
    node serves again so does the shard, and nothing else was restarted.
    """
    nodes = storage("cassandra").nodes
    assert nodes is not None
    customers = [f"customer-{mint_uuid7().hex()}" for _ in range(30)]
    async with server.channel(0) as channel:

        async def create() -> list[str]:
            """An order for each; returns what each was told: nothing, or a reason.

            Soon: what was sent to the node as it died stays open until the deadline.
            """
            calls = (orders(channel).CreateOrder(create_request(customer), timeout=4) for customer in customers)
            return [refusal(answer) for answer in await asyncio.gather(*calls, return_exceptions=True)]

        shards = await slot_shards(channel)
        away = [shards[slot_and_tag(customer)[0]] == DEAD for customer in customers]
        assert 0 < away.count(True) < len(customers)
        await until(create, lambda told: not any(told))
        await asyncio.to_thread(nodes.node(DEAD).kill)
        try:
            # whatever was under way at the death is left open; afterwards nothing is sent
            expected = ["STORE_UNAVAILABLE" if is_away else "" for is_away in away]
            await until(create, lambda told: told == expected)
        finally:
            await asyncio.to_thread(revive, nodes)
        await until(create, lambda told: not any(told))
    assert server.logged("a child has ended") == []


async def slot_shards(channel: grpc.aio.Channel) -> Sequence[int]:
    """The shard of each slot, as a worker tells."""
    stub: topology_pb2_grpc.TopologyServiceAsyncStub = topology_pb2_grpc.TopologyServiceStub(channel)
    return (await stub.GetTopology(topology_pb2.GetTopologyRequest(), timeout=20)).topology.slot_shards


def refusal(answer: object) -> str:
    """Why a call was refused, with a hint when to come back, or that it was open too long; empty: neither."""
    if isinstance(answer, pb.CreateOrderResponse):
        return ""
    assert isinstance(answer, grpc.aio.AioRpcError), answer
    if answer.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return answer.code().name
    # the second: a worker whose calls have been open for so long lets none begin that would be, for a while
    assert answer.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}, answer
    trailers = dict(answer.trailing_metadata())
    details = status_pb2.Status.FromString(bytes(trailers["grpc-status-details-bin"])).details
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in details)
    assert any(detail.Unpack(info) for detail in details)
    return str(info.reason)


async def test_workers_that_start_without_their_store_wait_for_it(tmp_path: Path) -> None:
    """Started while all nodes are down, workers do not fail however long that lasts, and serve once the nodes do."""
    cassandra = storage("cassandra")
    assert cassandra.nodes is not None
    kill_all_nodes(cassandra.nodes)
    # less than a worker waits for, so that it would be ended if waiting counted as a failure to start: each wait takes
    # some three seconds, and the nodes need more; and enough for a slow machine to load a worker's code
    flags = ("--boot-timeout-s", "15", "--boot-failures-max", "1", *cassandra.flags)
    with Crest(loopback(43), 20_500, tmp_path / "unused", *flags) as server:
        try:
            await asyncio.to_thread(server.wait_logged, "waiting for the store", 8)
        finally:
            revive(cassandra.nodes)
        server.wait_serving()
        async with server.channel() as channel:
            assert (await orders(channel).CreateOrder(create_request(), timeout=20)).order.version == 1
        assert server.logged("a child has ended") == []
