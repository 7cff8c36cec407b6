"""The limit on how often each caller calls, as the gate asks for it: answered at once, counted in the background."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from server.admission.rates import Ask, Grant, RateLimit, Rates
from server.domain.errors import OrderError, Reason
from server.rpc.call import ANONYMOUS, CALLER_ID_CHARS_MAX
from server.rpc.errors import Refusal, refusal_of
from shards.contract import SharedRates

HINTS_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Retry hints that refusals may carry: the first that is no shorter than the wait."""

_REFUSALS: Final = tuple(
    refusal_of(
        OrderError(
            Reason.RATE_LIMITED,
            f"this caller calls more often than it may; nothing was done; retry after {hint_s:g} s",
            retry_after_s=hint_s,
        )
    )
    for hint_s in HINTS_S
)


class CallerRates:
    """One for a worker, in its event loop."""

    def __init__(self, limit: RateLimit, workers: int, shared: SharedRates | None) -> None:
        self._shared = shared
        self._rates = Rates(limit, workers, self._ask if shared is not None else None)
        self._asks: set[asyncio.Task[None]] = set()  # one a caller at most, and callers are bounded

    def __repr__(self) -> str:
        return f"CallerRates({self._rates!r}, {self._shared!r})"

    def check(self, caller_id: str | bytes, cells: int, now: float) -> Refusal | None:
        """Returns how a call ends that comes too soon; None for one that may be served."""
        if not isinstance(caller_id, str) or not 1 <= len(caller_id) <= CALLER_ID_CHARS_MAX:
            caller_id = ANONYMOUS  # the pipeline will refuse it
        retry_s = self._rates.check(caller_id, cells, now)
        if not retry_s:
            return None
        level = 0
        while level < len(HINTS_S) - 1 and HINTS_S[level] < retry_s:
            level += 1
        return _REFUSALS[level]

    async def close(self) -> None:
        """Asks nobody any more. Idempotent."""
        for task in self._asks:
            task.cancel()
        await asyncio.gather(*self._asks, return_exceptions=True)
        if self._shared is not None:
            await self._shared.close()

    def _ask(self, ask: Ask) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(ask))
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    async def _answer(self, ask: Ask) -> None:
        assert self._shared is not None
        taken = None
        try:
            taken = await self._shared.take(ask.caller, ask.spent, ask.wanted)
        finally:
            self._rates.answered(ask, None if taken is None else Grant(*taken), time.monotonic())
