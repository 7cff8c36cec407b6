"""Calls in doubt and calls without an end, over a service that fails on cue."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable

import grpc
import pytest

from clients import Created, NewOrder, OrderClient, OrderError, OrderLine, RetryPolicy
from clients.errors import DeadlineExceeded, Overloaded, RequestIdAhead
from tests.support.addresses import loopback
from tests.support.scripted_server import Fail, Hang, Items, LoseReply, ScriptedServer, refused_id

HOST = loopback(30)
LINES = [OrderLine("sku-1", 2, 1999)]
QUICK = RetryPolicy(attempts_max=5, backoff_s=0.001, attempt_timeout_s=20)
HASTY = RetryPolicy(attempts_max=5, backoff_s=0.001, attempt_timeout_s=0.3)
LATER = dt.datetime(2031, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
AHEAD = refused_id("REQUEST_ID_AHEAD", LATER)
FULL = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_delay_s=0.001)
UNKNOWN = Fail(grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN", retry_delay_s=0.001)


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


async def failure_of(server: ScriptedServer, call: Callable[[OrderClient], Awaitable[object]]) -> OrderError:
    """Returns how a call with two attempts fails."""
    policy = RetryPolicy(attempts_max=2, backoff_s=0.001)
    async with OrderClient(server.address, policy=policy, discover=False) as client:
        with pytest.raises(OrderError) as caught:
            await call(client)
    return caught.value


async def the_only_fate(client: OrderClient) -> None:
    """Submits an order; raises its error."""
    async for fate in client.submit(drafts(1)):
        if isinstance(fate.result, OrderError):
            raise fate.result


WRITES: dict[str, Callable[[OrderClient], Awaitable[object]]] = {
    "CreateOrder": lambda client: client.create("zoe", "EUR", LINES),
    "BatchCreateOrders": lambda client: client.batch_create(drafts(2)),
    "SubmitOrders": the_only_fate,
}


@pytest.mark.parametrize("method", WRITES)
async def test_a_refusal_does_not_take_a_doubt_away(server: ScriptedServer, method: str) -> None:
    """An error is in doubt when any attempt may have written, though the last one was refused and did nothing."""
    server.script(method, LoseReply(), FULL)
    failure = await failure_of(server, WRITES[method])
    assert isinstance(failure, Overloaded)
    assert failure.maybe_done
    server.script(method, FULL, FULL)
    failure = await failure_of(server, WRITES[method])
    assert isinstance(failure, Overloaded)
    assert not failure.maybe_done


async def test_one_item_in_doubt_leaves_the_batch_in_doubt(server: ScriptedServer) -> None:
    """When a batch raises, the error is in doubt for an item that was, whichever it waited for."""
    server.script("BatchCreateOrders", Items({0: FULL, 1: UNKNOWN}), FULL)
    assert (await failure_of(server, WRITES["BatchCreateOrders"])).maybe_done


async def test_a_stream_that_cannot_go_on_tells_its_doubt(server: ScriptedServer) -> None:
    """The error that ends a stream is in doubt for an item that was, though the last connection was refused."""
    full = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED)  # without a reason it breaks the stream
    server.script("SubmitOrders", UNKNOWN, full)
    failure = await failure_of(server, WRITES["SubmitOrders"])
    assert isinstance(failure, Overloaded)
    assert failure.maybe_done


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
