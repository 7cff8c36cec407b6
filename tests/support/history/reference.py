"""Histories that are right by construction, to try the checker on: each operation happens at one moment of its span."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from tests.support.history.operation import Kind, Operation, Outcome, Result

CACHE_TTL_S: Final = 3.0

_LIFE: Final = {
    ("ConfirmPayment", "PENDING"): "PAID",
    ("CancelOrder", "PENDING"): "CANCELLED",
    ("ShipOrder", "PAID"): "SHIPPED",
    ("DeliverOrder", "SHIPPED"): "DELIVERED",
    ("RefundOrder", "PAID"): "REFUNDED",
    ("RefundOrder", "SHIPPED"): "REFUNDED",
    ("RefundOrder", "DELIVERED"): "REFUNDED",
}
_VERBS: Final = tuple(dict.fromkeys(verb for verb, _ in _LIFE))


class _Made(NamedTuple):
    """One version of the order."""

    at: float
    request: str
    ask: tuple[str, str, int]
    state: str


class Reference:
    """An order that is asked one thing after another, at rising times."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._made: list[_Made] = []

    def ask(self, operation: Operation, at: float) -> Result:
        """Answers an operation at a moment."""
        if operation.kind is Kind.CREATE:
            return self._create(operation, at)
        if not self._made:
            return _refused("ORDER_NOT_FOUND")
        if operation.kind is Kind.MOVE:
            return self._move(operation, at)
        version = len(self._made)
        if operation.kind is Kind.CACHED:
            gone_at = [made.at for made in self._made[1:]]  # when each version but the last was superseded
            least = 1 + sum(moment < operation.invoked - CACHE_TTL_S for moment in gone_at)
            least = max(least, min(operation.min_version, version))
            version = self._chance.randint(least, version)
        if version < operation.min_version:
            return _refused("MIN_VERSION_NOT_REACHED", len(self._made))
        return self._told(version)

    def _create(self, operation: Operation, at: float) -> Result:
        if not self._made:
            self._made.append(_Made(at, operation.request, operation.ask, "PENDING"))
            return self._told(1)
        return self._again(operation, 1)

    def _move(self, operation: Operation, at: float) -> Result:
        for version, made in enumerate(self._made, 1):
            if made.request == operation.request:
                return self._again(operation, version)
        version = len(self._made)
        if operation.expected not in (0, version):
            return _refused("VERSION_MISMATCH", version)
        target = _LIFE.get((operation.verb, self._made[-1].state))
        if target is None:
            return _refused("TRANSITION_NOT_ALLOWED", version)
        self._made.append(_Made(at, operation.request, operation.ask, target))
        return self._told(version + 1)

    def _again(self, operation: Operation, version: int) -> Result:
        made = self._made[version - 1]
        if (made.request, made.ask) != (operation.request, operation.ask):
            return _refused("REQUEST_ID_REUSED")
        return self._told(version, replayed=True)

    def _told(self, version: int, *, replayed: bool = False) -> Result:
        return Result(
            outcome=Outcome.OK,
            order="order",
            version=version,
            state=self._made[version - 1].state,
            replayed=replayed,
            fingerprint=f"bytes {version}",
        )


def right_history(chance: random.Random, operations: int) -> list[Operation]:
    """Returns a history of one order, in the order of invocation, of up to four callers' worth of overlap."""
    moments = []
    for number in range(operations):
        operation = _asked(chance, number)
        operation.invoked = number + chance.random() * 3
        moments.append((operation.invoked + chance.random() * 3, operation))
    reference = Reference(chance)
    for at, operation in sorted(moments, key=lambda moment: moment[0]):
        doubtful = operation.kind in (Kind.CREATE, Kind.MOVE) and chance.random() < 0.2
        if doubtful and chance.random() < 0.5:
            continue  # it never took effect, and nobody will know
        result = reference.ask(operation, at)
        if not doubtful:
            operation.result = result
            operation.returned = at + chance.random() * 3
    return sorted((operation for _, operation in moments), key=lambda operation: operation.invoked)


def _asked(chance: random.Random, number: int) -> Operation:
    kind = Kind.CREATE if number == 0 else chance.choice((Kind.CREATE, Kind.MOVE, Kind.MOVE, Kind.READ, Kind.CACHED))
    operation = Operation(kind=kind, customer="customer", order="order", process=number)
    if kind is Kind.CREATE:
        operation.request = "create"
        operation.payload = chance.choice(("one", "one", "one", "two"))
    elif kind is Kind.MOVE:
        operation.request = f"move {chance.randrange(4)}"
        operation.verb = chance.choice(_VERBS)
        operation.expected = chance.choice((0, 0, 1, 2))
    else:
        operation.min_version = chance.choice((0, 0, 1, 2))
    return operation


def _refused(reason: str, current: int = 0) -> Result:
    return Result(outcome=Outcome.REFUSED, reason=reason, current=current)
