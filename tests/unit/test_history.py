"""The checker of histories: right ones pass, wrong ones are convicted, and it agrees with trying every order."""

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.history import (
    AUDITOR,
    History,
    Kind,
    Listed,
    Operation,
    Outcome,
    Report,
    Result,
    Rules,
    check,
    failure,
    sample,
)
from tests.support.history.linearize import linearize, spans
from tests.support.history.reference import CACHE_TTL_S, right_history
from tests.support.history.register import NOTHING, Order, answer, effect

RULES = Rules(cache_ttl_s=CACHE_TTL_S)


def ok(version: int, state: str, *, replayed: bool = False, content: str = "") -> Result:
    """An answer with the order."""
    fingerprint = content or f"bytes {version}"
    return Result(
        outcome=Outcome.OK, order="a", version=version, state=state, replayed=replayed, fingerprint=fingerprint
    )


def asked(
    kind: Kind, invoked: float, returned: float | None, result: Result | None = None, **what: object
) -> Operation:
    """An operation on order "a"; without a result it is in doubt."""
    told = result or Result(outcome=Outcome.UNKNOWN)
    what = {"customer": "c", "order": "a", **what}
    return msgspec.convert({"kind": kind, "invoked": invoked, "returned": returned, "result": told, **what}, Operation)


def create(invoked: float, returned: float | None, result: Result | None = None, **what: object) -> Operation:
    """The create of order "a"."""
    return asked(Kind.CREATE, invoked, returned, result, request="create", payload="one", **what)


def pay(invoked: float, returned: float | None, result: Result | None = None, **what: object) -> Operation:
    """A transition to PAID."""
    return asked(Kind.MOVE, invoked, returned, result, **{"request": "pay", "verb": "ConfirmPayment", **what})


def read(invoked: float, returned: float, result: Result, kind: Kind = Kind.READ, **what: object) -> Operation:
    """A read."""
    return asked(kind, invoked, returned, result, **what)


CREATED = create(0, 1, ok(1, "PENDING"))
PAID = pay(2, 3, ok(2, "PAID"))
ABSENT = failure(Kind.READ, "ORDER_NOT_FOUND")

RIGHT: dict[str, list[Operation]] = {
    "one after another": [CREATED, PAID, read(4, 5, ok(2, "PAID"))],
    "a replay of its version": [CREATED, PAID, create(4, 5, ok(1, "PENDING", replayed=True))],
    "a read beside a write, before it": [CREATED, PAID, read(2.5, 2.6, ok(1, "PENDING"))],
    "a read beside a write, after it": [CREATED, PAID, read(2.5, 2.6, ok(2, "PAID"))],
    "doubt that took effect": [CREATED, pay(2, None), read(9, 10, ok(2, "PAID"))],
    "doubt that did not": [CREATED, pay(2, None), read(9, 10, ok(1, "PENDING"))],
    "doubt that takes effect late": [CREATED, pay(2, None), read(5, 6, ok(1, "PENDING")), read(7, 8, ok(2, "PAID"))],
    "a young cached answer": [CREATED, PAID, read(5, 6, ok(1, "PENDING"), Kind.CACHED)],
    "another payload": [CREATED, create(2, 3, failure(Kind.CREATE, "REQUEST_ID_REUSED")), PAID],
    "an expired id": [create(0, 1, failure(Kind.CREATE, "REQUEST_ID_EXPIRED")), read(2, 3, ABSENT)],
    "no order yet": [read(0, 1, ABSENT), create(0.5, 2, ok(1, "PENDING"))],
    "nothing was done": [CREATED, pay(2, 3, failure(Kind.MOVE, "QUEUE_FULL")), read(4, 5, ok(1, "PENDING"))],
}
RIGHT["another payload"][1].payload = "two"

WRONG: dict[str, list[Operation]] = {
    "a write is lost": [CREATED, PAID, read(4, 5, ok(1, "PENDING"))],
    "an order is lost": [CREATED, read(2, 3, ABSENT)],
    "an order is not in the cache": [CREATED, read(2, 3, ABSENT, Kind.CACHED)],
    "a replay of the present": [CREATED, PAID, create(4, 5, ok(2, "PAID", replayed=True))],
    "a replay that says created": [CREATED, create(2, 3, ok(1, "PENDING"))],
    "an only try that says replayed": [create(0, 1, ok(1, "PENDING", replayed=True))],
    "seen, and gone": [CREATED, pay(2, None), read(5, 6, ok(2, "PAID")), read(7, 8, ok(1, "PENDING"))],
    "seen before it was asked for": [CREATED, read(1.2, 1.5, ok(2, "PAID")), PAID],
    "nobody asked": [CREATED, read(2, 3, ok(2, "PAID"))],
    "done, though it was said not to be": [
        CREATED,
        pay(2, 3, failure(Kind.MOVE, "STORE_UNAVAILABLE")),
        read(4, 5, ok(2, "PAID")),
    ],
    "an old cached answer": [CREATED, PAID, read(6.1, 7, ok(1, "PENDING"), Kind.CACHED)],
    "a cached answer below min_version": [CREATED, PAID, read(4, 5, ok(1, "PENDING"), Kind.CACHED, min_version=2)],
    "two transitions of one version": [CREATED, PAID, pay(2, 3, ok(2, "PAID"), request="pay too")],
    "a transition that is not allowed": [
        CREATED,
        asked(Kind.MOVE, 2, 3, ok(2, "SHIPPED"), request="ship", verb="ShipOrder"),
    ],
    "another version than expected": [CREATED, PAID, pay(4, 5, ok(3, "PAID"), request="x", expected=1)],
    "a refusal of what is not so": [CREATED, PAID, pay(4, 5, failure(Kind.MOVE, "VERSION_MISMATCH", 1), expected=2)],
    "a request refused after it was done": [CREATED, PAID, pay(4, 5, failure(Kind.MOVE, "TRANSITION_NOT_ALLOWED", 2))],
    "another payload accepted": [CREATED, create(2, 3, ok(1, "PENDING", replayed=True))],
    "created after it had expired": [
        create(0, 1, failure(Kind.CREATE, "REQUEST_ID_EXPIRED")),
        create(2, 3, ok(1, "PENDING")),
    ],
    "other bytes": [CREATED, read(2, 3, ok(1, "PENDING", content="other"))],
    "another order": [create(0, 1, msgspec.structs.replace(ok(1, "PENDING"), order="b"))],
    "a defect": [CREATED, pay(2, None, failure(Kind.MOVE, "INTERNAL"))],
}
WRONG["another payload accepted"][1].payload = "two"


@pytest.mark.parametrize("name", RIGHT)
def test_what_can_be_explained_passes(name: str) -> None:
    """A history that some order of its operations explains has no violation but a request left in doubt."""
    report = check(RIGHT[name], RULES)
    assert {violation.kind for violation in report.violations} <= {"unsettled"}, report.violations


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_explained_is_convicted(name: str) -> None:
    """A history that no order of its operations explains has a violation that names the order."""
    report = check(WRONG[name], RULES)
    found = [violation for violation in report.violations if violation.kind != "unsettled"]
    assert found
    assert all(violation.order == "a" and str(violation) for violation in found)


def test_replays_may_be_found_out_late_where_that_is_allowed() -> None:
    """Where writes may be settled later, the call that took effect may say that it is a replay."""
    history = [create(0, 1, ok(1, "PENDING", replayed=True))]
    assert check(history, RULES._replace(exact_replays=False)).violations_count == 0


@given(st.randoms(use_true_random=False), st.integers(1, 40))
@settings(deadline=None)
def test_right_histories_pass(chance: random.Random, operations: int) -> None:
    """A history made by asking an order one thing after another, within each call's span, has no violation."""
    report = check(right_history(chance, operations), RULES)
    assert not [str(found) for found in report.violations if found.kind != "unsettled"]


@given(st.randoms(use_true_random=False), st.integers(1, 6))
@settings(deadline=None, max_examples=300)
def test_the_search_agrees_with_trying_every_order(chance: random.Random, operations: int) -> None:
    """For small histories, right and spoilt ones, the verdict is that of trying all orders of the operations."""
    history = right_history(chance, operations)
    for operation in history:
        if operation.result.outcome is Outcome.OK and chance.random() < 0.3:
            version = max(1, operation.result.version + chance.choice((-1, 0, 1)))
            operation.result = msgspec.structs.replace(
                operation.result, version=version, replayed=chance.random() < 0.5
            )
    for exact in (True, False):
        stuck = linearize(history, cache_ttl_s=CACHE_TTL_S, exact_replays=exact)
        assert (stuck is None) == some_order_explains(history, exact=exact)
        assert stuck is None or not stuck.undecided


def some_order_explains(history: Sequence[Operation], *, exact: bool) -> bool:
    """Tries all orders, with each operation in doubt in its place or left out."""
    found = spans(history, CACHE_TTL_S)
    answered = [span for span in found if span.end < math.inf]
    doubtful = [span for span in found if span.end == math.inf]
    for count in range(len(doubtful) + 1):
        for chosen in itertools.combinations(doubtful, count):
            for order in itertools.permutations([*answered, *chosen]):
                in_time = all(later.end >= former.begin for former, later in itertools.combinations(order, 2))
                if in_time and plays([span.operation for span in order], exact=exact):
                    return True
    return False


def plays(operations: Sequence[Operation], *, exact: bool) -> bool:
    """Whether an order answers these operations like this, one after another."""
    state: Order | None = NOTHING
    for operation in operations:
        assert state is not None
        if operation.result.outcome is Outcome.UNKNOWN:
            state = effect(state, operation)
        else:
            state = answer(state, operation, exact_replays=exact)
        if state is None:
            return False
    return True


def test_many_operations_on_one_order_are_decided() -> None:
    """Thousands of operations on one order, dozens at a time and many in doubt, are no trouble to the search."""
    chance = random.Random(1)
    history = right_history(chance, 3_000)
    for operation in history:  # thirty at a time
        operation.invoked -= 15 * chance.random()
        if operation.returned is not None:
            operation.returned += 15 * chance.random()
    assert linearize(history, cache_ttl_s=CACHE_TTL_S) is None


def listed(*orders: str) -> Result:
    """The answer of a list."""
    entries = tuple(Listed(order, 1, "PENDING", "bytes 1", ()) for order in orders)
    return Result(outcome=Outcome.OK, listed=entries)


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        (("a",), None),
        ((), "not linearizable"),
        (("a", "a"), "doubled"),
        (("b", "a"), "doubled"),
        (("a", "b"), "doubled"),
    ],
)
def test_lists_are_held_against_what_was_asked(entries: tuple[str, ...], kind: str | None) -> None:
    """A list without an acknowledged order, with one twice or with one that nobody asked for is convicted."""
    history = [CREATED, asked(Kind.LIST, 2, 3, listed(*entries), order="")]
    kinds = {violation.kind for violation in check(history, RULES).violations}
    assert kind in kinds if kind else not kinds


def audited(result: Result) -> Report:
    """A history whose audit ends with this."""
    return check([CREATED, PAID, read(9, 10, result, process=AUDITOR)], RULES)


def test_the_audit_counts_what_is_missing() -> None:
    """An acknowledged version that the audit does not find is counted as missing, once an order."""
    assert audited(ok(2, "PAID")).missing == 0
    assert audited(ok(1, "PENDING")).missing == 1
    assert audited(ABSENT).missing == 1


def test_requests_left_in_doubt_are_counted() -> None:
    """A request none of whose calls was answered is unsettled, one that was answered at last is not."""
    assert check([CREATED, pay(2, None)], RULES).unsettled == 1
    assert check([CREATED, pay(2, None), pay(4, 5, ok(2, "PAID", replayed=True))], RULES).unsettled == 0


def test_a_violation_is_told_in_few_operations() -> None:
    """What is shown of a wrong history leaves out what has nothing to do with it, and is as wrong."""
    noise = [read(3 + number / 100, 3.005 + number / 100, ok(2, "PAID")) for number in range(90)]
    (violation,) = check([CREATED, PAID, *noise, read(8, 9, ok(1, "PENDING"))], RULES).violations
    assert len(violation.operations) <= 4
    assert check(violation.operations, RULES).violations_count == 1


def test_a_history_survives_the_disk(tmp_path: Path) -> None:
    """A history that was saved is loaded as it was."""
    history = History([*right_history(random.Random(3), 50), asked(Kind.LIST, 2, 3, listed("a"), order="")])
    history.save(tmp_path / "history.jsonl")
    assert History.load(tmp_path / "history.jsonl").operations == history.operations


def test_ages_of_cached_answers_are_measured() -> None:
    """A cached answer is as old as the earliest sight of a newer version, and counted when older than allowed."""

    def cached(invoked: float, version: int, **what: object) -> Operation:
        return read(invoked, invoked + 1, ok(version, "PENDING"), Kind.CACHED, **what)

    history = [CREATED, PAID, cached(2.5, 1), cached(3.4, 1), cached(7, 1, min_version=2), cached(8, 2)]
    found = sample(history, CACHE_TTL_S)
    assert (found.reads, found.current, found.beyond_ttl, found.below_min_version) == (4, 2, 1, 1)
    assert found.oldest_s == pytest.approx(4)
    assert dict(found.lines()) == {"current": 2, "up to 0.5 s": 1, "up to 5 s": 1}
