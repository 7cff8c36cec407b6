"""One worker process: puts the service together, serves it on two ports, reports to the supervisor, drains.

Reports and orders go through the two pipes of ``server.processes``. SIGTERM drains; a worker that does not react is the
supervisor's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvloop

from server import logs
from server.admission.rates import RateLimit
from server.app.clock import SystemClock
from server.app.fleet import Fleet, WorkerInfo, WorkerState
from server.app.orders import Orders
from server.config import Config
from server.metrics import Metrics, open_files
from server.processes import (
    BEAT_INTERVAL_S,
    READY,
    WAITING,
    ControlReader,
    ExitCode,
    Launch,
    State,
    beat,
    die_with_parent,
    leave_terminal_to_parent,
)
from server.rpc.admission import Admission, everyone
from server.rpc.rates import CallerRates
from server.rpc.services import Services, build_services
from server.transport.opening import open_server
from server.transport.seam import BindError, Kind, TransportServer
from server.transport.tls import Certificates, TlsError, TlsFiles
from shards.assembly import StorageSettings, TopologyAway, open_fleet, open_rates, open_router
from shards.contract import StoreError
from shards.handing.handing import Handing
from shards.handing.network import UnixNetwork
from shards.rebalance.fleet import Fleet as ShardFleet
from shards.routing import Router

_GC_THRESHOLD: Final = 100_000
"""Objects made and not yet freed between two searches for garbage in cycles (default 700): a call leaves next to none.

More than are alive for what a busy worker has under way: 25 for each of some thousand orders. With less each group of
orders is searched while it waits for the store, and what is remembered of the groups before with every tenth.
"""

_SWITCH_INTERVAL_S: Final = 0.001
"""For so long the event loop may keep a store's thread from its result (default 5 ms; measured in docs/adr/0004)."""

_CUT_MARGIN_S: Final = 0.1
"""By this much servers are stopped later than the grace says, so that what outlasts it can still be counted."""

_STORE_PAUSE_S: Final = 0.5
"""Between two tries to learn where orders live, each of which waits a few seconds itself."""

_log: Final = logging.getLogger("crest.worker")


class Worker:
    """What a worker does beside serving: it beats, listens to the supervisor, opens its ports, and drains."""

    def __init__(self, launch: Launch, metrics: Metrics) -> None:
        """Made in the event loop that serves."""
        self._launch = launch
        self._config = launch.config
        self._metrics = metrics
        self._fleet = Fleet()
        self._controls = ControlReader()
        self._told = asyncio.Event()
        self._shared = asyncio.Event()
        self._stopping = asyncio.Event()
        self._orphaned = False
        self._handing = handing_of(launch, metrics)
        self._admission: Admission | None = None
        self._services: Services | None = None
        self._servers: list[TransportServer] = []
        self._certificates: Certificates | None = None
        os.set_blocking(launch.status_fd, False)

    def __repr__(self) -> str:
        ports = [server.port for server in self._servers]
        return f"Worker({self._launch.number}, ports={ports}, {self._metrics!r})"

    async def run(self) -> ExitCode:
        """Serves until told to stop; returns how it ended. Raises ``StoreError`` and ``BindError``."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_reader(self._launch.control_fd, self._hear)
        async with AsyncExitStack() as running:
            running.callback(loop.remove_reader, self._launch.control_fd)
            running.callback(asyncio.create_task(self._beat(), name="beat").cancel)
            if self._handing is not None:
                running.push_async_callback(self._handing.close)
            router = await self._open_router()
            if router is None:
                return ExitCode.STOPPED
            running.push_async_callback(router.close)
            self._admission = await self._open_admission()
            if self._admission is not None and self._admission.rates is not None:
                running.push_async_callback(self._admission.rates.close)
            orders = Orders(router, SystemClock())
            running.push_async_callback(orders.close)
            shards: ShardFleet | None = None
            if self._config.admin_rpcs:
                shards = await open_fleet(storage_settings(self._config))
                running.push_async_callback(shards.close)
            self._services = services = build_services(
                orders=orders,
                fleet=self._fleet,
                router=router,
                observer=self._metrics,
                channelz=self._config.channelz,
                admission=self._admission,
                shards=shards,
            )
            running.callback(asyncio.create_task(services.report_load(), name="load").cancel)
            running.push_async_callback(self._stop_servers, 0.0)
            await self._open_ports(services)
            gc.freeze()  # what is there now stays, so no search needs to look at it
            await self._stopping.wait()
            return await self._drain(services)
        raise AssertionError  # an exit stack of closers swallows nothing

    async def _open_admission(self) -> Admission | None:
        """Returns the gate that the settings ask for."""
        config = self._config
        rates: CallerRates | None = None
        if config.rate_limit:
            limit = RateLimit(config.rate_limit, config.rate_burst or max(1, round(config.rate_limit)))
            interval_us = max(1, round(limit.interval_s * 1e6))
            shared = await open_rates(storage_settings(config), interval_us=interval_us, burst=limit.burst)
            rates = CallerRates(limit, config.workers, shared)
        if config.admission:
            return Admission(rates=rates)
        return None if rates is None else Admission(everyone(), rates)

    async def _open_router(self) -> Router | None:
        """Returns the router as soon as there is a topology for it; None when told to stop before that."""
        while not self._stopping.is_set():
            try:
                return await open_router(storage_settings(self._config), self._metrics, self._handing)
            except TopologyAway as error:
                _log.warning("waiting for the store", extra={"error": str(error)})
            self._tell(WAITING)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STORE_PAUSE_S):
                    await self._stopping.wait()
        return None

    async def _open_ports(self, services: Services) -> None:
        """Serves on the worker's own port, reports that, and serves on the shared one as soon as it is time."""
        files = tls_files(self._config)
        self._certificates = None if files is None else Certificates(files, self._metrics.certificates_changed)
        await self._told.wait()
        await self._open(services, self._config.worker_port(self._launch.number))
        if self._shared.is_set():  # started in place of another worker: before that one leaves
            await self._open(services, self._config.port)
        services.set_serving(True)
        os.write(self._launch.status_fd, READY)
        if len(self._servers) == 1:
            waiting = {asyncio.create_task(self._shared.wait()), asyncio.create_task(self._stopping.wait())}
            _, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()
            if self._shared.is_set():
                await self._open(services, self._config.port)

    async def _open(self, services: Services, port: int) -> None:
        address = f"{self._config.host}:{port}"
        server = open_server(
            services,
            address,
            kind=Kind(self._config.transport),
            reuse_port=True,
            certificates=self._certificates,
        )
        self._servers.append(server)
        await server.start()
        _log.info("listening", extra={"address": address, "pid": os.getpid()})

    async def _drain(self, services: Services) -> ExitCode:
        """Turns callers away, waits for them to notice, ends streams, lets calls finish, cuts what outlasts that."""
        wait_s, grace_s = (0.0, 0.0) if self._orphaned else (self._config.drain_wait_s, self._config.drain_grace_s)
        services.set_serving(False)
        if self._handing is not None:
            await self._handing.leave()
        own = {"pid": os.getpid()}  # a replacement goes by the same name
        _log.info("draining", extra={"calls_in_flight": self._metrics.calls_in_flight, **own})
        await asyncio.sleep(wait_s)
        services.end_streams()
        stop = asyncio.create_task(self._stop_servers(grace_s + _CUT_MARGIN_S))
        await asyncio.wait({stop}, timeout=grace_s)
        cut = self._metrics.calls_in_flight
        await stop
        _log.log(logging.WARNING if cut else logging.INFO, "drained", extra={"calls_cut": cut, **own})
        return ExitCode.CUT if cut else ExitCode.STOPPED

    async def _stop_servers(self, grace_s: float) -> None:
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))

    async def _beat(self) -> None:
        """Tells the supervisor that the event loop runs and how much it is kept from it, and the metrics how late."""
        stalled_then_s = 0.0
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(BEAT_INTERVAL_S)
            passed_s = time.monotonic() - began_s
            lag_s = max(0.0, passed_s - BEAT_INTERVAL_S)
            stalled_s = 0.0 if self._services is None else self._services.stalled_s
            if self._admission is not None:
                self._admission.tick(lag_s)
                self._metrics.gate(self._admission.gate.standing(), self._admission.take_shed())
            self._metrics.tick(lag_s)
            self._tell(beat((stalled_s - stalled_then_s) / passed_s))
            stalled_then_s = stalled_s

    def _tell(self, word: bytes) -> None:
        """Writes to the supervisor what may as well be missed."""
        # a full pipe holds beats enough, and of a closed one the control pipe tells
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._launch.status_fd, word)

    def _hear(self) -> None:
        """Takes what the supervisor says; the end of its pipe is the end of it, and of this worker."""
        data = os.read(self._launch.control_fd, 65536)
        if not data:
            asyncio.get_running_loop().remove_reader(self._launch.control_fd)
            self._orphaned = True
            self._told.set()
            self._stopping.set()
            return
        control = self._controls.feed(data)
        if control is not None:
            self._fleet.update([WorkerInfo(w.id, w.address, WorkerState(w.state.value)) for w in control.workers])
            if self._handing is not None:
                self._handing.know(
                    serving=(w.id for w in control.workers if w.state is State.SERVING),
                    lagging=(w.id for w in control.workers if w.lags),
                )
            if control.open_shared:
                self._shared.set()
            self._told.set()


def storage_settings(config: Config) -> StorageSettings:
    """Returns the part of the settings that shards understand."""
    return StorageSettings(
        data_dir=config.data_dir,
        store=config.store,
        topology_file=config.topology_file,
        shards=config.shards,
        queue_rows_max=config.queue_rows_max,
        cache=config.cache,
        cache_rows_max=config.cache_rows_max,
        cache_ttl_s=config.cache_ttl_s,
        redis_seeds=config.redis_addresses(),
        redis_prefix=config.redis_prefix,
        redis_username=config.redis_username,
        redis_password_file=Path(config.redis_password_file) if config.redis_password_file else None,
    )


def handing_of(launch: Launch, metrics: Metrics) -> Handing | None:
    """Returns what hands rows to the other workers; None where there are none, or it is not wanted."""
    config = launch.config
    if not config.hand_over or config.workers == 1:
        return None
    return Handing(UnixNetwork(launch.metrics_dir), metrics, own=launch.number, workers=config.workers)


def tls_files(config: Config) -> TlsFiles | None:
    """Returns where the certificates are; None when callers need no TLS."""
    if not config.tls_cert:
        return None
    client_ca = Path(config.tls_client_ca) if config.tls_client_ca else None
    return TlsFiles(Path(config.tls_cert), Path(config.tls_key), client_ca)


async def _serve(launch: Launch, metrics: Metrics) -> ExitCode:
    try:
        return await Worker(launch, metrics).run()
    except StoreError as error:
        _log.error("the store cannot be used: %s", error)  # foreseen: one line for the operator
        return ExitCode.STORE_REFUSED
    except TlsError as error:
        _log.error("cannot serve TLS: %s", error)  # foreseen
        return ExitCode.USAGE
    except BindError as error:
        _log.error("cannot listen: %s", error)  # foreseen
        return ExitCode.PORT_TAKEN


def _be_patient() -> None:
    """Lets the threads of this process wait for a processor rather than push aside who has it.

    They wake each other for every group of calls. Pushed aside in the midst of one, the event loop makes smaller groups
    of what follows; docs/adr/0012 has the figures. An idle processor takes them at once all the same.
    """
    if hasattr(os, "SCHED_BATCH"):  # Linux
        with contextlib.suppress(OSError):  # a sandbox that forbids it costs speed only
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main() -> ExitCode:
    """Runs a worker; returns how it ended."""
    faulthandler.enable()  # SIGABRT writes the stacks of all threads
    launch = Launch.from_environ(os.environ)
    die_with_parent(launch.parent_pid)
    leave_terminal_to_parent()
    logs.configure(f"worker-{launch.number}", launch.config.log_format, launch.config.log_level)
    gc.set_threshold(_GC_THRESHOLD)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _be_patient()
    metrics = open_files(launch.metrics_dir, launch.metrics_id, launch.number)
    try:
        return uvloop.run(_serve(launch, metrics))
    except Exception:  # noqa: BLE001  # the last station: it is logged, and the exit code tells
        _log.exception("a defect ended this worker")
        return ExitCode.DEFECT
    finally:
        metrics.write()


if __name__ == "__main__":
    sys.exit(main())
