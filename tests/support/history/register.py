"""One order as a sequential thing: what it answers when operations come one after another. Pure.

The state is the order's versions, each with the request that made it. This is the whole specification that histories
are held against, written from the proto's comments and not from the server's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from tests.support.history.operation import Kind, Operation, Outcome

LIFE: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "ConfirmPayment": (frozenset({"PENDING"}), "PAID"),
    "ShipOrder": (frozenset({"PAID"}), "SHIPPED"),
    "DeliverOrder": (frozenset({"SHIPPED"}), "DELIVERED"),
    "CancelOrder": (frozenset({"PENDING"}), "CANCELLED"),
    "RefundOrder": (frozenset({"PAID", "SHIPPED", "DELIVERED"}), "REFUNDED"),
}
"""For each verb the states that it starts from, and the one it leads to."""


class Version(NamedTuple):
    """One version: what made it, and the state it is in."""

    request: str
    ask: tuple[str, str, int]
    state: str


Order: TypeAlias = tuple[Version, ...]
"""All versions so far, oldest first; empty: the order does not exist."""

NOTHING: Final[Order] = ()
NEVER: Final[Order] = (Version("", ("", "", 0), "never"),)
"""No order exists, and none ever will: its request id has expired."""


def effect(order: Order, operation: Operation) -> Order | None:
    """Returns the order after a write takes effect on it; None when it cannot, or has done so already."""
    made = Version(operation.request, operation.ask, "PENDING")
    if operation.kind is Kind.CREATE:
        return (made,) if order == NOTHING else None
    if order in (NOTHING, NEVER) or made_by(order, operation.request):
        return None
    sources, target = LIFE[operation.verb]
    if order[-1].state not in sources or operation.expected not in (0, len(order)):
        return None
    return (*order, made._replace(state=target))


def answer(order: Order, operation: Operation, *, exact_replays: bool) -> Order | None:
    """Returns the order after an operation that was answered as it was; None when the order cannot answer that.

    ``exact_replays``: ``replayed`` is true for all but the call that took effect. Otherwise a call that took effect
    without learning it, and found that out later, may say it too.
    """
    if operation.result.outcome is Outcome.REFUSED:
        return _refuse(order, operation)
    told = operation.result
    shown = 0 if order in (NOTHING, NEVER) else len(order)
    if operation.kind not in (Kind.CREATE, Kind.MOVE):
        fits = shown == told.version and (shown == 0 or order[-1].state == told.state)
        return order if fits else None
    made = made_by(order, operation.request)
    if made:
        version = order[made - 1]
        same = (version.ask, version.state) == (operation.ask, told.state) and made == told.version
        return order if told.replayed and same else None
    if told.replayed and exact_replays:
        return None
    after = effect(order, operation)
    return after if after is not None and (len(after), after[-1].state) == (told.version, told.state) else None


def made_by(order: Order, request: str) -> int:
    """Returns the version that a request made, or 0."""
    return next((number for number, version in enumerate(order, 1) if version.request == request), 0)


def _refuse(order: Order, operation: Operation) -> Order | None:
    """Returns the order when it may refuse an operation like that; only an expired id changes it."""
    reason, current = operation.result.reason, operation.result.current
    exists = order not in (NOTHING, NEVER)
    made = made_by(order, operation.request) if exists and operation.request else 0
    if reason == "REQUEST_ID_EXPIRED":
        return NEVER if operation.kind is Kind.CREATE and not exists else None
    if reason == "ORDER_NOT_FOUND":
        return order if not exists else None
    if not exists:
        return None
    fits = False
    if reason == "REQUEST_ID_REUSED":
        fits = bool(made) and order[made - 1].ask != operation.ask
    elif reason == "MIN_VERSION_NOT_REACHED":
        fits = current == len(order) < operation.min_version
    elif reason == "VERSION_MISMATCH":
        fits = not made and current == len(order) and operation.expected not in (0, current)
    elif reason == "TRANSITION_NOT_ALLOWED":
        sources, _ = LIFE[operation.verb]
        expects = operation.expected in (0, len(order))
        fits = not made and expects and current == len(order) and order[-1].state not in sources
    return order if fits else None
