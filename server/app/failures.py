"""What a failure of a store means to a caller: one table."""

from __future__ import annotations

from typing import Final

from server.domain.errors import OrderError, Reason
from shards.contract import (
    Corrupt,
    DeadlineExceeded,
    Full,
    Invalid,
    OutcomeUnknown,
    Overloaded,
    StoreError,
    Unavailable,
)

_TABLE: Final[tuple[tuple[type[StoreError], Reason, str, float | None], ...]] = (
    # most specific first; None: a retry of the same call does not help before an operator has acted, or ever
    (Full, Reason.STORE_FULL, "the shard's disk is full; nothing was written", 5.0),
    (Overloaded, Reason.QUEUE_FULL, "the shard's queue is full; nothing was written", 0.1),
    (Unavailable, Reason.STORE_UNAVAILABLE, "the shard cannot be reached; nothing was written", 0.5),
    (
        DeadlineExceeded,
        Reason.DEADLINE_EXCEEDED,
        "the deadline passed while the call waited; nothing was written",
        None,
    ),
    (Corrupt, Reason.STORE_CORRUPT, "the shard's files are damaged; the operator must restore a backup", None),
    (Invalid, Reason.INTERNAL, "the store refuses this order", None),
    (OutcomeUnknown, Reason.OUTCOME_UNKNOWN, "the outcome is not known yet; the same request_id tells", 0.2),
    (StoreError, Reason.OUTCOME_UNKNOWN, "the outcome is not known yet; the same request_id tells", 0.2),
)


def failure_of(error: StoreError) -> OrderError:
    """Returns the error that a caller is answered when the store failed with ``error``.

    The store's own text stays here (it is the cause of what is raised): it may name files and hosts.
    """
    for kind, reason, message, retry_after_s in _TABLE:
        if isinstance(error, kind):
            return OrderError(reason, message, retry_after_s=retry_after_s)
    raise AssertionError(error)  # the last row takes every StoreError


def read_failure_of(error: StoreError) -> OrderError:
    """Returns the error that a caller of a read is answered: nothing was to be written, so no outcome is unknown."""
    failure = failure_of(error)
    if failure.reason is Reason.OUTCOME_UNKNOWN:
        return OrderError(Reason.STORE_UNAVAILABLE, "the shard did not answer", retry_after_s=failure.retry_after_s)
    return failure
