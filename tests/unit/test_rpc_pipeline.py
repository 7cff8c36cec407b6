"""The pipeline around a method, without a transport: bounds, observation, log, and the end of streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any, NoReturn

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from server.domain.errors import OrderError, Reason
from server.rpc import pipeline as pipelines
from server.rpc import streams as streaming
from server.rpc.call import Call
from server.rpc.call_log import LINES_A_SECOND_MAX, CallLog
from server.rpc.errors import refusal_of
from server.rpc.observer import NullObserver
from server.rpc.pipeline import Pipeline
from server.rpc.streams import Streams


class Aborted(Exception):
    """What the context raises."""


class Context:
    """A transport's context, as far as the pipeline uses it."""

    def __init__(self, left_s: float | None = None) -> None:
        self.left_s = left_s
        self.code: grpc.StatusCode | None = None
        self.written: list[bytes] = []

    def time_remaining(self) -> float | None:
        """As grpcio: None without a deadline."""
        return self.left_s

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """None."""
        return ()

    async def write(self, message: bytes) -> None:
        """Keeps."""
        self.written.append(message)

    def set_trailing_metadata(self, trailing_metadata: object) -> None:
        """Takes what goes with an answer."""
        self.trailers = trailing_metadata

    async def abort(self, code: grpc.StatusCode, _details: str, _trailers: object) -> NoReturn:
        """Keeps and raises."""
        self.code = code
        raise Aborted


class Waiting:
    """Methods that wait until they are told."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def answer(self, request: Duration, _call: Call) -> Duration:
        """Answers the request."""
        await self.go.wait()
        return request

    async def answers(self, request: Duration, _call: Call) -> AsyncGenerator[Duration, None]:
        """Answers the request, and then waits."""
        yield request
        await self.go.wait()


def make(streams: Streams | None = None) -> Pipeline:
    """A pipeline nobody listens to."""
    return Pipeline(NullObserver(), CallLog(lambda _slot: 0), streams or Streams())


def entry(handler: Any, kind: str) -> Any:  # noqa: ANN401  # a handler has four attributes of which one is set
    """Returns the coroutine function of a handler."""
    return getattr(handler, kind)


async def test_calls_beyond_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many calls under way that the bound is reached the next is refused, and served once one has ended."""
    monkeypatch.setattr(pipelines, "CALLS_MAX", 2)
    waiting = Waiting()
    handle = entry(make().unary("s/m", Duration, waiting.answer), "unary_unary")
    tasks = [asyncio.create_task(handle(b"", Context())) for _ in range(2)]
    await asyncio.sleep(0)
    refused = Context()
    with pytest.raises(Aborted):
        await handle(b"", refused)
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    waiting.go.set()
    await asyncio.gather(*tasks)
    assert await handle(Duration(seconds=3).SerializeToString(), Context()) == Duration(seconds=3).SerializeToString()


async def test_streams_beyond_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker holds so many streams and no more."""
    monkeypatch.setattr(streaming, "STREAMS_MAX", 1)
    streams, waiting = Streams(), Waiting()
    handle = entry(make(streams).stream("s/m", Duration, waiting.answers), "unary_stream")
    held = asyncio.create_task(handle(b"", Context()))
    await asyncio.sleep(0)
    refused = Context()
    with pytest.raises(Aborted):
        await handle(b"", refused)
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    waiting.go.set()
    await held
    assert streams.count == 0


async def test_a_stream_that_is_ended_is_not_cancelled() -> None:
    """The end of all streams is a status for the caller, while a cancellation stays one."""
    streams, waiting = Streams(), Waiting()
    handle = entry(make(streams).stream("s/m", Duration, waiting.answers), "unary_stream")
    contexts = [Context(), Context()]
    ended, cancelled = [asyncio.create_task(handle(b"", context)) for context in contexts]
    await asyncio.sleep(0)
    cancelled.cancel()
    streams.end()
    with pytest.raises(Aborted):
        await ended
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert [context.code for context in contexts] == [grpc.StatusCode.UNAVAILABLE, None]
    assert streams.count == 0


async def test_an_order_that_an_error_names_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The line of a failed call names the order that its error does, where the request names none, as for a page."""
    order_id = "0190b0a2-7c31-7e5a-9434-6be4d741f8ef"

    async def fail(_request: Duration, _call: Call) -> Duration:
        raise OrderError(Reason.STORE_CORRUPT, "damaged", metadata={"order_id": order_id})

    with pytest.raises(Aborted):
        await entry(make().unary("s/m", Duration, fail), "unary_unary")(b"", Context())
    (record,) = caplog.records
    assert (record.levelno, vars(record)["reason"], vars(record)["order_id"]) == (
        logging.ERROR,
        "STORE_CORRUPT",
        order_id,
    )


def test_a_log_counts_what_it_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    """Within a second a bounded number of failed calls is written; the next line tells how many were not."""
    caplog.set_level(logging.INFO, "crest.calls")
    now = [10.0]
    log = CallLog(lambda _slot: 0, clock=lambda: now[0])
    call = Call()
    call.refusal = refusal_of(OrderError(Reason.ORDER_NOT_FOUND, "no"))
    for _ in range(LINES_A_SECOND_MAX + 7):
        log.ended("s/m", call, 0.001)
    assert len(caplog.records) == LINES_A_SECOND_MAX
    now[0] = 11.0
    log.ended("s/m", call, 0.001)
    assert vars(caplog.records[-1])["suppressed"] == 7
    log.ended("s/m", call, 0.001)
    assert "suppressed" not in vars(caplog.records[-1])
