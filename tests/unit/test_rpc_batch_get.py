from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from protos.orders.v1 import orders_pb2 as pb
from server.domain.errors import OrderError, Reason
from server.domain.order import Draft, Line, Order, create
from server.rpc.call import Call
from server.rpc.call_log import CallLog
from server.rpc.orders import OrderServicer
from shards.keys import format_uuid, mint_uuid7

DRAFT = Draft("zoë", "EUR", (Line("tea", 1, 1250),), ())


class Found:
    """Use cases that have found this."""

    def __init__(self, found: Mapping[bytes, Order | OrderError | None]) -> None:
        self._found = found

    async def get_many(self, order_ids: Sequence[bytes], *_: Any) -> Mapping[bytes, Order | OrderError | None]:  # noqa: ANN401  # as the use cases
        """Answers."""
        assert set(order_ids) == set(self._found)
        return self._found


async def test_an_order_whose_shard_failed_is_not_called_missing() -> None:
    """An id is missing only when a store said so; what a shard did not answer is unprocessed, to be asked again."""
    there, absent, silent = (mint_uuid7() for _ in range(3))
    found = {
        there: create(DRAFT, there, 1),
        absent: None,
        silent: OrderError(Reason.STORE_UNAVAILABLE, "the shard did not answer"),
    }
    servicer: Any = OrderServicer(Found(found), None, CallLog(lambda _: 0))  # type: ignore[arg-type]  # all that this method asks
    request = pb.BatchGetOrdersRequest(order_ids=[format_uuid(order_id) for order_id in found])
    ready = await servicer.batch_get_orders(request, Call())
    answer = pb.BatchGetOrdersResponse.FromString(ready.data)
    assert [order.order_id for order in answer.orders] == [format_uuid(there)]
    assert list(answer.missing_order_ids) == [format_uuid(absent)]
    assert list(answer.unprocessed_order_ids) == [format_uuid(silent)]


async def test_an_order_that_cannot_be_read_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The answer has no word for damage: the id is unprocessed, and the operator is told of it."""
    damaged = mint_uuid7()
    found = {damaged: OrderError(Reason.STORE_CORRUPT, "it is damaged")}
    servicer: Any = OrderServicer(Found(found), None, CallLog(lambda _: 0))  # type: ignore[arg-type]  # as above
    ready = await servicer.batch_get_orders(pb.BatchGetOrdersRequest(order_ids=[format_uuid(damaged)]), Call())
    assert list(pb.BatchGetOrdersResponse.FromString(ready.data).unprocessed_order_ids) == [format_uuid(damaged)]
    (line,) = caplog.records
    assert (line.levelname, line.__dict__["order_id"]) == ("ERROR", format_uuid(damaged))
