"""Where a customer's orders live, as far as the topology tells: which calls are committed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import xxhash

SLOTS: Final = 4096
"""As protos/topology/v1/topology.proto says, whose formula this is."""

UNKNOWN: Final = 0
"""The shard of everybody as long as nothing is known: all the same."""


def slot(customer_id: str) -> int:
    """Returns the slot of a customer, 0-4095."""
    return xxhash.xxh64_intdigest(customer_id.encode(), 0) % SLOTS


class Placing:
    """The shards of all slots. What it says may be old: it is a hint for who goes with whom, and never an address."""

    def __init__(self) -> None:
        self._shards: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<Placing, {len(set(self._shards))} shards>"

    def adopt(self, slot_shards: Sequence[int]) -> None:
        """Takes over a table of shards by slot; one that is not of all slots is none."""
        self._shards = tuple(slot_shards) if len(slot_shards) == SLOTS else ()

    def shard(self, customer_id: str) -> int:
        """Returns the id of the shard that a customer's orders are on."""
        return self._shards[slot(customer_id)] if self._shards else UNKNOWN
