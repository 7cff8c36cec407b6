"""Whether one order could have answered a history: the search of Wing and Gong, remembering as Lowe does.

J. Wing, C. Gong: Testing and Verifying Concurrent Objects (1993). G. Lowe: Testing for Linearizability (2017).

Two things make it quick here. An operation that the present state answers, and that leaves it as it is, is taken at
once: whatever order of the rest works, works after it too. So only writes that take effect branch, of which an order
sees at most five. And of several calls without an answer that would take the same effect only the first is tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.support.history.operation import WRITES, Kind, Operation, Outcome
from tests.support.history.register import NOTHING, Order, answer, effect

CONFIGURATIONS_MAX: Final = 200_000
"""A search is given up after so many; histories of an order that are right need some dozens."""


class Stuck(NamedTuple):
    """Where the search got farthest, in a history that no order could have answered."""

    order: Order
    waiting: Sequence[Operation]
    """The operations of which none could come next."""
    undecided: bool = False
    """The search was given up; nothing is proven."""


class _Span(NamedTuple):
    """An operation and the time within which it must have happened."""

    begin: float
    end: float
    operation: Operation


def linearize(operations: Sequence[Operation], *, cache_ttl_s: float, exact_replays: bool = True) -> Stuck | None:
    """Returns None when there is an order of these operations, all of one order, that explains every answer.

    A CACHED answer may be of any moment from ``cache_ttl_s`` before the call; "no such order" may not, as that is
    promised never to be remembered.
    """
    return _Search(spans(operations, cache_ttl_s), exact_replays=exact_replays).run()


def spans(operations: Sequence[Operation], cache_ttl_s: float) -> list[_Span]:
    """Returns what is to be ordered: answers that tell something, and writes that may have taken effect."""
    found = []
    for operation in operations:
        outcome = operation.result.outcome
        if outcome in (Outcome.OK, Outcome.REFUSED):
            assert operation.returned is not None, "an answer has its time"
            old = operation.kind is Kind.CACHED and operation.result.version > 0
            begin = operation.invoked - cache_ttl_s if old else operation.invoked
            found.append(_Span(begin, operation.returned, operation))
        elif outcome is Outcome.UNKNOWN and operation.kind in WRITES:
            found.append(_Span(operation.invoked, math.inf, operation))
    found.sort(key=lambda span: span.begin)
    return found


class _Search:
    def __init__(self, found: Sequence[_Span], *, exact_replays: bool) -> None:
        self._spans = found
        self._exact = exact_replays
        self._seen: set[tuple[Order, tuple[int, ...]]] = set()
        self._least = math.inf
        self._stuck = Stuck(NOTHING, ())

    def run(self) -> Stuck | None:
        if self._explains(NOTHING, list(range(len(self._spans)))):
            return None
        return self._stuck._replace(undecided=len(self._seen) >= CONFIGURATIONS_MAX)

    def _explains(self, order: Order, left: Sequence[int]) -> bool:
        """Whether what is left can follow on an order in this state."""
        left, next_ones = self._take_idle(order, left)
        answered = sum(self._spans[index].end < math.inf for index in left)
        if not answered:
            return True
        configuration = (order, tuple(left))
        if configuration in self._seen or len(self._seen) >= CONFIGURATIONS_MAX:
            return False
        self._seen.add(configuration)
        if answered < self._least:
            self._least = answered
            self._stuck = Stuck(order, [self._spans[index].operation for index in next_ones])
        guessed: set[Order] = set()
        for index in next_ones:
            span = self._spans[index]
            if span.end < math.inf:
                after = answer(order, span.operation, exact_replays=self._exact)
            else:
                after = effect(order, span.operation)
                if after in guessed:
                    continue
                if after is not None:
                    guessed.add(after)
            if after is not None and self._explains(after, [other for other in left if other != index]):
                return True
        return False

    def _take_idle(self, order: Order, left: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Takes everything that may come next and changes nothing; returns what is left, and what of it may come next.

        Next may come what began before everything left has ended.
        """
        while True:
            kept: list[int] = []
            ended = math.inf
            scanned = len(left)
            for position, index in enumerate(left):
                span = self._spans[index]
                if span.begin > ended:
                    scanned = position
                    break
                if span.end < math.inf and answer(order, span.operation, exact_replays=self._exact) == order:
                    continue
                ended = min(ended, span.end)
                kept.append(index)
            idle = scanned - len(kept)
            left = [*kept, *left[scanned:]]
            if not idle:
                return left, kept
