"""The topology: which shard holds which slot, under which gen. A versioned value; pure.

Where it is kept is behind ``shards.topology_store``; it changes by compare-and-set on its epoch only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

import xxhash

from shards import ring
from shards.keys import SLOTS

SHARDS_MAX: Final = 1_024
"""Most shards of a topology: then each still has four slots to give away."""

_FORMAT: Final = 1
_HEAD: Final = struct.Struct(">10sHQII")  # magic, format, epoch, next shard id, number of shards
_MAGIC: Final = b"crest-topo"
_SHARD: Final = struct.Struct(">II")  # id, weight
_TABLE: Final = struct.Struct(f">{SLOTS}I{SLOTS}I")  # shard of each slot, gen of each slot
_CHECKSUM: Final = struct.Struct(">Q")  # XXH64 of all before it


class TopologyDamaged(ValueError):
    """These bytes are not a topology that this code can read."""


class ShardInfo(NamedTuple):
    """One shard: its id, and its share of the slots relative to the others' (1-``ring.WEIGHT_MAX``)."""

    id: int
    weight: int = 1


@dataclass(frozen=True, slots=True, repr=False)
class Topology:
    """A complete placement. Two of the same ``epoch`` are the same."""

    epoch: int
    """From 1; raised by one with every change."""
    shards: tuple[ShardInfo, ...]
    """Ascending by id."""
    slot_shards: tuple[int, ...]
    """For each of the 4,096 slots the id of its shard."""
    slot_gens: tuple[int, ...]
    """For each slot how often it has moved: part of the key of every row in it."""
    next_shard_id: int
    """The id of the shard added next; ids of removed shards are never used again."""

    @classmethod
    def initial(cls, shard_count: int) -> Self:
        """Returns the first topology, of shards 0 to ``shard_count - 1`` with equal weights (1-``SHARDS_MAX``)."""
        if not 1 <= shard_count <= SHARDS_MAX:
            raise ValueError(f"{shard_count} shards; allowed are 1-{SHARDS_MAX}")
        shards = tuple(ShardInfo(shard) for shard in range(shard_count))
        placed = ring.assign(dict(shards), [ring.NOWHERE] * SLOTS)
        return cls(1, shards, tuple(placed), (0,) * SLOTS, shard_count)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{shard.id}: {self.slot_shards.count(shard.id)}" for shard in self.shards)
        return f"Topology(epoch={self.epoch}, slots={{{sizes}}})"

    def with_shard_added(self, weight: int = 1) -> Self:
        """Returns the next topology, with one shard more (id ``next_shard_id``) and its quota of slots on it.

        The slots that differ are those to be moved; each has a raised gen.
        """
        if len(self.shards) == SHARDS_MAX:
            raise ValueError(f"a topology has at most {SHARDS_MAX} shards")
        if not 1 <= weight <= ring.WEIGHT_MAX:
            raise ValueError(f"weight {weight}; allowed are 1-{ring.WEIGHT_MAX}")
        return self._with_shards((*self.shards, ShardInfo(self.next_shard_id, weight)), self.next_shard_id + 1)

    def with_shard_removed(self, shard_id: int) -> Self:
        """Returns the next topology, without this shard and with its slots on the others."""
        remaining = tuple(shard for shard in self.shards if shard.id != shard_id)
        if len(remaining) == len(self.shards):
            raise ValueError(f"there is no shard {shard_id}")
        if not remaining:
            raise ValueError("the last shard cannot be removed")
        return self._with_shards(remaining, self.next_shard_id)

    def _with_shards(self, shards: tuple[ShardInfo, ...], next_shard_id: int) -> Self:
        placed = tuple(ring.assign(dict(shards), self.slot_shards))
        gens = tuple(
            gen + (source != target)
            for gen, source, target in zip(self.slot_gens, self.slot_shards, placed, strict=True)
        )
        return replace(
            self,
            epoch=self.epoch + 1,
            shards=shards,
            slot_shards=placed,
            slot_gens=gens,
            next_shard_id=next_shard_id,
        )

    def to_bytes(self) -> bytes:
        """Returns the topology as bytes, with format version and checksum; ``from_bytes`` reads them."""
        parts = [_HEAD.pack(_MAGIC, _FORMAT, self.epoch, self.next_shard_id, len(self.shards))]
        parts += [_SHARD.pack(*shard) for shard in self.shards]
        parts.append(_TABLE.pack(*self.slot_shards, *self.slot_gens))
        content = b"".join(parts)
        return content + _CHECKSUM.pack(xxhash.xxh64_intdigest(content, 0))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Returns the topology that ``to_bytes`` wrote. Raises ``TopologyDamaged`` for anything else."""
        if len(raw) < _HEAD.size + _CHECKSUM.size or not raw.startswith(_MAGIC):
            raise TopologyDamaged(f"{len(raw)} bytes that do not start as a topology")
        _, form, epoch, next_shard_id, shard_count = _HEAD.unpack_from(raw)
        if form != _FORMAT:
            raise TopologyDamaged(f"a topology of format {form}; this release reads format {_FORMAT}")
        content = raw[: -_CHECKSUM.size]
        if xxhash.xxh64_intdigest(content, 0) != _CHECKSUM.unpack_from(raw, len(content))[0]:
            raise TopologyDamaged("the checksum of the topology does not match")
        table_at = _HEAD.size + shard_count * _SHARD.size
        if len(content) != table_at + _TABLE.size:
            raise TopologyDamaged(f"{len(raw)} bytes are no topology of {shard_count} shards")
        shards = tuple(ShardInfo(*pair) for pair in _SHARD.iter_unpack(content[_HEAD.size : table_at]))
        table = _TABLE.unpack_from(content, table_at)
        return cls(epoch, shards, table[:SLOTS], table[SLOTS:], next_shard_id)
