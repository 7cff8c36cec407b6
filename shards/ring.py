"""Which shard holds which slot: consistent hashing with bounded loads. Pure.

Two decisions, each a function. ``quotas`` says how many slots a shard gets, by Webster's divisor method (the seats of
a parliament): being a divisor method, it never takes from one shard to give to another when a third comes or goes
(Balinski and Young, "Fair Representation", 1982). ``assign`` says which: a slot stays where it is while its shard has
room; one that must go takes the shard it likes best among those with room. Liking is rendezvous hashing (Thaler and
Ravishankar, 1998), the bound that of Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018.

Together: adding a shard moves exactly its quota, all of it to the newcomer; removing one moves exactly its slots.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import xxhash

NOWHERE: Final = -1
"""Stands for the shard of a slot that has none yet."""

WEIGHT_MAX: Final = 65_535
"""Largest weight of a shard. Small enough that comparing quotients as floats, as ``quotas`` does, is exact."""


def quotas(weights: Mapping[int, int], slots: int) -> dict[int, int]:
    """Returns for each shard id how many of ``slots`` it gets; the sum is ``slots``.

    ``weights`` maps at least one shard id to its weight (1-``WEIGHT_MAX``). A quota differs from the exact share
    ``slots * w / sum(w)`` by at most ``1/2 + len(weights)/2 * w / sum(w)``; between equal weights, by at most one.
    """
    # The k-th slot of a shard is worth w / (2k + 1); the most valuable ones are given out. Two quotients that differ do
    # so by more than 1 part in WEIGHT_MAX * 2 * slots, far above the 2**-53 of a float; equal ones give equal floats.
    given = dict.fromkeys(weights, 0)
    worth = [(-float(weight), shard) for shard, weight in weights.items()]
    heapq.heapify(worth)
    for _ in range(slots):
        _, shard = worth[0]
        given[shard] += 1
        heapq.heapreplace(worth, (-weights[shard] / (2 * given[shard] + 1), shard))
    return given


def assign(weights: Mapping[int, int], present: Sequence[int]) -> list[int]:
    """Returns the shard of each slot, given where each is at present (``NOWHERE``, or a shard that may be gone).

    Every shard gets its quota. No slot moves but those whose shard is gone or over its quota.
    """
    room = quotas(weights, len(present))
    slots_of: dict[int, list[int]] = {shard: [] for shard in weights}
    homeless: list[int] = []
    for slot, shard in enumerate(present):
        slots_of.get(shard, homeless).append(slot)
    for shard, slots in slots_of.items():
        surplus = max(len(slots) - room[shard], 0)
        homeless += sorted(slots, key=partial(_liking, shard))[:surplus]
        room[shard] -= len(slots) - surplus
    placed = list(present)
    for slot in sorted(homeless):
        _, best = max((_liking(shard, slot), shard) for shard in room if room[shard] > 0)
        room[best] -= 1
        placed[slot] = best
    return placed


def _liking(shard: int, slot: int) -> int:
    """Returns how much a slot likes a shard: an even hash of the two."""
    return xxhash.xxh64_intdigest(slot.to_bytes(4, "big") + shard.to_bytes(4, "big"), 0)
