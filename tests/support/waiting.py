"""Waiting inside an event loop for what offers no event: done again and again, until a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

_INTERVAL_S: Final = 0.01

_T = TypeVar("_T")


async def until(act: Callable[[], Awaitable[_T]], done: Callable[[_T], bool], timeout_s: float = 60.0) -> _T:
    """Returns the first answer of ``act`` that is ``done``; fails with the last answer after a timeout."""
    deadline = time.monotonic() + timeout_s
    while not done(answer := await act()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s; the last answer was {answer}"
        await asyncio.sleep(_INTERVAL_S)  # sleep: the one place that polls in a loop
    return answer
