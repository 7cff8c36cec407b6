"""The native transport: ``pygrpc-native``, whose HTTP/2 runs in threads of its own, outside the interpreter.

It serves unary calls and server streams; what streams both ways goes to a grpcio server behind it, on a Unix socket.
Plaintext only, and without a limit on a message before it is here, so callers that may be hostile belong on grpcio.

We stand on its low-level front and not on its stand-in for ``grpc.aio``, because that one ties up a
thread for every stream whose reader is slow, and cuts the last answers when it stops.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from server.admission.gate import BEGIN, WAIT, Gate
from server.domain.errors import OrderError, Reason
from server.rpc.admission import Entry
from server.rpc.errors import Refusal, refusal_of
from server.rpc.pipeline import Service
from server.rpc.streams import shutting_down
from server.transport.grpcio import GrpcioServer
from server.transport.native_call import Metadata, NativeCall
from server.transport.seam import (
    KEEPALIVE_S,
    KEEPALIVE_TIMEOUT_S,
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    STREAMS_PER_CONNECTION_MAX,
    BindError,
)

IO_THREADS: Final = 1
"""For HTTP/2, beside the interpreter's. One carries several times what the interpreter can answer."""

EVENTS_MAX: Final = 256
"""Taken from the front at once."""

TAKES_MAX: Final = 16
"""Times that it is taken from in one go, as long as it gives that many. What waits inside of the front waits unseen: it
is in no line, has no priority, and is late already when it is refused."""

PAUSE_S: Final = 0.004
"""Between two goes while more calls wait in line than are being served: to look costs a hand-over of the interpreter to
the store's threads and back, and nothing that comes could begin before those in line anyway."""

LINGER_S: Final = 0.25
"""Between the last answer and closing: the front has no sign for "sent", and closes without looking."""

LOOK_S: Final = 0.05
"""How often a server that stops looks whether callers have left."""

_Method: TypeAlias = Callable[[bytes, Any], Awaitable[Any]]

_logger: Final = logging.getLogger("crest.native")


class NativeServer:
    """One front, the thread that wakes the loop for it, and the grpcio server behind it."""

    def __init__(self, services: Iterable[Service], address: str, *, reuse_port: bool) -> None:
        self._methods: list[tuple[str, bool, _Method]] = []
        self._entries: list[Entry | None] = []
        behind: list[Service] = []
        for service in services:
            streaming = {name: h for name, h in service.handlers.items() if h.request_streaming}
            if streaming:
                behind.append(Service(service.name, streaming))
            for name, handler in service.handlers.items():
                if name not in streaming:
                    method: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary
                    entry = service.entries.get(name)
                    self._entries.append(entry)
                    # who is let in here need not pass the gate again
                    serve = method if entry is None else entry.run
                    self._methods.append((f"/{service.name}/{name}", bool(handler.response_streaming), serve))
        try:
            self._front = NativeGrpcFront(
                address,
                [(path, streaming) for path, streaming, _ in self._methods],
                io_threads=IO_THREADS,
                call_details=True,
                delay_stream_headers=True,
                keepalive_time_ms=KEEPALIVE_S * 1000,
                keepalive_timeout_ms=KEEPALIVE_TIMEOUT_S * 1000,
                keepalive_permit_without_calls=False,
                max_concurrent_streams=STREAMS_PER_CONNECTION_MAX,
                max_metadata_size=METADATA_BYTES_MAX,
                reuse_port=reuse_port,
            )
        except (OSError, ValueError) as error:
            raise BindError(address) from error
        self._directory = Path(tempfile.mkdtemp(prefix="crest-"))
        socket = f"unix:{self._directory / 'behind'}"
        self._behind = GrpcioServer(behind, socket, reuse_port=False)
        self._front.set_fallback(socket.removeprefix("unix:"))
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, NativeCall] = {}
        self._idle = threading.Semaphore(0)
        self._waker = threading.Thread(target=self._wake, name="native-waker", daemon=True)
        self._stopping: asyncio.Task[None] | None = None
        self._refusing = False
        self._refused: list[tuple[NativeCall, Refusal]] = []  # as the answers
        gates = [entry.gate for entry in self._entries if entry is not None]
        self._gate: Gate | None = gates[0] if gates else None  # a worker has one
        self._taken = 0
        """Calls so far."""
        self._answers: list[tuple[int, bytes, Metadata]] = []
        """Of this turn of the loop, call id and bytes: fewer than there are calls."""

    def __repr__(self) -> str:
        return f"NativeServer(port={self.port}, calls={len(self._calls)})"

    @property
    def port(self) -> int:
        """The bound port."""
        return self._front.bound_port

    async def start(self) -> None:
        """Begins to serve."""
        await self._behind.start()
        self._front.start()
        self._waker.start()
        self._idle.release()

    async def stop(self, grace_s: float) -> None:
        """Waits for callers to leave and for calls to end, in all up to ``grace_s``, then cuts them. Idempotent.

        The front cannot tell callers to go elsewhere (GOAWAY), and accepts connections until it closes. So calls that
        still come are served in the first half of the grace, until none has for a moment; only then they are refused.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        started = time.monotonic()
        await self._until_quiet(started + grace_s / 2)
        self._refusing = True
        for call in [call for call in self._calls.values() if call.task is None]:  # those in line
            self.drop(call, _STOPPING)
        grace_s = max(0.0, started + grace_s - time.monotonic())
        behind = asyncio.create_task(self._behind.stop(grace_s))
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        cut = list(self._calls.values())
        for call in cut:
            assert call.task is not None
            call.task.cancel()
            call.gone = True
            call.fail(_CUT)
        await asyncio.gather(*(call.task for call in cut if call.task is not None), return_exceptions=True)
        await behind
        if tasks:
            await asyncio.sleep(LINGER_S)
        with ThreadPoolExecutor(1) as closing:  # both block, if only for moments
            await self._loop.run_in_executor(closing, self._front.close)
            self._idle.release()
            if self._waker.is_alive():
                await self._loop.run_in_executor(closing, self._waker.join)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _until_quiet(self, deadline: float) -> None:
        """Returns as soon as there was no call for ``LINGER_S``, or at the deadline."""
        taken, quiet_since = -1, 0.0
        while (now := time.monotonic()) < deadline:
            if self._calls or self._taken != taken:
                taken, quiet_since = self._taken, now
            elif now - quiet_since >= LINGER_S:
                return
            await asyncio.sleep(LOOK_S)

    def _wake(self) -> None:
        """Waits for events in a thread while the loop finds none; the loop takes all that follow by itself."""
        while True:
            self._idle.acquire()
            events = self._front.recv_batch_details(EVENTS_MAX)
            if events is None:
                return
            try:
                self._loop.call_soon_threadsafe(self._take, events)
            except RuntimeError:  # the loop was closed without stop
                self._front.close()
                return

    def _take(self, events: list[Any] | None) -> None:
        """Starts the calls of a batch, and looks for the next one after a turn of the loop."""
        if not events:
            self._idle.release()
            return
        for _ in range(TAKES_MAX):
            self._enter(events)
            if len(events) < EVENTS_MAX:
                break
            events = self._front.recv_batch_details(EVENTS_MAX, 0) or []
        if self._gate is not None and self._gate.waiting > self._gate.in_flight:
            self._loop.call_later(PAUSE_S, self._take_next)
        else:
            self._loop.call_soon(self._take_next)

    def _enter(self, events: list[Any]) -> None:
        """Takes in what has happened: a call is begun, put in line or refused."""
        now = time.monotonic()
        for kind, call_id, method_id, payload, _, details in events:
            if kind == EVENT_CANCEL:
                self._cancel(call_id)
                continue
            call = NativeCall(self._front, call_id, details, now)
            if self._refusing:
                call.fail(_STOPPING)
                continue
            self._taken += 1
            entry = self._entries[method_id]
            if entry is None:
                self._calls[call_id] = call
                _, streaming, method = self._methods[method_id]
                call.task = self._loop.create_task(self._run(call, payload, method, streaming=streaming))
                continue
            call.entry, call.server, call.payload = entry, self, payload
            verdict = entry.admit(call, details[0], details[2], len(payload), now)
            if verdict is BEGIN:
                self._calls[call_id] = call
                call.task = self._loop.create_task(self._run_admitted(call, payload, now))
            elif verdict is WAIT:
                self._calls[call_id] = call

    def _cancel(self, call_id: int) -> None:
        """The caller of a call has left."""
        call = self._calls.get(call_id)
        if call is None:
            return
        call.gone = True
        if call.task is None:
            self.drop(call)
        elif call.is_begun:  # one that is not would end before its first line, and so without its last
            call.task.cancel()

    def begin(self, call: NativeCall) -> None:
        """Serves a call that waited in line."""
        call.task = self._loop.create_task(self._run_admitted(call, call.payload, time.monotonic()))
        call.payload = b""

    def drop(self, call: NativeCall, refusal: Refusal | None = None) -> None:
        """Forgets a call that waits in line, which passes over it from now on; tells its caller, if it is there."""
        call.gone = True
        call.payload = b""
        self._calls.pop(call.call_id, None)
        if refusal is not None:
            if not (self._refused or self._answers):
                self._loop.call_soon(self._respond)
            self._refused.append((call, refusal))

    async def _run_admitted(self, call: NativeCall, payload: bytes, started: float) -> None:
        is_ok = False
        try:
            is_ok = await self._run(call, payload, call.entry.run, streaming=False)
        finally:
            call.entry.leave(call, started, is_ok=is_ok)

    def _take_next(self) -> None:
        self._take(self._front.recv_batch_details(EVENTS_MAX, 0))

    def _respond(self) -> None:
        """Hands over the answers of one turn of the loop.

        Each answer wakes the front's thread when it sleeps, and on a busy machine it takes this processor at once; one
        after the other they find it awake, and it writes those of one connection together.
        """
        answers, self._answers = self._answers, []
        respond = self._front.respond
        for call_id, answer, trailers in answers:
            respond(call_id, answer, None, trailers)
        refused, self._refused = self._refused, []
        for call, refusal in refused:
            call.fail(refusal)

    async def _run(self, call: NativeCall, payload: bytes, method: _Method, *, streaming: bool) -> bool:
        """Serves a call; returns whether it was answered."""
        call.is_begun = True
        try:
            if call.gone:
                return False
            if len(payload) > MESSAGE_BYTES_MAX:
                call.fail(_TOO_LARGE)
                return False
            answer = await method(payload, call)
            if streaming:
                self._front.stream_end(call.call_id)
            else:
                if not (self._answers or self._refused):
                    self._loop.call_soon(self._respond)
                self._answers.append((call.call_id, answer, call.trailers))
        except grpc.aio.AbortError:
            pass  # told
        except asyncio.CancelledError:
            if not call.gone:  # a handler cancelled itself, yet somebody waits
                call.fail(_CUT)
        except Exception:
            _logger.exception("a handler let an exception through")
            call.fail(_DEFECT)
        else:
            return True
        finally:
            self._calls.pop(call.call_id, None)
        return False


_STOPPING: Final = refusal_of(shutting_down())
_CUT: Final = refusal_of(
    OrderError(Reason.OUTCOME_UNKNOWN, "the worker stopped before the call was done: the same request_id tells")
)
_DEFECT: Final = refusal_of(OrderError(Reason.INTERNAL, "a defect of the service"))
_TOO_LARGE: Final = Refusal(
    grpc.StatusCode.RESOURCE_EXHAUSTED, f"the message has more than {MESSAGE_BYTES_MAX} bytes: send it in parts"
)
