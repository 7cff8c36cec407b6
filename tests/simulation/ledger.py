"""What callers were told, held against what the stores did. It knows nothing of how the answers came about."""

import time
from collections.abc import Sequence
from typing import Final

from shards.contract import (
    MARK_BYTES,
    Consistency,
    DeadlineExceeded,
    Invalid,
    Outcome,
    Overloaded,
    Row,
    StoreError,
    Unavailable,
    Verdict,
)

LATE_S_MAX: Final = 0.051
"""By how much an answer may come after its deadline: one sweep of the lanes."""

_NOTHING_WRITTEN: Final = (Unavailable, Overloaded, Invalid, DeadlineExceeded)


class Ledger:
    """Collects violations of the guarantees; a run is right when ``finish`` finds none.

    Every row that is written must be unlike all others, so that it is known whose it was.
    """

    def __init__(self, cache_ttl_s: float) -> None:
        self._cache_ttl_s = cache_ttl_s
        self._violations: list[str] = []
        self._current: dict[bytes, Row] = {}
        self._superseded_at: dict[Row, float | None] = {}  # of every row ever stored
        self._acknowledged: dict[bytes, int] = {}
        self._never: list[tuple[Row, str]] = []
        self.told: dict[str, int] = {}
        """How often which answer was given."""

    def note(self, violation: str) -> None:
        """Adds a violation."""
        self._violations.append(f"at {time.monotonic():.3f}: {violation}")

    def expect(self, holds: object, violation: str) -> None:
        """Adds a violation unless something holds."""
        if not holds:
            self.note(violation)

    def stored(self, row: Row) -> None:
        """A store has stored this row now."""
        before = self._current.get(row.key.order_id)
        if before is not None:
            self._superseded_at[before] = time.monotonic()
        self._current[row.key.order_id] = row
        self._superseded_at[row] = None

    def is_stored(self, row: Row) -> bool:
        """Whether a store has, or had, this very row."""
        return row in self._superseded_at

    def acknowledged(self, order_id: bytes) -> int:
        """The latest version of an order that a caller knows of; 0: none."""
        return self._acknowledged.get(order_id, 0)

    def answered(self, row: Row, outcome: Outcome) -> None:
        """A caller who wrote this row was told this outcome now."""
        self._count(outcome.verdict.name)
        present = outcome.present
        match outcome.verdict:
            case Verdict.APPLIED:
                self.expect(self.is_stored(row), f"APPLIED, but it is not stored: {row}")
                self._acknowledge(row)
            case Verdict.CLASH:
                if present is None:
                    self.expect(row.version > 1, f"a create clashes with nothing: {row}")
                else:
                    self.expect(self.is_stored(present), f"CLASH with a row that never was: {present}")
                    self.expect(present.key == row.key, "CLASH with another order")
                    self.expect(present != row, f"CLASH with itself: {row}")
                    self._acknowledge(present)
                if not self.is_stored(row):
                    self._never.append((row, "CLASH"))
            case Verdict.SEALED:
                self.expect(row.key.order_id not in self._current, f"SEALED, but the order exists: {row}")
                self._never.append((row, "SEALED"))
            case Verdict.DEFERRED:
                self.note("a caller was told DEFERRED")

    def failed(self, row: Row, error: StoreError) -> None:
        """A caller who wrote this row was told this error now."""
        self._count(type(error).__name__)
        if isinstance(error, _NOTHING_WRITTEN):
            self._never.append((row, type(error).__name__))

    def in_time(self, deadline: float) -> None:
        """A caller with this deadline is answered now."""
        late_s = time.monotonic() - deadline
        self.expect(late_s <= LATE_S_MAX, f"answered {late_s:.3f} s after the deadline")

    def read(
        self, order_id: bytes, row: Row | None, consistency: Consistency, known: int, min_version: int, started: float
    ) -> None:
        """A caller who, when the read started, knew of version ``known`` and passed ``min_version`` got this row."""
        self._count(f"read {consistency.name}")
        if row is None:
            self.expect(known == 0, f"{consistency.name} read finds nothing, but version {known} was acknowledged")
            return
        self.expect(row.key.order_id == order_id, "a read answers another order")
        self.expect(self.is_stored(row), f"a read answers a row that never was: {row}")
        self.expect(row.version >= min(min_version, known), f"version {row.version}, asked for {min_version}")
        superseded_at = self._superseded_at.get(row)
        if superseded_at is None:
            return
        if consistency is Consistency.STRONG:
            self.expect(row.version >= known, f"STRONG read of version {row.version}, acknowledged was {known}")
            self.expect(superseded_at >= started, "STRONG read of a version that had been superseded")
        else:
            age_s = started - superseded_at
            self.expect(age_s <= self._cache_ttl_s, f"a cached version was {age_s:.3f} s out of date")

    def listed(self, customer: str, rows: Sequence[Row], known: Sequence[bytes]) -> None:
        """A customer's list was read; when that began these orders were acknowledged."""
        self._count("list")
        listed = [row.key.order_id for row in rows]
        self.expect(listed == sorted(set(listed), reverse=True), "a list out of order")
        self.expect(all(row.customer == customer for row in rows), "a list with another customer's order")
        self.expect(set(known) <= set(listed), "a list without an acknowledged order")

    def finish(self) -> None:
        """The run is over: nothing lands any more. Raises ``AssertionError`` that tells the first violations."""
        for row, told in self._never:
            self.expect(not self.is_stored(row), f"told {told}, yet it was stored: {row}")
        for row in self._current.values():
            requests = [row.mark(version)[:16] for version in range(1, row.version + 1)]
            self.expect(len(set(requests)) == len(row.marks) // MARK_BYTES, f"a request took effect twice: {row}")
        for order_id, version in self._acknowledged.items():
            stored = self._current[order_id].version if order_id in self._current else 0
            self.expect(stored >= version, f"version {version} was acknowledged, stored is {stored}")
        assert not self._violations, "\n".join([f"{len(self._violations)} violations", *self._violations[:5]])

    def _acknowledge(self, row: Row) -> None:
        order_id = row.key.order_id
        self._acknowledged[order_id] = max(row.version, self.acknowledged(order_id))

    def _count(self, answer: str) -> None:
        self.told[answer] = self.told.get(answer, 0) + 1
