"""What each slot held when it moved, kept beside what it left behind.

A worker that was frozen may wake up late and write to where a slot was: nobody was told of that, and nobody reads it. A
manifest tells such a write from an order that was not moved: what was there when the slot moved adds up to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from shards.facts import Fact, Facts
from shards.rebalance.digest import SlotDigest, sum_of
from shards.rebalance.record import Move

SCOPE: Final = "moved"
"""Scope, beside the orders of the shard that slots leave, of their manifests."""


class Manifest(msgspec.Struct, frozen=True):
    """The orders of one slot, as they were copied and compared."""

    orders: int
    sum: str
    """Of their ``row_digest``, modulo 2 ** 128; hexadecimal."""

    @classmethod
    def of(cls, digests: Iterable[int]) -> Manifest:
        """Returns the manifest of orders by the digests of their rows."""
        known = list(digests)
        return cls(len(known), f"{sum_of(known):032x}")

    def with_one(self, digest: int) -> Manifest:
        """Returns the manifest with one order more."""
        return Manifest(self.orders + 1, f"{sum_of((int(self.sum, 16), digest)):032x}")


async def keep(facts: Facts, moved: Mapping[Move, SlotDigest], gen: int) -> None:
    """Keeps the manifests of slots that have moved; told once, by the mover that moved them. Raises ``StoreError``."""
    told = {_name(move.slot, move.old_gen, gen): Manifest.of(digest.rows()) for move, digest in moved.items()}
    await asyncio.gather(
        *(facts.tell(SCOPE, name, Fact(1, msgspec.json.encode(manifest))) for name, manifest in told.items())
    )


async def find(facts: Facts, move: Move, gen: int) -> Manifest | None:
    """Returns the manifest of a slot that was moved to a gen; None: none was kept, or it is damaged.

    Raises ``StoreError``.
    """
    fact = await facts.glance(SCOPE, _name(move.slot, move.old_gen, gen))
    try:
        return None if fact is None else msgspec.json.decode(fact.value, type=Manifest)
    except msgspec.DecodeError:
        return None


async def forget(facts: Facts, left: Iterable[tuple[int, int]]) -> None:
    """Deletes the manifests of copies left behind (slot and gen). Raises ``StoreError``."""
    gone = {f"{slot}/{gen}" for slot, gen in left}
    for name, fact in (await facts.list(SCOPE)).items():
        if name.rpartition("/")[0] in gone:
            await facts.delete(SCOPE, name, fact.revision)


def _name(slot: int, old_gen: int, gen: int) -> str:
    return f"{slot}/{old_gen}/{gen}"
