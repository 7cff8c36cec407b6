"""The life cycle of an order: its states, the transitions between them, and their diagram."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.IntEnum):
    """Where an order stands. The numbers are those of the wire and of stored orders; they never change."""

    PENDING = 1
    PAID = 2
    SHIPPED = 3
    DELIVERED = 4
    CANCELLED = 5
    REFUNDED = 6


class Verb(enum.Enum):
    """What a caller may ask of an order; the value is the name of its RPC."""

    CONFIRM_PAYMENT = "ConfirmPayment"
    SHIP = "ShipOrder"
    DELIVER = "DeliverOrder"
    CANCEL = "CancelOrder"
    REFUND = "RefundOrder"


TRANSITIONS: Final[dict[Verb, tuple[frozenset[State], State]]] = {
    Verb.CONFIRM_PAYMENT: (frozenset({State.PENDING}), State.PAID),
    Verb.SHIP: (frozenset({State.PAID}), State.SHIPPED),
    Verb.DELIVER: (frozenset({State.SHIPPED}), State.DELIVERED),
    Verb.CANCEL: (frozenset({State.PENDING}), State.CANCELLED),
    Verb.REFUND: (frozenset({State.PAID, State.SHIPPED, State.DELIVERED}), State.REFUNDED),
}
"""For each verb the states it starts from and the one it leads to. The whole life cycle is this table."""

FINAL: Final = frozenset(state for state in State if not any(state in sources for sources, _ in TRANSITIONS.values()))
"""States that nothing leads out of."""


def allowed_verbs(state: State) -> tuple[Verb, ...]:
    """Returns the verbs that a state allows, in the order of ``Verb``."""
    return tuple(verb for verb, (sources, _) in TRANSITIONS.items() if state in sources)


def diagram() -> str:
    """Returns the life cycle as a Mermaid state diagram; ``docs/lifecycle.md`` shows it."""
    lines = ["stateDiagram-v2", "    [*] --> PENDING: CreateOrder"]
    for verb, (sources, target) in TRANSITIONS.items():
        lines += [f"    {source.name} --> {target.name}: {verb.value}" for source in sorted(sources)]
    lines += [f"    {state.name} --> [*]" for state in sorted(FINAL)]
    return "\n".join(lines) + "\n"
