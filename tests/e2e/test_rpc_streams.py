"""Streams on both transports: what they send, how flow control holds them, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.orders.v1 import orders_pb2 as pb
from protos.topology.v1 import topology_pb2
from server.app.fleet import WorkerInfo, WorkerState
from server.rpc.creates import WINDOW_ITEMS
from server.transport import Kind
from shards import assembly
from shards.contract import Outcome
from shards.routing import Router
from tests.support.rpc_worker import RpcWorker, a_create, new_id, rpc_worker
from tests.support.storage import SETUPS, SHARDS, storage

IN_TIME_S = 20


@pytest.fixture(params=SETUPS, ids="-".join)
def setup(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Each transport and each storage."""
    return cast("tuple[str, str]", request.param)


@pytest.fixture
def kind(setup: tuple[str, str]) -> Kind:
    """Each transport in turn."""
    return Kind(setup[0])


@pytest.fixture
def settings(setup: tuple[str, str], tmp_path: Path) -> Iterator[assembly.StorageSettings]:
    """Each storage in turn."""
    with storage(setup[1]).prepared(tmp_path / "data") as settings:
        yield settings


@pytest.fixture
async def worker(kind: Kind, settings: assembly.StorageSettings) -> AsyncIterator[RpcWorker]:
    """A worker on each transport."""
    async with asyncio.timeout(60), rpc_worker(kind, settings) as worker:
        yield worker


class GatedRouter:
    """A router whose writes wait for a gate; counts those that wait."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.gate = asyncio.Event()
        self.waiting = 0
        self.arrived = asyncio.Condition()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the router has
        return getattr(self._router, name)

    async def write(self, *arguments: Any) -> Outcome:  # noqa: ANN401  # as the router
        """Waits, then writes."""
        async with self.arrived:
            self.waiting += 1
            self.arrived.notify_all()
        await self.gate.wait()
        return await self._router.write(*arguments)

    async def until_waiting(self, count: int) -> None:
        """Returns as soon as so many writes wait."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.waiting >= count)


def submits(creates: list[pb.CreateOrderRequest]) -> list[pb.SubmitOrdersRequest]:
    """Wraps creates."""
    return [pb.SubmitOrdersRequest(create=create) for create in creates]


async def ended(call: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401  # any stream
    """Reads a stream to its end, which must be a failure."""

    async def read() -> None:
        async for _ in call:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(read(), IN_TIME_S)
    return caught.value


async def first_of(call: Any) -> Any:  # noqa: ANN401  # any stream
    """Returns the next message of a stream."""
    async with asyncio.timeout(IN_TIME_S):
        return await anext(aiter(call))


async def test_every_submitted_item_is_answered_by_its_id(worker: RpcWorker) -> None:
    """SubmitOrders answers each item once, orders and errors, and ends with OK after the caller's last."""
    creates = [a_create(f"customer-{i % 7}") for i in range(3 * WINDOW_ITEMS)]
    creates[5].currency_code = "???"
    creates[6].request_id = ""
    creates[7].request_id = "x" * 1000
    creates.append(creates[0])
    answers = [answer async for answer in worker.orders.SubmitOrders(iter(submits(creates)))]
    assert len(answers) == len(creates)
    by_id: dict[str, list[pb.SubmitOrdersResponse]] = {}
    for answer in answers:
        by_id.setdefault(answer.request_id, []).append(answer)
    assert sorted(answer.replayed for answer in by_id.pop(creates[0].request_id)) == [False, True]
    assert by_id.pop(creates[5].request_id)[0].error.reason == "INVALID_REQUEST"
    for malformed in ("", "x" * 128):
        (violation,) = by_id.pop(malformed)[0].error.field_violations
        assert violation.field == "request_id"
    assert all(answer.order.order_id and not answer.replayed for (answer,) in by_id.values())


async def test_a_fast_sender_is_held_back(kind: Kind, settings: assembly.StorageSettings) -> None:
    """While no item commits, the server takes the items of a window and then reads no further."""
    gated: list[GatedRouter] = []

    def gate(router: Router) -> GatedRouter:
        gated.append(GatedRouter(router))
        return gated[0]

    async with asyncio.timeout(60), rpc_worker(kind, settings, wrap=gate) as worker:
        total = 4 * WINDOW_ITEMS
        call = worker.orders.SubmitOrders(iter(submits([a_create() for _ in range(total)])))
        await gated[0].until_waiting(WINDOW_ITEMS)
        # another call goes all the way through the same loop: had more been taken, they would wait by now
        for _ in range(3):
            await worker.topology.GetTopology(topology_pb2.GetTopologyRequest())
        assert gated[0].waiting == WINDOW_ITEMS
        gated[0].gate.set()
        assert len([answer async for answer in call]) == total


async def test_bytes_that_are_no_item_end_the_stream_after_the_answers(worker: RpcWorker) -> None:
    """An undecodable message ends SubmitOrders with INVALID_ARGUMENT once the items before it are answered."""
    raw: Any = worker.channel.stream_stream("/orders.v1.OrderService/SubmitOrders")
    messages = [item.SerializeToString() for item in submits([a_create() for _ in range(10)])]
    call = raw(iter([*messages, b"\xff\xff", *messages]))
    for _ in range(10):
        assert pb.SubmitOrdersResponse.FromString(await first_of(call)).order.order_id
    assert (await ended(call)).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_caller_who_leaves_takes_the_stream_along(kind: Kind, settings: assembly.StorageSettings) -> None:
    """When the caller cancels SubmitOrders nothing of the stream is left running."""
    gated: list[GatedRouter] = []

    def gate(router: Router) -> GatedRouter:
        gated.append(GatedRouter(router))
        return gated[0]

    async with asyncio.timeout(60), rpc_worker(kind, settings, wrap=gate) as worker:
        call = worker.orders.SubmitOrders(iter(submits([a_create() for _ in range(20)])))
        await gated[0].until_waiting(20)
        call.cancel()
        while "streams=0" not in repr(worker.services):
            await worker.topology.GetTopology(topology_pb2.GetTopologyRequest())
        gated[0].gate.set()


async def test_a_watch_shows_changes_made_through_another_worker(
    kind: Kind, settings: assembly.StorageSettings
) -> None:
    """WatchOrder tells the present state, then rising versions made elsewhere, and ends with OK after a final one."""
    async with (
        asyncio.timeout(60),
        rpc_worker(kind, settings) as watched,
        rpc_worker(Kind.GRPCIO, settings) as other,
    ):
        order_id = (await other.orders.CreateOrder(a_create())).order.order_id
        call = watched.orders.WatchOrder(pb.WatchOrderRequest(order_id=order_id))
        assert (await first_of(call)).order.version == 1
        await other.orders.ConfirmPayment(pb.ConfirmPaymentRequest(order_id=order_id, request_id=new_id()))
        assert (await first_of(call)).order.state == pb.Order.STATE_PAID
        await other.orders.ShipOrder(pb.ShipOrderRequest(order_id=order_id, request_id=new_id()))
        await other.orders.RefundOrder(pb.RefundOrderRequest(order_id=order_id, request_id=new_id()))
        versions = [answer.order.version async for answer in call]
        assert versions == sorted(set(versions))
        assert versions[-1] == 4
        assert await call.code() is grpc.StatusCode.OK


async def test_a_watch_of_a_final_order_ends_at_once(worker: RpcWorker) -> None:
    """WatchOrder on an order that is final answers it once and ends."""
    order_id = (await worker.orders.CreateOrder(a_create())).order.order_id
    await worker.orders.CancelOrder(pb.CancelOrderRequest(order_id=order_id, request_id=new_id()))
    answers = [answer async for answer in worker.orders.WatchOrder(pb.WatchOrderRequest(order_id=order_id))]
    assert [answer.order.state for answer in answers] == [pb.Order.STATE_CANCELLED]


async def test_the_topology_is_followed(worker: RpcWorker) -> None:
    """WatchTopology tells the complete topology, and again when the workers change; GetTopology tells the same."""
    call = worker.topology.WatchTopology(topology_pb2.WatchTopologyRequest())
    first = (await first_of(call)).topology
    assert (first.epoch, len(first.slot_shards), len(first.workers)) == (1, 4096, 0)
    assert [(shard.id, shard.weight) for shard in first.shards] == [(shard, 1) for shard in range(SHARDS)]
    worker.fleet.update([WorkerInfo(0, "127.0.0.1:50052", WorkerState.SERVING)])
    second = (await first_of(call)).topology
    assert [(w.id, w.address, w.state) for w in second.workers] == [
        (0, "127.0.0.1:50052", topology_pb2.Worker.STATE_SERVING)
    ]
    assert (await worker.topology.GetTopology(topology_pb2.GetTopologyRequest())).topology == second


STREAMS: dict[str, Callable[[RpcWorker, str], Any]] = {
    "WatchOrder": lambda worker, order_id: worker.orders.WatchOrder(pb.WatchOrderRequest(order_id=order_id)),
    "WatchTopology": lambda worker, _: worker.topology.WatchTopology(topology_pb2.WatchTopologyRequest()),
    "Health.Watch": lambda worker, _: health_pb2_grpc.HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest()),
}


@pytest.mark.parametrize("stream", STREAMS)
async def test_streams_end_when_the_worker_drains(worker: RpcWorker, stream: str) -> None:
    """At the drain a stream ends with UNAVAILABLE (SHUTTING_DOWN), new ones are refused so, and unary calls go on."""
    order_id = (await worker.orders.CreateOrder(a_create())).order.order_id
    call = STREAMS[stream](worker, order_id)
    await first_of(call)
    worker.services.end_streams()
    for drained in (call, STREAMS[stream](worker, order_id)):
        error = await ended(drained)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert b"SHUTTING_DOWN" in dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    assert not (await worker.orders.CreateOrder(a_create())).replayed


async def test_items_read_before_a_drain_are_answered(kind: Kind, settings: assembly.StorageSettings) -> None:
    """At the drain SubmitOrders reads no more, answers what it has read, and then ends with SHUTTING_DOWN."""
    gated: list[GatedRouter] = []

    def gate(router: Router) -> GatedRouter:
        gated.append(GatedRouter(router))
        return gated[0]

    async with asyncio.timeout(60), rpc_worker(kind, settings, wrap=gate) as worker:
        call = worker.orders.SubmitOrders()
        creates = [a_create() for _ in range(10)]
        for item in submits(creates):
            await call.write(item)
        await gated[0].until_waiting(10)
        worker.services.end_streams()
        gated[0].gate.set()
        answered = {(await first_of(call)).request_id for _ in creates}
        assert answered == {create.request_id for create in creates}
        error = await ended(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_stopping_finishes_the_calls_under_way(kind: Kind, settings: assembly.StorageSettings) -> None:
    """A call under way when the server stops is answered within the grace, and a new one is refused."""
    gated: list[GatedRouter] = []

    def gate(router: Router) -> GatedRouter:
        gated.append(GatedRouter(router))
        return gated[0]

    async with asyncio.timeout(60), rpc_worker(kind, settings, wrap=gate) as worker:
        calls = [asyncio.ensure_future(worker.orders.CreateOrder(a_create())) for _ in range(50)]
        await gated[0].until_waiting(50)
        stopping = asyncio.create_task(worker.server.stop(10.0))
        await asyncio.sleep(0)
        gated[0].gate.set()
        answers = await asyncio.gather(*calls)
        assert all(answer.order.order_id for answer in answers)
        await stopping
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker.orders.CreateOrder(a_create(), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_native_server_serves_until_callers_have_left(settings: assembly.StorageSettings) -> None:
    """Since it cannot send callers away, a native server that stops answers those that still come, then ends."""
    async with asyncio.timeout(60), rpc_worker(Kind.NATIVE, settings) as worker:
        stopping = asyncio.create_task(worker.server.stop(50.0))
        for _ in range(20):
            assert (await worker.orders.CreateOrder(a_create())).order.order_id
        assert not stopping.done()
        await stopping


async def test_calls_that_outlive_the_grace_are_cut(kind: Kind, settings: assembly.StorageSettings) -> None:
    """After the grace calls still under way are cut, with a code that a caller retries by the same request id."""
    gated: list[GatedRouter] = []

    def gate(router: Router) -> GatedRouter:
        gated.append(GatedRouter(router))
        return gated[0]

    async with asyncio.timeout(60), rpc_worker(kind, settings, wrap=gate) as worker:
        call = asyncio.ensure_future(worker.orders.CreateOrder(a_create()))
        await gated[0].until_waiting(1)
        await worker.server.stop(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


async def test_readers_who_do_not_read_hold_up_nobody(worker: RpcWorker) -> None:
    """Many watchers that take nothing neither stop other calls nor the end of the worker."""
    watch: Any = worker.channel.unary_stream("/topology.v1.TopologyService/WatchTopology")
    watchers = [watch(b"") for _ in range(40)]
    for watcher in watchers:
        await first_of(watcher)
    # each answer has 8 KiB: together far more than the windows of a stream take, with nobody reading
    for i in range(100):
        worker.fleet.update([WorkerInfo(i, "127.0.0.1:50052", WorkerState.SERVING)] * 200)
        await worker.topology.GetTopology(topology_pb2.GetTopologyRequest())
    assert (await worker.orders.CreateOrder(a_create())).order.order_id
    worker.services.end_streams()
    await worker.server.stop(0.5)


async def test_a_slow_reader_skips_and_catches_up(worker: RpcWorker) -> None:
    """Who stops reading misses states in between, is held in no queue, and finds the present one when it reads on."""
    watch: Any = worker.channel.unary_stream(
        "/topology.v1.TopologyService/WatchTopology",
        response_deserializer=topology_pb2.WatchTopologyResponse.FromString,
    )
    call = watch(b"")
    await first_of(call)
    changes = 1000
    for i in range(1, changes + 1):
        worker.fleet.update([WorkerInfo(i, "127.0.0.1:50052", WorkerState.SERVING)] * 200)
        await asyncio.sleep(0)
        if i % 100 == 0:
            await worker.topology.GetTopology(topology_pb2.GetTopologyRequest())
    seen = [0]
    while seen[-1] != changes:
        seen.append((await first_of(call)).topology.workers[0].id)
    assert seen == sorted(set(seen))
    assert len(seen) < changes
