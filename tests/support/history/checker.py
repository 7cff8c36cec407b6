"""The verdict on a history: every promise of the service that its answers break."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.support.history.agreement import disagreements
from tests.support.history.linearize import Stuck, linearize
from tests.support.history.operation import (
    AUDITOR,
    IN_DOUBT,
    NOTHING_DONE,
    REFUSALS,
    WRITES,
    Kind,
    Listed,
    Operation,
    Outcome,
    Result,
)
from tests.support.history.shrinking import shrunk

TOLD_MAX: Final = 10
"""So many violations of each kind are told; all are counted."""


class Rules(NamedTuple):
    """What the service was set up to promise."""

    cache_ttl_s: float
    exact_replays: bool = True
    """See ``register.answer``: false for stores whose writes may be settled later."""


class Violation(NamedTuple):
    """One broken promise and the operations that show it."""

    kind: str
    order: str
    text: str
    operations: Sequence[Operation] = ()

    def __str__(self) -> str:
        lines = [f"{self.kind}: order {self.order}: {self.text}"]
        return "\n".join([*lines, *(f"    {operation}" for operation in self.operations)])


@dataclass(slots=True)
class Report:
    """What a history showed; it is right when ``violations_count`` is 0."""

    operations: int = 0
    orders: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """How often each kind of operation had each outcome."""
    violations: list[Violation] = field(default_factory=list)
    violations_count: int = 0
    missing: int = 0
    """Orders whose acknowledged version the final audit did not find."""
    doubled: int = 0
    """Orders found that nobody asked for, or found twice."""
    unsettled: int = 0
    """Requests of which no call was ever answered."""

    def note(self, violation: Violation) -> None:
        """Adds a violation."""
        self.violations_count += 1
        if sum(told.kind == violation.kind for told in self.violations) < TOLD_MAX:
            self.violations.append(violation)


def check(operations: Iterable[Operation], rules: Rules) -> Report:
    """Judges a history, which must hold every operation that could have written."""
    asked = sorted(operations, key=lambda operation: operation.invoked)
    report = Report(len(asked))
    report.outcomes.update(f"{operation.kind.value} {operation.result.outcome.value}" for operation in asked)
    orders = _orders(asked)
    report.orders = len(orders)
    for operation in asked:
        _check_answer(operation, orders, report)
    for order, problem, pair in disagreements(asked):
        report.note(Violation("answers disagree", order, problem, pair))
    for order, own in _partition(asked, orders).items():
        _check_order(order, own, rules, report)
    _check_audit(asked, report)
    return report


def _orders(asked: Iterable[Operation]) -> Mapping[str, Operation]:
    """Returns for each order that may exist the first call that asked for it."""
    orders: dict[str, Operation] = {}
    for operation in asked:
        if operation.kind is Kind.CREATE:
            orders.setdefault(operation.order, operation)
    return orders


def _check_answer(operation: Operation, orders: Mapping[str, Operation], report: Report) -> None:
    """Judges what an answer says by itself."""
    told = operation.result

    def note(kind: str, text: str) -> None:
        report.note(Violation(kind, operation.order, text, [operation]))

    if told.reason not in REFUSALS | NOTHING_DONE | IN_DOUBT:
        note("unexpected error", told.reason)
    if told.outcome is not Outcome.OK:
        return
    if operation.kind is Kind.LIST:
        _check_list(operation, orders, report)
        return
    if told.order != operation.order:
        note("doubled", f"answered is another order, {told.order}")
        report.doubled += operation.kind is Kind.CREATE
    if operation.kind not in WRITES and told.version < operation.min_version:
        note("too old", f"version {told.version} is older than the min_version {operation.min_version}")


def _check_list(operation: Operation, orders: Mapping[str, Operation], report: Report) -> None:
    listed = [entry.order for entry in operation.result.listed]
    assert operation.returned is not None, "an answer has its time"
    for order, count in Counter(listed).items():
        maker = orders.get(order)
        problem = f"is listed {count} times" if count > 1 else ""
        if maker is None or maker.customer != operation.customer or maker.invoked > operation.returned:
            problem = "is listed, and nobody had asked for it"
        if problem:
            report.note(Violation("doubled", order, problem, [operation]))
            report.doubled += 1
    if listed != sorted(listed, reverse=True):
        report.note(Violation("list out of order", "", f"of customer {operation.customer}", [operation]))


def _partition(asked: Iterable[Operation], orders: Mapping[str, Operation]) -> Mapping[str, list[Operation]]:
    """Returns each order's operations; a list is a read of every order of its customer."""
    of_customer: defaultdict[str, list[Operation]] = defaultdict(list)
    for maker in orders.values():
        of_customer[maker.customer].append(maker)
    parts: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in asked:
        if operation.kind is not Kind.LIST:
            parts[operation.order].append(operation)
        elif operation.result.outcome is Outcome.OK and operation.returned is not None:
            entries = {entry.order: entry for entry in operation.result.listed}
            for maker in of_customer[operation.customer]:
                if maker.invoked <= operation.returned:
                    parts[maker.order].append(_read_of(operation, maker.order, entries.get(maker.order)))
    return parts


def _read_of(operation: Operation, order: str, entry: Listed | None) -> Operation:
    if entry is None:
        result = Result(outcome=Outcome.REFUSED, reason="ORDER_NOT_FOUND")
    else:
        result = Result(
            outcome=Outcome.OK,
            order=order,
            version=entry.version,
            state=entry.state,
            fingerprint=entry.fingerprint,
        )
    return Operation(
        kind=Kind.READ,
        verb="list",
        customer=operation.customer,
        order=order,
        process=operation.process,
        invoked=operation.invoked,
        returned=operation.returned,
        result=result,
    )


def _check_order(order: str, own: list[Operation], rules: Rules, report: Report) -> None:
    stuck = _stuck(own, rules)
    if stuck is None:
        return
    if stuck.undecided:
        report.note(Violation("undecided", order, f"{len(own)} operations were too many to explain", own[:50]))
        return
    shown = shrunk(own, lambda operations: _stuck(operations, rules) is not None)
    final = _stuck(shown, rules) or stuck
    states = " > ".join(version.state for version in final.order) or "no order"
    waiting = "; ".join(str(operation) for operation in final.waiting[:4])
    text = f"no order answers like this; farthest is [{states}], where none of these can come next: {waiting}"
    report.note(Violation("not linearizable", order, text, shown))


def _stuck(own: Sequence[Operation], rules: Rules) -> Stuck | None:
    return linearize(own, cache_ttl_s=rules.cache_ttl_s, exact_replays=rules.exact_replays)


def _check_audit(asked: Sequence[Operation], report: Report) -> None:
    """Judges what is there in the end against what was acknowledged, and what became of every request."""
    answered: set[str] = set()
    doubtful: dict[str, Operation] = {}
    acknowledged: Counter[str] = Counter()
    audited: dict[str, int] = {}
    for operation in asked:
        told = operation.result
        if operation.kind in WRITES:
            if told.outcome in (Outcome.OK, Outcome.REFUSED):
                answered.add(operation.request)
            else:
                doubtful.setdefault(operation.request, operation)
            if told.outcome is Outcome.OK:
                acknowledged[operation.order] = max(acknowledged[operation.order], told.version)
        elif operation.process == AUDITOR and operation.kind is Kind.READ:
            audited[operation.order] = told.version
    for request, operation in doubtful.items():
        if request not in answered:
            report.unsettled += 1
            report.note(Violation("unsettled", operation.order, f"request {request} was never answered", [operation]))
    for order, version in acknowledged.items():
        if audited and audited.get(order, 0) < version:
            report.missing += 1
            text = f"version {version} was acknowledged, the audit found {audited.get(order, 'nothing at all')}"
            report.note(Violation("missing", order, text, list(_about(asked, order))[-20:]))


def _about(asked: Iterable[Operation], order: str) -> Iterator[Operation]:
    return (operation for operation in asked if operation.order == order)
