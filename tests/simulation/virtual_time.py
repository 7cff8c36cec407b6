"""An event loop without a clock: when nothing is left to do it is at once the time of the next timer.

Simulated hours take seconds, and a run depends on its seed alone.
"""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar
from unittest import mock

_T = TypeVar("_T")


class _Selector(selectors.SelectSelector):
    """Never waits for a file: waiting lets the time pass."""

    def __init__(self, pass_time: Callable[[float], None]) -> None:
        super().__init__()
        self._pass_time = pass_time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Lets ``timeout`` seconds pass."""
        assert timeout is not None, "everything waits, and no timer will wake it"
        self._pass_time(max(timeout, 0.0))
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now_s = 1_000.0
        super().__init__(_Selector(self._pass_time))

    def time(self) -> float:
        """Simulated seconds."""
        return self._now_s

    def _pass_time(self, seconds: float) -> None:
        self._now_s += seconds


def stall(seconds: float) -> None:
    """Lets so much time pass in which the running loop does nothing."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    loop._pass_time(seconds)


def _at(loop: asyncio.AbstractEventLoop) -> Callable[[int], float]:
    """The simulated time by every clock."""
    return lambda _clock: loop.time()


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine in simulated time, and returns its result.

    ``time.monotonic``, ``time.time`` and ``time.clock_gettime`` tell the simulated time meanwhile.

    Fails when a task raised and nobody looked, and when everything waits for ever.
    """
    unseen: list[Mapping[str, Any]] = []
    with asyncio.Runner(loop_factory=_Loop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: unseen.append(context))
        with (
            mock.patch.object(time, "monotonic", loop.time),
            mock.patch.object(time, "time", loop.time),
            mock.patch.object(time, "clock_gettime", _at(loop)),
        ):
            result = runner.run(main)
    assert not unseen, unseen
    return result
