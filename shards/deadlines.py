"""Waiting for the answer of a store, until a deadline: one timer for all who wait.

A timer of one's own costs more than the rest of the waiting, and of thousands hardly one ever goes off.
"""

from __future__ import annotations

import asyncio
import heapq
import time
import types
from collections.abc import Coroutine, Generator
from typing import Any, Final, TypeVar

from shards.contract import DeadlineExceeded

_T = TypeVar("_T")

_ENDED_MAX: Final = 64
"""Waits that are over are swept out when they are so many and more than those that are not."""


class _Wait:
    """One who waits."""

    __slots__ = ("is_late", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task: asyncio.Task[Any] | None = task
        """None when it is over."""
        self.is_late = False
        """It was told so, and is not among the waits any more."""


class Deadlines:
    """The deadlines of those who wait at this moment, who are as many as their callers. For one event loop."""

    def __init__(self) -> None:
        self._waits: list[tuple[float, int, _Wait]] = []  # a heap by time of the loop, and of entering
        self._entered = 0
        self._ended = 0
        self._timer: asyncio.TimerHandle | None = None  # for the first of them; none while nobody waits

    def __repr__(self) -> str:
        return f"Deadlines(waiting={len(self._waits) - self._ended})"

    async def answer_by(self, deadline: float, answer: Coroutine[Any, Any, _T]) -> _T:
        """Awaits an answer until the deadline (``time.monotonic`` seconds), and then leaves it.

        Raises ``DeadlineExceeded``. One that is there at once is not waited for, however late.
        """
        try:
            awaited = answer.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # of the coroutine, so a _T
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        wait = self._enter(task, deadline)
        try:
            return await _resumed(answer, awaited)
        except asyncio.CancelledError:
            if wait.is_late and task.uncancel() <= cancelling:
                raise DeadlineExceeded("the store did not answer before the deadline") from None
            raise  # somebody else cancels as well
        finally:
            self._leave(wait)

    def _enter(self, task: asyncio.Task[Any], deadline: float) -> _Wait:
        loop = asyncio.get_running_loop()
        when = loop.time() + deadline - time.monotonic()
        wait = _Wait(task)
        self._entered += 1
        heapq.heappush(self._waits, (when, self._entered, wait))
        if self._timer is None:
            self._timer = loop.call_at(when, self._expire)
        elif when < self._timer.when():
            self._timer.cancel()
            self._timer = loop.call_at(when, self._expire)
        return wait

    def _leave(self, wait: _Wait) -> None:
        wait.task = None
        waits = self._waits
        self._ended += not wait.is_late
        if self._ended == len(waits) and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            waits.clear()
            self._ended = 0
        elif self._ended > _ENDED_MAX and 2 * self._ended > len(waits):
            self._waits = [one for one in waits if one[2].task is not None]
            heapq.heapify(self._waits)
            self._ended = 0

    def _expire(self) -> None:
        """Cancels those whose time is up, and waits for the next one."""
        assert self._timer is not None
        loop = asyncio.get_running_loop()
        due = max(loop.time(), self._timer.when())  # loops round, so it may go off a moment early
        self._timer = None
        waits = self._waits
        while waits:
            when, _, wait = waits[0]
            if wait.task is None:
                self._ended -= 1
            elif when > due:
                self._timer = loop.call_at(when, self._expire)
                return
            elif not wait.is_late:
                wait.is_late = True
                wait.task.cancel()
            heapq.heappop(waits)


@types.coroutine
def _resumed(answer: Coroutine[Any, Any, _T], awaited: object) -> Generator[object, Any, _T]:
    """Goes on with a coroutine that waits for what its first step gave."""
    try:
        while True:
            try:
                sent = yield awaited
            except GeneratorExit:
                answer.close()
                raise
            except BaseException as error:  # noqa: BLE001  it is the coroutine's: a cancellation, or what it waited for
                awaited = answer.throw(error)
            else:
                awaited = answer.send(sent)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # as above
