"""The streams under way, so that a worker that drains can end them: they would last for ever otherwise."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeAlias

from server.domain.errors import OrderError, Reason
from server.rpc.call import Call

StreamTask: TypeAlias = "asyncio.Task[Any]"

STREAMS_MAX: Final = 10_000
"""Streams that a worker holds at once; as many as the orders it follows."""


class Streams:
    """Each stream is a task. ``end`` cancels it, unless its call has an ``on_end`` of its own."""

    def __init__(self) -> None:
        self._calls: dict[StreamTask, Call] = {}
        self._cancelled: set[StreamTask] = set()
        self.ending = False

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._calls)

    def enter(self, call: Call) -> StreamTask:
        """Takes the present task for a stream. Raises ``OrderError`` SHUTTING_DOWN or QUEUE_FULL."""
        if self.ending:
            raise shutting_down()
        if len(self._calls) >= STREAMS_MAX:
            raise OrderError(Reason.QUEUE_FULL, "this worker holds too many streams; retry", retry_after_s=1.0)
        task = asyncio.current_task()
        assert task is not None
        self._calls[task] = call
        return task

    def leave(self, task: StreamTask) -> None:
        """The stream of a task is over."""
        self._calls.pop(task, None)
        self._cancelled.discard(task)

    def end(self) -> None:
        """Ends all streams, and refuses new ones from now on. Idempotent."""
        if self.ending:
            return
        self.ending = True
        for task, call in self._calls.items():
            if call.on_end is not None:
                call.on_end()
            else:
                self._cancelled.add(task)
                task.cancel()

    def ended(self, task: StreamTask) -> bool:
        """Whether a cancellation that the task has caught came from ``end`` alone; takes it back if so."""
        return task in self._cancelled and task.uncancel() == 0


def shutting_down() -> OrderError:
    """Returns the error that a draining worker ends streams with."""
    return OrderError(Reason.SHUTTING_DOWN, "this worker is shutting down: call again, on another one")
