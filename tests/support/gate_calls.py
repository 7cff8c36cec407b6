"""A call at the gate of a worker, as tests make it."""

from __future__ import annotations

from collections.abc import Callable

from server.admission.gate import Priority, Verdict
from server.admission.limit import Track


class Call:
    """A call at the gate."""

    def __init__(self, track: Track, priority: Priority, deadline: float, units: int = 1) -> None:
        self.track = track
        self.priority = int(priority)
        self.units = units
        self.deadline = deadline
        self.until = 0.0
        self.gone = False
        self.came = 0.0
        self.began: float | None = None
        self.refused: Verdict | None = None
        self.on_begin: Callable[[Call], None] = lambda _call: None

    def begin(self) -> None:
        """Notes it."""
        assert self.began is None
        assert self.refused is None
        self.began = -1.0
        self.on_begin(self)

    def turn_away(self, verdict: Verdict) -> None:
        """Notes it."""
        assert self.began is None
        assert self.refused is None
        self.refused = verdict
