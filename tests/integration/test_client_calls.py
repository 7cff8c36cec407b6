"""The client against a service that fails on cue: what is retried, with what, and what is told."""

import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest

from clients import (
    Created,
    DeadlineExceeded,
    InvalidRequest,
    NewOrder,
    NotFound,
    OrderClient,
    OrderError,
    OrderLine,
    Overloaded,
    RequestIdAhead,
    RequestIdExpired,
    RetryBudget,
    RetryPolicy,
    ServerFault,
    State,
    TransitionNotAllowed,
    Unavailable,
)
from protos.orders.v1 import orders_pb2
from tests.support.addresses import loopback
from tests.support.scripted_server import Fail, Hang, Items, LoseReply, ScriptedServer, refused_id, unavailable
from tests.support.waiting import until

HOST = loopback(25)
LINES = [OrderLine("sku-1", 2, 1999)]
QUICK = RetryPolicy(attempts_max=5, backoff_s=0.001, attempt_timeout_s=20)
LATER = dt.datetime(2031, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
FULL = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_delay_s=0.001)


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[OrderClient]:
    """A client of that worker, which retries quickly."""
    async with OrderClient(server.address, policy=QUICK, caller_id="tests") as client:
        yield client


def id_time(request_id: str) -> dt.datetime:
    """The time in a request id."""
    return dt.datetime.fromtimestamp((uuid.UUID(request_id).int >> 80) / 1000, dt.UTC)


async def test_an_order_goes_through_its_life(client: OrderClient, server: ScriptedServer) -> None:
    """Every value arrives typed and whole, and every call names its caller."""
    created = await client.create("zoë", "EUR", LINES, attributes={"channel": "web"})
    assert not created.replayed
    order = created.order
    assert (order.customer_id, order.state, order.version, order.total_minor) == ("zoë", State.PENDING, 1, 3998)
    assert order.lines == (OrderLine("sku-1", 2, 1999),)
    assert order.attributes == {"channel": "web"}
    assert order.create_time.tzinfo is dt.UTC
    assert order.transitions[0].time == order.create_time

    assert (await client.confirm_payment(order.order_id)).order.state is State.PAID
    assert (await client.ship(order.order_id)).order.state is State.SHIPPED
    assert (await client.deliver(order.order_id)).order.state is State.DELIVERED
    refunded = (await client.refund(order.order_id, reason="broken", expected_version=4)).order
    assert (refunded.state, refunded.version) == (State.REFUNDED, 5)
    request = server.sent(orders_pb2.RefundOrderRequest)[0]
    assert (request.reason, request.expected_version) == ("broken", 4)
    assert not server.sent(orders_pb2.ShipOrderRequest)[0].HasField("expected_version")
    assert (await client.get(order.order_id)).state is State.REFUNDED
    with pytest.raises(TransitionNotAllowed) as refusal:
        await client.cancel(order.order_id, reason="late")
    assert refusal.value.metadata["allowed_methods"] == "RefundOrder"
    assert server.caller_ids == {"tests"}


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_lost_reply_is_retried_with_the_same_id(
    client: OrderClient, server: ScriptedServer, code: grpc.StatusCode
) -> None:
    """A create whose reply was lost, by a death or by a stop of the worker, makes one order and returns it."""
    server.script("CreateOrder", LoseReply(code), Fail(code))
    created = await client.create("zoe", "EUR", LINES)
    assert created.replayed
    assert len(server.orders) == 1
    assert len({request.request_id for request in server.sent(orders_pb2.CreateOrderRequest)}) == 1
    assert len(server.sent(orders_pb2.CreateOrderRequest)) == 3


async def test_a_full_queue_is_retried_and_a_full_message_is_not(client: OrderClient, server: ScriptedServer) -> None:
    """Only a refusal with a hint is tried again."""
    server.script("CreateOrder", FULL)
    assert (await client.create("zoe", "EUR", LINES)).order.version == 1
    server.script("CreateOrder", Fail(grpc.StatusCode.RESOURCE_EXHAUSTED))
    with pytest.raises(Overloaded) as refusal:
        await client.create("zoe", "EUR", LINES)
    assert refusal.value.attempts == 1
    assert not refusal.value.retryable


async def test_a_refusal_is_told_at_once_and_whole(client: OrderClient, server: ScriptedServer) -> None:
    """A wrong request is sent once, and its error names reason, fields and the request id."""
    bad = Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", violations=[("lines", "none")])
    server.script("CreateOrder", bad)
    with pytest.raises(InvalidRequest) as refusal:
        await client.create("zoe", "EUR", [])
    assert refusal.value.violations[0].field == "lines"
    assert refusal.value.request_id == server.sent(orders_pb2.CreateOrderRequest)[0].request_id
    with pytest.raises(NotFound):
        await client.get("nothing")


async def test_a_hung_worker_costs_an_attempt_and_not_the_deadline(server: ScriptedServer) -> None:
    """An attempt without an answer is given up in time for another one."""
    policy = RetryPolicy(attempt_timeout_s=0.2, backoff_s=0.001)
    async with OrderClient(server.address, policy=policy) as client:
        server.script("CreateOrder", Hang())
        assert (await client.create("zoe", "EUR", LINES)).order.version == 1
        server.script("CreateOrder", *[Hang()] * 9)
        with pytest.raises(DeadlineExceeded) as late:
            await client.create("zoe", "EUR", LINES, deadline_s=0.5)
        assert late.value.retryable
        assert late.value.maybe_done


async def test_the_budget_ends_the_retries_of_all_calls(server: ScriptedServer) -> None:
    """With the budget spent by one call, the next one makes a single attempt."""
    budget = RetryBudget(2, per_second=0)
    async with OrderClient(server.address, policy=QUICK, budget=budget) as client:
        server.script("GetOrder", *[unavailable()] * 9)
        with pytest.raises(Unavailable) as first:
            await client.get("x")
        with pytest.raises(Unavailable) as second:
            await client.get("x")
        assert (first.value.attempts, second.value.attempts) == (3, 1)
        assert "retry budget" in second.value.__notes__[0]


@pytest.mark.parametrize("reason", ["REQUEST_ID_AHEAD", "REQUEST_ID_EXPIRED"])
async def test_a_wrong_clock_corrects_itself(client: OrderClient, server: ScriptedServer, reason: str) -> None:
    """A refused id of the client's own is minted anew by the server's time, and the next call is right at once."""
    server.script("CreateOrder", refused_id(reason, LATER))
    await client.create("zoe", "EUR", LINES)
    await client.create("zoe", "EUR", LINES)
    ids = [request.request_id for request in server.sent(orders_pb2.CreateOrderRequest)]
    assert len(set(ids)) == 3
    for request_id in ids[1:]:
        assert abs(id_time(request_id) - LATER) < dt.timedelta(minutes=1)


async def test_an_id_of_the_callers_own_is_never_replaced(client: OrderClient, server: ScriptedServer) -> None:
    """A refused id that the caller chose is the caller's to replace."""
    server.script("CreateOrder", refused_id("REQUEST_ID_EXPIRED", LATER))
    mine = client.request_ids.mint()
    with pytest.raises(RequestIdExpired) as refusal:
        await client.create("zoe", "EUR", LINES, request_id=mine)
    assert refusal.value.request_id == mine
    assert not server.orders


async def test_an_id_in_doubt_is_not_replaced_because_it_is_ahead(client: OrderClient, server: ScriptedServer) -> None:
    """After a lost reply "ahead" does not prove that nothing was created, so the id stays and the caller is told."""
    server.script("CreateOrder", LoseReply(), refused_id("REQUEST_ID_AHEAD", LATER))
    with pytest.raises(RequestIdAhead):
        await client.create("zoe", "EUR", LINES)
    assert len(server.orders) == 1


async def test_a_cancelled_caller_makes_no_more_attempts(client: OrderClient, server: ScriptedServer) -> None:
    """Cancelling the caller ends the call at once, and is not taken for a CANCELLED of the server."""
    server.script("CreateOrder", *[Hang()] * 5)
    task = asyncio.create_task(client.create("zoe", "EUR", LINES))

    async def met() -> int:
        return len(server.sent(orders_pb2.CreateOrderRequest))

    await until(met, bool)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def shown() -> str:
        return repr(client)

    # the topology stream may be one of them
    await until(shown, lambda text: "0 calls in flight" in text or "1 calls in flight" in text)
    assert len(server.sent(orders_pb2.CreateOrderRequest)) == 1


def drafts(count: int) -> list[NewOrder]:
    """Some orders to be."""
    return [NewOrder(f"customer-{i}", "EUR", LINES) for i in range(count)]


async def test_a_batch_sends_again_only_what_may_succeed(client: OrderClient, server: ScriptedServer) -> None:
    """Of a batch the created and the refused items are done, and the others are sent again with their own ids."""
    refused = Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", violations=[("lines", "none")])
    expired = refused_id("REQUEST_ID_EXPIRED", LATER)
    server.script("BatchCreateOrders", LoseReply(), Items({1: FULL, 2: refused, 3: expired}), Items({0: FULL}))
    results = await client.batch_create(drafts(5))
    assert [type(result) for result in results] == [Created, Created, InvalidRequest, Created, Created]
    batches = [[item.customer_id for item in b.requests] for b in server.sent(orders_pb2.BatchCreateOrdersRequest)]
    everyone = [f"customer-{i}" for i in range(5)]
    assert batches == [everyone, everyone, ["customer-1", "customer-3"], ["customer-1"]]
    # The lost reply had created all five; the two that seemed expired here got new ids, which a real server that says
    # "expired" has no order for.
    assert len({key for key in server.orders if key[0] != "customer-3"}) == 4


async def test_a_batch_that_nobody_answers_raises(server: ScriptedServer) -> None:
    """When no item was answered at all the batch raises; when some were, the others carry the error."""
    async with OrderClient(server.address, policy=RetryPolicy(attempts_max=2, backoff_s=0.001)) as client:
        server.script("BatchCreateOrders", unavailable(), unavailable())
        with pytest.raises(Unavailable):
            await client.batch_create(drafts(2))
        server.script("BatchCreateOrders", Items({0: FULL}), unavailable())
        failed, created = await client.batch_create(drafts(2))
        assert isinstance(failed, Unavailable)
        assert failed.request_id == server.sent(orders_pb2.BatchCreateOrdersRequest)[-1].requests[0].request_id
        assert isinstance(created, Created)
    assert await client.batch_create([]) == []


async def test_a_stream_of_orders_survives_its_connections(client: OrderClient, server: ScriptedServer) -> None:
    """Every draft is answered once, in spite of broken streams, full queues and refusals, and makes one order."""
    refused = Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    server.script("SubmitOrders", LoseReply(), FULL, unavailable(), refused, LoseReply(grpc.StatusCode.CANCELLED))
    fates = [fate async for fate in client.submit(drafts(50), in_flight_max=7)]
    assert sorted(fate.position for fate in fates) == list(range(50))
    assert sum(isinstance(fate.result, OrderError) for fate in fates) == 1
    assert len({customer_id for customer_id, _ in server.orders}) == len(server.orders), "an order was made twice"
    assert len(server.orders) >= 49
    for fate in fates:
        if isinstance(fate.result, Created):
            assert fate.result.order.customer_id == fate.draft.customer_id


async def test_request_ids_of_a_stream_may_repeat(client: OrderClient, server: ScriptedServer) -> None:
    """A request id is unique within a customer only, so each of many drafts under the same one has its own order."""
    server.script("SubmitOrders", FULL, unavailable(), FULL, LoseReply())
    same = client.request_ids.mint()
    sent = [replace(draft, request_id=same) for draft in drafts(20)]
    fates = [fate async for fate in client.submit(sent, deadline_s=20)]
    assert sorted(fate.position for fate in fates) == list(range(20))
    for fate in fates:
        assert isinstance(fate.result, Created)
        assert fate.result.order.customer_id == fate.draft.customer_id


async def test_a_long_request_id_is_answered_in_a_stream(client: OrderClient) -> None:
    """Ids that are too long to come back whole have their fates all the same, also when they differ at the end only."""
    ids = ["x" * 129, "x" * 130, "x" * 128, "é" * 129]
    sent = [replace(draft, request_id=request_id) for draft, request_id in zip(drafts(4), ids, strict=True)]
    fates = {fate.position: fate.result async for fate in client.submit(sent, deadline_s=20)}
    orders = {position: result.order.customer_id for position, result in fates.items() if isinstance(result, Created)}
    assert orders == {position: draft.customer_id for position, draft in enumerate(sent)}


async def test_a_stream_reads_no_further_than_its_window(client: OrderClient) -> None:
    """Drafts are taken only as far ahead as the caller allowed, and a caller may leave in the middle."""
    taken = 0

    async def source() -> AsyncIterator[NewOrder]:
        nonlocal taken
        for draft in drafts(100):
            taken += 1
            yield draft

    async with contextlib.aclosing(client.submit(source(), in_flight_max=4)) as fates:
        seen = 0
        async for _ in fates:
            seen += 1
            assert taken <= seen + 4
            if seen == 20:
                break


async def test_a_failing_source_is_the_callers_failure(client: OrderClient) -> None:
    """What the drafts raise comes out of the stream, after the fates of those before it."""

    def source() -> list[NewOrder]:
        raise ZeroDivisionError

    async def drafts_then_failure() -> AsyncIterator[NewOrder]:
        for draft in drafts(3):
            yield draft
        source()

    fates = client.submit(drafts_then_failure())
    assert {(await anext(fates)).position for _ in range(3)} == {0, 1, 2}
    with pytest.raises(ZeroDivisionError):
        await anext(fates)
    assert [fate async for fate in client.submit([])] == []


async def test_a_list_is_followed_over_its_pages(client: OrderClient, server: ScriptedServer) -> None:
    """All orders of a customer come newest first, page after page, each page retried on its own."""
    await client.batch_create([NewOrder("zoe", "EUR", [OrderLine(f"sku-{i}", 1, 1)]) for i in range(7)])
    server.script("ListOrders", unavailable())
    skus = [order.lines[0].sku async for order in client.list("zoe", page_size=3)]
    assert skus == [f"sku-{i}" for i in reversed(range(7))]
    page = await client.list_page("zoe", page_size=3, state=State.PENDING)
    assert len(page.orders) == 3
    assert page.next_page_token
    assert [order async for order in client.list("zoe", state=State.PAID)] == []


async def test_what_was_not_looked_up_is_asked_for_again(client: OrderClient, server: ScriptedServer) -> None:
    """Unprocessed ids are asked for until they are found or missing, in the order asked."""
    created = [result.order.order_id for result in await client.batch_create(drafts(3)) if isinstance(result, Created)]
    server.script("BatchGetOrders", Items({0: FULL, 1: FULL}), Items({0: FULL, 1: FULL}))
    found = await client.batch_get([*created, "nothing", created[0]])
    assert [order.order_id for order in found.orders] == created
    assert found.missing_order_ids == ("nothing",)


async def test_why_an_order_is_not_looked_up_is_found_out(client: OrderClient, server: ScriptedServer) -> None:
    """An order that a batch cannot answer is asked for by itself: it is told why, found, or missing."""
    first, second = [each.order.order_id for each in await client.batch_create(drafts(2)) if isinstance(each, Created)]
    server.script("BatchGetOrders", Items({1: FULL}), Items({0: FULL}))
    server.script("GetOrder", Fail(grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT", "it is damaged"))
    with pytest.raises(ServerFault, match="it is damaged"):
        await client.batch_get([first, second])
    server.script("BatchGetOrders", Items({0: FULL}))
    assert [order.order_id for order in (await client.batch_get([first])).orders] == [first]
    server.script("BatchGetOrders", Items({0: FULL}))
    assert (await client.batch_get(["nothing"])).missing_order_ids == ("nothing",)


async def test_ids_are_found_in_either_case(client: OrderClient) -> None:
    """An id in upper case is found, an order that is asked for in both stands there once, and missing is as asked."""
    first, second = [each.order.order_id for each in await client.batch_create(drafts(2)) if isinstance(each, Created)]
    found = await client.batch_get([second.upper(), "Nothing", first, second])
    assert [order.order_id for order in found.orders] == [second, first]
    assert found.missing_order_ids == ("Nothing",)


async def test_a_watch_goes_on_where_it_broke(client: OrderClient, server: ScriptedServer) -> None:
    """A watch opens its stream again, never goes back a version, and ends after a final state."""
    order = (await client.create("zoe", "EUR", LINES)).order
    server.script("WatchOrder", unavailable())
    versions = []
    async for seen in client.watch(order.order_id):
        versions.append(seen.version)
        if seen.state is State.PENDING:
            await client.cancel(order.order_id)
    assert versions == [1, 2]
    with pytest.raises(NotFound):
        await anext(client.watch("nothing"))


async def test_repr_shows_live_state(client: OrderClient, server: ScriptedServer) -> None:
    """The repr names the seeds, what is balanced over, the calls in flight and what is left of the budget."""
    assert repr(client).startswith(f"<OrderClient {server.address}: seeds only, ")
    assert repr(client).endswith("retry budget 100/100>")
    await client.close()
    assert "closed" in repr(client)
    with pytest.raises(RuntimeError, match="closed"):
        await client.get("x")
