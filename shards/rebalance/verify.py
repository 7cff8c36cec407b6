"""Looks at every order of the slots that have moved: against the copy that was left behind, and in itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shards.contract import MARK_BYTES, Copies, Row
from shards.keys import format_uuid, key_of, order_id_of, slot_and_tag, slot_of
from shards.rebalance import manifest
from shards.rebalance.digest import row_digest
from shards.rebalance.fleet import Fleet, part_of
from shards.rebalance.manifest import Manifest
from shards.rebalance.record import Move
from shards.topology import Topology

_CHUNK_ROWS: Final = 256
_GROUP_SLOTS: Final = 16
NAMED_MAX: Final = 100
"""Wrong orders that are named; more are counted."""


@dataclass(slots=True)
class Report:
    """What was looked at, and what was wrong with it."""

    slots_total: int = 0
    """Slots to look at."""
    slots: int = 0
    """Of them, those that were."""
    rows: int = 0
    """Orders read where the topology says they are."""
    compared: int = 0
    """Of them, those that a copy left behind was compared with."""
    late: int = 0
    """Writes that landed on the copy left behind after its slot had moved: nobody was told of them, or reads them."""
    wrong: int = 0
    named: list[str] = field(default_factory=list)
    """One line an order, with what is wrong."""
    seconds: float = 0.0

    @property
    def rows_per_s(self) -> float:
        """Orders looked at a second, both copies of one counted once."""
        return self.rows / self.seconds if self.seconds else 0.0

    def note(self, move: Move, order_id: bytes, what: str) -> None:
        """Takes in an order that is wrong."""
        self.wrong += 1
        if len(self.named) < NAMED_MAX:
            self.named.append(f"slot {move.slot}, order {format_uuid(order_id)}: {what}")


async def verify(
    fleet: Fleet,
    topology: Topology,
    moves: Sequence[Move],
    tell: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Reads every order of the slots that have moved and reports. Reads only; orders may flow meanwhile.

    Orders that a copy was left behind of must still begin as that copy does: same customer, same marks, and while no
    later version was made, the same body. What does not came later (``Report.late``), where all else in its slot adds
    up to what that held when it moved. After ``cleanup`` each order is only judged by itself. ``tell`` is called
    after each chunk of orders: between two of them the event loop is free, and no more of them are in memory. Raises
    ``StoreError``.
    """
    moves = [move for move in moves if topology.slot_shards[move.slot] == move.target]
    report = Report(slots_total=len(moves))
    began = time.monotonic()
    for group in _groups(moves):
        by_slot = {move.slot: move for move in group}
        source = await part_of(fleet, group[0].source)
        left = _Copy(source.copies, {move.slot: move.old_gen for move in group})
        gens = {slot: topology.slot_gens[slot] for slot in by_slot}
        there = _Copy((await part_of(fleet, group[0].target)).copies, gens)
        doubts = {slot: _Doubts() for slot in by_slot}
        # what was left behind first: it does not change any more, and what goes on from it only grows
        known = (await left.order_ids(), await there.order_ids())
        for order_ids in _chunks(sorted(known[0] | known[1])):
            before = await left.rows([order_id for order_id in order_ids if order_id in known[0]])
            now = await there.rows([order_id for order_id in order_ids if order_id in known[1]])
            _judge(report, by_slot, before, now, doubts)
            report.seconds = time.monotonic() - began
            tell(report)
        for slot, doubted in doubts.items():
            if doubted.orders:
                doubted.settle(report, by_slot[slot], await manifest.find(source.facts, by_slot[slot], gens[slot]))
        report.slots += len(group)
        report.seconds = time.monotonic() - began
        tell(report)
    return report


def wrong_by_itself(row: Row) -> str | None:
    """Returns what of a row cannot be, whatever else is stored; None: nothing."""
    key = row.key
    if not row.marks or len(row.marks) % MARK_BYTES:
        return "its marks are cut off"
    if slot_and_tag(row.customer) != (key.slot, key.tag) or key_of(key.order_id, key.gen) != key:
        return "it is kept under an address that is not its customer's"
    if order_id_of(row.customer, row.marks[:16]) != key.order_id:
        return "its id is not that of the customer and the request that created it"
    return None


class _Doubts:
    """Orders of one slot whose copy left behind may have come after it moved, and all the others' digests."""

    def __init__(self) -> None:
        self.orders: list[tuple[bytes, str]] = []
        self._there = Manifest.of(())
        self._replaced: list[tuple[int, int]] = []  # of orders that were there in an earlier version: both rows of now

    def take(self, before: Row) -> None:
        """Takes in what was there when the slot moved."""
        self._there = self._there.with_one(row_digest(before))

    def doubt(self, order_id: bytes, what: str, now: Row | None) -> None:
        """Takes in an order, and what is served of it: that was there, if nothing has been made of it since."""
        self.orders.append((order_id, what))
        if now is not None:
            self.take(now)

    def doubt_both(self, order_id: bytes, what: str, before: Row, now: Row) -> None:
        """Takes in an order of which one version is there twice, as two tries of one request make it.

        Neither try had landed when the slot moved: there was the version before, or nothing.
        """
        self.orders.append((order_id, what))
        if now.version > 1:
            self._replaced.append((row_digest(before), row_digest(now)))

    def settle(self, report: Report, move: Move, kept: Manifest | None) -> None:
        """Tells late writes from orders that are wrong."""
        if kept is not None and self._adds_up_to(kept):
            report.late += len(self.orders)
            return
        for order_id, what in self.orders:
            report.note(move, order_id, what)

    def _adds_up_to(self, kept: Manifest) -> bool:
        if not self._replaced:
            return kept == self._there
        # of a version that is gone it is known only that it was neither of those of now; of two not even that
        neither, *more = self._replaced
        return not more and kept.orders == self._there.orders + 1 and kept not in map(self._there.with_one, neither)


def _judge(
    report: Report,
    moves: Mapping[int, Move],
    left: Mapping[bytes, Row],
    there: Mapping[bytes, Row],
    doubts: Mapping[int, _Doubts],
) -> None:
    for order_id, row in there.items():
        report.rows += 1
        if what := wrong_by_itself(row):
            report.note(moves[slot_of(order_id)], order_id, what)
    for order_id, before in left.items():
        report.compared += 1
        slot = slot_of(order_id)
        now = there.get(order_id)
        if now is None:
            doubts[slot].doubt(order_id, "it is missing", None)
        elif now.customer != before.customer or not now.marks.startswith(before.marks):
            doubts[slot].doubt(order_id, "it does not go on from the copy that was left behind", now)
        elif now.version == before.version and row_digest(now) != row_digest(before):
            doubts[slot].doubt_both(order_id, "its body differs from the copy that was left behind", before, now)
        else:
            doubts[slot].take(before)


class _Copy(NamedTuple):
    """Some slots on one shard, each under a gen."""

    copies: Copies
    gens: Mapping[int, int]

    async def order_ids(self) -> frozenset[bytes]:
        return frozenset().union(*(await self.copies.versions(self.gens)).values())

    async def rows(self, order_ids: Sequence[bytes]) -> dict[bytes, Row]:
        found = await self.copies.rows([key_of(order_id, self.gens[slot_of(order_id)]) for order_id in order_ids])
        return {row.key.order_id: row for row in found if row is not None}


def _groups(moves: Sequence[Move]) -> Iterator[Sequence[Move]]:
    """Yields moves between the same shards, some at a time: slots that are asked for together cost less."""
    between: dict[tuple[int, int], list[Move]] = {}
    for move in moves:
        between.setdefault((move.source, move.target), []).append(move)
    for group in between.values():
        for start in range(0, len(group), _GROUP_SLOTS):
            yield group[start : start + _GROUP_SLOTS]


def _chunks(items: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(items), _CHUNK_ROWS):
        yield items[start : start + _CHUNK_ROWS]
