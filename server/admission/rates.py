"""How often each caller may call: the generic cell rate algorithm, counted by all workers together where they can be.

GCRA keeps one number a caller, the time at which it would be due again (ITU-T I.371; B. Cooper, "Rate limiting, cells,
and GCRA", 2014): a call that comes more than the burst before it is refused, any other moves it on by one interval.

A worker never waits for the shared count. It has a caller's calls granted ahead, some at a time, and until the first
grant, or while nobody answers, it lets in what is its own share of rate and burst; those calls are put on the shared
count with the next grant. So over any time all workers together let in at most rate x time + 2 x burst calls of a
caller, and their shares alone while there is no shared count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

CALLERS_MAX: Final = 10_000
"""Callers that a worker keeps count of; beyond that those that come later share one count."""

OTHERS: Final = "(others)"
"""No caller id: it could not be told from one otherwise, and who is in there can say nothing else of itself."""

SWEEP_S: Final = 0.1
"""Between two looks for callers that can be forgotten, when there is no room: one costs as much as some calls do."""

GRANT_S: Final = 0.1
"""A grant holds at most what the rate gives in this time: what is granted to one worker is gone for the others."""


REST_S: Final = 0.25
"""For so long nothing is asked of a shared count that did not answer."""


class RateLimit(NamedTuple):
    """What each caller may do."""

    per_second: float
    burst: int
    """Calls that may come at once, at least 1."""

    @property
    def interval_s(self) -> float:
        """Between two calls."""
        return 1.0 / self.per_second

    def share(self, workers: int) -> RateLimit:
        """Returns what each of so many workers may let in by itself."""
        return RateLimit(self.per_second / workers, max(1, self.burst // workers))

    def take(self, due: float, now: float, cells: int) -> tuple[float, float]:
        """Takes so many cells of a caller that was due at ``due``; returns when it is due then, and 0.

        When there is no room it returns ``due`` as it was, and the seconds after which there is. More than the burst
        at once has room when nothing else was taken lately.
        """
        due = max(due, now)
        after = due + cells * self.interval_s
        early_s = after - now - max(self.burst, cells) * self.interval_s
        return (after, 0.0) if early_s <= 1e-9 else (due, early_s)


class Ask(NamedTuple):
    """What is asked of the shared count."""

    caller: str
    spent: int
    """Cells used already, which are counted whether or not there is room."""
    wanted: int
    """Cells to be granted ahead, as many as there is room for."""


class Grant(NamedTuple):
    """What it answers."""

    cells: int
    retry_s: float
    """When no cell was granted: after so long there is room for one."""


class _Caller:
    """One caller, as one worker knows it."""

    __slots__ = ("asking", "denied_until", "due", "granted", "spent", "used")

    def __init__(self) -> None:
        self.due = 0.0
        self.granted = 0
        self.denied_until = 0.0
        self.spent = 0
        self.used = 0
        self.asking = False


class Rates:
    """The counts of one worker.

    ``ask`` is called with what to ask of the shared count, and ``answered`` is to follow. None: there is no such count.
    """

    def __init__(self, limit: RateLimit, workers: int, ask: Callable[[Ask], None] | None = None) -> None:
        self._limit = limit
        self._share = limit.share(workers)
        self._grant_max = max(1, int(limit.per_second * GRANT_S))
        self._ask = ask
        self._rest_until = 0.0
        self._swept_s = float("-inf")
        self._callers: dict[str, _Caller] = {}

    def __repr__(self) -> str:
        return f"Rates({self._limit.per_second:g}/s, {len(self._callers)} callers)"

    def check(self, caller_id: str, cells: int, now: float) -> float:
        """Returns 0 when a call that counts for so many cells may be let in, else after how many seconds to retry."""
        caller = self._callers.get(caller_id)
        if caller is None:
            caller_id = self._counted_as(caller_id, now)
            caller = self._callers.setdefault(caller_id, _Caller())
        if caller.granted >= cells:
            caller.granted -= cells
            caller.used += cells
            if caller.granted < caller.used and not caller.asking:
                self._ask_for(caller_id, caller, now)
            return 0.0
        if now < caller.denied_until:
            return caller.denied_until - now
        caller.due, retry_s = self._share.take(caller.due, now, cells)
        if not retry_s:
            caller.spent += cells
            caller.used += cells
        if not caller.asking:
            self._ask_for(caller_id, caller, now)
        return retry_s

    def answered(self, ask: Ask, grant: Grant | None, now: float) -> None:
        """Takes in what the shared count answered; None: nobody did, and the worker's own share is all there is."""
        caller = self._callers.get(ask.caller)
        if caller is None:
            return
        caller.asking = False
        if grant is None:
            self._rest_until = now + REST_S
            return
        caller.granted += grant.cells
        if not grant.cells:
            caller.denied_until = now + grant.retry_s

    def _ask_for(self, caller_id: str, caller: _Caller, now: float) -> None:
        if self._ask is None or now < self._rest_until:
            caller.spent = caller.used = 0
            return
        caller.asking = True
        # twice what was used since the last time, so that a busy caller is soon asked for a few times a second
        wanted = min(self._grant_max, max(1, 2 * caller.used - caller.granted))
        ask = Ask(caller_id, caller.spent, wanted)
        caller.spent = caller.used = 0
        self._ask(ask)

    def _counted_as(self, caller_id: str, now: float) -> str:
        """Returns under which name a new caller is counted; forgets those who are idle when there are many."""
        if len(self._callers) >= CALLERS_MAX and now - self._swept_s >= SWEEP_S:
            self._swept_s = now
            idle = [key for key, one in self._callers.items() if one.due <= now and not one.granted and not one.asking]
            for key in idle:
                del self._callers[key]
        return OTHERS if len(self._callers) >= CALLERS_MAX else caller_id
