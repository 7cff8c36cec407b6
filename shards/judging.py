"""What became of a row whose commit failed, by the row that is there; which error is its own, and who is told."""

from __future__ import annotations

from typing import Final, Protocol

from shards.contract import (
    APPLIED,
    DeadlineExceeded,
    Invalid,
    Outcome,
    OutcomeUnknown,
    Overloaded,
    Row,
    StoreError,
    Unavailable,
    Verdict,
)

NOTHING_WRITTEN: Final = (Unavailable, Overloaded, Invalid, DeadlineExceeded)
"""Errors that say so of the whole row, not of one commit of it."""


class Asker(Protocol):
    """Who asked for a row to be written. An ``asyncio.Future`` is one; others do at once what is to be done.

    Told once, in the midst of other work: must be quick, never raise, and write nothing at once.
    """

    def done(self) -> bool:
        """Whether it has been told, or has left: then it is told nothing, and a row that waits is dropped."""

    def set_result(self, outcome: Outcome, /) -> None:
        """Takes the outcome."""

    def set_exception(self, error: StoreError, /) -> None:
        """Takes why there is none."""


def judge(row: Row, present: Row | None) -> Outcome | None:
    """Returns what became of a row whose commit failed, given the row that a STRONG read found in its place.

    None: it is not stored, and will not be unless it is committed again. APPLIED is said of this very row only: the
    same request through another worker may have stored one of the same mark whose body differs (by its time), and then
    the caller must answer from that one, as in any other replay.
    """
    stored = 0 if present is None else present.version
    if stored == row.version - 1:
        return None
    if present is not None and is_very(row, present):
        return APPLIED
    return Outcome(Verdict.CLASH, present)


def is_very(row: Row, present: Row) -> bool:
    """Tells whether the row that is there is this one, and not another of the same request."""
    return (present.customer, present.marks, present.body) == (row.customer, row.marks, row.body)


def own(error: StoreError, *, is_unknown: bool) -> StoreError:
    """Returns the error of one row; ``is_unknown``: it may be stored all the same."""
    is_said = not (is_unknown and isinstance(error, (Unavailable, Overloaded, Invalid)))
    mine = type(error)(*error.args) if is_said else OutcomeUnknown(f"a first try may yet arrive; then: {error}")
    mine.__cause__ = error
    return mine


def in_doubt(error: StoreError) -> StoreError:
    """Returns an error for a row that an earlier run may have stored."""
    if isinstance(error, NOTHING_WRITTEN):
        return OutcomeUnknown(f"it may have been written before its slot moved, or its lease was lost: {error}")
    return error
