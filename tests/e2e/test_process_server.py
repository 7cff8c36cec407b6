"""The whole server as its own processes: what signals and deaths do to its callers."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.orders.v1 import orders_pb2 as pb
from server.config import settings
from server.metrics.catalog import CALLS_REFUSED, CATALOG, ROWS_TAKEN_BACK, STORE_ERRORS, TLS_CHANGES
from server.processes import ExitCode
from tests.support.addresses import loopback
from tests.support.crest import Crest, create_request, orders
from tests.support.deadlines import eventually
from tests.support.server_process import alive
from tests.support.storage import SETUPS, STORAGES, storage
from tests.support.waiting import until

HOST = loopback(23)
PORT = 20300

Start = Callable[..., Crest]


async def logged(server: Crest, event: str, count: int = 1, **fields: object) -> None:
    """Waits for lines in the log while the event loop goes on."""
    await asyncio.to_thread(server.wait_logged, event, count, 120, **fields)


@pytest.fixture(params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    return str(request.param)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a server on a data directory of the test's own."""
    return lambda *flags: Crest(HOST, PORT, tmp_path / "data", *flags)


@pytest.fixture(params=STORAGES)
def start_on(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """The same on each storage."""
    kept = storage(request.param)
    return lambda *flags: Crest(HOST, PORT, tmp_path / "data", *kept.flags, *flags)


class Callers:
    """Create orders, each caller one after the other, and note how the calls end."""

    def __init__(self) -> None:
        self.created: list[str] = []
        self.failures: list[str] = []
        self._more = asyncio.Event()

    @asynccontextmanager
    async def calling(self, channel: grpc.aio.Channel, callers: int = 4) -> AsyncIterator[None]:
        """Keeps so many calls under way inside the context."""
        tasks = [asyncio.create_task(self._call(channel)) for _ in range(callers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _call(self, channel: grpc.aio.Channel) -> None:
        stub = orders(channel)
        while True:
            try:
                answer = await stub.CreateOrder(create_request(), timeout=30, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code().name}: {error.details()}")
            else:
                self.created.append(answer.order.order_id)
            self._more.set()

    async def until_created(self, more: int) -> None:
        """Returns when so many more orders were created."""
        goal = len(self.created) + more
        async with asyncio.timeout(60):
            while len(self.created) < goal:
                self._more.clear()
                await self._more.wait()


async def test_order_goes_in_and_comes_back(start: Start, transport: str) -> None:
    """An order created on the shared port is read, as it is, from every worker."""
    with start("--transport", transport) as server:
        server.wait_serving()
        async with server.channel() as shared, server.channel(0) as first, server.channel(1) as second:
            made = (await orders(shared).CreateOrder(create_request(), timeout=30)).order
            for channel in (first, second):
                request = pb.GetOrderRequest(order_id=made.order_id, consistency=pb.CONSISTENCY_STRONG)
                assert (await orders(channel).GetOrder(request, timeout=30)).order == made
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == ExitCode.STOPPED


async def test_orders_survive_a_restart(start_on: Start) -> None:
    """What was acknowledged is there after the server was stopped and started, and after it was killed."""
    request = create_request()
    with start_on() as server:
        server.wait_serving()
        async with server.channel() as channel:
            made = await orders(channel).CreateOrder(request, timeout=30)
        server.signal(signal.SIGKILL)
        server.wait_exit()
    for _ in range(2):
        with start_on() as server:
            server.wait_serving()
            async with server.channel() as channel:
                again = await orders(channel).CreateOrder(request, timeout=30)
            assert again.replayed
            assert again.order == made.order
            server.signal(signal.SIGTERM)
            assert server.wait_exit() == ExitCode.STOPPED


@pytest.mark.parametrize(("transport", "store"), SETUPS)
async def test_rolling_restart_fails_no_call(tmp_path: Path, transport: str, store: str) -> None:
    """While SIGHUP replaces every worker, twice, callers that balance by health see no error."""
    callers = Callers()
    flags = ("--transport", transport, *storage(store).flags)
    with Crest(HOST, PORT, tmp_path / "data", *flags) as server:
        pids = server.wait_serving()
        async with server.balanced() as channel, callers.calling(channel):
            await callers.until_created(50)
            for roll in (1, 2):
                server.signal(signal.SIGHUP)
                await logged(server, "a child has ended", roll, child="exporter", ended="STOPPED")
                await callers.until_created(50)
        assert callers.failures == []
        assert len(callers.created) == len(set(callers.created))
        assert not [pid for pid in pids if alive(pid)]
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == ExitCode.STOPPED


async def test_end_of_a_terminal_is_a_rolling_restart(start: Start) -> None:
    """A SIGHUP to every process of the server, as when its terminal closes, cuts no worker off and fails no call."""
    callers = Callers()
    with start() as server:
        server.wait_serving()
        async with server.balanced() as channel, callers.calling(channel):
            await callers.until_created(50)
            for child in server.children():
                child.send_signal(signal.SIGHUP)
            server.signal(signal.SIGHUP)
            await logged(server, "a child has ended", child="exporter")
            await callers.until_created(50)
        assert callers.failures == []
        assert len(server.logged("a child has ended", ended="STOPPED")) == len(server.logged("a child has ended")) == 3
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait_exit) == ExitCode.STOPPED


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_lost_worker_is_replaced(start: Start, sent: signal.Signals) -> None:
    """A worker that is killed, or does not answer any more, is replaced, and what it acknowledged is there."""
    callers = Callers()
    with start("--stall-timeout-s", "3") as server:
        pids = server.wait_serving()
        async with server.balanced() as channel, callers.calling(channel):
            await callers.until_created(20)
            os.kill(pids[0], sent)
            await logged(server, "a child is ready", 2, child="worker-0")
            await callers.until_created(20)
        async with server.channel(0) as channel:
            for start_at in range(0, len(callers.created), 500):
                ids = callers.created[start_at : start_at + 500]
                found = await orders(channel).BatchGetOrders(pb.BatchGetOrdersRequest(order_ids=ids), timeout=30)
                assert [order.order_id for order in found.orders] == ids
        server.signal(signal.SIGTERM)
        server.wait_exit()


async def test_drain_finishes_calls_and_ends_streams(start: Start, transport: str) -> None:
    """At SIGTERM health says NOT_SERVING first, then calls are still answered, and endless streams are ended."""
    callers = Callers()
    with start("--transport", transport, "--drain-wait-s", "2") as server:
        server.wait_serving()
        async with server.channel(0) as channel, server.channel(1) as calling:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="orders.v1.OrderService"))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            order_id = (await orders(channel).CreateOrder(create_request(), timeout=30)).order.order_id
            following = orders(channel).WatchOrder(pb.WatchOrderRequest(order_id=order_id))
            first = await following.read()
            assert isinstance(first, pb.WatchOrderResponse)
            assert first.order.version == 1
            async with callers.calling(calling):
                await callers.until_created(10)
                server.signal(signal.SIGTERM)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                # still taken: not every caller has noticed yet
                assert (await orders(channel).CreateOrder(create_request(), timeout=30)).order.version == 1
            for stream in (watch, following):
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await stream.read()
                assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(server.wait_exit) == ExitCode.STOPPED


async def test_calls_that_outlast_the_grace_are_cut(start: Start, tmp_path: Path, transport: str) -> None:
    """A call that cannot end in time is cut, the exit code says so, and its request id tells later what came of it."""
    request = create_request()
    flags = ("--shards", "1", "--workers", "1", "--drain-grace-s", "0.5")
    with start("--transport", transport, *flags) as server:
        server.wait_serving(1)
        stuck = apsw.Connection(str(tmp_path / "data" / "shard-0.db"))
        stuck.execute("BEGIN IMMEDIATE")  # as a disk that does not answer: no worker can commit
        async with server.channel(0) as channel:
            call = orders(channel).CreateOrder(request, timeout=60)
            in_flight = 'crest_calls_in_flight{method="orders.v1.OrderService/CreateOrder"} 1.0'
            await until(lambda: asyncio.to_thread(server.get, "/metrics"), lambda shown: in_flight in shown)
            server.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                await call
            assert cut.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert await asyncio.to_thread(server.wait_exit) == ExitCode.CUT
        stuck.close()
    with start("--transport", transport, *flags) as server:
        server.wait_serving(1)
        async with server.channel(0) as channel:
            assert (await orders(channel).CreateOrder(request, timeout=30)).order.version == 1


def test_killed_supervisor_leaves_no_worker(start: Start) -> None:
    """A supervisor killed with -9 takes its workers with it, and the next one finds ports and data free."""
    with start() as server:
        pids = server.wait_serving()
        server.signal(signal.SIGKILL)
        server.wait_exit()
        for pid in pids:
            eventually(lambda pid=pid: not alive(pid), f"{pid} ends")  # type: ignore[misc]  # bound in the loop
    with start() as again:
        again.wait_serving()


def test_aborted_worker_tells_where_it_was(start: Start) -> None:
    """SIGABRT, which a stalled worker is sent, has it write the stacks of its threads before it dies."""
    with start() as server:
        os.kill(server.wait_serving()[0], signal.SIGABRT)
        server.wait_ready("worker-0", 2)
        assert any("Fatal Python error: Aborted" in line.get("text", "") for line in server.lines)


def test_damaged_store_is_refused(start: Start, tmp_path: Path) -> None:
    """A damaged file of the store stops the command with one line and the exit code for it."""
    with start() as server:
        server.wait_serving()
        server.signal(signal.SIGTERM)
        server.wait_exit()
    (tmp_path / "data" / "shard-1.db").write_bytes(b"no database" * 1000)
    with start() as server:
        assert server.wait_exit() == ExitCode.STORE_REFUSED
        assert [line["text"] for line in server.lines if "shard-1.db" in line["text"]]
        assert len(server.lines) == 1


def test_second_server_on_the_data_is_refused(start: Start, tmp_path: Path) -> None:
    """A second server on the same data directory is refused, on whatever ports."""
    with start() as server:
        server.wait_serving()
        with Crest(HOST, PORT + 20, tmp_path / "data") as second:
            assert second.wait_exit() == ExitCode.STORE_REFUSED
            assert str(server.pid) in second.lines[0]["text"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--workers", "0"), "--workers = 0: must be a whole number from 1 to 64"),
        (("--metrics-port", "20301"), "metrics_port = 20301 must be another one"),
        (("--host", "0.0.0.0"), "say with advertise_host"),  # noqa: S104  # refused
        (("--config", "missing.toml"), "missing.toml: cannot be read"),
    ],
)
def test_bad_settings_are_refused(start: Start, flags: tuple[str, ...], said: str) -> None:
    """A setting that cannot be stops the command with one line that says what is allowed."""
    with start(*flags) as server:
        assert server.wait_exit() == ExitCode.USAGE
        assert said in server.lines[0]["text"]
        assert len(server.lines) == 1


def test_help_is_complete() -> None:
    """--help names every setting and every exit code."""
    shown = subprocess.run(
        [sys.executable, "-m", "server", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    ).stdout
    for name in settings():
        assert "--" + name.replace("_", "-") in shown
    for code in ExitCode:
        assert f"{code.value}  {code.text}" in shown


def of_catalog_missing_in(seen: dict[str, float]) -> list[str]:
    """Metrics of the catalog that have no value; without a failure, a refusal or a certificate those have none."""
    names = {name.partition("{")[0].removesuffix("_count") for name in seen}
    rare = (STORE_ERRORS, CALLS_REFUSED, TLS_CHANGES, ROWS_TAKEN_BACK)
    return [of.name for of in CATALOG if of not in rare and of.name not in names]


async def test_metrics_cover_all_workers_and_restarts(start: Start) -> None:
    """One port shows the calls of all workers, their lanes, stores and loops; counters go on after a restart."""
    with start() as server:
        pids = server.wait_serving()
        for worker in (0, 1):
            async with server.channel(worker) as channel:
                for _ in range(3):
                    made = await orders(channel).CreateOrder(create_request(), timeout=30)
                    await orders(channel).GetOrder(pb.GetOrderRequest(order_id=made.order.order_id), timeout=30)
                request = pb.GetOrderRequest(order_id="no id")
                with pytest.raises(grpc.aio.AioRpcError):
                    await orders(channel).GetOrder(request, timeout=30, metadata=(("x-caller-id", "shop"),))
        calls = 'crest_call_seconds_count{code="OK",method="orders.v1.OrderService/CreateOrder"}'
        failed = 'crest_call_seconds_count{code="INVALID_ARGUMENT",method="orders.v1.OrderService/GetOrder"}'

        def seen() -> dict[str, float]:
            lines = [line.rpartition(" ") for line in server.get("/metrics").splitlines() if line[0] != "#"]
            return {name: float(value) for name, _, value in lines}

        # a worker writes with each beat
        eventually(lambda: seen().get(calls) == 6, "creates are counted")
        eventually(lambda: seen().get(failed) == 2, "failures are counted")
        eventually(lambda: seen().get('crest_caller_calls_total{caller_id="shop"}') == 2, "callers are counted")
        eventually(lambda: not of_catalog_missing_in(seen()), "every metric is there")
        os.kill(pids[0], signal.SIGKILL)
        await logged(server, "a child is ready", 2, child="worker-0")
        eventually(lambda: seen().get('crest_worker_restarts_total{worker="0"}') == 1, "the restart is counted")
        async with server.channel(0) as channel:
            await orders(channel).CreateOrder(create_request(), timeout=30)
        eventually(lambda: seen().get(calls) == 7, "the count goes on")
        well = {"serving": True, "workers": {"0": "SERVING", "1": "SERVING"}}
        eventually(lambda: json.loads(server.get("/healthz")) == well, "the exporter is told that both serve")
