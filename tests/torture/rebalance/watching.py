"""Callers that call while something is done, and the judgement over everything that they were told."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from tests.support.history import History, Outcome, Rules, check, sample
from tests.support.history.checker import Report
from tests.torture.history.callers import Callers
from tests.torture.history.face import CALL_TIMEOUTS_S, Face

CACHE_TTL_S: Final = 1.0
LEAD_ORDERS: Final = 48
"""Callers call until so many orders were asked for before it is begun."""

LOOKS_MAX: Final = 300
"""Or so often was looked whether they are."""

_LOOK_S: Final = 0.05

TAIL_S: Final = 0.6
"""And so long after it has ended."""

SETTLE_TIMEOUT_S: Final = 120.0
ORDERS_A_CUSTOMER: Final = 2
"""Few, so that orders lie in many slots soon."""

OPERATIONS_MAX: Final = 200_000
VIOLATIONS_SHOWN: Final = 3
_ROUND_S: Final = 0.3


class Watched(NamedTuple):
    """What callers were told."""

    report: Report
    """What the checker says of it."""
    failed: Counter[str]
    """Calls that were not answered, by the reason; "" where nobody said one."""
    stale: int
    """Answers that no order of events explains, or that came from the past."""
    took_s: float
    """What was done took so long."""


async def watched(
    endpoints: Sequence[str],
    seed: int,
    what: Callable[[], Awaitable[None]],
    *,
    callers_count: int,
    exact_replays: bool,
    timeouts_s: Sequence[float] = CALL_TIMEOUTS_S,
) -> Watched:
    """Calls while ``what`` is done; then settles what is in doubt, reads everything, and judges.

    Customers are ``torture-{seed}-{number}``. ``timeouts_s``: each call has one of them.
    """
    history = History()
    async with Face(endpoints, seed, timeouts_s) as face:
        callers = Callers(face, history, seed, callers=callers_count, orders_a_customer=ORDERS_A_CUSTOMER)
        over = asyncio.Event()
        calling = asyncio.ensure_future(_call(callers, over))
        try:
            for _ in range(LOOKS_MAX):
                if callers.orders >= LEAD_ORDERS:
                    break
                await asyncio.sleep(_LOOK_S)  # sleep: orders are there before they move
            began_s = time.monotonic()
            await what()
            took_s = time.monotonic() - began_s
            await asyncio.sleep(TAIL_S)  # sleep: the slots are used where they are now
        finally:
            over.set()
            await calling
        await callers.settle(time.monotonic() + SETTLE_TIMEOUT_S)
        await callers.audit(time.monotonic() + SETTLE_TIMEOUT_S)
    report = await asyncio.to_thread(check, history, Rules(CACHE_TTL_S, exact_replays=exact_replays))
    cached = sample(history, CACHE_TTL_S)
    for violation in report.violations[:VIOLATIONS_SHOWN]:
        print(violation)
    if cached.beyond_ttl or cached.below_min_version:
        print(f"cached answers: {cached}")
    failed = Counter(
        operation.result.reason
        for operation in history
        if operation.result.outcome in {Outcome.UNKNOWN, Outcome.FAILED}
    )
    return Watched(report, failed, report.violations_count + cached.below_min_version + cached.beyond_ttl, took_s)


async def _call(callers: Callers, over: asyncio.Event) -> None:
    while not over.is_set():
        await callers.run(time.monotonic() + _ROUND_S, OPERATIONS_MAX)
