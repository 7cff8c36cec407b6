"""Overload as callers see it, on both transports: who waits, who is refused and how, and that it passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from protos.orders.v1 import orders_pb2 as pb
from server.admission import gate as gates
from server.admission.limit import GradientLimit
from server.admission.rates import RateLimit
from server.rpc.admission import Admission, everyone
from server.rpc.rates import HINTS_S, CallerRates
from server.transport import Kind
from shards.routing import Router
from tests.support.rpc_worker import KINDS, RpcWorker, a_create, new_id, prepared, rpc_worker
from tests.support.waiting import until

LINE_UNITS = 3
LOW = (("crest-priority", "low"),)
CRITICAL = (("crest-priority", "critical"),)


class HeldRouter:
    """A router whose writes wait until they are let go."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.held = 0
        self.go = asyncio.Event()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the router has
        return getattr(self._router, name)

    async def write(self, *args: Any) -> Any:  # noqa: ANN401  # as the router
        """Waits, then writes."""
        self.held += 1
        await self.go.wait()
        return await self._router.write(*args)


class Worker(RpcWorker):
    """With its gate and its router at hand."""

    admission: Admission
    held: HeldRouter

    async def full(self) -> list[asyncio.Task[pb.CreateOrderResponse]]:
        """Fills the one place and the line with calls of low priority; returns them, the one being served first."""
        tasks: list[asyncio.Task[pb.CreateOrderResponse]] = []
        for units in range(1 + LINE_UNITS):
            tasks.append(asyncio.create_task(self.create(LOW)))
            await self.stands(in_flight=1, waiting=units)
        return tasks

    async def create(self, metadata: Any = (), timeout: float | None = None) -> pb.CreateOrderResponse:  # noqa: ANN401  # as gRPC
        """Creates an order."""
        return await self.orders.CreateOrder(a_create(), metadata=metadata, timeout=timeout)

    async def stands(self, *, in_flight: int, waiting: int) -> None:
        """Returns when so many are served and so many wait."""

        async def look() -> tuple[int, int]:
            return self.admission.gate.in_flight, self.admission.gate.waiting

        await until(look, lambda found: found == (in_flight, waiting))


@pytest.fixture(params=KINDS, ids=lambda kind: kind.value)
async def worker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Worker]:
    """A worker that serves one call at a time, in whose line there is room for three."""
    monkeypatch.setattr(gates, "QUEUE_UNITS_MAX", LINE_UNITS)
    monkeypatch.setattr(gates, "WAIT_S_MAX", 60.0)
    admission = Admission(GradientLimit(floor=1, ceiling=1))
    with prepared(tmp_path / "data") as settings:
        async with (
            asyncio.timeout(60),
            rpc_worker(request.param, settings, wrap=HeldRouter, admission=admission) as served,
        ):
            worker = Worker(**vars(served))
            worker.admission = admission
            worker.held = served.router  # type: ignore[assignment]  # what wrap made of it
            yield worker
            await worker.stands(in_flight=0, waiting=0)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, float]:  # noqa: ANN401  # any call
    """Returns how a call is refused: code, reason, and hint in seconds."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata() or ())
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details:
        assert detail.Unpack(info) or detail.Unpack(retry)
    hint_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return caught.value.code(), info.reason, hint_s


async def test_who_comes_too_many_is_told_when_to_come_again(worker: Worker) -> None:
    """Beyond the line a call is refused as OVERLOADED with a hint; nothing is done for it; all others are served."""
    tasks = await worker.full()
    code, reason, hint_s = await refusal(worker.create(LOW))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert hint_s > 0
    assert worker.held.held == 1
    worker.held.go.set()
    assert len({answer.order.order_id for answer in await asyncio.gather(*tasks)}) == len(tasks)
    assert worker.admission.take_shed() == {("orders.v1.OrderService/CreateOrder", "low", "OVERLOADED"): 1}


async def test_the_critical_class_is_served_when_the_line_is_full(worker: Worker) -> None:
    """A call of a higher class takes the place of the last of the lowest, and is served before all that wait."""
    tasks = await worker.full()
    critical = asyncio.create_task(worker.create(CRITICAL))
    _, reason, _ = await refusal(tasks[-1])
    assert reason == "OVERLOADED"
    worker.held.go.set()
    done, _ = await asyncio.wait([*tasks[1:-1], critical], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(critical, *tasks[:-1])
    assert critical in done


async def test_a_confirmation_is_critical_by_itself(worker: Worker) -> None:
    """Without a word of its caller a payment confirmation goes first, a create is normal, and a read is low."""
    task = (await worker.full())[-1]
    missing = new_id()

    async def confirm() -> None:
        await worker.orders.ConfirmPayment(pb.ConfirmPaymentRequest(order_id=missing, request_id=new_id()))

    confirmation = asyncio.create_task(confirm())
    assert (await refusal(task))[1] == "OVERLOADED"
    assert (await refusal(worker.orders.GetOrder(pb.GetOrderRequest(order_id=missing))))[1] == "OVERLOADED"
    assert worker.admission.gate.standing().waiting == {"critical": 1, "normal": 0, "low": LINE_UNITS - 1}
    worker.held.go.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await confirmation
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # it was served


async def test_what_cannot_be_done_in_time_is_refused_at_once(worker: Worker) -> None:
    """A call whose deadline leaves no time for those before it is DEADLINE_TOO_SHORT, long before its deadline."""
    worker.admission.gate.limit._tracks[0].mean_s = 20.0  # the first method is CreateOrder
    held = asyncio.create_task(worker.create(timeout=55.0))
    await worker.stands(in_flight=1, waiting=0)
    code, reason, hint_s = await refusal(worker.create(timeout=15.0))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DEADLINE_TOO_SHORT")
    assert hint_s > 0
    worker.held.go.set()
    await held


async def test_it_passes(worker: Worker) -> None:
    """After the overload calls are served as if there had been none."""
    tasks = await worker.full()
    await asyncio.gather(*(refusal(worker.create(LOW)) for _ in range(20)))
    worker.held.go.set()
    await asyncio.gather(*tasks)
    for _ in range(20):
        await worker.create(LOW)


async def test_who_leaves_the_line_leaves_nothing_behind(worker: Worker) -> None:
    """A caller who gives up while it waits is never served, and its place is free again."""
    tasks = await worker.full()
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks[1:], return_exceptions=True)
    await worker.stands(in_flight=1, waiting=0)
    worker.held.go.set()
    await tasks[0]
    await worker.stands(in_flight=0, waiting=0)
    await worker.create()
    assert worker.held.held == 2


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
async def test_each_caller_has_its_rate(kind: Kind, tmp_path: Path) -> None:
    """A caller beyond its rate is RATE_LIMITED with a hint when there is room again; others do not notice."""
    rates = CallerRates(RateLimit(0.01, 2), 1, None)
    with prepared(tmp_path / "data") as settings:
        async with rpc_worker(kind, settings, admission=Admission(everyone(), rates)) as worker:
            shop, other = (("x-caller-id", "shop"),), (("x-caller-id", "other"),)
            for _ in range(2):
                await worker.orders.CreateOrder(a_create(), metadata=shop)
            for _ in range(3):
                code, reason, hint_s = await refusal(worker.orders.CreateOrder(a_create(), metadata=shop))
                assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
                assert hint_s == HINTS_S[-1]  # the room comes later than the longest hint there is
            await worker.orders.CreateOrder(a_create(), metadata=other)
            await worker.orders.CreateOrder(a_create())


async def test_health_is_answered_all_the_time(worker: Worker) -> None:
    """What balancers and operators ask never waits in line."""
    tasks = await worker.full()
    health = worker.raw("grpc.health.v1.Health/Check")
    assert await health(b"", timeout=10)
    worker.held.go.set()
    await asyncio.gather(*tasks)
