"""What became of a row whose commit failed, by the row that is there."""

from __future__ import annotations

from shards.contract import APPLIED, Outcome, Row, Verdict


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
