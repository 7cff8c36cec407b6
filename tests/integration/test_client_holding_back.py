"""Calls that nobody refused are sent, each of them, by a client that holds back as soon as it may."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from clients import OrderClient, Overloaded, RetryPolicy, Unavailable
from clients.throttle import Throttle
from protos.orders.v1 import orders_pb2
from tests.support.addresses import loopback
from tests.support.scripted_server import Fail, Hang, ScriptedServer
from tests.support.waiting import until

HOST = loopback(30)
ONCE = RetryPolicy(attempts_max=1, attempt_timeout_s=20)
FULL = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_delay_s=0.001)


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[OrderClient]:
    """A client of that worker, which never retries and holds a list back whenever it holds back at all."""
    async with OrderClient(server.address, policy=ONCE, discover=False) as client:
        client._calls._throttles[orders_pb2.ListOrdersRequest] = Throttle(clock=lambda: 0.0, chance=lambda: 0.0)
        yield client


async def test_refused_calls_hold_others_back(client: OrderClient, server: ScriptedServer) -> None:
    """After many refusals a call is not sent."""
    server.script("ListOrders", *[FULL] * 50)
    for _ in range(50):
        with pytest.raises(Overloaded):
            await client.list_page("zoe")
    assert len(server.sent(orders_pb2.ListOrdersRequest)) < 50


async def test_a_burst_is_sent_whole(client: OrderClient, server: ScriptedServer) -> None:
    """Calls that are made at once do not take each other for refused."""
    await asyncio.gather(*(client.list_page("zoe") for _ in range(50)))
    assert len(server.sent(orders_pb2.ListOrdersRequest)) == 50


async def test_cancelled_calls_hold_nothing_back(client: OrderClient, server: ScriptedServer) -> None:
    """Calls that their callers gave up were not refused: the next one is sent."""
    server.script("ListOrders", *[Hang()] * 50)
    calls = [asyncio.create_task(client.list_page("zoe")) for _ in range(50)]

    async def begun() -> int:
        return len(server.sent(orders_pb2.ListOrdersRequest)) + sum(call.done() for call in calls)

    await until(begun, lambda count: count == 50)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    assert not (await client.list_page("zoe")).orders


async def test_calls_that_found_no_way_hold_nothing_back(
    client: OrderClient, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that were never sent were not refused: once there is a way the next one goes."""

    async def no_way(_patience_s: float) -> None:
        raise OSError("no such name")

    with monkeypatch.context() as patch:
        patch.setattr(client._fleet, "link", no_way)
        for _ in range(50):
            with pytest.raises(Unavailable, match="no such name"):
                await client.list_page("zoe")
    await client.list_page("zoe")
    assert len(server.sent(orders_pb2.ListOrdersRequest)) == 1
