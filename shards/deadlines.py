"""Waiting for the answer of a store, until a deadline: one timer for all who wait.

A timer of one's own costs more than the rest of the waiting, and of thousands hardly one ever goes off.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Coroutine, Generator
from typing import Any, Final, TypeVar

from shards.contract import DeadlineExceeded

_T = TypeVar("_T")

_LOOK_S: Final = 0.02
"""Between two looks at who is late. The first is told just then, others by so much later at most: to look at thousands
for each of thousands would take seconds."""


_NEVER_S: Final = float("inf")


class _Wait:
    """One who waits."""

    __slots__ = ("deadline", "is_late", "task")

    def __init__(self, task: asyncio.Task[Any], deadline: float) -> None:
        self.task = task
        self.deadline = deadline
        self.is_late = False
        """It was told so."""


class Deadlines:
    """The deadlines of those who wait at this moment, who are as many as their callers. For one event loop."""

    def __init__(self) -> None:
        self._waits: dict[_Wait, None] = {}  # not a set: who is late is told in the order of arrival, in every run
        self._timer: asyncio.TimerHandle | None = None  # for the first deadline or earlier; none while nobody waits
        self._due_s = _NEVER_S  # when it goes off

    def __repr__(self) -> str:
        return f"Deadlines(waiting={len(self._waits)})"

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
        wait = _Wait(task, deadline)
        self._waits[wait] = None
        if deadline < self._due_s:
            self._look_at(deadline)
        return wait

    def _leave(self, wait: _Wait) -> None:
        self._waits.pop(wait, None)
        if not self._waits:
            self._look_at(_NEVER_S)

    def _look_at(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        if due_s == _NEVER_S:
            self._timer = None
        else:
            self._timer = asyncio.get_running_loop().call_later(due_s - time.monotonic(), self._look)

    def _look(self) -> None:
        """Cancels those who are late, and finds out when to look again."""
        now = max(time.monotonic(), self._due_s)  # loops round, so the timer may go off a moment early
        next_s = _NEVER_S
        for wait in self._waits:
            if wait.deadline > now:
                next_s = min(next_s, wait.deadline)
            elif not wait.is_late:
                wait.is_late = True
                wait.task.cancel()
        self._look_at(max(next_s, now + _LOOK_S) if next_s < _NEVER_S else _NEVER_S)


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
