"""What a load has come to so far."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Totals:
    """Counts of orders, and sums in minor units by currency over every order that is in the service."""

    orders_in_file: int = 0
    created: int = 0
    """Created by this run."""
    replayed: int = 0
    """Sent by this run, and found to be there: an earlier try had created them."""
    earlier: int = 0
    """Acknowledged to an earlier run, and not sent again."""
    rejected_orders: int = 0
    rejected_rows: int = 0
    sum_minor: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    """How long this run took."""
    started_at: float = field(default_factory=time.monotonic)

    @property
    def loaded(self) -> int:
        """Orders of the file that are in the service."""
        return self.created + self.replayed + self.earlier

    @property
    def done(self) -> int:
        """Orders of the file whose fate is known."""
        return self.loaded + self.rejected_orders

    @property
    def rate(self) -> float:
        """Orders a second that this run had acknowledged."""
        seconds = self.seconds or time.monotonic() - self.started_at
        return (self.created + self.replayed) / seconds if seconds > 0 else 0.0

    def as_json(self) -> dict[str, object]:
        """Returns the totals for ``--json``."""
        return {
            "orders_in_file": self.orders_in_file,
            "loaded": self.loaded,
            "created": self.created,
            "replayed": self.replayed,
            "earlier": self.earlier,
            "rejected_orders": self.rejected_orders,
            "rejected_rows": self.rejected_rows,
            "sum_minor": dict(sorted(self.sum_minor.items())),
            "seconds": round(self.seconds, 3),
            "orders_per_second": round(self.rate, 1),
        }
