"""From a servicer's method to a handler of bytes, composed once at registration.

Every call passes the same stations: caller and deadline, size, parse, the servicer, deterministic bytes; errors of any
station become one status, one log line and one observation. This stands in for gRPC interceptors, which the two
transports run differently and which cost more than all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message

from server.admission.gate import Priority
from server.domain import limits
from server.domain.errors import OrderError, Reason
from server.rpc.admission import Admission, Entry, Handle
from server.rpc.call import Call, Context
from server.rpc.call_log import CallLog
from server.rpc.errors import Refusal, RefusedError, refusal_of
from server.rpc.load_report import LoadReport
from server.rpc.observer import CallObserver
from server.rpc.streams import Streams, StreamTask, shutting_down
from shards.keys import parse_uuid7

RequestT = TypeVar("RequestT", bound=Message)
AnswerT = TypeVar("AnswerT", bound="Message | Ready")

UnaryMethod: TypeAlias = Callable[[RequestT, Call], Awaitable[AnswerT]]
StreamMethod: TypeAlias = Callable[[RequestT, Call], AsyncGenerator[AnswerT, None]]
BidiMethod: TypeAlias = Callable[[AsyncIterator[RequestT], Call], AsyncGenerator[AnswerT, None]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

CALLS_MAX: Final = 10_000
"""Unary calls that a worker has under way at once; more are refused. Far above what the queues of the lanes hold."""


class Ready:
    """An answer that is serialized already, deterministically."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def SerializeToString(self, *, deterministic: bool = True) -> bytes:  # noqa: N802, ARG002  protobuf's name
        """Returns its bytes."""
        return self.data


class Service(NamedTuple):
    """One gRPC service: its full name, and for each method a handler from bytes to bytes."""

    name: str
    handlers: Mapping[str, Handler]
    entries: Mapping[str, Entry] = MappingProxyType({})
    """The way in for those methods that calls may be refused to; a transport that does not use it need not."""


class Pipeline:
    """Makes handlers. One for all services of a worker, since it counts what is under way."""

    def __init__(
        self,
        observer: CallObserver,
        log: CallLog,
        streams: Streams,
        admission: Admission | None = None,
        load: LoadReport | None = None,
    ) -> None:
        self._begin = observer.call_started
        self._observed = observer.call_ended
        self._log = log
        self._streams = streams
        self._admission = admission
        self._load = LoadReport() if load is None else load

    def __repr__(self) -> str:
        return f"Pipeline(calls={self._load.in_flight}, streams={self._streams.count})"

    def admitted(
        self, name: str, request_type: type[RequestT], method: UnaryMethod[RequestT, AnswerT], priority: Priority
    ) -> tuple[Handler, Entry | None]:
        """Returns the handler of a unary method with the gate before it, and the gate's entry for it, if there is one.

        Calls have this priority unless they say otherwise.
        """
        handler = self.unary(name, request_type, method)
        if self._admission is None:
            return handler, None
        entry = self._admission.entry(name, priority, cast("Handle", handler.unary_unary))
        return grpc.unary_unary_rpc_method_handler(entry.serve), entry

    def unary(self, name: str, request_type: type[RequestT], method: UnaryMethod[RequestT, AnswerT]) -> Handler:
        """Returns the handler of a unary method; ``name`` is ``package.Service/Method``."""
        parse = request_type.FromString
        load = self._load

        async def handle(data: bytes, context: Context) -> bytes:
            call = Call()
            self._begin(name)
            load.in_flight += 1
            try:
                call.open(context)
                _check(data, load.in_flight)
                answer = (await method(parse(data), call)).SerializeToString(deterministic=True)
                context.set_trailing_metadata(load.trailers)
            except asyncio.CancelledError:
                call.code = "CANCELLED"
                raise
            except Exception as error:  # noqa: BLE001  # every failure of a call becomes its status here, once
                await self._abort(name, call, context, error)
            else:
                return answer
            finally:
                load.in_flight -= 1
                load.ended(call.code)
                self._end(name, call)

        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(self, name: str, request_type: type[RequestT], method: StreamMethod[RequestT, AnswerT]) -> Handler:
        """Returns the handler of a method that answers one request by a stream."""
        parse = request_type.FromString

        async def handle(data: bytes, context: Context) -> None:
            def answers(call: Call) -> AsyncGenerator[AnswerT, None]:
                _check(data)
                return method(parse(data), call)

            await self._run_stream(name, context, answers)

        return grpc.unary_stream_rpc_method_handler(handle)

    def bidi(self, name: str, request_type: type[RequestT], method: BidiMethod[RequestT, AnswerT]) -> Handler:
        """Returns the handler of a method that streams both ways.

        A message that cannot be parsed is raised by the servicer's iterator of requests.
        """
        parse = request_type.FromString

        async def parsed(messages: AsyncIterator[bytes]) -> AsyncIterator[RequestT]:
            async for data in messages:
                _check(data)
                yield parse(data)

        async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
            await self._run_stream(name, context, lambda call: method(parsed(messages), call))

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _run_stream(
        self, name: str, context: Context, open_answers: Callable[[Call], AsyncGenerator[Message | Ready, None]]
    ) -> None:
        call = Call()
        task: StreamTask | None = None
        self._begin(name)
        try:
            call.open(context)
            task = self._streams.enter(call)
            async with aclosing(open_answers(call)) as answers:
                async for answer in answers:
                    await context.write(answer.SerializeToString(deterministic=True))
        except asyncio.CancelledError:
            if task is None or not self._streams.ended(task):
                call.code = "CANCELLED"
                raise
            await self._abort(name, call, context, shutting_down())
        except Exception as error:  # noqa: BLE001  # as in unary
            await self._abort(name, call, context, error)
        finally:
            if task is not None:
                self._streams.leave(task)
            self._end(name, call)

    async def _abort(self, name: str, call: Call, context: Context, error: Exception) -> NoReturn:
        refusal = self._refusal(name, call, error)
        call.code = refusal.code.name
        call.refusal = refusal
        await context.abort(refusal.code, refusal.message, refusal.trailers)

    def _refusal(self, name: str, call: Call, error: Exception) -> Refusal:
        if isinstance(error, RefusedError):
            return error.refusal
        if isinstance(error, DecodeError):
            error = OrderError(Reason.REQUEST_UNDECODABLE, "the bytes are no message of the method's request type")
        told = self._log.expected(name, call, error)
        # of a page that has failed only the error knows which order is to blame
        call.order_id = call.order_id or parse_uuid7(told.metadata.get("order_id", "")) or b""
        return refusal_of(told)

    def _end(self, name: str, call: Call) -> None:
        seconds = time.monotonic() - call.started
        self._observed(name, call.code, call.caller_id, seconds)
        self._log.ended(name, call, seconds)


def _check(data: bytes, calls: int = 0) -> None:
    if calls > CALLS_MAX:
        raise OrderError(Reason.QUEUE_FULL, "this worker has too many calls under way; retry")
    if len(data) > limits.CALL_BYTES_MAX:
        raise OrderError(
            Reason.REQUEST_TOO_LARGE,
            f"the call has {len(data)} bytes, at most {limits.CALL_BYTES_MAX}: send it in parts",
            metadata={"bytes_max": str(limits.CALL_BYTES_MAX)},
        )
