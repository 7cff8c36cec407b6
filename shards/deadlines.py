"""Waiting for the answer of a store, until a deadline."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from shards.contract import DeadlineExceeded

_T = TypeVar("_T")


async def answer_by(deadline: float, answer: Coroutine[Any, Any, _T]) -> _T:
    """Awaits an answer until the deadline, and then leaves it. One that is there at once needs no timer."""
    try:
        awaited = answer.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # of the coroutine, so a _T
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await _resumed(answer, awaited)
    except TimeoutError:
        raise DeadlineExceeded("the store did not answer before the deadline") from None


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
