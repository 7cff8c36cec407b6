"""The workers of a running server as callers of plain stubs see them: no client library, no retries but our own."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final, Self

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from protos.orders.v1 import orders_pb2
from tests.support.history import Kind, Listed, Operation, Outcome, Result, failure
from tests.torture.wire import fields, repeated

CALL_TIMEOUTS_S: Final = (3.0,) * 19 + (0.02,)
"""One call in twenty has so little time that it is mostly left in doubt."""

PAGE_ROWS: Final = 15
"""Of a list: fewer than a customer has orders, so that lists have several pages."""

_SERVICE: Final = "/orders.v1.OrderService/"
_CHANNEL_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 400),
    ("grpc.enable_retries", 0),  # a retry that we do not see would be an operation missing in the history
)
_ORDER, _REPLAYED = 1, 2  # of every answer to a write; `order` of a read's too
_ORDERS, _NEXT_PAGE_TOKEN = 1, 2  # of ListOrdersResponse

_DOUBTS: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})
"""What a caller sees of a worker that dies, or of an answer that is late: without a reason of the service."""

_Method = aio.UnaryUnaryMultiCallable[bytes, bytes]


class Face:
    """Asks the workers at ``endpoints``, each operation of a random one. An async context manager, for its channels."""

    def __init__(self, endpoints: Sequence[str], seed: int, timeouts_s: Sequence[float] = CALL_TIMEOUTS_S) -> None:
        """``timeouts_s``: each call has one of them, drawn."""
        self._timeouts_s = timeouts_s
        self._endpoints = endpoints
        self._chance = random.Random(seed ^ 0xFACE)
        self._channels: list[aio.Channel] = []
        self._methods: dict[tuple[int, str], _Method] = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for endpoint in self._endpoints:
            channel = aio.insecure_channel(endpoint, _CHANNEL_OPTIONS)
            self._channels.append(await self._open.enter_async_context(channel))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._open.aclose()

    async def ask(self, operation: Operation) -> Result:
        """Makes one call; a list is one for each page."""
        try:
            if operation.kind is Kind.LIST:
                return Result(outcome=Outcome.OK, listed=await self._list(operation.customer))
            name, request = _request_of(operation)
            raw = await self._call(name, request)
        except aio.AioRpcError as error:
            reason, current = _reason_of(error)
            return failure(operation.kind, reason, current)
        return _result_of(raw)

    async def _list(self, customer: str) -> tuple[Listed, ...]:
        listed: list[Listed] = []
        token = ""
        while True:
            request = orders_pb2.ListOrdersRequest(customer_id=customer, page_size=PAGE_ROWS, page_token=token)
            page = await self._call("ListOrders", request)
            for raw in repeated(page, _ORDERS):
                order = orders_pb2.Order.FromString(raw)
                listed.append(Listed(order.order_id, order.version, _state_of(order), _digest(raw), _steps_of(order)))
            told = dict(fields(page)).get(_NEXT_PAGE_TOKEN, b"")
            token = told.decode() if isinstance(told, bytes) else ""
            if not token:
                return tuple(listed)

    async def _call(self, name: str, request: Message) -> bytes:
        worker = self._chance.randrange(len(self._channels))
        method = self._methods.get((worker, name))
        if method is None:
            method = self._methods[worker, name] = self._channels[worker].unary_unary(_SERVICE + name)
        return await method(request.SerializeToString(), timeout=self._chance.choice(self._timeouts_s))


def _request_of(operation: Operation) -> tuple[str, Message]:
    """Returns method and message of an operation other than a list; the operation alone decides them."""
    if operation.kind is Kind.CREATE:
        sku, quantity = operation.payload.split()
        return "CreateOrder", orders_pb2.CreateOrderRequest(
            request_id=operation.request,
            customer_id=operation.customer,
            currency_code="EUR",
            lines=[orders_pb2.OrderLine(sku=sku, quantity=int(quantity), unit_price_minor=995)],
        )
    if operation.kind is Kind.MOVE:
        request = getattr(orders_pb2, f"{operation.verb}Request")(
            order_id=operation.order, request_id=operation.request
        )
        if operation.expected:
            request.expected_version = operation.expected
        if operation.payload:
            request.reason = operation.payload
        return operation.verb, request
    strong = operation.kind is Kind.READ
    return "GetOrder", orders_pb2.GetOrderRequest(
        order_id=operation.order,
        min_version=operation.min_version,
        consistency=orders_pb2.CONSISTENCY_STRONG if strong else orders_pb2.CONSISTENCY_CACHED,
    )


def _result_of(raw: bytes) -> Result:
    answer = dict(fields(raw))
    order_bytes = answer[_ORDER]
    assert isinstance(order_bytes, bytes), "an order is a message"
    order = orders_pb2.Order.FromString(order_bytes)
    return Result(
        outcome=Outcome.OK,
        order=order.order_id,
        version=order.version,
        state=_state_of(order),
        replayed=bool(answer.get(_REPLAYED, 0)),
        fingerprint=_digest(order_bytes),
        steps=_steps_of(order),
    )


def _state_of(order: orders_pb2.Order) -> str:
    return orders_pb2.Order.State.Name(order.state).removeprefix("STATE_")


def _steps_of(order: orders_pb2.Order) -> tuple[str, ...]:
    steps = [_digest(step.SerializeToString(deterministic=True)) for step in order.transitions]
    for changing in ("transitions", "state", "version", "update_time"):
        order.ClearField(changing)
    return (_digest(order.SerializeToString(deterministic=True)), *steps)


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def _reason_of(error: aio.AioRpcError) -> tuple[str, int]:
    """Returns the service's reason and the version that it tells of; "" where nobody answered."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    facts = info.metadata
                    return info.reason, int(facts.get("current_version", facts.get("version", "0")))
    return ("", 0) if error.code() in _DOUBTS else (f"{error.code().name}: {error.details()}", 0)
