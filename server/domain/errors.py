"""Why a request is refused: one error type, whose reason is the contract with callers."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple


class Reason(enum.Enum):
    """Every reason; the names are those of ``orders.v1.ErrorReason`` without its prefix, and go over the wire."""

    REQUEST_UNDECODABLE = enum.auto()
    INVALID_REQUEST = enum.auto()
    REQUEST_TOO_LARGE = enum.auto()
    CALLER_ID_INVALID = enum.auto()
    REQUEST_ID_EXPIRED = enum.auto()
    REQUEST_ID_AHEAD = enum.auto()
    REQUEST_ID_REUSED = enum.auto()
    PAGE_TOKEN_INVALID = enum.auto()
    ORDER_NOT_FOUND = enum.auto()
    TRANSITION_NOT_ALLOWED = enum.auto()
    VERSION_MISMATCH = enum.auto()
    MIN_VERSION_NOT_REACHED = enum.auto()
    QUEUE_FULL = enum.auto()
    STORE_FULL = enum.auto()
    STORE_UNAVAILABLE = enum.auto()
    OUTCOME_UNKNOWN = enum.auto()
    SHUTTING_DOWN = enum.auto()
    DEADLINE_EXCEEDED = enum.auto()
    STORE_CORRUPT = enum.auto()
    INTERNAL = enum.auto()
    OVERLOADED = enum.auto()
    DEADLINE_TOO_SHORT = enum.auto()
    RATE_LIMITED = enum.auto()
    REBALANCE_REFUSED = enum.auto()


class Violation(NamedTuple):
    """One bad field."""

    field: str
    """Path in the request, such as ``lines[2].quantity``."""
    description: str
    """What is wrong and what is allowed."""


_NOTHING: Mapping[str, str] = MappingProxyType({})


class OrderError(Exception):
    """A request is refused, or cannot be answered.

    ``metadata`` carries the facts documented at the reason in ``orders.proto``; ``retry_after_s`` is set where a retry
    of the same request can help.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] = _NOTHING,
        violations: Sequence[Violation] = (),
        violations_omitted: int = 0,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata
        self.violations = tuple(violations)
        self.violations_omitted = violations_omitted
        """How many there are beside those that are named."""
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"OrderError({self.reason.name}: {self.message})"


def invalid(violations: Sequence[Violation], omitted: int = 0) -> OrderError:
    """Returns the INVALID_REQUEST error that names all these fields (at least one), and tells that more are bad."""
    message = "; ".join(f"{v.field}: {v.description}" for v in violations[:3])
    more = len(violations[3:]) + omitted
    if more:
        message += f"; and {more} more"
    return OrderError(Reason.INVALID_REQUEST, message, violations=violations, violations_omitted=omitted)
