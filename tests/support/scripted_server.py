"""An order service that fails on cue, for tests of callers: in memory, honest about request ids, otherwise small.

It creates exactly one order per (customer_id, request_id), as the real one does, so that a test can count what its
caller made. A *script* is a list of cues for a method; each call takes the next cue, and calls after the last one
succeed.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos.orders.v1 import orders_pb2
from protos.topology.v1 import topology_pb2
from tests.support.cues import Cue, Fail, Hang, Items, LoseReply, refused_id, unavailable

__all__ = ["Cue", "Fail", "Hang", "Items", "LoseReply", "ScriptedServer", "refused_id", "unavailable"]

SERVICE = "orders.v1.OrderService"
State = orders_pb2.Order.State
MessageT = TypeVar("MessageT", bound=Message)
if TYPE_CHECKING:  # neither class can be subscripted at run time
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class ScriptedServer:
    """One worker. ``async with ScriptedServer("127.0.0.25:0") as server`` listens; ``server.address`` is where."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.workers: list[str] = []
        """The addresses that the topology names; empty: a server that tells of no workers."""
        self.scripts: defaultdict[str, deque[Cue]] = defaultdict(deque)
        self.requests: list[tuple[str, Message]] = []
        """Every request met, with its method, in order."""
        self.orders: dict[tuple[str, str], orders_pb2.Order] = {}
        """What was created, by customer and request id."""
        self.caller_ids: set[str] = set()
        self.priorities: set[str] = set()
        self.trailers: tuple[tuple[str, str | bytes], ...] = ()
        """Sent with the answer of every call that succeeds."""
        self._topology_changed = asyncio.Condition()
        self._epoch = 1
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers(
            (
                _service(
                    SERVICE,
                    CreateOrder=_unary(orders_pb2.CreateOrderRequest, self._create_order),
                    BatchCreateOrders=_unary(orders_pb2.BatchCreateOrdersRequest, self._batch_create_orders),
                    SubmitOrders=grpc.stream_stream_rpc_method_handler(
                        self._submit_orders, orders_pb2.SubmitOrdersRequest.FromString, _bytes
                    ),
                    GetOrder=_unary(orders_pb2.GetOrderRequest, self._get_order),
                    BatchGetOrders=_unary(orders_pb2.BatchGetOrdersRequest, self._batch_get_orders),
                    ListOrders=_unary(orders_pb2.ListOrdersRequest, self._list_orders),
                    WatchOrder=_stream(orders_pb2.WatchOrderRequest, self._watch_order),
                    **{name: _unary(step.request, self._change(name, step)) for name, step in _STEPS.items()},
                ),
                _service(
                    "topology.v1.TopologyService",
                    GetTopology=_unary(topology_pb2.GetTopologyRequest, self._get_topology),
                    WatchTopology=_stream(topology_pb2.WatchTopologyRequest, self._watch_topology),
                ),
            )
        )

    async def __aenter__(self) -> Self:
        host = self.address.rpartition(":")[0]
        self.address = f"{host}:{self._server.add_insecure_port(self.address)}"
        await self._server.start()
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stops at once; calls under way are cancelled."""
        await self._server.stop(grace=None)

    async def drain(self) -> None:
        """Says NOT_SERVING, and goes on answering."""
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def advertise(self, workers: Sequence[str]) -> None:
        """Changes the topology, and tells everybody who watches it."""
        async with self._topology_changed:
            self.workers = list(workers)
            self._epoch += 1
            self._topology_changed.notify_all()

    def script(self, method: str, *cues: Cue) -> None:
        """Sets what the next calls of a method do."""
        self.scripts[method].extend(cues)

    def sent(self, kind: type[MessageT]) -> list[MessageT]:
        """The requests of one type, in order."""
        return [request for _, request in self.requests if isinstance(request, kind)]

    # -------------------------------------------------------------------------------------------------- the service

    async def _create_order(
        self, request: orders_pb2.CreateOrderRequest, context: Context
    ) -> orders_pb2.CreateOrderResponse:
        cue = await self._cue("CreateOrder", request, context)
        order, replayed = self._create(request)
        await _lose(cue, context)
        return orders_pb2.CreateOrderResponse(order=order, replayed=replayed)

    async def _batch_create_orders(
        self, request: orders_pb2.BatchCreateOrdersRequest, context: Context
    ) -> orders_pb2.BatchCreateOrdersResponse:
        cue = await self._cue("BatchCreateOrders", request, context)
        response = orders_pb2.BatchCreateOrdersResponse()
        for position, item in enumerate(request.requests):
            if isinstance(cue, Items) and position in cue.errors:
                response.results.add(error=cue.errors[position].item)
            else:
                order, replayed = self._create(item)
                response.results.add(order=order, replayed=replayed)
        await _lose(cue, context)
        return response

    async def _submit_orders(
        self, requests: AsyncIterator[orders_pb2.SubmitOrdersRequest], context: Context
    ) -> AsyncIterator[orders_pb2.SubmitOrdersResponse]:
        """A cue is for one item; one that fails without a reason breaks the stream there."""
        async for request in requests:
            cue = self._next("SubmitOrders", request)
            request_id = request.create.request_id[:128]  # as the real one does
            if isinstance(cue, Fail) and not cue.reason:
                await context.abort(cue.code, cue.message)
            if isinstance(cue, Fail):
                yield orders_pb2.SubmitOrdersResponse(request_id=request_id, error=cue.item)
                continue
            order, replayed = self._create(request.create)
            await _lose(cue, context)
            yield orders_pb2.SubmitOrdersResponse(request_id=request_id, order=order, replayed=replayed)

    async def _get_order(self, request: orders_pb2.GetOrderRequest, context: Context) -> orders_pb2.GetOrderResponse:
        await self._cue("GetOrder", request, context)
        return orders_pb2.GetOrderResponse(order=await self._find(request.order_id, context))

    async def _batch_get_orders(
        self, request: orders_pb2.BatchGetOrdersRequest, context: Context
    ) -> orders_pb2.BatchGetOrdersResponse:
        """The positions of an ``Items`` cue are left unprocessed. Ids are answered in lower case, as by the service."""
        cue = await self._cue("BatchGetOrders", request, context)
        known = {order.order_id: order for order in self.orders.values()}
        response = orders_pb2.BatchGetOrdersResponse()
        for position, order_id in enumerate(map(str.lower, request.order_ids)):
            if isinstance(cue, Items) and position in cue.errors:
                response.unprocessed_order_ids.append(order_id)
            elif order_id in known:
                response.orders.append(known[order_id])
            else:
                response.missing_order_ids.append(order_id)
        return response

    async def _list_orders(
        self, request: orders_pb2.ListOrdersRequest, context: Context
    ) -> orders_pb2.ListOrdersResponse:
        """The page token is the position."""
        await self._cue("ListOrders", request, context)
        orders = [order for (customer, _), order in self.orders.items() if customer == request.customer_id]
        if request.state:
            orders = [order for order in orders if order.state == request.state]
        orders.reverse()
        start, size = int(request.page_token or 0), request.page_size or 50
        token = str(start + size) if start + size < len(orders) else ""
        return orders_pb2.ListOrdersResponse(orders=orders[start : start + size], next_page_token=token)

    async def _watch_order(
        self, request: orders_pb2.WatchOrderRequest, context: Context
    ) -> AsyncIterator[orders_pb2.WatchOrderResponse]:
        """Sends the present order and ends; the test changes it between the streams."""
        await self._cue("WatchOrder", request, context)
        yield orders_pb2.WatchOrderResponse(order=await self._find(request.order_id, context))

    def _change(self, method: str, step: _Step) -> Callable[[Message, Context], Awaitable[Message]]:
        async def change(request: Message, context: Context) -> Message:
            assert isinstance(request, step.request)
            cue = await self._cue(method, request, context)
            order = await self._find(request.order_id, context)
            if order.state not in step.sources:
                metadata = {"state": State.Name(order.state).removeprefix("STATE_"), "allowed_methods": "RefundOrder"}
                refusal = Fail(grpc.StatusCode.FAILED_PRECONDITION, "TRANSITION_NOT_ALLOWED", metadata=metadata)
                await refusal.abort(context)
            order.state = step.target
            order.version += 1
            order.transitions.add(state=order.state, version=order.version, time=order.update_time)
            await _lose(cue, context)
            return step.response(order=order)

        return change

    async def _get_topology(
        self, request: topology_pb2.GetTopologyRequest, context: Context
    ) -> topology_pb2.GetTopologyResponse:
        await self._cue("GetTopology", request, context)
        return topology_pb2.GetTopologyResponse(topology=self._topology())

    async def _watch_topology(
        self, request: topology_pb2.WatchTopologyRequest, context: Context
    ) -> AsyncIterator[topology_pb2.WatchTopologyResponse]:
        await self._cue("WatchTopology", request, context)
        while True:
            topology = self._topology()
            yield topology_pb2.WatchTopologyResponse(topology=topology)
            async with self._topology_changed:
                while self._epoch == topology.epoch:
                    await self._topology_changed.wait()

    # -------------------------------------------------------------------------------------------------------- below

    def _next(self, method: str, request: Message) -> Cue | None:
        self.requests.append((method, request))
        script = self.scripts[method]
        return script.popleft() if script else None

    async def _cue(self, method: str, request: Message, context: Context) -> Cue | None:
        cue = self._next(method, request)
        for key, value in context.invocation_metadata() or ():
            if key == "x-caller-id":
                self.caller_ids.add(str(value))
            elif key == "crest-priority":
                self.priorities.add(str(value))
        if isinstance(cue, Hang):
            await asyncio.Event().wait()
        if isinstance(cue, Fail):
            await cue.abort(context)
        context.set_trailing_metadata(self.trailers)
        return cue

    def _create(self, request: orders_pb2.CreateOrderRequest) -> tuple[orders_pb2.Order, bool]:
        key = (request.customer_id, request.request_id)
        if key in self.orders:
            return self.orders[key], True
        order = orders_pb2.Order(
            order_id=str(uuid.uuid5(uuid.NAMESPACE_OID, "\n".join(key))),
            customer_id=request.customer_id,
            state=orders_pb2.Order.STATE_PENDING,
            version=1,
            currency_code=request.currency_code,
            lines=request.lines,
            total_minor=sum(line.quantity * line.unit_price_minor for line in request.lines),
            attributes=request.attributes,
        )
        order.create_time.FromNanoseconds(time.time_ns() // 1000 * 1000)
        order.update_time.CopyFrom(order.create_time)
        order.transitions.add(state=order.state, version=1, time=order.create_time)
        self.orders[key] = order
        return order, False

    async def _find(self, order_id: str, context: Context) -> orders_pb2.Order:
        for order in self.orders.values():
            if order.order_id == order_id:
                return order
        await Fail(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND", f"no order {order_id}").abort(context)
        raise AssertionError("abort raises")

    def _topology(self) -> topology_pb2.Topology:
        workers = [
            topology_pb2.Worker(id=i, address=address, state=topology_pb2.Worker.STATE_SERVING)
            for i, address in enumerate(self.workers)
        ]
        return topology_pb2.Topology(
            epoch=self._epoch, shards=[topology_pb2.Shard(id=0, weight=1)], slot_shards=[0] * 4096, workers=workers
        )


TransitionRequest = (
    orders_pb2.ConfirmPaymentRequest
    | orders_pb2.ShipOrderRequest
    | orders_pb2.DeliverOrderRequest
    | orders_pb2.CancelOrderRequest
    | orders_pb2.RefundOrderRequest
)


class _Step(NamedTuple):
    """One transition of the life cycle, with its messages."""

    request: type[TransitionRequest]
    response: Callable[..., Message]
    sources: frozenset[int]
    target: orders_pb2.Order.State.ValueType


_PENDING, _PAID, _SHIPPED, _DELIVERED = 1, 2, 3, 4
_STEPS: Mapping[str, _Step] = {
    "ConfirmPayment": _Step(
        orders_pb2.ConfirmPaymentRequest,
        orders_pb2.ConfirmPaymentResponse,
        frozenset({_PENDING}),
        State.Value("STATE_PAID"),
    ),
    "ShipOrder": _Step(
        orders_pb2.ShipOrderRequest, orders_pb2.ShipOrderResponse, frozenset({_PAID}), State.Value("STATE_SHIPPED")
    ),
    "DeliverOrder": _Step(
        orders_pb2.DeliverOrderRequest,
        orders_pb2.DeliverOrderResponse,
        frozenset({_SHIPPED}),
        State.Value("STATE_DELIVERED"),
    ),
    "CancelOrder": _Step(
        orders_pb2.CancelOrderRequest,
        orders_pb2.CancelOrderResponse,
        frozenset({_PENDING}),
        State.Value("STATE_CANCELLED"),
    ),
    "RefundOrder": _Step(
        orders_pb2.RefundOrderRequest,
        orders_pb2.RefundOrderResponse,
        frozenset({_PAID, _SHIPPED, _DELIVERED}),
        State.Value("STATE_REFUNDED"),
    ),
}


async def _lose(cue: Cue | None, context: Context) -> None:
    if isinstance(cue, LoseReply):
        await context.abort(cue.code, "the reply was lost on cue")


def _service(name: str, **handlers: Handler) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(name, handlers)


def _unary(kind: type[Message], method: Callable[[Any, Context], Awaitable[Message]]) -> Handler:
    return grpc.unary_unary_rpc_method_handler(method, kind.FromString, _bytes)


def _stream(kind: type[Message], method: Callable[[Any, Context], AsyncIterator[Message]]) -> Handler:
    return grpc.unary_stream_rpc_method_handler(method, kind.FromString, _bytes)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
