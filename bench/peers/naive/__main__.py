"""`python -m bench.peers.naive`: one process of grpc.aio and cassandra-driver, one plain insert an order.

As a Python team would write it first: generated servicer, prepared statement, the driver's own event thread, and a
future handed over to the loop. uvloop, as ours has it.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
import typer
import uvloop
from cassandra.cluster import ResponseFuture, Session

from bench.peers import placed
from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from shards.keys import mint_uuid7

_STOP_GRACE_S: Final = 1.0
_CALLS_MAX: Final = 4096
_INSERT: Final = "INSERT INTO {keyspace}.orders (order_id, customer, version, marks, body) VALUES (?, ?, ?, ?, ?)"


class Orders(orders_pb2_grpc.OrderServiceServicer):
    """Answers CreateOrder with what Crest answers; the other methods are unimplemented."""

    def __init__(self, placement: placed.Placement) -> None:
        self._placement = placement
        self._clusters = []
        self._sessions: dict[int, tuple[Session, Any]] = {}
        for shard in placement.shards:
            cluster, session = placed.connect(placement, shard)
            self._clusters.append(cluster)
            self._sessions[shard.id] = (session, session.prepare(_INSERT.format(keyspace=placement.keyspace)))

    def close(self) -> None:
        """Disconnects."""
        for cluster in self._clusters:
            cluster.shutdown()

    async def CreateOrder(  # noqa: N802  the name is the wire's
        self,
        request: orders_pb2.CreateOrderRequest,
        context: grpc.aio.ServicerContext[orders_pb2.CreateOrderRequest, orders_pb2.CreateOrderResponse],
    ) -> orders_pb2.CreateOrderResponse:
        """Keeps one order under a new id: nothing would notice a second one under the caller's."""
        if not request.customer_id or not request.lines:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an order has a customer and lines")
        order_id = mint_uuid7()
        answer = orders_pb2.CreateOrderResponse(order=_order(order_id, request))
        session, insert = self._sessions[self._placement.shard_of(request.customer_id)]
        marks = uuid.UUID(request.request_id).bytes + bytes(16)
        body = answer.order.SerializeToString()
        await _done(session.execute_async(insert, (order_id, request.customer_id, 1, marks, body)))
        return answer


def _order(order_id: bytes, request: orders_pb2.CreateOrderRequest) -> orders_pb2.Order:
    order = orders_pb2.Order(
        order_id=str(uuid.UUID(bytes=order_id)),
        customer_id=request.customer_id,
        state=orders_pb2.Order.STATE_PENDING,
        version=1,
        currency_code=request.currency_code,
        lines=request.lines,
        total_minor=sum(line.quantity * line.unit_price_minor for line in request.lines),
        attributes=request.attributes,
    )
    now_ns = time.time_ns()
    order.create_time.FromNanoseconds(now_ns)
    order.update_time.FromNanoseconds(now_ns)
    made = order.transitions.add(state=orders_pb2.Order.STATE_PENDING, version=1)
    made.time.FromNanoseconds(now_ns)
    return order


async def _done(future: ResponseFuture) -> None:
    """Waits for the driver, whose callbacks run in its own thread."""
    loop = asyncio.get_running_loop()
    settled: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if settled.done():
            return
        settled.set_result(None) if error is None else settled.set_exception(error)

    future.add_callbacks(
        lambda _: loop.call_soon_threadsafe(settle, None),
        lambda error: loop.call_soon_threadsafe(settle, error),
    )
    await settled


async def _serve(host: str, port: int, placement: placed.Placement) -> None:
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    orders = Orders(placement)  # type: ignore[abstract]  # what is not overridden answers UNIMPLEMENTED
    server = grpc.aio.server(maximum_concurrent_rpcs=_CALLS_MAX, options=[("grpc.so_reuseport", 0)])
    orders_pb2_grpc.add_OrderServiceServicer_to_server(orders, server)
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    await asked.wait()
    await server.stop(_STOP_GRACE_S)
    orders.close()


def main(
    host: Annotated[str, typer.Option(help="Address to listen on.")],
    port: Annotated[int, typer.Option(help="Port to listen on.")],
    placement: Annotated[Path, typer.Option(help="JSON file that places slots on shards.")],
) -> None:
    """Serve until TERM or INT."""
    uvloop.run(_serve(host, port, placed.read(placement)))


if __name__ == "__main__":
    typer.run(main)
