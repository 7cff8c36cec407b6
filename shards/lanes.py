"""Group commit: rows that wait together are committed together.

One queue a lane. While a commit of a lane is under way the next one gathers, so an idle lane commits at once. A busy
one draws breath first: those who were just answered ask again, and would find the next commit gone without them, half
of all in each (ADR 26). What a commit leaves open is settled here, order by order (DESIGN, guarantee 4), so callers see
decided outcomes, or an error that says what is not known.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

from shards.contract import (
    APPLIED,
    CommitLimits,
    Consistency,
    Corrupt,
    DeadlineExceeded,
    Invalid,
    Observer,
    Outcome,
    OutcomeUnknown,
    Overloaded,
    Row,
    Store,
    StoreError,
    Unavailable,
    Verdict,
)
from shards.judging import Asker, is_very, judge, own

_SWEEP_S: Final = 0.05
"""How often deadlines are looked at: the most by which a caller is answered late. The rows that wait are gone through
when the first deadline is there, and not before: where hundreds wait that would be several looks at each."""

_NEVER_S: Final = float("inf")

_BREATH_ROWS_MIN: Final = 8
"""A commit of fewer rows is followed by the next at once: there are not enough callers for a group to gain by."""

_BREATH_S_MAX: Final = 0.05
"""The longest breath. None is longer than the commit before it took either."""

_BREATH_BACK: Final = 0.8
"""A breath ends early when so many rows wait, of those that were answered and those that waited already."""

_PAUSE_S_MIN: Final = 0.01
_PAUSE_S_MAX: Final = 0.5
"""Wait before a lane goes to a store that keeps failing, doubled each time between these."""

_PAUSE_DOUBLINGS_MAX: Final = 6  # 0.01 s doubled six times is above _PAUSE_S_MAX


class _Waiter:
    """One row on its way, and who asked for it."""

    __slots__ = ("deadline", "is_unknown", "outcome", "row")

    def __init__(self, row: Row, deadline: float, outcome: Asker, *, is_unknown: bool) -> None:
        self.row = row
        self.deadline = deadline
        self.is_unknown = (
            is_unknown  # a commit of it failed, and may yet arrive (law 5): "nothing was written" is not said
        )
        self.outcome = outcome  # done early when the caller is cancelled, or swept


class _Lane:
    """The rows of one lane: those that wait, and those of its one commit under way."""

    __slots__ = ("awaited", "breath", "commit", "failures", "has_place", "name", "taken", "waiting")

    def __init__(self, name: Hashable) -> None:
        self.name = name
        self.waiting: deque[_Waiter] = deque()
        self.taken: Sequence[_Waiter] = ()
        self.commit: asyncio.Task[None] | None = None  # held here: the event loop itself holds tasks weakly
        self.failures = 0  # store calls in a row that failed; 0 after one that did not
        self.has_place = False  # whether its task counts as one of the commits under way
        self.breath: asyncio.TimerHandle | None = None  # ends the breath that it draws
        self.awaited = 0  # a breath ends early when so many rows wait


class Lanes:
    """All lanes of one shard. To be used from one event loop, the one it is made in.

    A lane exists while rows wait or are under way in it, and for a breath after: lanes are as few as rows are.
    """

    def __init__(self, store: Store, *, shard: int, queue_rows_max: int, observer: Observer) -> None:
        self._store = store
        self._shard = shard
        self._rows_max = queue_rows_max
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[Hashable, _Lane] = {}
        self._ready: deque[_Lane] = deque()  # those with rows waiting and none under way, longest ready first
        self._commits = 0
        self._settling = asyncio.Semaphore(store.limits.in_flight_max)  # reads that settle, beside the commits
        self._rows = 0
        self._due_s = _NEVER_S  # no row's deadline is earlier
        self._pump_soon: asyncio.Handle | None = None
        self._sweep_later: asyncio.TimerHandle | None = None
        self._closing = False
        self._drained = asyncio.Event()

    def __repr__(self) -> str:
        return (
            f"Lanes(shard={self._shard}, rows={self._rows}/{self._rows_max}, lanes={len(self._lanes)}, "
            f"commits={self._commits}/{self._store.limits.in_flight_max}{', closing' * self._closing})"
        )

    def write(self, row: Row, deadline: float, *, is_unknown: bool = False) -> asyncio.Future[Outcome]:
        """Queues a row; the answer resolves to its outcome, never DEFERRED.

        ``is_unknown``: it may have been stored already, or may yet be, by somebody else to whom it was handed. Then the
        very row there is APPLIED, and that nothing was written is not said.

        Raises ``Overloaded`` and (once closing) ``Unavailable`` at once. The answer raises ``DeadlineExceeded`` when
        the deadline (``time.monotonic`` seconds) passed before the row was handed to the store, ``OutcomeUnknown``
        when it passed after that and nobody knows yet, else the store's ``StoreError``. Rows of one order are committed
        in the order of their calls. Cancelling the answer drops a row that waits, and does nothing to one under way.
        """
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self.put(row, deadline, outcome, is_unknown=is_unknown)
        return outcome

    def put(self, row: Row, deadline: float, outcome: Asker, *, is_unknown: bool = False) -> None:
        """Queues a row as ``write`` does; the asker is told what becomes of it."""
        if self._rows >= self._rows_max:
            full = Overloaded(f"shard {self._shard}: {self._rows} rows wait, the most allowed")
            raise own(full, is_unknown=is_unknown)
        if self._closing:
            raise own(Unavailable(f"shard {self._shard} is closing"), is_unknown=is_unknown)
        name = self._store.lane(row.key)
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(name)
            self._ready.append(lane)
            # not at once: rows of the same turn of the event loop, as of one batch call, then share the commit
            if self._pump_soon is None:
                self._pump_soon = self._loop.call_soon(self._pump)
            if self._sweep_later is None:
                self._sweep_later = self._loop.call_later(_SWEEP_S, self._sweep)
        lane.waiting.append(_Waiter(row, deadline, outcome, is_unknown=is_unknown))
        self._rows += 1
        self._due_s = min(self._due_s, deadline)
        if lane.breath is not None and len(lane.waiting) >= lane.awaited:
            self._exhale(lane)

    async def close(self) -> None:
        """Takes no more rows and returns when every row taken before is answered. Idempotent.

        Takes as long as the latest deadline, or as the store's own timeouts when those are later.
        """
        self._closing = True
        for lane in list(self._lanes.values()):
            if lane.breath is not None:
                self._exhale(lane)
        if self._lanes:
            await self._drained.wait()
        if self._sweep_later is not None:
            self._sweep_later.cancel()
            self._sweep_later = None

    def _pump(self) -> None:
        """Starts the commits that may be started now."""
        self._pump_soon = None
        limits = self._store.limits  # now: what a store takes can change when it is connected
        while self._ready and self._commits < limits.in_flight_max:
            lane = self._ready.popleft()
            lane.taken = self._take(lane, limits)
            if lane.taken:
                self._commits += 1
                lane.has_place = True
                lane.commit = self._loop.create_task(self._run(lane))
            else:
                self._rest(lane)
        self._observer.queue_rows(self._shard, self._rows)

    def _take(self, lane: _Lane, limits: CommitLimits) -> Sequence[_Waiter]:
        """Takes the rows of one commit off the queue: within the limits, at most one of each order, oldest first."""
        rows_max, bytes_left, _ = limits
        now = time.monotonic()
        taken: dict[bytes, _Waiter] = {}
        held: list[_Waiter] = []
        waiting = lane.waiting
        while waiting and len(taken) < rows_max and len(held) < rows_max:
            waiter = waiting.popleft()
            if waiter.outcome.done():
                self._rows -= 1
                continue
            if waiter.deadline <= now:
                waiter.outcome.set_exception(_too_late(waiter))
                self._rows -= 1
                continue
            row = waiter.row
            if row.key.order_id in taken:
                held.append(waiter)
                continue
            bytes_left -= len(row.body) + len(row.marks)
            if bytes_left < 0 and taken:
                waiting.appendleft(waiter)
                break
            taken[row.key.order_id] = waiter
        waiting.extendleft(reversed(held))
        return list(taken.values())

    async def _run(self, lane: _Lane) -> None:
        """Commits what a lane has taken, and lets the lane go on."""
        began_s = self._loop.time()
        again = await self._commit(lane)
        answered = len(lane.taken) - len(again)
        self._rows -= answered
        lane.taken = ()
        lane.waiting.extendleft(reversed(again))
        self._give_up_place(lane)
        lane.awaited = min(int(_BREATH_BACK * (answered + len(lane.waiting))), self._store.limits.rows_max)
        if answered >= _BREATH_ROWS_MIN and len(lane.waiting) < lane.awaited and not self._closing:
            breath_s = min(self._loop.time() - began_s, _BREATH_S_MAX)
            lane.breath = self._loop.call_later(breath_s, self._exhale, lane)
        else:
            self._rest(lane)
        self._pump()

    def _exhale(self, lane: _Lane) -> None:
        """Lets a lane go on that draws breath: when its time is up, or before."""
        if lane.breath is not None:
            lane.breath.cancel()  # does nothing to the timer that calls this
            lane.breath = None
        self._rest(lane)
        if self._pump_soon is None:
            self._pump_soon = self._loop.call_soon(self._pump)

    def _give_up_place(self, lane: _Lane) -> None:
        """Lets another lane commit instead of this one. Idempotent."""
        if lane.has_place:
            lane.has_place = False
            self._commits -= 1

    def _rest(self, lane: _Lane) -> None:
        """Puts a lane without a commit where it belongs: in line for the next one, or away."""
        if lane.waiting:
            self._ready.append(lane)
            return
        del self._lanes[lane.name]
        if self._closing and not self._lanes:
            self._drained.set()

    async def _commit(self, lane: _Lane) -> list[_Waiter]:
        """Commits the rows taken, answers those that are decided, and returns the others, to be committed again."""
        again: list[_Waiter] = []
        parts = [lane.taken]
        while parts:
            part = parts.pop()
            if part is not lane.taken and len(part) > 1 and _is_over(part, self._store.limits):
                parts += _halves(part)  # what a store takes has changed since the whole was taken
                continue
            self._observer.batch_committed(self._shard, len(part))
            try:
                outcomes = await self._store.commit([waiter.row for waiter in part])
                _check_length(outcomes, part)
            except Invalid as error:
                if len(part) == 1:
                    _fail(part, error)
                else:  # halve until the row that cannot be taken stands alone: log2(rows) commits more for each row
                    parts += _halves(part)
            except (Unavailable, Overloaded) as error:
                _fail(part, error)
            except Exception as error:  # noqa: BLE001  by law 4 of the contract anything else leaves the rows unknown
                self._give_up_place(lane)  # it may be long before the store answers, and other lanes may be well
                self._pump()
                again += await self._settle(lane, part, error)
                return again + [waiter for later in reversed(parts) for waiter in later]
            else:
                lane.failures = 0
                again += _answer(part, outcomes)
        return again

    async def _settle(self, lane: _Lane, part: Sequence[_Waiter], cause: Exception) -> list[_Waiter]:
        """Finds out what became of rows whose commit failed; returns those that are certainly not stored."""
        for waiter in part:
            waiter.is_unknown = True
        while True:
            if lane.failures:
                pause_s = min(_PAUSE_S_MIN * 2 ** min(lane.failures, _PAUSE_DOUBLINGS_MAX), _PAUSE_S_MAX)
                await asyncio.sleep(pause_s)  # sleep: nothing tells when a store that fails is well again
            lane.failures += 1
            part = _still_wanted(part, cause)
            if not part:
                return []
            try:
                async with self._settling:
                    rows = await self._store.read([waiter.row.key for waiter in part], Consistency.STRONG)
                _check_length(rows, part)
            except Corrupt as error:
                _fail(part, error)
                return []
            except Exception as error:  # noqa: BLE001  whatever it is, the rows stay unknown
                cause = error
            else:
                return [waiter for waiter, present in zip(part, rows, strict=True) if not _is_decided(waiter, present)]

    def _sweep(self) -> None:
        """Answers every row whose deadline has passed. Rows that wait are then dropped when their turn comes."""
        now = time.monotonic()
        if now >= self._due_s or not self._lanes:
            due_s = _NEVER_S
            for lane in self._lanes.values():
                for waiter in lane.waiting:
                    if waiter.deadline > now:
                        due_s = min(due_s, waiter.deadline)
                    elif not waiter.outcome.done():
                        waiter.outcome.set_exception(_too_late(waiter))
                for waiter in lane.taken:
                    if waiter.deadline > now:
                        due_s = min(due_s, waiter.deadline)
                    elif not waiter.outcome.done():
                        waiter.outcome.set_exception(OutcomeUnknown("the store did not answer before the deadline"))
            self._due_s = due_s
        self._sweep_later = self._loop.call_later(_SWEEP_S, self._sweep) if self._lanes else None


def _halves(part: Sequence[_Waiter]) -> tuple[Sequence[_Waiter], Sequence[_Waiter]]:
    """Returns the two halves, the first one last."""
    half = len(part) // 2
    return part[half:], part[:half]


def _is_over(part: Sequence[_Waiter], limits: CommitLimits) -> bool:
    size = sum(len(waiter.row.body) + len(waiter.row.marks) for waiter in part)
    return len(part) > limits.rows_max or size > limits.bytes_max


def _is_decided(waiter: _Waiter, present: Row | None) -> bool:
    """Answers a row by what a STRONG read found in its place; False when it is to be committed again."""
    outcome = judge(waiter.row, present)
    if outcome is not None and not waiter.outcome.done():
        waiter.outcome.set_result(outcome)
    return outcome is not None


def _answer(part: Sequence[_Waiter], outcomes: Sequence[Outcome]) -> list[_Waiter]:
    """Answers each row its outcome; returns the deferred ones."""
    again: list[_Waiter] = []
    for waiter, outcome in zip(part, outcomes, strict=True):
        if outcome.verdict is Verdict.DEFERRED:
            again.append(waiter)
        elif not waiter.outcome.done():
            if waiter.is_unknown and outcome.present is not None and is_very(waiter.row, outcome.present):
                outcome = APPLIED  # noqa: PLW2901  by the try that nobody heard of
            waiter.outcome.set_result(outcome)
    if len(again) == len(part):  # they wait for a refusal that is not there, and would for ever
        _fail(again, StoreError("the store deferred every row of a commit"))
        return []
    return again


def _fail(part: Iterable[_Waiter], error: StoreError) -> None:
    """Answers each row an error of its own: one that is raised in many tasks would gather all their tracebacks.

    An error that says "nothing was written" speaks of its own commit; a row that an earlier one left open stays so.
    """
    for waiter in part:
        if not waiter.outcome.done():
            waiter.outcome.set_exception(own(error, is_unknown=waiter.is_unknown))


def _too_late(waiter: _Waiter) -> StoreError:
    """Returns what a row in the queue is answered at its deadline."""
    if waiter.is_unknown:
        return OutcomeUnknown("the outcome was not known by the deadline")
    return DeadlineExceeded("the deadline passed in the queue")


def _still_wanted(part: Sequence[_Waiter], cause: Exception) -> list[_Waiter]:
    """Returns the rows whose callers still wait; those past their deadline are answered that nobody knows."""
    now = time.monotonic()
    wanted: list[_Waiter] = []
    for waiter in part:
        if waiter.outcome.done():
            continue
        if waiter.deadline > now:
            wanted.append(waiter)
        else:
            unknown = OutcomeUnknown("the outcome was not known by the deadline")
            unknown.__cause__ = cause
            waiter.outcome.set_exception(unknown)
    return wanted


def _check_length(answers: Sequence[object], part: Sequence[_Waiter]) -> None:
    if len(answers) != len(part):
        raise StoreError(f"the store answered {len(answers)} of {len(part)} rows")
