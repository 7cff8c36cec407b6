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


class _Wait:
    """One who waits."""

    __slots__ = ("is_late", "task", "until")

    def __init__(self, task: asyncio.Task[Any], until: float) -> None:
        self.task = task
        self.until = until
        """Seconds of the event loop's clock."""
        self.is_late = False
        """It was told so."""


class Deadlines:
    """The deadlines of those who wait at this moment, who are as many as their callers. For one event loop."""

    def __init__(self) -> None:
        self._waits: set[_Wait] = set()
        self._timer: asyncio.TimerHandle | None = None  # goes off at the first deadline or before; none for nobody

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
        until = asyncio.get_running_loop().time() + deadline - time.monotonic()
        wait = _Wait(task, until)
        self._waits.add(wait)
        if self._timer is None or until < self._timer.when():
            self._look_at(until)
        return wait

    def _leave(self, wait: _Wait) -> None:
        self._waits.discard(wait)
        if not self._waits:
            self._look_at(None)

    def _look_at(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if when is None else asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        """Cancels those who are late, and finds out when to look again."""
        assert self._timer is not None
        now = max(asyncio.get_running_loop().time(), self._timer.when())  # loops round: it may go off a moment early
        left: list[float] = []
        for wait in self._waits:
            if wait.until > now:
                left.append(wait.until)
            elif not wait.is_late:
                wait.is_late = True
                wait.task.cancel()
        self._look_at(max(min(left), now + _LOOK_S) if left else None)


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
