"""All services of a worker, ready for a transport."""

from __future__ import annotations

from collections.abc import Iterator

from server.app.fleet import Fleet
from server.app.orders import Orders
from server.rpc import channelz as channelz_service
from server.rpc import topology as topology_service
from server.rpc.admission import Admission
from server.rpc.call_log import CallLog
from server.rpc.creates import NAME as ORDER_SERVICE
from server.rpc.creates import Creates
from server.rpc.health import NAME as HEALTH_NAME
from server.rpc.health import HealthServicer
from server.rpc.load_report import LoadReport
from server.rpc.observer import CallObserver, NullObserver
from server.rpc.orders import OrderServicer
from server.rpc.pipeline import Pipeline, Service
from server.rpc.rebalance import RebalanceServicer
from server.rpc.reflection import ReflectionServicer
from server.rpc.streams import Streams
from server.rpc.topology import TopologyServicer
from shards.rebalance.fleet import Fleet as ShardFleet
from shards.routing import Router


class Services:
    """The services, and what a worker says of itself through them.

    A worker that drains calls, in this order: ``set_serving(False)``, so that balancers turn away; after a wait
    ``end_streams()``, so that nothing outlives the grace; then it stops its servers.
    """

    def __init__(
        self,
        services: tuple[Service, ...],
        health: HealthServicer,
        pipeline: Pipeline,
        streams: Streams,
        admission: Admission | None,
        load: LoadReport,
    ) -> None:
        self._services = services
        self._health = health
        self._pipeline = pipeline
        self._streams = streams
        self._load = load
        self.admission = admission
        """The gate before calls; None where every call is let in."""

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services)

    def __repr__(self) -> str:
        return f"Services({', '.join(service.name for service in self._services)}, {self._pipeline!r})"

    def set_serving(self, serving: bool, service: str | None = None) -> None:  # noqa: FBT001  # says what it sets
        """Sets the health of one service, or with None of all and of the worker (""). At first nothing serves."""
        self._health.set_serving(serving, service)

    def end_streams(self) -> None:
        """Ends all streams with UNAVAILABLE (SHUTTING_DOWN) and refuses new ones; unary calls go on. Idempotent.

        Items of SubmitOrders that were read are answered first.
        """
        self._streams.end()

    @property
    def stalled_s(self) -> float:
        """For how long so far the event loop was kept from running, while ``report_load`` ran."""
        return self._load.stalled_s

    async def report_load(self) -> None:
        """Tells balancing callers with every answer how busy this worker is, until cancelled."""
        await self._load.run()


def build_services(
    *,
    orders: Orders,
    fleet: Fleet,
    router: Router,
    observer: CallObserver | None = None,
    channelz: bool = False,
    admission: Admission | None = None,
    shards: ShardFleet | None = None,
) -> Services:
    """Returns the services of a worker: orders, topology, health, reflection (v1, v1alpha), and channelz if asked for.

    With ``shards``, which the caller closes, rebalances too.
    Call it in the event loop that serves them. The same ``Services`` may be served by several transports at once.
    """
    streams = Streams()
    log = CallLog(lambda slot: router.topology.slot_shards[slot])
    load = LoadReport() if admission is None else LoadReport(lambda: admission.gate.waiting)
    pipeline = Pipeline(NullObserver() if observer is None else observer, log, streams, admission, load)
    own = [
        OrderServicer(orders, Creates(orders, log), log).service(pipeline),
        TopologyServicer(router, fleet).service(pipeline),
    ]
    if channelz:
        own.append(channelz_service.service(pipeline))
    if shards is not None:
        own.append(RebalanceServicer(shards).service(pipeline))
    health = HealthServicer((ORDER_SERVICE, topology_service.NAME))
    reflection = ReflectionServicer((*(service.name for service in own), HEALTH_NAME))
    return Services(
        (*own, health.service(pipeline), *reflection.services(pipeline)), health, pipeline, streams, admission, load
    )
