"""A thread that owns one connection, and the way from the event loop to it and back.

The event loop never touches the disk: it hands a job over and awaits a future. A thread takes all jobs that came while
it was busy at once, so that a reader can answer them with one statement; there is no timer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

from shards.contract import Overloaded, Unavailable

T = TypeVar("T")
J = TypeVar("J")

_TAKEN_MAX: Final = 64
"""Jobs handed to the thread's function at once."""


class Job(Generic[J, T]):
    """One question to a thread and its answer."""

    __slots__ = ("answer", "error", "future", "question")

    def __init__(self, question: J, future: asyncio.Future[T]) -> None:
        self.question = question
        self.future = future
        self.answer: T | None = None
        self.error: BaseException | None = None


class ConnectionThread(Generic[J, T]):
    """Runs ``work`` on a thread of its own, for the tasks of one event loop.

    ``work`` is given 1 to ``taken_max`` jobs in the order of their asking and sets ``answer`` or ``error`` of each; an
    exception that escapes it becomes the error of all. The thread is a daemon: a disk that hangs does not keep the
    process from ending.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Job[J, T]]], None],
        cleanup: Callable[[], None],
        *,
        jobs_max: int,
        taken_max: int = _TAKEN_MAX,
    ) -> None:
        """Starts the thread; call it on the event loop that will ask. ``cleanup`` runs last, on the thread."""
        self._loop: Final = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job[J, T] | None] = SimpleQueue()
        self._jobs_max: Final = jobs_max
        self._taken_max: Final = taken_max
        self._work: Final = work
        self._cleanup: Final = cleanup
        self._name: Final = name
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self.jobs_waiting = 0
        """Jobs that were asked and are not yet answered."""
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def ask(self, question: J) -> T:
        """Returns what the thread answers, or raises what it found.

        Raises ``Overloaded`` when ``jobs_max`` jobs are waiting and ``Unavailable`` after ``close``. Cancelling the
        caller forgets the answer; the job is done all the same.
        """
        if self._closing:
            raise Unavailable(f"{self._name}: the store is closed")
        if self.jobs_waiting >= self._jobs_max:
            raise Overloaded(f"{self._name}: {self._jobs_max} calls are waiting")
        self.jobs_waiting += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(Job(question, future))
        return await future

    async def close(self) -> None:
        """Lets the thread answer what was asked, and returns when it has ended. Idempotent."""
        if not self._closing:
            self._closing = True
            self._jobs.put(None)
        await asyncio.shield(self._ended)

    def _run(self) -> None:
        going = True
        while going:
            jobs = []
            job = self._jobs.get()
            try:
                while job is not None:
                    jobs.append(job)
                    if len(jobs) == self._taken_max:
                        break
                    job = self._jobs.get_nowait()
                else:
                    going = False
            except Empty:
                pass
            if jobs:
                try:
                    self._work(jobs)
                except BaseException as error:  # noqa: BLE001  # it is raised in the task that asked
                    for job in jobs:
                        job.error = error
                self._tell(self._answer, jobs)
        try:
            self._cleanup()
        finally:
            self._tell(self._end)

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody awaits the answer any more
            self._closing = True

    def _answer(self, jobs: Sequence[Job[J, T]]) -> None:
        self.jobs_waiting -= len(jobs)
        for job in jobs:
            if job.future.done():  # the caller was cancelled
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.answer)  # type: ignore[arg-type]  # set, as there is no error

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
