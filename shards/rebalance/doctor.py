"""Names every inconsistency that a rebalance, or its movers' deaths, can leave; and the command that mends each."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from shards.contract import StoreError
from shards.leases import LEASE_S, LeaseDamaged, LeaseWatch, SlotStates
from shards.leases.watch import read_states
from shards.rebalance import commands
from shards.rebalance.cleanup import Leftover, in_words, leftovers, may_clean_up
from shards.rebalance.commands import Situation
from shards.rebalance.fleet import Fleet, Part, part_of
from shards.rebalance.record import Command, IllegalStep, State, staying
from shards.ring import quotas

_ORPHANS_SHOWN_MAX: Final = 5
_LOOK_S: Final = 0.5


class Finding(NamedTuple):
    """One thing that is not as it should be."""

    what: str
    mend: str
    """The command that mends it, or what to do."""
    is_wrong: bool = True
    """False: a remark; nothing is broken."""


async def examine(fleet: Fleet, *, rows: bool = True) -> list[Finding]:
    """Returns all that is found, worst first. ``rows``: looks through every shard for copies that nobody reads, too.

    Raises ``StoreError`` only where the topology itself cannot be read.
    """
    situation = await commands.look(fleet)
    found = await _of_record(fleet, situation)
    for of_shard in await asyncio.gather(*(_of_shard(fleet, situation, info.id) for info in situation.topology.shards)):
        found += of_shard
    found += _of_placement(situation)
    if rows and situation.record is not None:
        found += await _of_rows(fleet, situation)
    return sorted(found, key=lambda finding: not finding.is_wrong)


async def _of_record(fleet: Fleet, situation: Situation) -> list[Finding]:
    record = situation.record
    if record is None:
        return []
    found = []
    if record.state in {State.RUNNING, State.CANCELLING} and not await commands.is_mover_alive(fleet.home):
        found.append(Finding(f"rebalance {record.id} is {record.state.value}, and no mover works at it", "run"))
    if record.stuck_count:
        slots = ", ".join(str(stuck.slot) for stuck in record.stuck)
        mend = "resume" if Command.RESUME in record.legal() else "start reweight"
        found.append(Finding(f"{record.stuck_count} slots are stuck: {slots} (see status)", mend))
    told = situation.progress
    if record.state is State.RUNNING and told is not None and not told.throttle_rows_per_s:
        mend = "nothing: it goes on when callers feel less; or pause, then resume with a higher --keep-p99-ms"
        found.append(Finding(f"rebalance {record.id} waits: {told.throttle_reason}", mend, is_wrong=False))
    if record.state is State.PAUSED and not record.stuck_count:
        found.append(Finding(f"rebalance {record.id} is paused", "resume", is_wrong=False))
    return found


async def _of_shard(fleet: Fleet, situation: Situation, shard: int) -> list[Finding]:
    try:
        part = await part_of(fleet, shard)
        states = await read_states(part.facts)
    except (StoreError, LeaseDamaged) as error:
        return [Finding(f"shard {shard} does not answer: {error}", f"bring shard {shard} back; its slots alone wait")]
    return [*_of_states(situation, shard, states), *await _of_leases(situation, shard, part)]


def _of_states(situation: Situation, shard: int, states: SlotStates) -> list[Finding]:
    is_open = situation.record is not None and situation.record.is_open
    found = []
    if states.paused and not is_open:
        slots = ", ".join(map(str, sorted(states.paused)[:_ORPHANS_SHOWN_MAX]))
        found.append(
            Finding(f"shard {shard}: {len(states.paused)} slots are paused ({slots}) and nobody moves them", _REDO)
        )
    if states.is_active and not is_open:
        found.append(Finding(f"shard {shard}: workers still look out for a move", _REDO, is_wrong=False))
    if states.epoch_min > situation.topology.epoch:
        what = f"shard {shard} asks for epoch {states.epoch_min}, and the topology is of {situation.topology.epoch}"
        found.append(Finding(what, "restore the topology from the newest backup of where it is kept"))
    return found


_REDO: Final = "doctor --mend"


async def laggards(watch: LeaseWatch, epoch: int) -> tuple[set[str], set[str]]:
    """Returns the workers that do not renew their leases, and those that do and know no topology of ``epoch``.

    Whoever lives renews, and looks for a new topology, about once a second; nobody is named before a lease could have
    run out meanwhile. Returns as soon as there is nobody to name. Raises ``StoreError`` and ``LeaseDamaged``.
    """
    clock_s = asyncio.get_running_loop().time
    patient_until_s = clock_s() + LEASE_S
    first = {worker: seen.revision for worker, seen in (await watch.look()).items()}
    silent, behind = set(first), set(watch.behind(epoch))
    while (silent or behind) and clock_s() < patient_until_s:
        await asyncio.sleep(_LOOK_S)
        again = await watch.look()
        silent = {worker for worker, seen in again.items() if first.get(worker) == seen.revision}
        behind = set(watch.behind(epoch)) - silent
    return silent, behind


async def _of_leases(situation: Situation, shard: int, part: Part) -> list[Finding]:
    epoch = situation.topology.epoch
    try:
        silent, behind = await laggards(LeaseWatch(part.facts), epoch)
    except (StoreError, LeaseDamaged) as error:
        return [Finding(f"shard {shard}: the leases cannot be read: {error}", "stop the workers and start them again")]
    found = []
    if silent:
        what = f"shard {shard}: worker {', '.join(sorted(silent))} has not renewed its lease lately"
        found.append(
            Finding(what, "nothing: moves wait until it is over; kill the process if it hangs", is_wrong=False)
        )
    if behind:
        what = f"shard {shard}: worker {', '.join(sorted(behind))} does not know epoch {epoch}"
        found.append(Finding(what, "restart that worker: it cannot read where the topology is kept"))
    return found


def _of_placement(situation: Situation) -> list[Finding]:
    if situation.record is not None and situation.record.is_open:
        return []
    topology = situation.topology
    room = quotas(dict(staying(topology, situation.record)), len(topology.slot_shards))
    uneven = [shard for shard, slots in room.items() if abs(topology.slot_shards.count(shard) - slots) > 1]
    if not uneven:
        return []
    names = ", ".join(map(str, uneven))
    return [Finding(f"shard {names} holds more or fewer slots than its weight says", "start reweight", is_wrong=False)]


async def _of_rows(fleet: Fleet, situation: Situation) -> list[Finding]:
    record = situation.record
    assert record is not None
    try:
        left: list[Leftover] = await leftovers(fleet, situation.topology, record)
    except StoreError as error:
        return [Finding(f"not every shard could be looked through: {error}", "doctor, once all shards answer")]
    if not left:
        return []
    what = f"old {in_words(left)} are kept, which nobody reads"
    try:
        may_clean_up(record)
    except IllegalStep as error:
        return [Finding(f"{what} ({error})", "cleanup, later", is_wrong=False)]
    return [Finding(what, "cleanup", is_wrong=False)]
