"""Who may answer for which slots: the states of a shard's slots, and the leases of workers under them.

Both are facts beside the orders of a shard, in the scope ``SCOPE``. ``states`` says what they hold (pure), ``keeper``
keeps a worker's lease, ``watch`` is for movers. docs/adr/0016-leases-and-slot-gates.md tells why it is safe.
"""

from __future__ import annotations

from shards.leases.states import (
    LEASE_S,
    SCOPE,
    Lease,
    LeaseDamaged,
    Leaving,
    SlotStates,
    Telemetry,
)
from shards.leases.watch import LeaseWatch, SeenLease, SlotStatesWriter

__all__ = [
    "LEASE_S",
    "SCOPE",
    "Lease",
    "LeaseDamaged",
    "LeaseWatch",
    "Leaving",
    "SeenLease",
    "SlotStates",
    "SlotStatesWriter",
    "Telemetry",
]
