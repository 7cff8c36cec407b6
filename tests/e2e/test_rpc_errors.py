"""How calls fail, what is logged and observed of them, and what neither may hold; on both transports."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from protos.orders.v1 import orders_pb2 as pb
from server.domain import limits
from server.rpc import call as calls
from server.rpc.call_log import LINES_A_SECOND_MAX
from shards.contract import Corrupt, Full, OutcomeUnknown, Overloaded, StoreError, Unavailable
from shards.keys import parse_uuid7, slot_and_tag
from shards.routing import Found, Router, Write
from tests.support.rpc_worker import KINDS, RpcWorker, a_create, new_id, prepared, rpc_worker

CREATE = "orders.v1.OrderService/CreateOrder"


class Observed:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.calls: list[tuple[str, str, str]] = []

    def call_started(self, _method: str) -> None:
        """Counts."""
        self.in_flight += 1

    def call_ended(self, method: str, code: str, caller_id: str, seconds: float) -> None:
        """Keeps."""
        assert seconds >= 0
        self.in_flight -= 1
        self.calls.append((method, code, caller_id))


class FailingRouter:
    """A router that fails on cue."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.failure: BaseException | None = None
        self.deadlines: list[float] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the router has
        return getattr(self._router, name)

    async def write(self, order_id: bytes, customer: str, marks: bytes, body: bytes, deadline: float) -> Any:  # noqa: ANN401  # as the router
        """Notes the time left, and fails or writes."""
        self.deadlines.append(deadline - time.monotonic())
        if self.failure is not None:
            raise self.failure
        return await self._router.write(order_id, customer, marks, body, deadline)

    async def write_many(self, writes: Sequence[Write], deadline: float) -> Sequence[Found]:
        """Notes the time left, and fails or writes."""
        self.deadlines.append(deadline - time.monotonic())
        if isinstance(self.failure, Exception):
            return [self.failure] * len(writes)
        return await self._router.write_many(writes, deadline)


class Worker(RpcWorker):
    """With its observer and router at hand."""

    observed: Observed
    failing: FailingRouter


@pytest.fixture(params=KINDS, ids=lambda kind: kind.value)
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker on one transport."""
    observed = Observed()
    with prepared(tmp_path / "data") as settings:
        async with (
            asyncio.timeout(60),
            rpc_worker(request.param, settings, observer=observed, wrap=FailingRouter) as served,
        ):
            worker = Worker(**vars(served))
            worker.observed = observed
            worker.failing = served.router  # type: ignore[assignment]  # what wrap made of it
            yield worker
    assert observed.in_flight == 0


async def failure(call: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo, float | None]:  # noqa: ANN401  # any call
    """Returns how a call fails: code, info, and the retry hint in seconds."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata() or ())
    info, hint = error_details_pb2.ErrorInfo(), None
    for detail in status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            hint = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        else:
            detail.Unpack(info)
    return caught.value.code(), info, hint


@pytest.mark.parametrize("caller_id", ["", "x" * 65, "with blank"], ids=ascii)
async def test_a_bad_caller_id_is_refused(worker: Worker, caller_id: str) -> None:
    """A caller id that is empty, too long, or has blanks is CALLER_ID_INVALID."""
    code, info, _ = await failure(worker.orders.CreateOrder(a_create(), metadata=(("x-caller-id", caller_id),)))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CALLER_ID_INVALID")


async def test_callers_are_known_by_what_they_say(worker: Worker) -> None:
    """Who says nothing is anonymous; the observer is told method, code and caller of every call."""
    await worker.orders.CreateOrder(a_create())
    await worker.orders.CreateOrder(a_create(), metadata=(("x-caller-id", "checkout-7"),))
    await failure(worker.orders.CreateOrder(pb.CreateOrderRequest(), metadata=(("x-caller-id", "x" * 64),)))
    assert worker.observed.calls == [
        (CREATE, "OK", "anonymous"),
        (CREATE, "OK", "checkout-7"),
        (CREATE, "INVALID_ARGUMENT", "x" * 64),
    ]


async def test_a_call_that_is_too_large_is_told_so(worker: Worker) -> None:
    """Above 3 MiB a call is REQUEST_TOO_LARGE; above what the transport takes it is RESOURCE_EXHAUSTED."""
    call = worker.raw(CREATE)
    code, info, _ = await failure(call(b"\xff" * (limits.CALL_BYTES_MAX + 1)))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
    assert info.metadata["bytes_max"] == str(limits.CALL_BYTES_MAX)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff" * (5 * 1024 * 1024))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_compressed_calls_are_understood_and_bounded(worker: Worker) -> None:
    """A caller may compress; what is too large once expanded is refused as if it had come so."""
    gzip = grpc.Compression.Gzip
    assert (await worker.orders.CreateOrder(a_create(), compression=gzip)).order.order_id
    call = worker.raw(CREATE)
    code, info, _ = await failure(call(b"\xff" * (limits.CALL_BYTES_MAX + 1), compression=gzip))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(bytes(32 * 1024 * 1024), compression=gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_method_is_unimplemented(worker: Worker) -> None:
    """A method or service that does not exist is UNIMPLEMENTED."""
    for path in ("orders.v1.OrderService/DropOrder", "nobody.v1.Nothing/Do"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker.raw(path)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("error", "code", "reason", "hinted"),
    [
        (Overloaded("queue"), grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", True),
        (Unavailable("/host/file"), grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", True),
        (OutcomeUnknown("?"), grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN", True),
        (StoreError("?"), grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN", True),
        (Corrupt("/host/file"), grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_failures_of_a_store_reach_the_caller_in_our_words(
    worker: Worker, error: Exception, code: grpc.StatusCode, reason: str, hinted: bool
) -> None:
    """A failing store answers its reason, a hint where a retry helps, and nothing of its own text."""
    worker.failing.failure = error
    got_code, info, hint = await failure(worker.orders.CreateOrder(a_create()))
    assert (got_code, info.reason) == (code, reason)
    assert (hint is not None) == hinted


async def test_a_full_disk_is_resource_exhausted(worker: Worker) -> None:
    """A full disk is STORE_FULL for a call and for an item of a batch alike."""
    worker.failing.failure = Full("no space")
    code, info, _ = await failure(worker.orders.CreateOrder(a_create()))
    assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    answer = await worker.orders.BatchCreateOrders(pb.BatchCreateOrdersRequest(requests=[a_create()]))
    assert answer.results[0].error.reason == "STORE_FULL"


async def test_a_defect_is_opaque_and_logged_once(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is INTERNAL without its text, under an id that its one traceback in the log has, too."""
    worker.failing.failure = RuntimeError("the secret of customer-1")
    code, info, _ = await failure(worker.orders.CreateOrder(a_create()))
    assert (code, info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in str(info)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert vars(record)["call_id"] == info.metadata["call_id"]
    answer = await worker.orders.BatchCreateOrders(pb.BatchCreateOrdersRequest(requests=[a_create()]))
    assert answer.results[0].error.reason == "INTERNAL"


async def test_a_call_without_a_deadline_gets_one(worker: Worker) -> None:
    """The deadline is the caller's, or ten seconds when it has none or one of more than a day."""
    for timeout, expected in ((None, calls.DEADLINE_DEFAULT_S), (3.0, 3.0), (10**6, calls.DEADLINE_DEFAULT_S)):
        await worker.orders.CreateOrder(a_create(), timeout=timeout)
        assert worker.failing.deadlines.pop() == pytest.approx(expected, abs=2.0)


async def test_a_failed_call_is_one_line_of_ids(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """A failed call logs one line with request id, slot, shard and caller, and nothing else that a customer sent."""
    caplog.set_level(logging.DEBUG, "crest.calls")
    request = a_create("Zoë", attributes={"very private": "x" * 257}, currency_code="private")
    await failure(worker.orders.CreateOrder(request, metadata=(("x-caller-id", "checkout"),)))
    (record,) = [record for record in caplog.records if record.name == "crest.calls"]
    slot = slot_and_tag("Zoë")[0]
    facts = vars(record)
    assert (record.levelno, facts["code"], facts["reason"]) == (logging.INFO, "INVALID_ARGUMENT", "INVALID_REQUEST")
    assert (facts["request_id"], facts["slot"], facts["shard"]) == (
        request.request_id,
        slot,
        worker.router.topology.slot_shards[slot],
    )
    assert (facts["method"], facts["caller_id"]) == (CREATE, "checkout")
    assert facts["fields"] == "currency_code,attributes[*]"
    assert "private" not in repr({key: value for key, value in facts.items() if key != "args"})
    assert "Zoë" not in repr(facts)


async def test_an_answered_call_is_a_line_of_debug(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG each call logs a line, with the order's id where it has one."""
    caplog.set_level(logging.DEBUG, "crest.calls")
    order_id = (await worker.orders.CreateOrder(a_create())).order.order_id
    await worker.orders.GetOrder(pb.GetOrderRequest(order_id=order_id))
    create, get = [record for record in caplog.records if record.name == "crest.calls"]
    assert create.levelno == get.levelno == logging.DEBUG
    assert vars(get)["order_id"] == order_id
    assert vars(get)["slot"] == vars(create)["slot"]
    assert parse_uuid7(vars(create)["request_id"])


async def test_a_storm_of_failures_is_logged_in_part(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """Under a storm of failed calls a bounded number of lines is written, and what was left out is counted."""
    caplog.set_level(logging.INFO, "crest.calls")
    total = 4 * LINES_A_SECOND_MAX
    await asyncio.gather(*(failure(worker.orders.GetOrder(pb.GetOrderRequest())) for _ in range(total)))
    lines = [record for record in caplog.records if record.name == "crest.calls"]
    counted = sum(vars(line).get("suppressed", 0) for line in lines)
    assert len(lines) + counted <= total
    assert all(line.levelno == logging.INFO for line in lines)


async def test_a_cancelled_call_is_observed_as_such(worker: Worker) -> None:
    """A caller who goes away is counted as CANCELLED, and nothing stays in flight."""
    order_id = (await worker.orders.CreateOrder(a_create())).order.order_id
    call = worker.orders.WatchOrder(pb.WatchOrderRequest(order_id=order_id))
    await anext(aiter(call))
    call.cancel()
    while worker.observed.in_flight:
        await worker.raw("topology.v1.TopologyService/GetTopology")(b"")
        await asyncio.sleep(0)
    assert ("orders.v1.OrderService/WatchOrder", "CANCELLED", "anonymous") in worker.observed.calls


async def test_a_malformed_id_is_not_logged(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """A request id that is none may be anything, so it stays out of the log."""
    caplog.set_level(logging.INFO, "crest.calls")
    await failure(worker.orders.ShipOrder(pb.ShipOrderRequest(order_id=new_id(), request_id="card 4111 1111")))
    (record,) = [record for record in caplog.records if record.name == "crest.calls"]
    assert "4111" not in repr(vars(record))
