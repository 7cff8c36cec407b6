"""Concurrent creates and gets against a service that fails on cue: together on the wire, each on its own otherwise."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest

from clients import (
    Created,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    OrderClient,
    OrderLine,
    RequestIdExpired,
    RetryBudget,
    RetryPolicy,
    Unavailable,
)
from protos.orders.v1 import orders_pb2
from tests.support.addresses import loopback
from tests.support.scripted_server import Fail, Hang, Items, LoseReply, ScriptedServer, refused_id, unavailable
from tests.support.waiting import until

HOST = loopback(46)
LINES = [OrderLine("sku-1", 2, 1999)]
QUICK = RetryPolicy(attempts_max=5, backoff_s=0.001, attempt_timeout_s=20)


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[OrderClient]:
    """A client of that worker, which retries quickly."""
    async with OrderClient(server.address, policy=QUICK, caller_id="tests") as client:
        yield client


def creates(client: OrderClient, count: int) -> list[asyncio.Task[Created]]:
    """As many creates at once, each for a customer of its own."""
    return [asyncio.create_task(client.create(f"customer {i}", "EUR", LINES)) for i in range(count)]


def sent_ids(server: ScriptedServer) -> list[str]:
    """The request id of every create met, in calls of either kind."""
    ids = [request.request_id for request in server.sent(orders_pb2.CreateOrderRequest)]
    batches = server.sent(orders_pb2.BatchCreateOrdersRequest)
    return ids + [item.request_id for batch in batches for item in batch.requests]


async def test_concurrent_creates_travel_together(client: OrderClient, server: ScriptedServer) -> None:
    """Creates of one moment are one call, each with its own order; one alone is the unary call that it was."""
    answers = await asyncio.gather(*creates(client, 20))
    assert [answer.order.customer_id for answer in answers] == [f"customer {i}" for i in range(20)]
    (batch,) = server.sent(orders_pb2.BatchCreateOrdersRequest)
    assert len(batch.requests) == len(server.orders) == 20
    assert not server.sent(orders_pb2.CreateOrderRequest)
    await client.create("zoe", "EUR", LINES)
    assert len(server.sent(orders_pb2.CreateOrderRequest)) == 1
    assert server.caller_ids == {"tests"}


async def test_a_priority_goes_with_every_call(client: OrderClient, server: ScriptedServer) -> None:
    """A client says its priority with single calls and batches, and one that has none says nothing."""
    await asyncio.gather(*creates(client, 3))
    assert not server.priorities
    async with OrderClient(server.address, policy=QUICK, priority="low") as low:
        await asyncio.gather(*creates(low, 3))
        assert server.priorities == {"low"}
    async with OrderClient(server.address, policy=QUICK, priority="critical", discover=False) as critical:
        await critical.create("zoe", "EUR", LINES)
        assert server.priorities == {"low", "critical"}
    with pytest.raises(ValueError, match="critical, normal, low"):
        OrderClient(server.address, priority="urgent")


async def test_it_can_be_turned_off(server: ScriptedServer) -> None:
    """With ``coalesce=False`` every call goes out by itself."""
    async with OrderClient(server.address, policy=QUICK, coalesce=False) as client:
        orders = await asyncio.gather(*creates(client, 5))
        await asyncio.gather(*(client.get(each.order.order_id) for each in orders))
    methods = [method for method, _ in server.requests if "Order" in method]
    assert sorted(methods) == ["CreateOrder"] * 5 + ["GetOrder"] * 5


async def test_a_bad_item_fails_alone(client: OrderClient, server: ScriptedServer) -> None:
    """The refusal of one item is the error of its caller, whole; the others have their orders."""
    bad = Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", violations=[("lines[0].sku", "is empty")])
    server.script("BatchCreateOrders", Items({1: bad}))
    outcomes = await asyncio.gather(*creates(client, 3), return_exceptions=True)
    assert isinstance(outcomes[0], Created)
    assert isinstance(outcomes[2], Created)
    error = outcomes[1]
    assert isinstance(error, InvalidRequest)
    assert error.violations[0].field == "lines[0].sku"
    assert (error.attempts, error.request_id) == (1, sent_ids(server)[1])


async def test_a_lost_batch_is_sent_again_under_the_same_ids(client: OrderClient, server: ScriptedServer) -> None:
    """When the reply of a batch is lost each order exists once, and its caller gets it."""
    server.script("BatchCreateOrders", LoseReply())
    answers = await asyncio.gather(*creates(client, 20))
    assert len(server.orders) == 20
    assert all(answer.replayed for answer in answers)
    assert len(set(sent_ids(server))) == 20


async def test_a_failed_batch_is_one_retry_of_the_budget(server: ScriptedServer) -> None:
    """Many calls that fail in one batch take one token of the budget, not one each."""
    budget = RetryBudget(1.5, per_success=0, per_second=0)
    async with OrderClient(server.address, policy=QUICK, budget=budget) as client:
        server.script("BatchCreateOrders", unavailable())
        assert len(await asyncio.gather(*creates(client, 30))) == 30
        assert budget.tokens == pytest.approx(0.5)
        server.script("BatchCreateOrders", unavailable())
        outcomes = await asyncio.gather(*creates(client, 30), return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 30
    assert len({outcome.request_id for outcome in outcomes if isinstance(outcome, Unavailable)}) == 30


async def test_an_item_that_fails_for_a_while_is_tried_again_alone(client: OrderClient, server: ScriptedServer) -> None:
    """Only the item that failed is sent again, under its id; an expired id that the client minted is minted anew."""
    full = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_delay_s=0.001)
    now = (await client.create("zoe", "EUR", LINES)).order.create_time
    expired = refused_id("REQUEST_ID_EXPIRED", now)
    server.script("BatchCreateOrders", Items({0: full, 2: expired}))
    answers = await asyncio.gather(*creates(client, 4))
    assert [answer.order.customer_id for answer in answers] == [f"customer {i}" for i in range(4)]
    assert len(server.orders) == 5
    assert len(sent_ids(server)) == 1 + 4 + 2
    assert len(set(sent_ids(server))) == 1 + 4 + 1
    server.script("BatchCreateOrders", Items({0: expired}))
    own = asyncio.create_task(client.create("max", "EUR", LINES, request_id=sent_ids(server)[0]))
    error, answer = await asyncio.gather(own, *creates(client, 1), return_exceptions=True)
    assert isinstance(error, RequestIdExpired)
    assert isinstance(answer, Created)


async def test_a_hung_batch_costs_nobody_else(server: ScriptedServer) -> None:
    """A call with a short deadline leaves a hung batch in time, a cancelled one at once, and new calls are served."""
    async with OrderClient(server.address, policy=replace(QUICK, attempt_timeout_s=2)) as client:
        server.script("BatchCreateOrders", Hang())
        hasty = asyncio.create_task(client.create("zoe", "EUR", LINES, deadline_s=0.2))
        cancelled, patient = creates(client, 2)

        async def met() -> int:
            return len(server.sent(orders_pb2.BatchCreateOrdersRequest))

        await until(met, bool)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert (await client.create("max", "EUR", LINES)).order.version == 1
        with pytest.raises(DeadlineExceeded):
            await hasty
        assert (await patient).order.customer_id == "customer 1"  # by the second attempt, after the first one's time


async def test_concurrent_gets_travel_together(client: OrderClient, server: ScriptedServer) -> None:
    """Gets of one moment are one call, a repeated id too; what is missing is NotFound, as of a single get."""
    ids = [each.order.order_id for each in await asyncio.gather(*creates(client, 3))]
    nobody = "0190b0a2-7c31-7d3f-8a55-2f1e9c6b7d10"
    for order, order_id in zip(server.orders.values(), ids, strict=True):  # the double's own ids are no UUIDv7
        order.order_id = order_id[:14] + "7" + order_id[15:19] + "8" + order_id[20:]
    ids = [order.order_id for order in server.orders.values()]
    found = await asyncio.gather(*map(client.get, [*ids, ids[0], nobody]), return_exceptions=True)
    assert [getattr(order, "order_id", None) for order in found] == [*ids, ids[0], None]
    assert isinstance(found[4], NotFound)
    assert (found[4].reason, found[4].metadata) == ("ORDER_NOT_FOUND", {"order_id": nobody})
    (batch,) = server.sent(orders_pb2.BatchGetOrdersRequest)
    assert list(batch.order_ids) == [*ids, nobody]
    assert not server.sent(orders_pb2.GetOrderRequest)


async def test_gets_that_a_batch_cannot_carry_go_alone(client: OrderClient, server: ScriptedServer) -> None:
    """A get with a version, and one whose id a batch would be refused for, are calls of their own."""
    order_id = (await client.create("zoe", "EUR", LINES)).order.order_id  # no UUIDv7, as it happens
    asked = [client.get(order_id, min_version=1), client.get(order_id), client.get("nonsense")]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(outcomes[2], NotFound)
    assert len(server.sent(orders_pb2.GetOrderRequest)) == 3
    assert not server.sent(orders_pb2.BatchGetOrdersRequest)


async def test_orders_that_were_not_looked_up_are_asked_for_again(client: OrderClient, server: ScriptedServer) -> None:
    """When a shard did not answer, its gets alone are tried again."""
    ids = [f"0190b0a2-7c31-7d3f-8a55-2f1e9c6b7d1{i}" for i in range(3)]
    for each, order_id in zip(await asyncio.gather(*creates(client, 3)), ids, strict=True):
        next(o for o in server.orders.values() if o.customer_id == each.order.customer_id).order_id = order_id
    server.script("BatchGetOrders", Items({0: unavailable(), 2: unavailable()}))
    found = await asyncio.gather(*map(client.get, ids))
    assert [order.order_id for order in found] == ids
    asked = [list(batch.order_ids) for batch in server.sent(orders_pb2.BatchGetOrdersRequest)]
    asked += [[request.order_id] for request in server.sent(orders_pb2.GetOrderRequest)]
    assert asked[0] == ids
    assert sorted(itertools.chain(*asked[1:])) == [ids[0], ids[2]]


async def test_a_get_among_others_is_told_why_its_order_is_not_looked_up(
    client: OrderClient, server: ScriptedServer
) -> None:
    """Of gets that travel together, the one whose order is damaged hears so, and the others have their orders."""
    ids = [f"0190b0a2-7c31-7d3f-8a55-2f1e9c6b7d1{i}" for i in range(3)]
    for each, order_id in zip(await asyncio.gather(*creates(client, 3)), ids, strict=True):
        next(o for o in server.orders.values() if o.customer_id == each.order.customer_id).order_id = order_id
    server.script("BatchGetOrders", Items({1: unavailable()}))
    server.script("GetOrder", Fail(grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT", "it is damaged"))
    found = await asyncio.gather(*map(client.get, ids), return_exceptions=True)
    assert [getattr(order, "order_id", None) for order in found] == [ids[0], None, ids[2]]
    assert getattr(found[1], "reason", None) == "STORE_CORRUPT"
