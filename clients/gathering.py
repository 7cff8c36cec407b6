"""Group commit for callers: while a flight is under way, the calls that come meanwhile gather for the next one.

No timer makes anyone wait. A call that finds a free flight leaves at the end of the event loop's turn, together with
whatever else was asked in that turn; the others leave as soon as a flight is back. So a lone call goes out at once, and
the groups grow with the load by themselves, as they do in a store's group commit.

Who asks may say what a call is *kin* to: what is committed together on the other side. A flight of one kin is back when
that one commit is, and one of many kinds waits for the slowest.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import grpc

from clients.errors import DeadlineExceeded, Overloaded

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

_LOOK_S: Final = 0.02
"""Between two looks at whose time is up. The first of them is told just then, others by so much later at most: to look
at thousands for each of thousands would take seconds."""

_SMOOTHING: Final = 0.2
"""Weight of the last flight in the usual time of one."""

_NEVER_S: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """How far gathering goes (docs/adr/0015)."""

    items_max: int = 500
    """Calls of one flight; what the service takes in one batch."""
    bytes_max: int = 1024 * 1024
    """Requests of one flight; a larger one flies alone. Leaves room for answers, which are larger than requests."""
    flights_max: int = 4
    """Flights under way: enough that every worker of a small fleet has one while another is being answered."""
    spread_min: int = 32
    """What waits is spread over the free flights, in groups no smaller than this."""
    late_max: int = 12
    """Flights that are late (see ``Gatherer``) and therefore do not count as under way."""
    late_s_min: float = 0.1
    late_s_max: float = 1.0
    waiting_max: int = 16_384
    """Calls that wait for a flight; more are refused."""

    def __post_init__(self) -> None:
        if min(self.items_max, self.bytes_max, self.flights_max, self.spread_min, self.waiting_max) < 1:
            raise ValueError(f"{self}: every maximum is at least 1")


class Waiting(Generic[RequestT, AnswerT]):
    """One call between being asked and being answered."""

    __slots__ = ("answer", "deadline", "flight", "number", "request", "size")

    def __init__(
        self, request: RequestT, size: int, deadline: float, number: int, answer: asyncio.Future[AnswerT]
    ) -> None:
        self.request = request
        self.size = size
        """Bytes."""
        self.number = number
        """In the order of asking."""
        self.deadline = deadline
        """Absolute seconds of the event loop's clock."""
        self.answer = answer
        self.flight: _Flight | None = None
        """None as long as it waits."""


class _Flight:
    """One group under way."""

    __slots__ = ("aboard", "began", "kin", "late", "task", "watch")

    def __init__(self, aboard: int, kin: int, began: float) -> None:
        self.aboard = aboard
        """Calls that still want the answer."""
        self.kin = kin
        """Of most of them."""
        self.began = began
        self.late = False
        self.task: asyncio.Task[None] | None = None
        self.watch: asyncio.TimerHandle | None = None


class Gatherer(Generic[RequestT, AnswerT]):
    """Gathers calls into flights; ``fly`` takes a group (never empty) and settles the answer of each.

    A call whose task is
    cancelled, or whose time is up, leaves its group without touching the others; a flight that nobody waits for any
    more is cancelled.

    A flight that takes several times as long as usual is *late*: its worker may hang, and must not hold up those who
    gather. It goes on, but the next one may leave.
    """

    def __init__(self, fly: Callable[[list[Waiting[RequestT, AnswerT]]], Awaitable[None]], limits: Limits) -> None:
        self._fly = fly
        self._limits = limits
        self._lines: dict[int, deque[Waiting[RequestT, AnswerT]]] = {}
        """Who waits, by kin; no line is empty."""
        self._waiting = 0
        self._asked = 0
        self._flights: set[_Flight] = set()
        self._under_way = 0
        """Flights that are not late."""
        self._usual_s = limits.late_s_min
        self._leaving = False
        """Departures are due at the end of this turn of the loop."""
        self._open: set[Waiting[RequestT, AnswerT]] = set()
        """Who is to be told when its time is up, by one timer for all: one each would cost more than all of this."""
        self._expiry: asyncio.TimerHandle | None = None
        """Goes off when the first time is up, or before; none while nobody is open."""
        self._due_s = _NEVER_S
        """When it does. uvloop's handles do not tell: one that is due at once is no timer there."""
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Gatherer, {self._waiting} waiting, {len(self._flights)} flights>"

    async def ask(self, request: RequestT, size: int, timeout_s: float, kin: int = 0) -> AnswerT:
        """Returns the answer to one call; raises the OrderError that its flight settled on, or DeadlineExceeded."""
        if self._waiting >= self._limits.waiting_max:
            raise Overloaded(
                f"{self._waiting} calls of this client wait for an answer already",
                code=grpc.StatusCode.RESOURCE_EXHAUSTED,
                retry_delay_s=self._usual_s,
            )
        loop = self._loop
        answer: asyncio.Future[AnswerT] = loop.create_future()
        self._asked += 1
        waiting = Waiting(request, size, loop.time() + timeout_s, self._asked, answer)
        line = self._lines.get(kin)
        if line is None:
            line = self._lines[kin] = deque()
        line.append(waiting)
        self._waiting += 1
        self._leave_soon()
        self._open.add(waiting)
        if waiting.deadline < self._due_s:
            self._look_at(waiting.deadline)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():
                answer.exception()  # looked at, or it would be reported as lost
            self._quit(waiting)
            raise
        finally:
            self._open.discard(waiting)
            if not self._open:
                self._look_at(_NEVER_S)

    async def close(self) -> None:
        """Cancels the flights; who waits for them is cancelled, too."""
        for line in self._lines.values():
            for waiting in line:
                waiting.answer.cancel()
        self._lines.clear()
        self._waiting = 0
        tasks = [flight.task for flight in self._flights if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leave_soon(self) -> None:
        if not self._leaving and self._under_way < self._limits.flights_max:
            self._leaving = True
            self._loop.call_soon(self._leave)

    def _leave(self) -> None:
        """Starts as many flights as are free, with what waits spread over them."""
        self._leaving = False
        limits = self._limits
        while self._waiting and (free := limits.flights_max - self._under_way) > 0:
            share = max(limits.spread_min, -(-self._waiting // free))
            kin, group = self._board(min(share, limits.items_max))
            if group:
                self._start(kin, group)

    def _board(self, items_max: int) -> tuple[int, list[Waiting[RequestT, AnswerT]]]:
        """Takes the next group out of the lines, with what it is kin to; what was given up while it waited is dropped.

        The line whose kin has the fewest flights goes first, then who has waited longest. A line that is long enough
        for a flight has one of its own, as long as there are flights for all kins; else it goes together with others.
        """
        flying = Counter(flight.kin for flight in self._flights)
        kins = sorted(self._lines, key=lambda kin: (flying[kin], self._lines[kin][0].number))
        if (
            len(self._lines[kins[0]]) >= self._limits.spread_min
            and len(self._lines.keys() | flying.keys()) <= self._limits.flights_max
        ):
            del kins[1:]
        group: list[Waiting[RequestT, AnswerT]] = []
        room = self._limits.bytes_max
        for kin in kins:
            line = self._lines[kin]
            while line and len(group) < items_max:
                first = line[0]
                if not first.answer.done():
                    if group and first.size > room:
                        return kins[0], group
                    room -= first.size
                    group.append(first)
                line.popleft()
                self._waiting -= 1
            if not line:
                del self._lines[kin]
        return kins[0], group

    def _start(self, kin: int, group: list[Waiting[RequestT, AnswerT]]) -> None:
        flight = _Flight(len(group), kin, self._loop.time())
        for waiting in group:
            waiting.flight = flight
        late_s = min(max(4 * self._usual_s, self._limits.late_s_min), self._limits.late_s_max)
        flight.watch = self._loop.call_later(late_s, self._late, flight)
        flight.task = self._loop.create_task(self._run(flight, group))
        # not at its own end: a task that is cancelled before its first step never gets there
        flight.task.add_done_callback(lambda _: self._landed(flight, group))
        self._flights.add(flight)
        self._under_way += 1

    async def _run(self, flight: _Flight, group: list[Waiting[RequestT, AnswerT]]) -> None:
        try:
            await self._fly(group)
        except Exception as defect:  # noqa: BLE001  # belongs to those who wait, who would wait in vain
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(defect)
        finally:
            took_s = min(self._loop.time() - flight.began, 2 * self._usual_s)  # one that hung tells little
            self._usual_s += _SMOOTHING * (took_s - self._usual_s)

    def _landed(self, flight: _Flight, group: list[Waiting[RequestT, AnswerT]]) -> None:
        """Makes room for the next flight, however this one ended."""
        assert flight.watch is not None
        flight.watch.cancel()
        self._flights.discard(flight)
        if not flight.late:
            self._under_way -= 1
        for waiting in group:
            if not waiting.answer.done():  # the flight was cancelled
                waiting.answer.cancel()
        if self._waiting:
            self._leave_soon()  # those who were answered have asked again by now

    def _late(self, flight: _Flight) -> None:
        if len(self._flights) - self._under_way < self._limits.late_max:
            flight.late = True
            self._under_way -= 1
            if self._waiting:
                self._leave_soon()

    def _look_at(self, due_s: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._due_s = due_s
        self._expiry = None if due_s == _NEVER_S else self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        """Tells those whose time is up, and finds out when to look again."""
        now = max(self._loop.time(), self._due_s)  # loops round, so it may go off a moment early
        for waiting in [waiting for waiting in self._open if waiting.deadline <= now]:
            self._expire(waiting)
        left = [waiting.deadline for waiting in self._open if waiting.deadline > now]
        self._look_at(max(min(left), now + _LOOK_S) if left else _NEVER_S)

    def _expire(self, waiting: Waiting[RequestT, AnswerT]) -> None:
        if not waiting.answer.done():
            error = DeadlineExceeded("no answer in time", code=grpc.StatusCode.DEADLINE_EXCEEDED)
            waiting.answer.set_exception(error)
            self._quit(waiting)

    def _quit(self, waiting: Waiting[RequestT, AnswerT]) -> None:
        flight, waiting.flight = waiting.flight, None  # once: its time may be up in the turn in which it is cancelled
        if flight is not None:
            flight.aboard -= 1
            if not flight.aboard and flight.task is not None:
                flight.task.cancel()
