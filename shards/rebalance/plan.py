"""What a rebalance would move, before anything does: exact slots, orders, bytes, balance and time. Pure.

A plan is a function of the topology, what is wanted, and how large each slot is. Which slots move decides
``shards.ring``: as few as can be. ``minimum`` is counted independently of it, from the quotas alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from shards import ring
from shards.contract import SlotSize
from shards.keys import SLOTS
from shards.rebalance.record import Kind, RebalanceRecord
from shards.topology import ShardInfo, Topology

ROWS_PER_S_ASSUMED: Final = 2_000
"""Orders copied a second, where no pace was measured yet: what movers begin with before they feel their way up."""

_BATCH_S: Final = 0.15
"""Seconds that a batch of slots takes beside its rows: pause, confirmation, flip, confirmation."""


class PlanRefused(ValueError):
    """What is wanted cannot be, or is so already. The text is one line for the operator."""


class Load(NamedTuple):
    """What one shard holds, before or after."""

    shard: int
    weight: int
    slots: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One plan, bound to the epoch that it was made for."""

    kind: Kind
    epoch: int
    targets: Mapping[int, int]
    """The shard of each slot that is to move, ascending by slot."""
    sources: Mapping[int, int]
    """Where each of them is now."""
    shards_after: tuple[ShardInfo, ...]
    minimum: int
    """Fewest slots that any plan for the same end has to move."""
    rows: int
    bytes: int
    before: tuple[Load, ...]
    after: tuple[Load, ...]
    estimate_s: float

    @property
    def share(self) -> float:
        """Part of all slots that moves, 0-1."""
        return len(self.targets) / SLOTS

    @property
    def added(self) -> tuple[int, ...]:
        """Shards that are new."""
        return tuple(load.shard for load in self.after if load.shard not in {one.shard for one in self.before})


def add(topology: Topology, weight: int = 1) -> Topology:
    """Returns the placement with one shard more."""
    return _refusing(lambda: topology.with_shard_added(weight))


def drain(topology: Topology, shard: int) -> Topology:
    """Returns the placement without a shard."""
    if shard not in {info.id for info in topology.shards}:
        raise PlanRefused(f"there is no shard {shard}; there are {_names(topology)}")
    return _refusing(lambda: topology.with_shard_removed(shard))


def reweight(topology: Topology, weights: Mapping[int, int]) -> Topology:
    """Returns the placement under other weights; those not named stay. With none: evened out."""
    unknown = sorted(weights.keys() - {info.id for info in topology.shards})
    if unknown:
        raise PlanRefused(f"there is no shard {unknown[0]}; there are {_names(topology)}")
    for weight in weights.values():
        if not 1 <= weight <= ring.WEIGHT_MAX:
            raise PlanRefused(f"weight {weight}; allowed are 1-{ring.WEIGHT_MAX}")
    shards = tuple(ShardInfo(info.id, weights.get(info.id, info.weight)) for info in topology.shards)
    placed = ring.assign(dict(shards), topology.slot_shards)
    return _placed(topology, shards, dict(enumerate(placed)), topology.next_shard_id)


def split(topology: Topology, slots: Iterable[int], to: int | None) -> Topology:
    """Returns the placement with these slots on shard ``to``, or alone on a new shard."""
    slots = tuple(slots)
    if not slots:
        raise PlanRefused("which slots are to be split off? at least one")
    if any(not 0 <= slot < SLOTS for slot in slots):
        raise PlanRefused(f"slots are 0-{SLOTS - 1}")
    known = {info.id for info in topology.shards}
    if to is None:
        shards = (*topology.shards, ShardInfo(topology.next_shard_id))
        return _placed(topology, shards, dict.fromkeys(slots, topology.next_shard_id), topology.next_shard_id + 1)
    if to not in known:
        raise PlanRefused(f"there is no shard {to}; there are {_names(topology)}")
    return _placed(topology, topology.shards, dict.fromkeys(slots, to), topology.next_shard_id)


def reverse(topology: Topology, record: RebalanceRecord | None) -> Topology:
    """Returns the placement as it was before the last rebalance."""
    if record is None:
        raise PlanRefused("there was no rebalance yet that could be taken back")
    if record.is_open:
        raise PlanRefused(f"rebalance {record.id} is {record.state.value}: cancel it first, then reverse takes it back")
    gone = sorted({shard for shard, _ in record.shards_before} - {info.id for info in topology.shards})
    if gone:
        raise PlanRefused(f"shard {gone[0]} is gone since cleanup: `add` brings a new one")
    back = {move.slot: move.source for move in record.moved(topology)}
    before = tuple(ShardInfo(*pair) for pair in record.shards_before)
    return _placed(topology, before, back, topology.next_shard_id)


def make_plan(
    kind: Kind,
    topology: Topology,
    wanted: Topology,
    sizes: Mapping[int, SlotSize],
    *,
    rows_per_s: float = ROWS_PER_S_ASSUMED,
    slots_at_once: int = 16,
) -> Plan:
    """Returns the plan of going from one placement to another. ``sizes``: of each slot, none for an empty one.

    Raises ``PlanRefused`` where nothing differs.
    """
    pairs = zip(topology.slot_shards, wanted.slot_shards, strict=True)
    targets = {slot: target for slot, (source, target) in enumerate(pairs) if source != target}
    if not targets and topology.shards == wanted.shards:
        raise PlanRefused("nothing would move: every slot is where it should be")
    moved = [sizes.get(slot, SlotSize(0, 0)) for slot in targets]
    rows = sum(size.rows for size in moved)
    batches = -(-len(targets) // max(slots_at_once, 1))
    return Plan(
        kind=kind,
        epoch=topology.epoch,
        targets=targets,
        sources={slot: topology.slot_shards[slot] for slot in targets},
        shards_after=wanted.shards,
        minimum=len(targets) if kind in {Kind.SPLIT, Kind.REVERSE} else minimum(topology, wanted.shards),
        rows=rows,
        bytes=sum(size.bytes for size in moved),
        before=_loads(topology.shards, topology.slot_shards, sizes),
        after=_loads(wanted.shards, wanted.slot_shards, sizes),
        estimate_s=rows / rows_per_s + batches * _BATCH_S,
    )


def minimum(topology: Topology, shards: Iterable[ShardInfo]) -> int:
    """Returns the fewest slots that must move so that each shard has its quota: those above it, and of shards gone."""
    room = ring.quotas(dict(shards), SLOTS)
    present = {shard: topology.slot_shards.count(shard) for shard in set(topology.slot_shards)}
    return sum(max(held - room.get(shard, 0), 0) for shard, held in present.items())


def _loads(shards: Iterable[ShardInfo], slot_shards: Iterable[int], sizes: Mapping[int, SlotSize]) -> tuple[Load, ...]:
    slots: dict[int, list[int]] = {info.id: [] for info in shards}
    for slot, shard in enumerate(slot_shards):
        slots.setdefault(shard, []).append(slot)
    weights = dict(shards)
    empty = SlotSize(0, 0)
    return tuple(
        Load(
            shard,
            weights.get(shard, 0),
            len(held),
            sum(sizes.get(slot, empty).rows for slot in held),
            sum(sizes.get(slot, empty).bytes for slot in held),
        )
        for shard, held in sorted(slots.items())
    )


def _placed(
    topology: Topology, shards: tuple[ShardInfo, ...], targets: Mapping[int, int], next_shard_id: int
) -> Topology:
    """Returns a placement that is only compared: its gens are those of now, for the mover gives new ones."""
    placed = tuple(targets.get(slot, shard) for slot, shard in enumerate(topology.slot_shards))
    return Topology(topology.epoch + 1, shards, placed, topology.slot_gens, next_shard_id)


def _refusing(place: Callable[[], Topology]) -> Topology:
    try:
        return place()
    except ValueError as error:
        raise PlanRefused(str(error)) from error


def _names(topology: Topology) -> str:
    return ", ".join(str(info.id) for info in topology.shards)
