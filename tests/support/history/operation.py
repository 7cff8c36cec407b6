"""One operation: what a caller asked, and what came of it.

An operation is one call, not a request with its retries: each retry is an operation of its own with the same request
id, so nothing that the service said is folded away before it is judged.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

import msgspec


class Kind(enum.StrEnum):
    """What was asked."""

    CREATE = "create"
    MOVE = "move"
    """A transition; ``verb`` says which."""
    READ = "read"
    """STRONG: the present version."""
    CACHED = "cached"
    """A past version will do."""
    LIST = "list"
    """All orders of a customer."""


class Outcome(enum.StrEnum):
    """What the caller knows."""

    OK = "ok"
    REFUSED = "refused"
    """By the order as it is; ``reason`` says why, and that is an observation as good as a read."""
    FAILED = "failed"
    """Nothing was done, and nothing learned of the order."""
    UNKNOWN = "unknown"
    """It may have been done, or may yet be, or never will."""


WRITES: Final = frozenset({Kind.CREATE, Kind.MOVE})

REFUSALS: Final = frozenset(
    {
        "REQUEST_ID_REUSED",
        "REQUEST_ID_EXPIRED",
        "ORDER_NOT_FOUND",
        "TRANSITION_NOT_ALLOWED",
        "VERSION_MISMATCH",
        "MIN_VERSION_NOT_REACHED",
    }
)
"""Reasons that tell something of the order."""

NOTHING_DONE: Final = frozenset(
    {
        "QUEUE_FULL",
        "STORE_FULL",
        "STORE_UNAVAILABLE",
        "SHUTTING_DOWN",
        "OVERLOADED",
        "DEADLINE_TOO_SHORT",
        "RATE_LIMITED",
    }
)
"""Reasons that promise that this call did nothing."""

IN_DOUBT: Final = frozenset({"", "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED"})
"""Reasons of which a caller can conclude nothing; empty: no answer of the service at all."""


AUDITOR: Final = -1
"""The process of the operations that look at everything in the end."""


class Listed(NamedTuple):
    """One order of a list."""

    order: str
    version: int
    state: str
    fingerprint: str
    steps: tuple[str, ...]


class Result(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What came of an operation. The fields after ``reason`` belong to the order that an OK carries."""

    outcome: Outcome
    reason: str = ""
    """The service's own, for anything but OK."""
    current: int = 0
    """The version that a refusal tells of; 0: it tells none."""
    order: str = ""
    """The id answered."""
    version: int = 0
    state: str = ""
    replayed: bool = False
    fingerprint: str = ""
    """Of the answered order's bytes: equal for equal bytes only."""
    steps: tuple[str, ...] = ()
    """A fingerprint of what never changes in the order, then one of each transition, oldest first."""
    listed: tuple[Listed, ...] = ()


UNANSWERED: Final = Result(outcome=Outcome.UNKNOWN)


class Operation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one caller asked at one moment. Sending it again is a copy with times of its own."""

    kind: Kind
    customer: str
    order: str = ""
    """The id that the answer must carry, worked out by the caller for a create; empty for a list."""
    request: str = ""
    """The request id of a write."""
    payload: str = ""
    """What a write asks beside the fields here: two requests with the same of these are the same request."""
    verb: str = ""
    """The method of a transition, such as ``ShipOrder``."""
    expected: int = 0
    """The ``expected_version`` of a transition; 0: none."""
    min_version: int = 0
    """Of a read; 0: any."""
    process: int = 0
    """The caller; one at a time for each process, but for what is sent twice at once."""
    invoked: float = 0.0
    """``time.monotonic`` seconds."""
    returned: float | None = None
    """When the caller had the answer; None: never."""
    result: Result = UNANSWERED

    @property
    def ask(self) -> tuple[str, str, int]:
        """What tells one payload from another under the same request id."""
        return self.verb, self.payload, self.expected

    def __str__(self) -> str:
        what = [f"{self.invoked:.4f}-{'?' if self.returned is None else format(self.returned, '.4f')}"]
        what += [f"caller {self.process}", self.verb or self.kind.value]
        if self.kind in WRITES:
            what.append(f"request {self.request[-6:]} {self.payload}".rstrip())
        what += [f"expected_version={self.expected}"] * bool(self.expected)
        what += [f"min_version={self.min_version}"] * bool(self.min_version)
        told = self.result
        what.append(f"-> {told.outcome.value}")
        if told.outcome is Outcome.OK:
            what.append(f"version {told.version} {told.state}{' replayed' * told.replayed} {told.fingerprint[:6]}")
        else:
            what.append(told.reason + f" at version {told.current}" * bool(told.current))
        return " ".join(what).rstrip()


def failure(kind: Kind, reason: str, current: int = 0) -> Result:
    """Returns what a caller knows who was told this reason: a read that was not answered has done nothing."""
    if reason in REFUSALS:
        outcome = Outcome.REFUSED
    elif reason in NOTHING_DONE or kind not in WRITES:
        outcome = Outcome.FAILED
    else:
        outcome = Outcome.UNKNOWN
    return Result(outcome=outcome, reason=reason, current=current)
