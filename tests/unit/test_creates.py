"""Creates of one call and of many, over a store in memory: what is answered, to the byte, and what is stored."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from protos.orders.v1 import orders_pb2 as pb
from server.app.clock import SystemClock
from server.app.orders import Orders
from server.domain import limits, order
from server.domain.errors import Violation
from server.rpc.call import Call
from server.rpc.call_log import CallLog
from server.rpc.creates import Creates
from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.routing import Found, Router, Write
from shards.topology import Topology
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.rows import soon
from tests.support.rpc_worker import a_create


class Watched:
    """A router that notes what is written."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.writes: list[Write] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the router has
        return getattr(self._router, name)

    async def write_many(self, writes: Sequence[Write], deadline: float) -> Sequence[Found]:
        """Notes them, then writes."""
        self.writes += writes
        return await self._router.write_many(writes, deadline)


@pytest.fixture
async def router() -> Watched:
    """A router over one empty shard."""
    notes = Notes()
    cache = LocalCache(rows_max=10, bytes_max=1 << 20, ttl_s=60)
    shard = shard_over(MemoryStore(), 0, cache, StorageSettings(data_dir=Path("none")), notes)
    return Watched(Router.over(Topology.initial(1), {0: shard}, notes, AsyncExitStack()))


@pytest.fixture
async def creates(router: Watched) -> AsyncIterator[Creates]:
    """Creates through that router."""
    orders = Orders(router, SystemClock())  # type: ignore[arg-type]  # as the router
    yield Creates(orders, CallLog(lambda _: 0))
    await orders.close()


def a_call() -> Call:
    """A call that has time."""
    call = Call()
    call.deadline = soon()
    return call


async def test_a_batch_is_answered_as_one_message(creates: Creates) -> None:
    """Orders, replays and errors of a batch have together the bytes of their message, each in its place."""
    good, bad = a_create(attributes={"a": "1", "ab": ""}), a_create(currency_code="???")
    other = a_create(request_id=good.request_id, currency_code="USD")
    batch = pb.BatchCreateOrdersRequest(requests=[good, bad, a_create("customer-2"), good, other])
    data = (await creates.batch(batch, a_call())).data
    answer = pb.BatchCreateOrdersResponse.FromString(data)
    assert data == answer.SerializeToString(deterministic=True)
    first, refused, second, replay, reused = answer.results
    assert [first.replayed, second.replayed, replay.replayed] == [False, False, True]
    assert replay.order == first.order
    assert [refused.error.reason, reused.error.reason] == ["INVALID_REQUEST", "REQUEST_ID_REUSED"]


async def test_a_batch_of_nothing_but_faults_is_told_in_a_few(
    creates: Creates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each item that is bad throughout the first fields are named, and the others counted without being made."""
    made: list[Violation] = []

    def make(field: str, description: str) -> Violation:
        made.append(Violation(field, description))
        return made[-1]

    monkeypatch.setattr(order, "Violation", make)
    item = pb.CreateOrderRequest(lines=[pb.OrderLine()] * limits.LINES_MAX)
    batch = pb.BatchCreateOrdersRequest(requests=[item] * limits.BATCH_ITEMS_MAX)
    answer = pb.BatchCreateOrdersResponse.FromString((await creates.batch(batch, a_call())).data)
    bad = 2 + 2 * limits.LINES_MAX  # customer and currency, and of each line its SKU and its quantity
    assert len(made) == limits.BATCH_ITEMS_MAX * (2 + order.FIELDS_NAMED_MAX)
    for result in answer.results:
        fields = [violation.field for violation in result.error.field_violations]
        assert fields[:4] == ["customer_id", "currency_code", "lines[0].sku", "lines[0].quantity"]
        assert len(fields) + int(result.error.metadata["violations_omitted"]) == bad
        assert result.error.message.endswith(f"; and {bad - 3} more")


async def test_one_order_is_answered_alike_alone_and_in_a_batch(creates: Creates) -> None:
    """A create that comes again by itself is answered the bytes that it was answered in a batch, and is a replay."""
    request = a_create()
    batch = await creates.batch(pb.BatchCreateOrdersRequest(requests=[request]), a_call())
    (first,) = pb.BatchCreateOrdersResponse.FromString(batch.data).results
    again = (await creates.one(request, a_call())).data
    first.replayed = True
    assert again == first.SerializeToString(deterministic=True)


async def test_a_batch_is_created_at_one_time(creates: Creates) -> None:
    """All orders of a batch tell the same time of creation."""
    batch = pb.BatchCreateOrdersRequest(requests=[a_create(f"customer {n}") for n in range(5)])
    answer = pb.BatchCreateOrdersResponse.FromString((await creates.batch(batch, a_call())).data)
    assert len({result.order.create_time.ToMicroseconds() for result in answer.results}) == 1


async def test_no_two_rows_of_a_request_are_the_same(creates: Creates, router: Watched) -> None:
    """Items of one request are rows of their own, so that none that is there is taken for another one."""
    request = a_create()
    await creates.batch(pb.BatchCreateOrdersRequest(requests=[request] * 3 + [a_create("customer-2")]), a_call())
    bodies = [write.body for write in router.writes if write.customer == request.customer_id]
    assert len(bodies) == len(set(bodies)) == 3
