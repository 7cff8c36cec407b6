"""Workers that hand their rows to the committers of the lanes, while those die, hang, lag and are replaced."""

import asyncio
import contextlib
import itertools
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos.orders.v1 import orders_pb2 as pb
from tests.support.addresses import loopback
from tests.support.crest import Crest, create_request, orders
from tests.support.storage import storage
from tests.support.waiting import until

HOST = loopback(41)
CALLERS = 16
CALL_S = 20.0
"""Less than a frozen worker is left alone here (``stall_timeout_s``): whoever waits for it fails."""

MORE = 150
"""Orders after each blow: several for each caller and shard."""


class Load:
    """Callers of one worker, who create one order after the other, and what they were told."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = orders(channel)
        self._numbers = itertools.count()
        self.made: list[tuple[pb.CreateOrderRequest, pb.Order]] = []
        self.failed: list[str] = []
        self._callers = [asyncio.ensure_future(self._call()) for _ in range(CALLERS)]

    async def _call(self) -> None:
        while True:
            request = create_request(f"customer {next(self._numbers)}")
            try:
                answer = await self._stub.CreateOrder(request, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                self.failed.append(f"{error.code().name}: {error.details()}")
            else:
                self.made.append((request, answer.order))

    async def goes_on(self) -> None:
        """Returns when so many more orders were made; fails when one was not."""
        before = len(self.made)

        async def look() -> int:
            assert not self.failed, self.failed[:3]
            return len(self.made) - before

        await until(look, lambda more: more >= MORE, timeout_s=60)

    async def end(self) -> None:
        """Ends the load."""
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)


@contextlib.contextmanager
def stopped_again_and_again(pid: int) -> Iterator[None]:
    """Stops a process for most of the time meanwhile; it runs on afterwards."""
    over = threading.Event()

    def alternate() -> None:
        try:
            while not over.is_set():
                os.kill(pid, signal.SIGSTOP)
                over.wait(0.08)
                os.kill(pid, signal.SIGCONT)
                over.wait(0.02)
        finally:
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def handed_so_far(server: Crest) -> float:
    """Returns the rows that workers have handed over, with all that was before this was asked."""
    beats = await counted(server, "crest_loop_lag_seconds_count", 'worker="1"')
    later = beats + 2  # each beat writes what was counted until then; one may have been under way
    await until(lambda: counted(server, "crest_loop_lag_seconds_count", 'worker="1"'), lambda now: now >= later)
    return await counted(server, "crest_rows_handed_total")


async def counted(server: Crest, metric: str, labels: str = "") -> float:
    """Returns the sum of a metric over its labels, or of those that have ``labels``."""
    text = await asyncio.to_thread(server.get, "/metrics")
    which = rf"{{.*{labels}.*}}" if labels else "(?:{.*})?"
    return sum(float(value) for value in re.findall(rf"^{metric}{which} (\S+)$", text, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("store", "port"), [("embedded", 20_200), ("cassandra", 20_320)])
async def test_callers_do_not_notice_what_becomes_of_a_committer(store: str, port: int, tmp_path: Path) -> None:
    """While the worker that commits half of the lanes is killed, stopped, and replaced, no call to the other one fails,
    and whatever was acknowledged is there once, as it was told.
    """
    flags = ("--workers", "2", "--hand-over", *storage(store).flags)
    with Crest(HOST, port, tmp_path / "data", *flags) as server:
        pids = await asyncio.to_thread(server.wait_serving)
        async with server.channel(1) as channel:
            load = Load(channel)
            await load.goes_on()
            await until(lambda: counted(server, "crest_rows_handed_total"), bool)

            os.kill(pids[0], signal.SIGKILL)
            await load.goes_on()
            pid = (await asyncio.to_thread(server.wait_logged, "a child is ready", 2, child="worker-0"))[-1]["pid"]
            await until(lambda: counted(server, "crest_rows_handed_total"), bool)

            if store == "cassandra":  # a stopped writer of a file keeps the others from it
                os.kill(pid, signal.SIGSTOP)
                try:
                    await load.goes_on()
                    await until(lambda: counted(server, "crest_rows_taken_back_total"), bool)  # told with each beat
                finally:
                    os.kill(pid, signal.SIGCONT)
                await load.goes_on()
            await load.end()

        async with server.balanced() as balanced:  # also to the one that is replaced
            await balanced.channel_ready()
            load_of_all = Load(balanced)
            await load_of_all.goes_on()
            server.signal(signal.SIGHUP)
            await asyncio.to_thread(server.wait_logged, "a child has ended", 3, ended="STOPPED")
            await load_of_all.goes_on()
            await load_of_all.end()
            made = load.made + load_of_all.made
            stub = orders(balanced)
            for start in range(0, len(made), 50):
                some = made[start : start + 50]
                answers = await asyncio.gather(*(stub.CreateOrder(request, timeout=CALL_S) for request, _ in some))
                assert [answer.order for answer in answers] == [order for _, order in some]
                assert all(answer.replayed for answer in answers)


@pytest.mark.timeout(300)
async def test_lanes_leave_a_committer_that_lags_and_come_back(tmp_path: Path) -> None:
    """While the committer of the only lane is stopped most of the time, the other worker commits it, for both, and no
    call fails; when it runs as before, it gets the lane back.
    """
    with Crest(HOST, 20_440, tmp_path / "data", "--workers", "2", "--shards", "1", "--hand-over") as server:
        pids = await asyncio.to_thread(server.wait_serving)
        async with server.channel(0) as slow, server.channel(1) as well:
            load = Load(well)
            await until(lambda: counted(server, "crest_rows_handed_total"), bool)
            with stopped_again_and_again(pids[0]):
                await asyncio.to_thread(server.wait_logged, "a worker lags far behind the others", child="worker-0")

                async def handed_by_who_is_well() -> float:
                    before = await handed_so_far(server)
                    await load.goes_on()
                    return await handed_so_far(server) - before

                await until(handed_by_who_is_well, lambda rows: not rows, timeout_s=60)
                assert await counted(server, "crest_worker_lags", 'worker="0"') == 1
                await load.end()
                before = await handed_so_far(server)
                load_of_slow = Load(slow)
                await until(lambda: counted(server, "crest_rows_handed_total"), lambda rows: rows > before)
                assert not load_of_slow.failed
            await load_of_slow.end()
            await asyncio.to_thread(
                server.wait_logged, "a worker keeps up with the others again", child="worker-0", timeout_s=240
            )
            before = await handed_so_far(server)
            load_again = Load(well)
            await until(lambda: counted(server, "crest_rows_handed_total"), lambda rows: rows > before)
            await load_again.goes_on()
            await load_again.end()
            assert not load.failed
