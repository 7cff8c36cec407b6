"""The service config that is shipped for plain stubs, over workers that fail on cue."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from tests.support.addresses import loopback
from tests.support.scripted_server import ScriptedServer, unavailable
from tests.support.waiting import until

HOST = loopback(30)
SERVICE_CONFIG = Path(__file__).resolve().parents[2] / "clients" / "service_config.json"


@pytest.fixture
async def fleet() -> AsyncIterator[list[ScriptedServer]]:
    """Three workers."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ScriptedServer(f"{HOST}:0")) for _ in range(3)]


@pytest.fixture
async def stub(fleet: list[ScriptedServer]) -> AsyncIterator["orders_pb2_grpc.OrderServiceAsyncStub"]:
    """A plain stub with the shipped config over the three."""
    options = [
        ("grpc.service_config", SERVICE_CONFIG.read_text(encoding="utf-8")),
        ("grpc.default_authority", HOST),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    target = "ipv4:" + ",".join(server.address for server in fleet)
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield orders_pb2_grpc.OrderServiceStub(channel)


def create(n: int) -> orders_pb2.CreateOrderRequest:
    """A request for a small order."""
    request_id = f"0190b0a2-7c31-7d3f-8a55-{n:012x}"
    line = orders_pb2.OrderLine(sku="sku-1", quantity=1, unit_price_minor=100)
    return orders_pb2.CreateOrderRequest(request_id=request_id, customer_id="zoe", currency_code="EUR", lines=[line])


async def test_each_worker_has_its_turn_and_one_that_drains_has_none(
    fleet: list[ScriptedServer], stub: "orders_pb2_grpc.OrderServiceAsyncStub"
) -> None:
    """Calls go round over all workers, and leave out one that says NOT_SERVING, without a failed call."""
    made = 0

    async def calls() -> list[int]:
        nonlocal made
        before = [len(server.orders) for server in fleet]
        for _ in range(9):
            made += 1
            await stub.CreateOrder(create(made), wait_for_ready=True)
        return [len(server.orders) - earlier for server, earlier in zip(fleet, before, strict=True)]

    await until(calls, lambda shares: shares == [3, 3, 3])
    await fleet[1].drain()
    shares = await until(calls, lambda shares: shares[1] == 0)
    assert min(shares[0], shares[2]) > 0


async def test_reads_are_retried_and_writes_are_not(
    fleet: list[ScriptedServer], stub: "orders_pb2_grpc.OrderServiceAsyncStub"
) -> None:
    """A read that no worker answered is asked again; a write is the caller's to repeat, by its request id."""
    answer = await stub.CreateOrder(create(1), wait_for_ready=True)
    for server in fleet:
        server.orders.update({("zoe", "copy"): answer.order})
        server.script("GetOrder", unavailable())
        server.script("CreateOrder", unavailable())
    read = await stub.GetOrder(orders_pb2.GetOrderRequest(order_id=answer.order.order_id))
    assert read.order == answer.order
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.CreateOrder(create(2))
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert sum(len(server.sent(orders_pb2.CreateOrderRequest)) for server in fleet) == 2
