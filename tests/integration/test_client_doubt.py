"""Calls in doubt and calls without an end, over a service that fails on cue."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from clients import Created, NewOrder, OrderClient, OrderLine, RetryPolicy
from clients.errors import DeadlineExceeded, RequestIdAhead
from tests.support.addresses import loopback
from tests.support.scripted_server import Hang, Items, LoseReply, ScriptedServer, refused_id

HOST = loopback(30)
LINES = [OrderLine("sku-1", 2, 1999)]
QUICK = RetryPolicy(attempts_max=5, backoff_s=0.001, attempt_timeout_s=20)
HASTY = RetryPolicy(attempts_max=5, backoff_s=0.001, attempt_timeout_s=0.3)
LATER = dt.datetime(2031, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
AHEAD = refused_id("REQUEST_ID_AHEAD", LATER)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A worker that fails on cue."""
    async with ScriptedServer(f"{HOST}:0") as server:
        yield server


def drafts(count: int) -> list[NewOrder]:
    """So many drafts, each of a customer of its own."""
    return [NewOrder(f"customer {n}", "EUR", LINES) for n in range(count)]


async def test_a_batch_in_doubt_keeps_its_ids(server: ScriptedServer) -> None:
    """An item whose reply was lost keeps its id when it is then refused as ahead, and so makes no second order."""
    server.script("BatchCreateOrders", LoseReply(), Items({1: AHEAD}))
    async with OrderClient(server.address, policy=QUICK, discover=False) as client:
        first, second = await client.batch_create(drafts(2))
    assert isinstance(first, Created)
    assert isinstance(second, RequestIdAhead)
    assert sorted(customer for customer, _ in server.orders) == ["customer 0", "customer 1"]


async def test_a_stream_in_doubt_keeps_its_ids(server: ScriptedServer) -> None:
    """An item of a stream that broke behind it keeps its id when it is then refused as ahead."""
    server.script("SubmitOrders", LoseReply(), AHEAD)
    async with OrderClient(server.address, policy=QUICK, discover=False) as client:
        (fate,) = [fate async for fate in client.submit(drafts(1))]
    assert isinstance(fate.result, RequestIdAhead)
    assert [customer for customer, _ in server.orders] == ["customer 0"]


CALLS: dict[str, Callable[[OrderClient], Awaitable[object]]] = {
    "CreateOrder": lambda client: client.create("zoe", "EUR", LINES),
    "BatchCreateOrders": lambda client: client.batch_create(drafts(1)),
    "GetOrder": lambda client: client.get("id"),
    "ListOrders": lambda client: client.list_page("zoe"),
    "ShipOrder": lambda client: client.ship("id"),
}


@pytest.mark.parametrize("method", CALLS)
async def test_every_call_has_an_end(server: ScriptedServer, method: str) -> None:
    """A call whose caller names no deadline has the client's, over all its attempts."""
    async with (
        asyncio.timeout(60),
        OrderClient(server.address, policy=HASTY, deadline_s=1.0, discover=False) as client,
    ):
        await client.create("max", "EUR", LINES, deadline_s=30)  # connecting takes none of the time
        before = sum(name == method for name, _ in server.requests)
        server.script(method, *[Hang()] * 50)
        with pytest.raises(DeadlineExceeded):
            await CALLS[method](client)
    assert 1 < sum(name == method for name, _ in server.requests) - before < HASTY.attempts_max
