"""Transitions over the wire: their replays, and that nothing is decided or answered from what a cache remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from protos.orders.v1 import orders_pb2 as pb
from server.transport import Kind
from tests.support.rpc_worker import RpcWorker, a_create, new_id, prepared, rpc_worker


class Pair(NamedTuple):
    """Two workers on the same data, each with a cache of its own that forgets nothing during a test."""

    one: RpcWorker
    other: RpcWorker


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A worker on each transport."""
    with prepared(tmp_path / "data") as prompt:
        settings = replace(prompt, cache_ttl_s=600.0)
        async with rpc_worker(Kind.GRPCIO, settings) as one, rpc_worker(Kind.NATIVE, settings) as other:
            yield Pair(one, other)


async def created(worker: RpcWorker) -> str:
    """Returns the id of a new order."""
    return (await worker.orders.CreateOrder(a_create())).order.order_id


async def remembered(worker: RpcWorker, order_id: str) -> int:
    """Returns the version that a worker answers when any will do, which it remembers from then on."""
    return (await worker.orders.GetOrder(pb.GetOrderRequest(order_id=order_id))).order.version


async def refused(call: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:  # noqa: ANN401  # any call of a stub
    """Returns code and reason of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata() or ())
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details:
        detail.Unpack(info)
    return caught.value.code(), info


async def test_only_a_replay_is_called_one(pair: Pair) -> None:
    """Each transition is new the first time, and a replay when its request comes again, through whichever worker."""
    order_id = await created(pair.one)
    pay = pb.ConfirmPaymentRequest(order_id=order_id, request_id=new_id())
    ship = pb.ShipOrderRequest(order_id=order_id, request_id=new_id(), expected_version=2)
    paid = await pair.one.orders.ConfirmPayment(pay)
    shipped = await pair.other.orders.ShipOrder(ship)
    assert (paid.replayed, paid.order.version) == (False, 2)
    assert (shipped.replayed, shipped.order.version) == (False, 3)
    for worker in pair:
        repaid, reshipped = await worker.orders.ConfirmPayment(pay), await worker.orders.ShipOrder(ship)
        assert (repaid.replayed, repaid.order) == (True, paid.order)
        assert (reshipped.replayed, reshipped.order) == (True, shipped.order)


async def test_a_request_id_of_another_transition_is_refused(pair: Pair) -> None:
    """A request id that comes back with another verb, reason or expected version, or was the create's, is refused."""
    create = a_create()
    order_id = (await pair.one.orders.CreateOrder(create)).order.order_id
    request_id = new_id()
    cancel = pb.CancelOrderRequest(order_id=order_id, request_id=request_id, reason="too late")
    await pair.one.orders.CancelOrder(cancel)
    orders = pair.other.orders
    others = [
        orders.CancelOrder(pb.CancelOrderRequest(order_id=order_id, request_id=request_id, reason="too dear")),
        orders.CancelOrder(
            pb.CancelOrderRequest(order_id=order_id, request_id=request_id, reason="too late", expected_version=1)
        ),
        orders.RefundOrder(pb.RefundOrderRequest(order_id=order_id, request_id=request_id, reason="too late")),
        orders.ConfirmPayment(pb.ConfirmPaymentRequest(order_id=order_id, request_id=create.request_id)),
    ]
    for call in others:
        code, info = await refused(call)
        assert (code, info.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert info.metadata["order_id"] == order_id
    assert (await orders.CancelOrder(cancel)).replayed


async def test_no_transition_is_decided_from_a_cache(pair: Pair) -> None:
    """A worker that remembers an older version takes, and refuses, transitions by the present one."""
    order_id = await created(pair.one)
    assert await remembered(pair.other, order_id) == 1
    await pair.one.orders.ConfirmPayment(pb.ConfirmPaymentRequest(order_id=order_id))
    code, info = await refused(
        pair.other.orders.ShipOrder(pb.ShipOrderRequest(order_id=order_id, expected_version=1)),
    )
    assert (code, info.metadata["current_version"]) == (grpc.StatusCode.ABORTED, "2")
    assert await remembered(pair.other, order_id) == 2, "what a decision has read is remembered"

    await pair.one.orders.ShipOrder(pb.ShipOrderRequest(order_id=order_id))
    assert await remembered(pair.other, order_id) == 2
    delivered = await pair.other.orders.DeliverOrder(pb.DeliverOrderRequest(order_id=order_id))
    assert (delivered.order.state, delivered.order.version) == (pb.Order.STATE_DELIVERED, 4)


async def test_who_names_a_version_or_asks_strongly_gets_the_present(pair: Pair) -> None:
    """After a change through one worker no other answers an older version to `min_version`, STRONG, or a watch."""

    async def get(min_version: int = 0, consistency: pb.Consistency.ValueType = pb.CONSISTENCY_CACHED) -> int:
        request = pb.GetOrderRequest(order_id=order_id, min_version=min_version, consistency=consistency)
        return (await pair.other.orders.GetOrder(request)).order.version

    async def batch_get() -> int:
        request = pb.BatchGetOrdersRequest(order_ids=[order_id], consistency=pb.CONSISTENCY_STRONG)
        return (await pair.other.orders.BatchGetOrders(request)).orders[0].version

    async def watch() -> int:
        call = pair.other.orders.WatchOrder(pb.WatchOrderRequest(order_id=order_id))
        version = (await anext(aiter(call))).order.version
        call.cancel()
        return version

    async def named() -> int:
        return await get(min_version=2)

    async def strong() -> int:
        return await get(consistency=pb.CONSISTENCY_STRONG)

    for ask in (named, strong, batch_get, watch):
        order_id = await created(pair.one)
        assert await remembered(pair.other, order_id) == 1
        await pair.one.orders.ConfirmPayment(pb.ConfirmPaymentRequest(order_id=order_id))
        assert await remembered(pair.other, order_id) == 1, "nothing has told this worker yet"
        assert await ask() == 2


async def test_a_watch_is_not_fed_from_a_cache(pair: Pair) -> None:
    """A change made through one worker reaches who watches through another, which remembers the version before it."""
    order_id = await created(pair.one)
    assert await remembered(pair.other, order_id) == 1
    states = aiter(pair.other.orders.WatchOrder(pb.WatchOrderRequest(order_id=order_id)))
    async with asyncio.timeout(30):
        assert (await anext(states)).order.version == 1
        await pair.one.orders.CancelOrder(pb.CancelOrderRequest(order_id=order_id))
        assert [answer.order.version async for answer in states] == [2]


async def test_streamed_orders_are_the_same_bytes_as_unary_ones(pair: Pair) -> None:
    """An order in a stream is serialized as everywhere: a replay through SubmitOrders has the bytes of CreateOrder."""
    create = a_create(attributes={f"key-{i}": "v" for i in range(20)})
    unary = await pair.one.raw("orders.v1.OrderService/CreateOrder")(create.SerializeToString())
    order = pb.CreateOrderResponse.FromString(unary).order.SerializeToString(deterministic=True)
    for worker in pair:
        submit: Any = worker.channel.stream_stream("/orders.v1.OrderService/SubmitOrders")
        request = pb.SubmitOrdersRequest(create=create).SerializeToString()
        (answer,) = [answer async for answer in submit(iter([request]))]
        assert pb.SubmitOrdersResponse.FromString(answer).replayed
        assert order in answer
        watch: Any = worker.channel.unary_stream("/orders.v1.OrderService/WatchOrder")
        order_id = pb.CreateOrderResponse.FromString(unary).order.order_id
        call = watch(pb.WatchOrderRequest(order_id=order_id).SerializeToString())
        assert order in await anext(aiter(call))
        call.cancel()
