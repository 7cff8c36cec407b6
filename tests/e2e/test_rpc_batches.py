"""Batches of orders as a stock client sends them, on both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from protos.orders.v1 import orders_pb2 as pb
from server.domain import limits
from server.transport import Kind
from tests.support.failures import failure
from tests.support.rpc_worker import RpcWorker, a_create, a_large_create, new_id, renewed, rpc_worker
from tests.support.storage import SETUPS, storage


@pytest.fixture(params=SETUPS, ids="-".join)
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RpcWorker]:
    """A worker on each transport, and on each storage."""
    kind, name = request.param
    with storage(name).prepared(tmp_path / "data") as settings:
        async with rpc_worker(Kind(kind), settings) as worker:
            yield worker


async def test_one_bad_item_of_a_batch_fails_alone(worker: RpcWorker) -> None:
    """A batch answers each item in order: orders, replays of duplicates, and errors with the content of a status."""
    good, bad = a_create(), a_create(currency_code="???")
    other = a_create(request_id=good.request_id, currency_code="USD")
    batch = pb.BatchCreateOrdersRequest(requests=[good, bad, good, other, a_create("customer-2")])
    answer = await worker.orders.BatchCreateOrders(batch)
    first, refused, replay, reused, second = answer.results
    assert [first.replayed, second.replayed] == [False, False]
    assert replay.replayed
    assert replay.order == first.order
    assert (refused.error.code, refused.error.reason) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "INVALID_REQUEST")
    assert [violation.field for violation in refused.error.field_violations] == ["currency_code"]
    assert not refused.HasField("order")
    assert (reused.error.code, reused.error.reason) == (grpc.StatusCode.ALREADY_EXISTS.value[0], "REQUEST_ID_REUSED")
    assert reused.error.metadata["order_id"] == first.order.order_id
    assert second.order.customer_id == "customer-2"


async def test_a_batch_of_nothing_but_faults_still_fits_its_answer(worker: RpcWorker) -> None:
    """Five hundred items with hundreds of faults each are answered within what a client takes by default."""
    lines = [pb.OrderLine()] * limits.LINES_MAX
    batch = pb.BatchCreateOrdersRequest(requests=[a_create(lines=lines) for _ in range(limits.BATCH_ITEMS_MAX)])
    answer = await worker.orders.BatchCreateOrders(batch)
    assert len(answer.results) == limits.BATCH_ITEMS_MAX
    for result in answer.results:
        named = len(result.error.field_violations)
        assert named
        assert named + int(result.error.metadata.get("violations_omitted", 0)) == 2 * limits.LINES_MAX


@pytest.mark.parametrize("items", [0, limits.BATCH_ITEMS_MAX + 1])
async def test_batches_out_of_bounds_are_refused(worker: RpcWorker, items: int) -> None:
    """Batches have 1 to 500 items."""
    creates = pb.BatchCreateOrdersRequest(requests=[pb.CreateOrderRequest()] * items)
    assert (await failure(worker.orders.BatchCreateOrders(creates))).fields == ["requests"]
    gets = pb.BatchGetOrdersRequest(order_ids=[new_id()] * items)
    assert (await failure(worker.orders.BatchGetOrders(gets))).fields == ["order_ids"]


async def test_every_id_of_a_batch_read_is_accounted_for(worker: RpcWorker) -> None:
    """Each id stands in one of the three lists, once, and what the answer has no room for is unprocessed."""
    batch = pb.BatchCreateOrdersRequest(requests=[a_large_create() for _ in range(60)])
    created = [
        result.order.order_id
        for _ in range(2)
        for result in (await worker.orders.BatchCreateOrders(renewed(batch))).results
    ]
    missing = [new_id() for _ in range(3)]
    wanted = [*missing, *created, created[0], missing[0]]
    answer = await worker.orders.BatchGetOrders(pb.BatchGetOrdersRequest(order_ids=wanted))
    found = [order.order_id for order in answer.orders]
    assert list(answer.missing_order_ids) == missing
    assert found + list(answer.unprocessed_order_ids) == created
    assert answer.unprocessed_order_ids
    assert answer.ByteSize() <= limits.CALL_BYTES_MAX
    rest = await worker.orders.BatchGetOrders(pb.BatchGetOrdersRequest(order_ids=answer.unprocessed_order_ids))
    assert [order.order_id for order in rest.orders] == list(answer.unprocessed_order_ids)
