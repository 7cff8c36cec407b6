"""The gate before the pipeline: reads who calls and until when, and answers those who are refused.

A transport that hands calls over before it has spent anything on them asks ``Entry.admit`` itself (native); for others
``Entry.serve`` stands in front of the pipeline's handler. Either way a refused call is not parsed, not logged by itself
and answered with bytes made at start-up, so that it costs a fraction of one that is served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol, TypeAlias

from server.admission.gate import BEGIN, FULL, LATE, WAIT, Gate, Priority, Verdict, Waiter
from server.admission.limit import GradientLimit, Track
from server.domain.errors import OrderError, Reason
from server.rpc.call import ANONYMOUS, CALLER_KEY, DEADLINE_DEFAULT_S, DEADLINE_S_MAX, Context
from server.rpc.errors import Refusal, refusal_of
from server.rpc.rates import CallerRates

PRIORITY_KEY: Final = "crest-priority"
"""Metadata of a call: ``critical``, ``normal`` or ``low``. Anything else counts as not said."""

HINTS_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Retry hints that refusals may carry: the first that is no shorter than the wait in line at that moment."""

SWEEP_S: Final = 0.05
"""How often those in line are looked at whose time may be up."""

_UNIT_BITS: Final = 10  # a unit is a call of up to 1 KiB: a batch of 100 orders counts as 17
_EVERYONE: Final = 2**31
_PRIORITIES: Final[Mapping[str | bytes, int]] = {priority.name.lower(): int(priority) for priority in Priority}
_NAMES: Final = tuple(priority.name.lower() for priority in Priority)

_logger: Final = logging.getLogger("crest.admission")

Handle: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Shed: TypeAlias = tuple[str, str, str]
"""Method, priority and reason of calls that were refused."""


class Caller(Waiter, Protocol):
    """A call in line that can be told why it is refused."""

    def refuse(self, refusal: Refusal) -> None:
        """It ends so. Must not raise."""


def everyone() -> GradientLimit:
    """Returns a limit that lets everyone in."""
    return GradientLimit(floor=_EVERYONE, ceiling=_EVERYONE)


class Admission:
    """One for a worker, in its event loop."""

    def __init__(self, limit: GradientLimit | None = None, rates: CallerRates | None = None) -> None:
        self.rates = rates
        self.gate = Gate(limit or GradientLimit(), time.monotonic())
        self._shed: dict[Shed, int] = {}
        self._sweep_later: asyncio.TimerHandle | None = None
        self._logged_at = 0.0
        self._unlogged = 0

    def __repr__(self) -> str:
        return f"Admission({self.gate!r})"

    def entry(self, name: str, priority: Priority, run: Handle) -> Entry:
        """Returns the entry of the unary method ``package.Service/Method``, which ``run`` serves.

        Its calls have this priority unless they say otherwise.
        """
        return Entry(self, name, int(priority), run)

    def tick(self, lag_s: float) -> None:
        """Takes note of how late the event loop was, and logs what was refused since, once a second at most."""
        self.gate.limit.lagged(lag_s)
        now = time.monotonic()
        if self._unlogged and now - self._logged_at >= 1.0:
            _logger.warning("calls refused", extra={"refused": self._unlogged, "gate": repr(self.gate)})
            self._unlogged, self._logged_at = 0, now

    def take_shed(self) -> Mapping[Shed, int]:
        """Returns how many calls were refused since this was asked last."""
        shed, self._shed = self._shed, {}
        return shed

    def count_shed(self, name: str, priority: int, reason: str) -> None:
        """Counts a refused call."""
        key = name, _NAMES[priority], reason
        self._shed[key] = self._shed.get(key, 0) + 1
        self._unlogged += 1

    def put(self, waiter: Waiter, now: float) -> None:
        """Puts a call in line, and sees to it that it does not stand there for ever."""
        self.gate.put(waiter, now)
        if self._sweep_later is None:
            self._sweep_later = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweep_later = None
        self.gate.sweep(time.monotonic())
        if self.gate.waiting:
            self._sweep_later = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)


class Entry:
    """The way in for the calls of one method."""

    __slots__ = ("_admission", "_priority", "gate", "name", "run", "track")

    def __init__(self, admission: Admission, name: str, priority: int, run: Handle) -> None:
        self._admission = admission
        self.gate = admission.gate
        self._priority = priority
        self.name = name
        self.run = run
        """Serves one call that was let in."""
        self.track: Track = admission.gate.limit.track()

    def admit(self, call: Caller, metadata: Metadata, left_s: float | None, size: int, now: float) -> Verdict:
        """Decides about a call of so many bytes that has ``left_s`` seconds (None: no deadline).

        BEGIN: serve it, and call ``leave`` when it is over. WAIT: it is in line. Otherwise it has been turned away.
        """
        call.track = track = self.track
        priority = self._priority
        caller_id: str | bytes = ANONYMOUS
        for key, value in metadata:
            if key == PRIORITY_KEY:
                priority = _PRIORITIES.get(value, priority)
            elif key == CALLER_KEY:
                caller_id = value
        call.priority = priority
        call.units = units = 1 + (size >> _UNIT_BITS)
        if left_s is None or left_s > DEADLINE_S_MAX:
            left_s = DEADLINE_DEFAULT_S
        call.deadline = deadline = now + left_s
        admission = self._admission
        if admission.rates is not None and (refusal := admission.rates.check(caller_id, units, now)) is not None:
            admission.count_shed(self.name, priority, refusal.reason)
            call.refuse(refusal)
            return FULL
        verdict = self.gate.decide(track, priority, units, deadline, now)
        if verdict is BEGIN:
            return verdict
        if verdict is WAIT:
            admission.put(call, now)
        else:
            call.turn_away(verdict)
        return verdict

    def leave(self, call: Waiter, started: float, *, is_ok: bool) -> None:
        """Ends a call that was let in, begun at ``started`` (``time.monotonic``)."""
        now = time.monotonic()
        self.gate.leave(call.track, call.units, now - started, now, is_ok=is_ok)

    def refusal(self, call: Waiter, verdict: Verdict) -> Refusal:
        """Returns how a call ends that is turned away, and counts it."""
        wait_s = self.gate.wait_s
        level = 0
        while level < len(HINTS_S) - 1 and HINTS_S[level] < wait_s:
            level += 1
        refusal = _REFUSALS[verdict, call.priority, level]
        self._admission.count_shed(self.name, call.priority, refusal.reason)
        return refusal

    async def serve(self, data: bytes, context: Context) -> bytes:
        """Serves a call of a transport that has made a task of it already."""
        place = _Place(self)
        now = time.monotonic()
        verdict = self.admit(place, context.invocation_metadata() or (), context.time_remaining(), len(data), now)
        if verdict is WAIT:
            now = await place.turn()
        if place.refused is not None:
            refusal = place.refused
            await context.abort(refusal.code, refusal.message, refusal.trailers)
        is_ok = False
        try:
            answer = await self.run(data, context)
            is_ok = True
        finally:
            self.leave(place, now, is_ok=is_ok)
        return answer


class _Place:
    """A call's place in line, for one who waits in a task of its own."""

    __slots__ = ("_entry", "_turn", "deadline", "gone", "priority", "refused", "track", "units", "until")

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._turn: asyncio.Future[None] | None = None
        self.track = entry.track
        self.priority = 0
        self.units = 0
        self.deadline = 0.0
        self.until = 0.0
        self.gone = False
        self.refused: Refusal | None = None

    def begin(self) -> None:
        """Lets the task go on."""
        assert self._turn is not None
        if self._turn.done():  # cancelled in the same turn of the loop
            now = time.monotonic()
            self._entry.leave(self, now, is_ok=False)
        else:
            self._turn.set_result(None)

    def turn_away(self, verdict: Verdict) -> None:
        """Lets the task end."""
        self.refuse(self._entry.refusal(self, verdict))

    def refuse(self, refusal: Refusal) -> None:
        """Lets the task end."""
        self.refused = refusal
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def turn(self) -> float:
        """Returns when it is this call's turn, or when it has been turned away: ``time.monotonic`` of then."""
        self._turn = asyncio.get_running_loop().create_future()
        try:
            await self._turn
        except asyncio.CancelledError:
            self.gone = True
            if self._turn.done() and not self._turn.cancelled() and self.refused is None:  # its turn had come already
                self._entry.leave(self, time.monotonic(), is_ok=False)
            raise
        return time.monotonic()


def _refusal(verdict: Verdict, priority: int, hint_s: float) -> Refusal:
    if verdict is FULL:
        reason, message = Reason.OVERLOADED, "this worker has more calls than it can serve; nothing was done"
    else:
        reason, message = Reason.DEADLINE_TOO_SHORT, "the call would not be done by its deadline; nothing was done"
    return refusal_of(
        OrderError(
            reason,
            f"{message}; retry after {hint_s:g} s",
            metadata={"priority": _NAMES[priority]},
            retry_after_s=hint_s,
        )
    )


_REFUSALS: Final[Mapping[tuple[Verdict, int, int], Refusal]] = {
    (verdict, priority, level): _refusal(verdict, priority, hint_s)
    for verdict in (FULL, LATE)
    for priority in map(int, Priority)
    for level, hint_s in enumerate(HINTS_S)
}
"""All that there are, ready to be sent."""
