"""A place that one child fills: at most one that serves, one that is to replace it, and some that are leaving."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from server.processes import Launch
from server.supervisor.child import Child

BACK_OFF_MIN_S: Final = 0.1
BACK_OFF_MAX_S: Final = 5.0
STEADY_S: Final = 1.0
"""Who served so long before it died is started again without a longer wait. A child that dies just so much later costs
one boot every two seconds or so, which the other workers do not notice."""


class BackOff:
    """How long to wait before a child is started again. Pure: told what happened, asked how long."""

    def __init__(self) -> None:
        self._failures = 0
        self.boot_failures = 0
        """How many in a row never became ready: the budget that ends the server counts these alone."""

    def ready(self) -> None:
        """A child has become ready."""
        self.boot_failures = 0

    def died(self, *, was_ready: bool, served_s: float) -> float:
        """Returns the seconds to wait before the next start, doubled each time unless it had served for a while."""
        if not was_ready:
            self.boot_failures += 1
        elif served_s >= STEADY_S:
            self._failures = 0
        self._failures = min(self._failures + 1, 16)  # 0.1 s doubled so often is far beyond the longest wait
        return min(BACK_OFF_MIN_S * (1 << self._failures - 1), BACK_OFF_MAX_S)


class Slot:
    """One worker number, or the exporter's place."""

    def __init__(self, name: str, command: tuple[str, ...], launch: Launch) -> None:
        self.name = name
        self.command = command
        self.current: Child | None = None
        self.replacement: Child | None = None
        """Started beside ``current`` by a rolling restart; takes its place when ready."""
        self.leaving: list[Child] = []
        """At most two: the one that a roll has replaced, and in a stop the replacement."""
        self.start_at_s = 0.0
        """When ``current`` may be started again."""
        self.restarts = 0
        self.back_off = BackOff()
        self._launch = launch

    @property
    def children(self) -> tuple[Child, ...]:
        """All that live, or have not been reaped."""
        return tuple(c for c in (self.current, self.replacement, *self.leaving) if c is not None)

    def spawn(self) -> Child:
        """Starts a child, which the caller puts in its place. Raises ``OSError``."""
        taken = {child.metrics_id for child in self.children}
        metrics_id = next(name for n in range(len(taken) + 1) if (name := f"{self._launch.number}-{n}") not in taken)
        return Child(self.name, self.command, replace(self._launch, metrics_id=metrics_id))
