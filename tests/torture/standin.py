"""A small honest order service in memory, and the ways in which it can be told to break a promise.

It is what the torture itself is tried on: every fault here has to be found.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc import aio

from protos.orders.v1 import orders_pb2
from server.app.clock import SystemClock
from shards.keys import format_uuid, mint_uuid7, order_id_of, parse_uuid7
from tests.torture.wire import joined


class Fault(enum.Enum):
    """A broken promise."""

    NONE = "none"
    TWO_ORDERS = "two orders for one request"
    TWO_CREATED = "two answers say that they created"
    NONE_CREATED = "no answer says that it created"
    ANSWERS_DIFFER = "a replay differs in one field"
    BYTES_DIFFER = "a replay differs in its bytes only"
    WRONG_TOTAL = "the total is off by one"
    LOST = "an acknowledged order is not listed"
    LISTED_TWICE = "an order is listed twice"
    LISTED_OTHERWISE = "an order is listed otherwise than acknowledged"
    PAYLOAD_IGNORED = "another payload under a used id is accepted"
    REFUSED = "a good request is refused"


class Standin:
    """Serves CreateOrder, BatchCreateOrders and ListOrders; breaks its promise at one request in ten."""

    def __init__(self, fault: Fault, seed: int) -> None:
        self._fault = fault
        self._chance = random.Random(seed)
        self._clock = SystemClock()
        self._orders: dict[tuple[str, str], tuple[bytes, orders_pb2.Order]] = {}
        self._listed: defaultdict[str, list[orders_pb2.Order]] = defaultdict(list)

    async def create(self, raw: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        """CreateOrder."""
        await asyncio.sleep(0)
        result = self._create(orders_pb2.CreateOrderRequest.FromString(raw))
        if isinstance(result, grpc.StatusCode):
            await context.abort(result, "as the fault, or the reused id, asks")
        assert isinstance(result, bytes)
        return result

    async def batch(self, raw: bytes, _context: object) -> bytes:
        """BatchCreateOrders."""
        await asyncio.sleep(0)
        results = []
        for request in orders_pb2.BatchCreateOrdersRequest.FromString(raw).requests:
            result = self._create(request)
            if isinstance(result, grpc.StatusCode):
                error = orders_pb2.Error(code=result.value[0], reason="REFUSED")
                result = orders_pb2.BatchCreateOrdersResponse.Result(error=error).SerializeToString()
            results.append(result)
        return joined(1, results)

    async def list(self, raw: bytes, _context: object) -> bytes:
        """ListOrders, in pages of three, however many are asked for."""
        request = orders_pb2.ListOrdersRequest.FromString(raw)
        orders = sorted(self._listed[request.customer_id], key=lambda order: order.order_id, reverse=True)
        start = int(request.page_token or 0)
        token = str(start + 3) if start + 3 < len(orders) else ""
        page = orders_pb2.ListOrdersResponse(orders=orders[start : start + 3], next_page_token=token)
        return page.SerializeToString(deterministic=True)

    def _create(self, request: orders_pb2.CreateOrderRequest) -> bytes | grpc.StatusCode:
        name = (request.customer_id, request.request_id)
        payload = request.SerializeToString(deterministic=True)
        if self._strikes(Fault.REFUSED):
            return grpc.StatusCode.INVALID_ARGUMENT
        first, order = self._orders.get(name, (payload, None))
        if first != payload and not self._strikes(Fault.PAYLOAD_IGNORED):
            return grpc.StatusCode.ALREADY_EXISTS
        replayed = order is not None
        if order is None or self._strikes(Fault.TWO_ORDERS):
            order = self._new(request, twin=replayed)
            self._orders[name] = (payload, order)
            self._list(order)
        answer = orders_pb2.CreateOrderResponse(order=order, replayed=replayed)
        if replayed and self._strikes(Fault.TWO_CREATED):
            answer.replayed = False
        if not replayed and self._strikes(Fault.NONE_CREATED):
            answer.replayed = True
        if replayed and self._strikes(Fault.ANSWERS_DIFFER):
            answer.order.update_time.nanos ^= 1
        encoded = answer.SerializeToString(deterministic=True)
        if replayed and self._strikes(Fault.BYTES_DIFFER):
            state_again = b"\x18\x01"  # what it decodes to stays the same
            return joined(1, [order.SerializeToString(deterministic=True) + state_again]) + b"\x10\x01"
        return encoded

    def _new(self, request: orders_pb2.CreateOrderRequest, *, twin: bool) -> orders_pb2.Order:
        request_id = parse_uuid7(request.request_id)
        assert request_id is not None
        order_id = order_id_of(request.customer_id, mint_uuid7() if twin else request_id)
        order = orders_pb2.Order(
            order_id=format_uuid(order_id),
            customer_id=request.customer_id,
            state=orders_pb2.Order.STATE_PENDING,
            version=1,
            currency_code=request.currency_code,
            lines=request.lines,
            total_minor=sum(line.quantity * line.unit_price_minor for line in request.lines),
            attributes=request.attributes,
        )
        order.create_time.FromMicroseconds(self._clock.now_us())
        order.update_time.CopyFrom(order.create_time)
        order.transitions.add(state=order.state, version=1, time=order.create_time)
        order.total_minor += self._strikes(Fault.WRONG_TOTAL)
        return order

    def _list(self, order: orders_pb2.Order) -> None:
        if self._strikes(Fault.LOST):
            return
        listed = orders_pb2.Order.FromString(order.SerializeToString())
        if self._strikes(Fault.LISTED_OTHERWISE):
            listed.update_time.nanos ^= 1
        self._listed[order.customer_id] += [listed] * (2 if self._strikes(Fault.LISTED_TWICE) else 1)

    def _strikes(self, fault: Fault) -> bool:
        return fault is self._fault and self._chance.random() < 0.1


@asynccontextmanager
async def standins(host: str, fault: Fault, seed: int) -> AsyncIterator[list[str]]:
    """Serves one stand-in at two endpoints, as two workers of one service would, and yields them."""
    standin = Standin(fault, seed)
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "CreateOrder": grpc.unary_unary_rpc_method_handler(standin.create),
        "BatchCreateOrders": grpc.unary_unary_rpc_method_handler(standin.batch),
        "ListOrders": grpc.unary_unary_rpc_method_handler(standin.list),
    }
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("orders.v1.OrderService", handlers)])
    ports = [server.add_insecure_port(f"{host}:0") for _ in range(2)]
    await server.start()
    try:
        yield [f"{host}:{port}" for port in ports]
    finally:
        await server.stop(None)
