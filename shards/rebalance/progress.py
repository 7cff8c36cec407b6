"""How far a rebalance is: what the leading mover tells, about once a second, to whoever asks. Pure."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

import msgspec

from shards.rebalance.record import RecordDamaged

PROGRESS: Final = "progress"
"""Name of the fact, in the scope of the record."""

_RATE_OVER_S: Final = 10.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One telling. A mover that has been killed tells nothing any more: look at ``at_unix_ms``."""

    id: int
    attempt: int
    mover: str
    phase: str
    """What the mover is at, or the state of the record when it is over."""
    at_unix_ms: int
    slots_total: int
    slots_moved: int
    slots_stuck: int
    rows_total: int
    """Rows of the slots to move, as far as they were counted; 0 while they are not."""
    rows_copied: int
    """By this attempt."""
    rows_verified: int
    """Copies read back by this attempt."""
    rows_per_s: float
    """Over the last seconds."""
    remaining_s: float | None
    """At the pace of this attempt so far; None where it has none yet."""
    throttle_rows_per_s: float
    throttle_reason: str
    slot_states: dict[int, str]
    """What is being done to each slot under way."""
    waiting_for: tuple[str, ...] = ()
    """Workers that have not renewed their leases lately: no slot is paused meanwhile."""
    pause_ms_p99: float = 0.0
    """How long slots were paused, as the mover saw it."""
    pause_ms_max: float = 0.0
    pause_steps_ms: dict[str, float] = {}
    """What a pause is spent on, in the order of its steps; the mean of all."""
    pauses: int = 0

    def to_bytes(self) -> bytes:
        """Returns the telling as bytes."""
        return _encode(self)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Progress:
        """Returns what ``to_bytes`` wrote. Raises ``RecordDamaged``."""
        try:
            return _decode(raw)
        except msgspec.MsgspecError as error:
            raise RecordDamaged(f"{len(raw)} bytes that are no progress: {error}") from error


class Pace:
    """Rows a second over the last seconds, of a count that rises."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def tell(self, rows: int, now_s: float | None = None) -> float:
        """Takes in the count and returns the rate."""
        now_s = time.monotonic() if now_s is None else now_s
        self._seen.append((now_s, rows))
        while len(self._seen) > 2 and now_s - self._seen[0][0] > _RATE_OVER_S:
            self._seen.popleft()
        began_s, first = self._seen[0]
        return (rows - first) / (now_s - began_s) if now_s > began_s else 0.0


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Progress).decode
