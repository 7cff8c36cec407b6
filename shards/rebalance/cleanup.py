"""Deletes what a finished rebalance has left behind, and lets go of the shards that it emptied."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from shards.rebalance import manifest
from shards.rebalance.fleet import At, Fleet, nowhere, part_of
from shards.rebalance.home import Book, Home
from shards.rebalance.record import Command, IllegalStep, RebalanceRecord, staying
from shards.topology import Topology


class Leftover(NamedTuple):
    """A copy that nobody reads."""

    shard: int
    slot: int
    gen: int


_DROPS: Final = "drop left"


async def leftovers(fleet: Fleet, topology: Topology, record: RebalanceRecord) -> list[Leftover]:
    """Returns every copy that no topology names any more, nor ever will. Raises ``StoreError``.

    While a rebalance is open those of its own attempts are not counted: one of them may be live in a moment.
    """
    gen_max = record.id - 1 if record.is_open else record.attempt
    shards = {info.id for info in topology.shards} | {shard for shard, _ in record.shards_before}
    found = []
    for shard in sorted(shards):
        for slot, gen in sorted(await (await part_of(fleet, shard)).copies.present()):
            is_live = (topology.slot_shards[slot], topology.slot_gens[slot]) == (shard, gen)
            if not is_live and gen <= gen_max:
                found.append(Leftover(shard, slot, gen))
    return found


def in_words(left: Sequence[Leftover]) -> str:
    """Returns how much that is, for an operator."""
    return f"copies of {len(left):,} slot{'s' * (len(left) != 1)}"


def may_clean_up(record: RebalanceRecord, *, is_soaked: bool = False, now_unix_ms: int | None = None) -> None:
    """Raises ``IllegalStep`` when the record does not allow it, or the soak is not over; ``is_soaked``: it is."""
    if Command.CLEAN_UP not in record.legal():
        raise record.refusal("is clean" if record.is_clean else "")
    if is_soaked:
        return
    now_ms = time.time_ns() // 1_000_000 if now_unix_ms is None else now_unix_ms
    soaked_s = (now_ms - record.finished_unix_ms) / 1_000
    if soaked_s < record.options.soak_s:
        legal = [f"{word} --now" if word == Command.CLEAN_UP.word else word for word in record.next_words]
        raise IllegalStep(
            f"rebalance {record.id} has soaked for {soaked_s:.0f} of {record.options.soak_s} s: until then its copies "
            f"stay, to be compared with and to go back to; it allows: {', '.join(legal)}",
            legal,
        )


async def clean_up(
    fleet: Fleet,
    who: str,
    *,
    at: At = nowhere,
    tell: Callable[[int, int], None] = lambda _done, _all: None,
) -> RebalanceRecord:
    """Does it, and returns the record. ``tell`` is called with how many copies are deleted, and of how many.

    Broken off it is simply done again. The caller has asked ``may_clean_up``. Raises ``StoreError``, ``IllegalStep``,
    and ``Deposed`` when another rebalance begins meanwhile.
    """
    found = await Book(fleet.home).read()
    if found is None:
        raise IllegalStep("there is no rebalance to clean up after; start one", ("start",))
    record = found[1]
    record.after(Command.CLEAN_UP, who)  # refuses what may not be
    home = Home(fleet.home, record.attempt, at)
    left = await leftovers(fleet, await home.topology(), record)
    for done, copy in enumerate(left):
        await at(f"before {_DROPS}")
        await (await part_of(fleet, copy.shard)).copies.drop(copy.slot, copy.gen)
        await at(f"after {_DROPS}")
        tell(done + 1, len(left))
    for shard in sorted({copy.shard for copy in left}):
        gone = [(copy.slot, copy.gen) for copy in left if copy.shard == shard]
        await manifest.forget((await part_of(fleet, shard)).facts, gone)
    await home.change("remove shards", lambda topology: _without(topology, record))
    return await home.note("clean up", lambda record: record.after(Command.CLEAN_UP, who, in_words(left)))


def _without(topology: Topology, record: RebalanceRecord) -> Topology | None:
    """Returns the next topology, without the shards that were emptied; None where none is left."""
    shards = staying(topology, record)
    return None if shards == topology.shards else replace(topology, epoch=topology.epoch + 1, shards=shards)
