"""One worker inside the test's process: the real services on the embedded store behind a real transport."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from protos.orders.v1 import orders_pb2 as pb
from protos.orders.v1 import orders_pb2_grpc
from protos.topology.v1 import topology_pb2_grpc
from server.app.clock import SystemClock
from server.app.fleet import Fleet
from server.app.orders import Orders
from server.rpc.admission import Admission
from server.rpc.observer import CallObserver
from server.rpc.services import Services, build_services
from server.transport import Kind, TransportServer, open_server
from shards import assembly
from shards.assembly import open_fleet
from shards.contract import Unobserved
from shards.keys import format_uuid, mint_uuid7
from shards.routing import Router
from tests.support.addresses import loopback

HOST: Final = loopback(24)

KINDS: Final = (Kind.GRPCIO, Kind.NATIVE)


@dataclass
class RpcWorker:
    """A worker that serves, and a channel to it."""

    services: Services
    server: TransportServer
    router: Router
    fleet: Fleet
    channel: grpc.aio.Channel

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{HOST}:{self.server.port}"

    def raw(self, method: str) -> Callable[..., Any]:
        """Returns the unary method ``package.Service/Method`` as a call from bytes to bytes."""
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"/{method}")
        return call

    @property
    def orders(self) -> orders_pb2_grpc.OrderServiceAsyncStub:
        """A plain stub."""
        return orders_pb2_grpc.OrderServiceStub(self.channel)

    @property
    def topology(self) -> topology_pb2_grpc.TopologyServiceAsyncStub:
        """A plain stub."""
        return topology_pb2_grpc.TopologyServiceStub(self.channel)


@contextmanager
def prepared(data_dir: Path) -> Iterator[assembly.StorageSettings]:
    """Makes a data directory and owns it."""
    settings = assembly.StorageSettings(data_dir=data_dir, shards=2)
    lock = assembly.prepare(settings)
    try:
        yield settings
    finally:
        os.close(lock)


@asynccontextmanager
async def rpc_worker(
    kind: Kind,
    settings: assembly.StorageSettings,
    *,
    observer: CallObserver | None = None,
    wrap: Callable[[Router], Any] = lambda router: router,
    admission: Admission | None = None,
    serves_operators: bool = False,
) -> AsyncIterator[RpcWorker]:
    """Serves on a free port until the block ends, then drains; ``wrap`` may put something between app and router."""
    router = wrap(await assembly.open_router(settings, Unobserved()))
    orders, fleet = Orders(router, SystemClock()), Fleet()
    shards = await open_fleet(settings) if serves_operators else None
    services = build_services(
        orders=orders,
        fleet=fleet,
        router=router,
        observer=observer,
        channelz=True,
        admission=admission,
        shards=shards,
    )
    services.set_serving(True)
    server = open_server(services, f"{HOST}:0", kind=kind)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(
            f"{HOST}:{server.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            yield RpcWorker(services, server, router, fleet, channel)
    finally:
        services.end_streams()
        await server.stop(0.0)
        await orders.close()
        if shards is not None:
            await shards.close()
        await router.close()


@contextmanager
def rpc_worker_in_thread(
    kind: Kind, data_dir: Path, *, wrap: Callable[[Router], Any] = lambda router: router
) -> Iterator[RpcWorker]:
    """Serves from a thread with a loop of its own, for tests that are not coroutines (generated examples)."""
    ready: threading.Event = threading.Event()
    held: list[RpcWorker] = []
    failure: list[BaseException] = []
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        with prepared(data_dir) as settings:
            async with rpc_worker(kind, settings, wrap=wrap) as worker:
                held.append(worker)
                ready.set()
                await done.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001  # raised again where the test can see it
            failure.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="rpc-worker")
    thread.start()
    ready.wait(60)
    try:
        if held:
            yield held[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(60)
    if failure:
        raise failure[0]
    assert held, "the worker did not start"


def new_id() -> str:
    """Returns a new request id."""
    return format_uuid(mint_uuid7())


def a_create(customer_id: str = "customer-1", request_id: str | None = None, **fields: Any) -> pb.CreateOrderRequest:  # noqa: ANN401  # fields of the message
    """Returns a good create; ``fields`` replace its own."""
    values: dict[str, Any] = {
        "currency_code": "EUR",
        "lines": [pb.OrderLine(sku="sku-1", quantity=2, unit_price_minor=1250)],
        "attributes": {"channel": "web", "basket": "7"},
    }
    return pb.CreateOrderRequest(
        customer_id=customer_id, request_id=new_id() if request_id is None else request_id, **(values | fields)
    )


def a_large_create(customer_id: str = "customer-1") -> pb.CreateOrderRequest:
    """Returns a create of an order as large as the limits allow, nearly."""
    return a_create(
        customer_id,
        lines=[pb.OrderLine(sku=f"{i:064}", quantity=10**6, unit_price_minor=10**12) for i in range(9)]
        + [pb.OrderLine(sku=f"{i:064}", quantity=1, unit_price_minor=10**12) for i in range(191)],
        attributes={f"{i:064}": "v" * 256 for i in range(32)},
    )


def renewed(batch: pb.BatchCreateOrdersRequest) -> pb.BatchCreateOrdersRequest:
    """Gives every item a new request id."""
    for item in batch.requests:
        item.request_id = new_id()
    return batch
