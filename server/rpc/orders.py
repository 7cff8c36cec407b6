"""OrderService: each method parses its message into domain values, asks the use cases, and fills the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from google.protobuf.message import Message

from protos.orders.v1 import orders_pb2 as pb
from server.admission.gate import Priority
from server.app.latest import ENTRY_BYTES_MAX, Latest
from server.app.listing import Query, validate
from server.app.orders import Orders
from server.domain import limits
from server.domain.errors import OrderError, Reason, Violation
from server.domain.order import Order
from server.domain.states import Verb
from server.rpc import convert, encoding
from server.rpc.admission import Entry
from server.rpc.call import Call
from server.rpc.call_log import CallLog
from server.rpc.creates import NAME, Creates
from server.rpc.pipeline import Handler, Pipeline, Ready, Service
from shards.keys import format_uuid

PRIORITIES: Final = {
    Verb.CONFIRM_PAYMENT.value: Priority.CRITICAL,
    "GetOrder": Priority.LOW,
    "BatchGetOrders": Priority.LOW,
    "ListOrders": Priority.LOW,
}
"""Of calls that do not say their own; the other methods are normal. A confirmation that is lost is money that is lost,
an order that is lost is a sale, and who reads will read again."""


class OrderServicer:
    """The methods of one worker; stateless but for its collaborators."""

    def __init__(self, orders: Orders, creates: Creates, log: CallLog) -> None:
        self._orders = orders
        self._creates = creates
        self._log = log
        self._ready = Latest(_get_answer, lambda _order, answer: len(answer.data) <= ENTRY_BYTES_MAX)

    def service(self, pipeline: Pipeline) -> Service:
        """Returns the service with all its handlers."""
        unary: dict[str, tuple[type[Any], Callable[[Any, Call], Awaitable[Ready]]]] = {
            "CreateOrder": (pb.CreateOrderRequest, self._creates.one),
            "BatchCreateOrders": (pb.BatchCreateOrdersRequest, self._creates.batch),
            "GetOrder": (pb.GetOrderRequest, self.get_order),
            "BatchGetOrders": (pb.BatchGetOrdersRequest, self.batch_get_orders),
            "ListOrders": (pb.ListOrdersRequest, self.list_orders),
        }
        for verb in Verb:
            unary[verb.value] = (getattr(pb, f"{verb.value}Request"), self._transition(verb))
        handlers: dict[str, Handler] = {}
        entries: dict[str, Entry] = {}
        for method, (request_type, serve) in unary.items():
            priority = PRIORITIES.get(method, Priority.NORMAL)
            handlers[method], entry = pipeline.admitted(f"{NAME}/{method}", request_type, serve, priority)
            if entry is not None:
                entries[method] = entry
        handlers["SubmitOrders"] = pipeline.bidi(f"{NAME}/SubmitOrders", pb.SubmitOrdersRequest, self._creates.submit)
        handlers["WatchOrder"] = pipeline.stream(f"{NAME}/WatchOrder", pb.WatchOrderRequest, self.watch_order)
        return Service(NAME, handlers, entries)

    async def get_order(self, request: pb.GetOrderRequest, call: Call) -> Ready:
        """Reads one order."""
        bad: list[Violation] = []
        call.order_id = order_id = convert.order_id(request.order_id, bad)
        consistency = convert.consistency(request.consistency, bad)
        if request.min_version < 0:
            bad.append(Violation("min_version", f"is {request.min_version}, must not be negative"))
        convert.refuse(bad)
        order = await self._orders.get(order_id, request.min_version, consistency, call.deadline)
        return self._ready.of(order_id, order)

    async def batch_get_orders(self, request: pb.BatchGetOrdersRequest, call: Call) -> Ready:
        """Reads many orders; those that the answer has no room for, or whose shard failed, are unprocessed."""
        bad: list[Violation] = []
        consistency = convert.consistency(request.consistency, bad)
        texts = request.order_ids
        if 1 <= len(texts) <= limits.BATCH_ITEMS_MAX:
            # a dict keeps the order asked for and drops repetitions
            wanted = dict.fromkeys(convert.order_id(text, bad, f"order_ids[{i}]") for i, text in enumerate(texts))
        else:
            wanted = {}
            bad.append(Violation("order_ids", f"{len(texts)} ids, allowed are 1-{limits.BATCH_ITEMS_MAX}"))
        convert.refuse(bad)
        found = await self._orders.get_many(list(wanted), consistency, call.deadline)
        room = _Room()
        rest = pb.BatchGetOrdersResponse()
        for order_id in wanted:
            order = found[order_id]
            if order is None:
                rest.missing_order_ids.append(format_uuid(order_id))
            elif not isinstance(order, Order) or not room.take(order):
                rest.unprocessed_order_ids.append(format_uuid(order_id))
                if isinstance(order, OrderError) and order.reason is Reason.STORE_CORRUPT:
                    call.order_id = order_id
                    self._log.unread(f"{NAME}/BatchGetOrders", call, order)
        return room.before(rest)

    async def list_orders(self, request: pb.ListOrdersRequest, call: Call) -> Ready:
        """Lists a page of a customer's orders."""
        bad: list[Violation] = []
        call.customer_id = request.customer_id
        state = convert.state_filter(request.state, bad)
        query = Query(request.customer_id, state, request.page_size, request.page_token)
        convert.refuse(bad, validate, query)
        room = _Room()
        page = await self._orders.list(query, call.deadline, room.take)
        assert len(page.orders) == room.count, "a page holds the orders that were said to fit"
        return room.before(pb.ListOrdersResponse(next_page_token=page.next_page_token))

    async def watch_order(self, request: pb.WatchOrderRequest, call: Call) -> AsyncGenerator[Ready, None]:
        """Follows one order until a final state."""
        bad: list[Violation] = []
        call.order_id = order_id = convert.order_id(request.order_id, bad)
        convert.refuse(bad)
        async with aclosing(self._orders.watch(order_id, call.deadline)) as states:
            async for order in states:
                yield Ready(encoding.answer(order))

    def _transition(self, verb: Verb) -> Callable[[Any, Call], Awaitable[Ready]]:
        takes_reason = "reason" in getattr(pb, f"{verb.value}Request").DESCRIPTOR.fields_by_name

        async def serve(request: Any, call: Call) -> Ready:  # noqa: ANN401  # five messages of one form
            bad: list[Violation] = []
            call.request_id = request.request_id
            call.order_id = order_id = convert.order_id(request.order_id, bad)
            request_id = convert.request_id(request.request_id, bad)
            reason = convert.reason(request.reason, bad) if takes_reason else ""
            expected = convert.expected_version(request, bad)
            convert.refuse(bad)
            order, replayed = await self._orders.transition(order_id, verb, request_id, expected, reason, call.deadline)
            return Ready(encoding.answer(order, replayed=replayed))

        return serve


def _get_answer(order: Order) -> Ready:
    return Ready(encoding.answer(order))


class _Room:
    """The orders of an answer, as long as it stays below the limit of a call; the first always fits."""

    def __init__(self) -> None:
        self._orders: list[bytes] = []
        self._bytes = 0

    @property
    def count(self) -> int:
        """How many orders there are."""
        return len(self._orders)

    def take(self, order: Order) -> bool:
        """Adds an order, or returns False."""
        element = encoding.answer(order)
        if self._bytes and self._bytes + len(element) > limits.CALL_BYTES_MAX - _TAIL_BYTES:
            return False
        self._orders.append(element)
        self._bytes += len(element)
        return True

    def before(self, rest: Message) -> Ready:
        """Returns the answer: the orders, which are field 1, and then the fields of ``rest``."""
        return Ready(b"".join([*self._orders, rest.SerializeToString(deterministic=True)]))


_TAIL_BYTES: Final = 32 * 1024
"""Left for the rest of an answer: a page token, or up to 500 ids of 38 bytes."""
