"""What operators say to a rebalance, by whatever face: look, plan, start, pause, resume, cancel, history.

Each command is one compare-and-set on the record; only the steps that ``record`` allows are taken. Movers do the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from shards.contract import Corrupt, SlotSize
from shards.facts import Facts
from shards.rebalance import plan as planning
from shards.rebalance.baseline import refuse_hopeless
from shards.rebalance.cleanup import may_clean_up
from shards.rebalance.fleet import Fleet, part_of
from shards.rebalance.home import Book
from shards.rebalance.leader import LEADS_S, MOVER, leading
from shards.rebalance.plan import Plan
from shards.rebalance.progress import PROGRESS, Progress
from shards.rebalance.record import (
    SCOPE,
    SLOTS_AT_ONCE_MAX,
    Command,
    Finished,
    IllegalStep,
    Kind,
    Move,
    Options,
    OptionsRefused,
    RebalanceRecord,
    start,
    staying,
)
from shards.topology import Topology
from shards.topology_store import TopologyStore

_TRIES_MAX: Final = 10
"""How often a command is tried again when the record changes under it."""


class Wanted(NamedTuple):
    """What a rebalance is to bring about."""

    kind: Kind
    weight: int = 1
    """Of the shard to add."""
    shard: int = 0
    """To drain, or to split slots off to."""
    weights: Mapping[int, int] = {}
    """New weights by shard."""
    slots: tuple[int, ...] = ()
    """To split off."""
    to_new_shard: bool = False
    """Split them off onto a shard of their own."""

    @property
    def named(self) -> frozenset[int]:
        """The shards that it names: to empty one, to fill one, or to weigh them."""
        if self.kind is Kind.REWEIGHT:
            return frozenset(self.weights)
        is_one = self.kind is Kind.DRAIN or (self.kind is Kind.SPLIT and not self.to_new_shard)
        return frozenset({self.shard} if is_one else ())


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything about the rebalance under way, or the last one."""

    topology: Topology
    record: RebalanceRecord | None
    progress: Progress | None
    """What a mover told last of this very rebalance."""
    mover: str | None
    """Who leads, or was the last to and has not left."""

    @property
    def next_words(self) -> tuple[str, ...]:
        """What operators may type next."""
        return (Command.START.word,) if self.record is None else self.record.next_words


async def look(fleet: Fleet) -> Situation:
    """Returns how things stand. Raises ``StoreError``."""
    topology, found = await _topology(fleet.home), await Book(fleet.home).read()
    record = None if found is None else found[1]
    fact = None if record is None else await fleet.home.glance(SCOPE, PROGRESS)
    progress = None if fact is None else Progress.from_bytes(fact.value)
    if progress is not None and record is not None and progress.id != record.id:
        progress = None
    return Situation(topology, record, progress, await leading(fleet.home))


async def is_mover_alive(facts: Facts) -> bool:
    """Tells whether a mover leads and renews: looks for as long as one may be silent."""
    first = await facts.read(SCOPE, MOVER)
    if first is None or await leading(facts) is None:
        return False
    loop = asyncio.get_running_loop()
    until = loop.time() + LEADS_S
    while loop.time() < until:
        if await facts.revision(SCOPE, MOVER) != first.revision:
            return await leading(facts) is not None
        await asyncio.sleep(0.1)  # sleep: the interval of looking
    return False


async def measure(
    fleet: Fleet, topology: Topology, tell: Callable[[int], None] = lambda _: None
) -> dict[int, SlotSize]:
    """Returns the size of every slot that has orders. Looks through every shard; ``tell`` is called after each."""
    sizes: dict[int, SlotSize] = {}
    for number, info in enumerate(topology.shards, start=1):
        gens = {slot: topology.slot_gens[slot] for slot, shard in enumerate(topology.slot_shards) if shard == info.id}
        if gens:
            sizes |= await (await part_of(fleet, info.id)).copies.sizes(gens)
        tell(number)
    return sizes


async def survey(
    fleet: Fleet, wanted: Wanted, options: Options, sizes: Mapping[int, SlotSize] | None = None
) -> tuple[Topology, Plan]:
    """Returns the plan for what is wanted, and the topology it was made for. Raises ``PlanRefused``, ``StoreError``."""
    topology, found = await _topology(fleet.home), await Book(fleet.home).read()
    last = None if found is None else found[1]
    present = _present(topology, wanted, last)
    placed = _placed(present, wanted, last)
    pace = min(float(planning.ROWS_PER_S_ASSUMED), float(options.rows_per_s_max or planning.ROWS_PER_S_ASSUMED))
    sizes = await measure(fleet, topology) if sizes is None else sizes
    made = planning.make_plan(wanted.kind, present, placed, sizes, rows_per_s=pace, slots_at_once=options.slots_at_once)
    return topology, made


async def begin(
    fleet: Fleet,
    topology: Topology,
    made: Plan,
    options: Options,
    who: str,
    *,
    may_wait: bool = False,
    is_dry: bool = False,
) -> RebalanceRecord:
    """Records a new rebalance, as planned, and returns it. Raises ``IllegalStep``, ``OptionsRefused``, ``StoreError``.

    Refused where the topology is no longer that of the plan; and unless it ``may_wait``, where callers' p99 is above
    the limit already. ``is_dry``: writes nothing.
    """
    check_options(options)
    book = Book(fleet.home)
    found = await book.read()
    last = None if found is None else found[1]
    record = start(topology, made.targets, made.shards_after, kind=made.kind, who=who, last=last, options=options)
    if not may_wait:
        await refuse_hopeless(fleet, topology, options)
    now = await _topology(fleet.home)
    if (now.shards, now.slot_shards) != (topology.shards, topology.slot_shards):
        raise IllegalStep("the topology has changed since the plan was made; plan again", ("plan",))
    for shard in () if is_dry else made.added:
        await fleet.prepare(shard)
    if not is_dry:
        await _put(book, found, record, topology)
    return record


async def _put(book: Book, found: tuple[int, RebalanceRecord] | None, record: RebalanceRecord, now: Topology) -> None:
    """Puts a new record in the place of the one before, which the history keeps with all that was done to it since."""
    if found is not None:
        await book.remember(found[1].finished(now))
    if not await book.replace(0 if found is None else found[0], record):
        raise IllegalStep("another rebalance was begun at this moment; look at its status", ("status",))


async def tell(
    fleet: Fleet,
    command: Command,
    who: str,
    detail: str = "",
    *,
    options: Options | None = None,
    undo: bool = False,
    may_wait: bool = False,
    is_dry: bool = False,
) -> RebalanceRecord:
    """Gives the rebalance a command and returns its record. Raises ``IllegalStep``, ``OptionsRefused``, ``StoreError``.

    ``options`` take the place of the present ones, and may be refused as those of ``begin``; ``undo``: of a cancel, see
    ``RebalanceRecord.undo_under_way``.
    """
    book = Book(fleet.home)
    if options is not None:
        check_options(options)
        found = await book.read()
        if found is not None and not may_wait:
            found[1].after(command, who)  # what is not legal is not worth measuring
            await refuse_hopeless(fleet, await _topology(fleet.home), options)
    for _ in range(_TRIES_MAX):
        found = await book.read()
        if found is None:
            raise IllegalStep("there is no rebalance; start one", ("start",))
        record = found[1].after(command, who, detail)
        if options is not None:
            record = replace(record, options=options)
        if command is Command.CANCEL:
            record = replace(record, undo_under_way=undo)
        if is_dry or await book.replace(found[0], record):
            return record
    raise IllegalStep("the record changes faster than it can be written; try again")


def to_verify(situation: Situation) -> tuple[Move, ...]:
    """Returns the moves that ``verify`` looks at. Raises ``IllegalStep`` where there never was a rebalance."""
    if situation.record is None:
        raise IllegalStep("there is no rebalance to verify; start one", ("start",))
    return situation.record.moved(situation.topology)


def to_clean_up(situation: Situation, *, now: bool) -> RebalanceRecord:
    """Returns the record to clean up after; ``now``: soaked or not. Raises ``IllegalStep``."""
    if situation.record is None:
        raise IllegalStep("there is no rebalance to clean up after; start one", ("start",))
    may_clean_up(situation.record, is_soaked=now)
    return situation.record


async def mend(fleet: Fleet, who: str, *, is_dry: bool = False) -> RebalanceRecord:
    """Records a rebalance that moves nothing: the mover that does it opens what was left paused, and fences the rest.

    Raises ``IllegalStep`` where one is open, whose own mover does the same; ``StoreError``.
    """
    topology = await _topology(fleet.home)
    book = Book(fleet.home)
    found = await book.read()
    last = None if found is None else found[1]
    shards = staying(topology, last)
    record = start(topology, {}, shards, kind=Kind.REWEIGHT, who=who, last=last, options=Options(soak_s=0))
    if not is_dry:
        await _put(book, found, record, topology)
    return record


async def history(fleet: Fleet) -> tuple[Finished, ...]:
    """Returns the rebalances that are over, oldest first, with all that was done to them. Raises ``StoreError``."""
    book = Book(fleet.home)
    kept, found = await book.history(), await book.read()
    if found is None or found[1].is_open:
        return kept
    last = found[1].finished(await _topology(fleet.home))  # it has been cleaned since, or its mover died at its end
    return (*(one for one in kept if one.id != last.id), last)


def check_options(options: Options) -> None:
    """Raises ``OptionsRefused`` for options that no mover can follow."""
    if not 1 <= options.slots_at_once <= SLOTS_AT_ONCE_MAX:
        text = f"{options.slots_at_once} slots at once; allowed are 1-{SLOTS_AT_ONCE_MAX}"
        raise OptionsRefused("slots_at_once", text)
    if options.keep_p99_ms is not None and not options.keep_p99_ms > 0:
        raise OptionsRefused("keep_p99_ms", "a p99 to keep is more than 0 ms")
    if not 0 <= options.keep_error_rate <= 1:
        raise OptionsRefused("keep_error_rate", "an error rate to keep is a share: 0 to 1")
    if options.rows_per_s_max is not None and options.rows_per_s_max < 1:
        raise OptionsRefused("rows_per_s_max", "at least 1 order a second is copied")
    if options.soak_s < 0:
        raise OptionsRefused("soak_s", "a soak is 0 seconds or more")


def _present(topology: Topology, wanted: Wanted, last: RebalanceRecord | None) -> Topology:
    """Returns what a plan goes out from: without emptied shards, which only a REVERSE fills again."""
    if wanted.kind is Kind.REVERSE:
        return topology
    shards = staying(topology, last)
    emptied = sorted(wanted.named & {info.id for info in set(topology.shards) - set(shards)})
    if emptied:
        raise planning.PlanRefused(f"shard {emptied[0]} is emptied, and `cleanup` lets it go")
    return replace(topology, shards=shards)


def _placed(topology: Topology, wanted: Wanted, last: RebalanceRecord | None) -> Topology:
    if wanted.kind is Kind.ADD:
        return planning.add(topology, wanted.weight)
    if wanted.kind is Kind.DRAIN:
        return planning.drain(topology, wanted.shard)
    if wanted.kind is Kind.REWEIGHT:
        return planning.reweight(topology, wanted.weights)
    if wanted.kind is Kind.SPLIT:
        return planning.split(topology, wanted.slots, None if wanted.to_new_shard else wanted.shard)
    return planning.reverse(topology, last)


async def _topology(facts: Facts) -> Topology:
    topology = await TopologyStore(facts).load()
    if topology is None:
        raise Corrupt("there is no topology yet: start the server once, which makes the first one")
    return topology
