"""How much a worker holds for its streams: items of SubmitOrders, and watchers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from protos.orders.v1 import orders_pb2 as pb
from server.app import watching
from server.app.clock import SystemClock
from server.app.orders import Orders
from server.domain.errors import OrderError, Reason
from server.domain.order import Draft, Line
from server.rpc.call import Call
from server.rpc.call_log import CallLog
from server.rpc.creates import WINDOW_ITEMS, Creates
from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.routing import Router
from shards.topology import Topology
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.rows import soon
from tests.support.rpc_worker import a_create


@pytest.fixture
async def orders() -> AsyncIterator[Orders]:
    """The use cases over one empty shard."""
    notes = Notes()
    cache = LocalCache(rows_max=10, bytes_max=1 << 20, ttl_s=60)
    shard = shard_over(MemoryStore(), 0, cache, StorageSettings(data_dir=Path("none")), notes)
    orders = Orders(Router.over(Topology.initial(1), {0: shard}, notes, AsyncExitStack()), SystemClock())
    yield orders
    await orders.close()


async def test_a_window_does_not_grow(orders: Orders) -> None:
    """However many answers were taken, no more items are read than were answered and taken, and a window's."""
    read = taken = 0

    async def items() -> AsyncIterator[pb.SubmitOrdersRequest]:
        nonlocal read
        for n in range(4 * WINDOW_ITEMS):
            read += 1
            yield pb.SubmitOrdersRequest(create=a_create(f"customer {n}"))

    async def settle() -> None:
        before = -1
        while before != read:
            before = read
            for _ in range(100):
                await asyncio.sleep(0)

    call = Call()
    call.deadline = soon()
    async with aclosing(Creates(orders, CallLog(lambda _: 0)).submit(items(), call)) as answers:
        async for answer in answers:
            assert answer.order.version == 1
            await settle()
            assert read - taken <= WINDOW_ITEMS
            taken += 1
    assert taken == read == 4 * WINDOW_ITEMS


async def test_items_are_answered_as_they_commit(orders: Orders) -> None:
    """The answer of an item comes while the caller's stream is open, before the next item is sent."""
    answered = asyncio.Event()

    async def items() -> AsyncIterator[pb.SubmitOrdersRequest]:
        for n in range(3):
            yield pb.SubmitOrdersRequest(create=a_create(f"customer {n}"))
            await answered.wait()
            answered.clear()

    call = Call()
    call.deadline = soon()
    async with asyncio.timeout(30), aclosing(Creates(orders, CallLog(lambda _: 0)).submit(items(), call)) as answers:
        customers = []
        async for answer in answers:
            customers.append(answer.order.customer_id)
            answered.set()
    assert customers == ["customer 0", "customer 1", "customer 2"]


async def test_watchers_are_bounded(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many watchers the next is refused with a hint, and let in when another has left."""
    monkeypatch.setattr(watching, "_WATCHED_MAX", 2)
    draft = Draft("zoë", "EUR", (Line("tea", 1, 1250),), ())
    order_id = (await orders.create(draft, None, soon())).order.order_id
    async with aclosing(orders.watch(order_id, soon())) as one, aclosing(orders.watch(order_id, soon())) as two:
        assert (await anext(one)).version == (await anext(two)).version == 1
        with pytest.raises(OrderError) as refused:
            await anext(orders.watch(order_id, soon()))
        assert (refused.value.reason, refused.value.retry_after_s) == (Reason.QUEUE_FULL, 1.0)
        await two.aclose()
        async with aclosing(orders.watch(order_id, soon())) as three:
            assert (await anext(three)).version == 1
