"""One call on the native transport: what its handler sees of it, and what the gate does with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, NoReturn, Protocol, TypeAlias

import grpc
from pygrpc_native import STREAM_FULL, NativeGrpcFront

from server.admission.gate import Verdict
from server.admission.limit import Track
from server.rpc.admission import Entry
from server.rpc.errors import Refusal

FULL_WAIT_S: Final = 0.002
"""First wait for a stream whose reader is behind; doubles up to ``FULL_WAIT_S_MAX``. The front has no sign for it."""

FULL_WAIT_S_MAX: Final = 0.1

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
Details: TypeAlias = tuple[Metadata, str, float | None]
"""What the front tells of a call: metadata, path, and seconds of the caller's deadline."""


class CallServer(Protocol):
    """The server that a call waits in line of."""

    def begin(self, call: NativeCall) -> None:
        """Begins a call whose turn has come."""

    def drop(self, call: NativeCall, refusal: Refusal | None = None) -> None:
        """Ends a call that has not begun."""


class NativeCall:
    """One call: the context that its handler sees."""

    __slots__ = (
        "_deadline",
        "_front",
        "_metadata",
        "call_id",
        "deadline",
        "entry",
        "gone",
        "is_begun",
        "payload",
        "priority",
        "server",
        "task",
        "track",
        "trailers",
        "units",
        "until",
    )

    # what a place in line needs (server.admission.gate.Waiter), set when it has one
    deadline: float
    entry: Entry
    payload: bytes
    priority: int
    server: CallServer
    track: Track
    units: int
    until: float

    def __init__(self, front: NativeGrpcFront, call_id: int, details: Details, now: float) -> None:
        self._front = front
        self._metadata = details[0]
        left_s = details[2]
        self._deadline = None if left_s is None else now + left_s
        self.call_id = call_id
        self.gone = False
        """The caller left, or its deadline passed."""
        self.is_begun = False
        self.task: asyncio.Task[Any] | None = None
        self.trailers: Metadata = ()
        """Go with the answer."""

    def invocation_metadata(self) -> Metadata:
        """Returns the request's metadata."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Returns the seconds left of the caller's deadline, None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Sends these with an answer that succeeds; a refusal has its own."""
        self.trailers = trailing_metadata

    async def write(self, message: bytes) -> None:
        """Sends one message of a stream, as soon as the reader has room for it."""
        wait_s = FULL_WAIT_S
        while self._front.stream_try_send(self.call_id, message) == STREAM_FULL:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, FULL_WAIT_S_MAX)
        # a message for a caller who is gone is dropped; the event that cancels this call is under way

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call with a status that is not OK."""
        self.fail(Refusal(code, details, trailing_metadata))
        raise grpc.aio.AbortError

    def begin(self) -> None:
        """Its turn in line has come."""
        self.server.begin(self)

    def turn_away(self, verdict: Verdict) -> None:
        """It is refused, on arrival or in line."""
        self.refuse(self.entry.refusal(self, verdict))

    def refuse(self, refusal: Refusal) -> None:
        """It ends so, before it has begun."""
        self.server.drop(self, refusal)

    def fail(self, refusal: Refusal) -> None:
        """As ``abort``, from outside of the handler."""
        self._front.fail(self.call_id, refusal.code.value[0], refusal.message, list(refusal.trailers))
